"""The training step of a reward model.

Shape suffixes: B = pairs, N = held-out pairs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.training.runtime import Runtime
from core.training.update import Updater
from rl.means import Means
from rl.preferences.config import RewardModelConfig
from rl.preferences.examples import Pair
from rl.preferences.losses import bradley_terry_loss
from rl.preferences.reward_model import RewardModel
from rl.preferences.scores import pair_accuracy
from rl.preferences.supervised import pieces


class RewardModelTask:
    """Give chosen completions more than rejected ones.

    Args:
        model: the reward model.
        train: pairs to learn from.
        held_out: pairs to score.
        config: the run.
        runtime: device and precision.
    """

    def __init__(
        self,
        model: RewardModel,
        train: Sequence[Pair],
        held_out: Sequence[Pair],
        config: RewardModelConfig,
        runtime: Runtime,
    ) -> None:
        self.train, self.held_out = train, held_out
        self.config, self.runtime = config, runtime
        self.model = Updater(model, config.optim, runtime, config.steps)
        self.reward_model = model

    def train_step(self, batch: Sequence[int]) -> Mapping[str, float]:
        """One update on some pairs, given by their numbers."""
        self.reward_model.train()
        means = Means()
        pairs = [self.train[index] for index in batch]
        report = self.model.step_micro(
            pieces(pairs, self.config.optim.accumulate), lambda part: self._loss(part, means)
        )
        return {
            "loss": report.loss,
            **means.result(),
            "grad_norm": report.grad_norm,
            "lr": report.lr,
            "skipped": float(report.skipped),
            "tokens": float(sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)),
        }

    def _loss(self, pairs: Sequence[Pair], means: Means) -> tuple[Tensor, float]:
        """Sum of the losses of some pairs, and their number."""
        with self.runtime.autocast():
            reward = self.reward_model.rewards([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
        chosen_B, rejected_B = reward.chunk(2)
        means.add("accuracy", (chosen_B > rejected_B).float())
        means.add("margin", chosen_B - rejected_B)
        means.add("reward", reward)
        return self._losses(pairs, chosen_B, rejected_B).sum(), len(pairs)

    def _losses(self, pairs: Sequence[Pair], chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
        margin_B = torch.tensor([pair.margin or 0.0 for pair in pairs], device=chosen_B.device)
        return bradley_terry_loss(chosen_B, rejected_B, margin_B, centring=self.config.centring)

    def held_out_rewards(self) -> tuple[Tensor, Tensor]:
        """(chosen_N, rejected_N) under the present model, on the CPU."""
        with self.runtime.autocast():
            reward = self.reward_model.frozen_rewards(
                [pair.chosen for pair in self.held_out] + [pair.rejected for pair in self.held_out]
            )
        chosen_N, rejected_N = reward.chunk(2)
        return chosen_N, rejected_N

    def evaluate(self) -> Mapping[str, float]:
        """On the held-out pairs: accuracy, loss, mean difference, and mean and spread of the rewards."""
        chosen_N, rejected_N = self.held_out_rewards()
        both = torch.cat((chosen_N, rejected_N))
        return {
            "accuracy": pair_accuracy(chosen_N, rejected_N).value,
            "loss": float(self._losses(self.held_out, chosen_N, rejected_N).mean()),
            "margin": float((chosen_N - rejected_N).mean()),
            "reward": float(both.mean()),
            "reward_std": float(both.std(correction=0)),
        }

    def state_dict(self) -> dict[str, Any]:
        """The updater."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
