"""The training step of preference learning.

Shape suffixes: B = examples, 2 = the two completions of an example, N = all examples.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.policy import LanguageModelPolicy
from core.training import distributed
from core.training.runtime import Runtime
from core.training.update import Updater
from rl.means import Means
from rl.preferences.config import PreferenceConfig
from rl.preferences.encoding import Completion
from rl.preferences.examples import Labelled, Pair, both_sides, fingerprint, liked
from rl.preferences.losses import kl_reference_point, kto_loss
from rl.preferences.objectives import objective
from rl.preferences.scores import pair_accuracy, separation
from rl.preferences.scoring import AT_ONCE, completion_logprobs, frozen_logprobs
from rl.preferences.supervised import held_out_loss, pieces, supervised_update
from rl.preferences.writer import Writer


class PreferenceTask:
    """Make chosen completions likelier against rejected ones.

    What the reference gives the training and the held-out examples is computed once, where the reference is frozen, and
    is part of the state: so no second model is kept, and a run goes on exactly.

    Args:
        model: the policy's language model.
        train: pairs, or for KTO labelled completions.
        held_out: pairs or labelled completions to score.
        writer: samples completions.
        config: the run.
        runtime: device and precision.
    """

    def __init__(
        self,
        model: Any,
        train: Sequence[Pair] | Sequence[Labelled],
        held_out: Sequence[Pair] | Sequence[Labelled],
        writer: Writer,
        config: PreferenceConfig,
        runtime: Runtime,
    ) -> None:
        self.train, self.held_out = train, held_out
        self.config, self.runtime, self.writer = config, runtime, writer
        self.objective = objective(config)
        self.model = Updater(model, config.optim, runtime, config.steps)
        self.policy: LanguageModelPolicy = writer.policy
        self.sides, self.held_out_sides = both_sides(train), both_sides(held_out)
        self.fingerprints = [fingerprint(train), fingerprint(held_out)]
        self.reference: dict[str, Tensor] = {}
        self.done = 0
        self._same_examples = True

    @property
    def started(self) -> bool:
        """Whether the supervised steps are over and the reference is frozen."""
        return self.writer.remembered

    def train_step(self, batch: Sequence[int]) -> Mapping[str, float]:
        """One update on some examples, given by their numbers; the first `sft_steps` are supervised ones.

        Raises:
            ValueError: the examples are others than those that the run began with.
        """
        self._require_same_examples()
        self.model.module.train()
        if self.done < self.config.sft_steps:
            completions = [c for index in batch for c in liked(self.train[index])]
            if not completions:
                raise ValueError(
                    "a batch has no completion that is labelled good: raise batch_size, or set sft_steps 0"
                )
            report = supervised_update(self.model, self.policy, completions, self.runtime)
            report["loss/sft"] = report.pop("loss")
        else:
            self.freeze()
            report = self._preference_step(batch)
        self.done += 1
        return report

    def freeze(self) -> None:
        """Let the present model be the reference, if there is none yet."""
        if self.started:
            return
        if self.objective.reference:
            for name, sides in (("train", self.sides), ("held_out", self.held_out_sides)):
                flat = [completion for side in sides for completion in side]
                self.reference[name] = frozen_logprobs(self.policy, flat, self.runtime, shared=True).view(-1, 2)
        self.writer.remember(self.done)

    def _preference_step(self, batch: Sequence[int]) -> dict[str, float]:
        means = Means()
        kl = self._kl(batch) if self.config.loss == "kto" else None
        micro = pieces(batch, self.config.optim.accumulate)
        report = self.model.step_micro(micro, lambda part: self._loss(part, kl, means))
        # A batch may hold completions of one label alone; a mean over none is no number.
        measured = {name: value for name, value in means.result().items() if math.isfinite(value)}
        if kl is not None:
            measured["kl"] = float(kl)
        if {"rewards/chosen", "rewards/rejected"} <= measured.keys():
            measured["margin"] = measured["rewards/chosen"] - measured["rewards/rejected"]
        return {
            "loss": report.loss,
            **measured,
            "grad_norm": report.grad_norm,
            "lr": report.lr,
            "skipped": float(report.skipped),
            "tokens": float(sum(len(completion) for index in batch for completion in self.sides[index])),
        }

    def _loss(self, part: Sequence[int], kl: Tensor | None, means: Means) -> tuple[Tensor, float]:
        """Sum of the losses of some examples, and their number."""
        reference_N2 = self.reference.get("train")
        reference_B2 = None if reference_N2 is None else reference_N2[list(part)].to(self.runtime.device)
        if kl is None:
            score_B2 = self._scores([self.sides[index] for index in part], reference_B2)
            chosen_B, rejected_B = score_B2.unbind(1)
            loss_B = self.objective.loss(chosen_B, rejected_B)
            means.add("accuracy", (chosen_B > rejected_B).float())
        else:
            assert reference_B2 is not None
            with self.runtime.autocast():
                logprob_B, _ = completion_logprobs(self.policy, [self.sides[index][0] for index in part])
            ratio_B = logprob_B - reference_B2[:, 0]
            good_B = torch.tensor([self._label(index) for index in part], device=ratio_B.device)
            loss_B = kto_loss(
                ratio_B, good_B, kl, beta=self.config.strength,
                desirable_weight=self.config.desirable_weight, undesirable_weight=self.config.undesirable_weight,
            )  # fmt: skip
            chosen_B, rejected_B = ratio_B[good_B], ratio_B[~good_B]
        means.add("rewards/chosen", self.config.strength * chosen_B)
        means.add("rewards/rejected", self.config.strength * rejected_B)
        return loss_B.sum(), len(part)

    def _label(self, index: int) -> bool:
        example = self.train[index]
        assert isinstance(example, Labelled)
        return example.good

    def _scores(self, sides: Sequence[tuple[Completion, Completion]], reference_B2: Tensor | None) -> Tensor:
        """score_B2 of the two completions of some examples, in one forward pass."""
        with self.runtime.autocast():
            logprob, length = completion_logprobs(self.policy, [completion for side in sides for completion in side])
        return self.objective.scores(logprob.view(-1, 2), reference_B2, length.view(-1, 2))

    @torch.no_grad()
    def _kl(self, batch: Sequence[int]) -> Tensor:
        """KTO's reference point, from the batches of all processes."""
        ratios = []
        for start in range(0, len(batch), AT_ONCE):
            part = list(batch[start : start + AT_ONCE])
            with self.runtime.autocast():
                logprob_B, _ = completion_logprobs(self.policy, [self.sides[index][1] for index in part])
            ratios.append(logprob_B - self.reference["train"][part, 1].to(logprob_B))
        sums = torch.stack((torch.cat(ratios).sum(), torch.tensor(float(len(batch)), device=self.runtime.device)))
        total, count = distributed.all_reduce_sum(sums)
        return kl_reference_point(total[None] / count)

    def held_out_scores(self) -> Tensor:
        """score_N2 of the held-out examples under the present model, on the CPU."""
        flat = [completion for side in self.held_out_sides for completion in side]
        logprob_N2 = frozen_logprobs(self.policy, flat, self.runtime).view(-1, 2)
        length_N2 = torch.tensor([sum(completion.mask) for completion in flat]).view(-1, 2)
        reference_N2 = self.reference.get("held_out")
        if self.objective.reference and reference_N2 is None:
            reference_N2 = logprob_N2  # the present model would be the reference
        return self.objective.scores(logprob_N2, reference_N2, length_N2)

    def evaluate(self) -> Mapping[str, float]:
        """Accuracy, loss and margin on the held-out examples; the mean score of samples where there is a judge.

        While the supervised steps go on: the held-out loss of the chosen completions, in nats per token.

        Raises:
            ValueError: the examples are others than those that the run began with.
        """
        self._require_same_examples()
        if self.done < self.config.sft_steps:
            completions = [completion for example in self.held_out for completion in liked(example)]
            return {"loss/sft": held_out_loss(self.policy, completions, self.runtime), **self.writer.scores()}
        return {**self._agreement(), **self.writer.scores()}

    def _agreement(self) -> dict[str, float]:
        score_N2 = self.held_out_scores()
        if isinstance(self.held_out[0], Labelled):
            good_N = torch.tensor([isinstance(one, Labelled) and one.good for one in self.held_out])
            chosen_N, rejected_N = score_N2[good_N, 0], score_N2[~good_N, 0]
            found = {"separation": separation(chosen_N, rejected_N)}
        else:
            chosen_N, rejected_N = score_N2.unbind(1)
            found = {"accuracy": pair_accuracy(chosen_N, rejected_N).value}
            if self.config.loss != "kto":
                found["loss"] = float(self.objective.loss(chosen_N, rejected_N).mean())
        return {**found, "margin": self.config.strength * float(chosen_N.mean() - rejected_N.mean())}

    def state_dict(self) -> dict[str, Any]:
        """Updater, counter, and what the reference gave and wrote."""
        return {
            "model": self.model.state_dict(),
            "done": self.done,
            "reference": dict(self.reference),
            "examples": self.fingerprints,
            "writer": self.writer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._same_examples = state["examples"] == self.fingerprints
        self.model.load_state_dict(state["model"])
        self.done = state["done"]
        self.reference = dict(state["reference"])
        self.writer.load_state_dict(state["writer"])

    def _require_same_examples(self) -> None:
        """What the reference gave belongs to these examples. Sampling and export do without."""
        if not self._same_examples:
            raise ValueError(
                "the examples differ from those that this run began with: restore the file, or choose another out"
            )
