"""The training step of a text GAN: maximum likelihood first, then discriminator against generator.

Shape suffixes: B = sequences, T = positions, V = vocabulary, D = embedding width.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adversarial.config import GANConfig
from adversarial.discriminator import Discriminator
from adversarial.generator import Generator, Sentences, next_token_logits, sample_sentences, straight_through
from adversarial.losses import (
    discriminator_loss,
    feature_matching,
    generator_loss,
    gradient_penalty,
    twice_differentiable,
)
from core.losses import cross_entropy_sum, masked_mean
from core.text.tokenizer import Tokenizer
from core.training.runtime import Runtime
from core.training.update import Updater


class GanTask:
    """A generator trained by MLE and then against a discriminator.

    The generator has an updater for each phase, so that its moments and schedule start anew with the new objective.

    Args:
        model: the generator.
        discriminator: its body takes over the generator's weights when the adversarial phase begins.
        config: the run.
        runtime: device and precision.
        tokenizer: names begin and end of a sentence; its fingerprint guards a resume.
        score: scores of a generator; `evaluate` gives them.
    """

    def __init__(
        self,
        model: Generator,
        discriminator: Discriminator,
        config: GANConfig,
        runtime: Runtime,
        tokenizer: Tokenizer,
        score: Callable[[Generator], Mapping[str, float]],
    ) -> None:
        if tokenizer.bos_id is None or tokenizer.eos_id is None:
            raise ValueError("a text GAN needs a tokenizer with begin- and end-of-sequence tokens")
        self.config = config
        self.runtime = runtime
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id
        self.fingerprint = tokenizer.fingerprint
        self.score = score
        self.mle_steps = config.mle_steps
        self.adversarial_steps = config.steps - config.mle_steps
        self.warmup_steps = round(self.adversarial_steps * config.discriminator_warmup)
        self.mle = Updater(model, config.mle, runtime, self.mle_steps)
        self.generator = Updater(model, config.optim, runtime, self.adversarial_steps)
        self.discriminator = Updater(discriminator, config.discriminator, runtime, self.adversarial_steps)
        self.step = 0
        self.mle_start: dict[str, Tensor] | None = None
        """Weights of the generator when the adversarial phase began: the other half of every paired score."""

    @property
    def model(self) -> Generator:
        """The generator's network."""
        return self.generator.module  # type: ignore[return-value]

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Sentences:
        """Draw sentences from the present generator."""
        with self.runtime.autocast():
            return sample_sentences(
                self.model, count, max_tokens=self.config.max_tokens, bos_id=self.bos_id, eos_id=self.eos_id,
                generator=generator,
            )  # fmt: skip

    def train_step(self, batch: Sentences) -> Mapping[str, float]:
        """One MLE step, or one round of `discriminator_steps` discriminator steps and a generator step.

        Args:
            batch: `batch_size` real sentences.
        """
        step, self.step = self.step, self.step + 1
        if step < self.mle_steps:
            self.mle.follow(step, self.mle_steps)
            report = self.mle.step_micro([batch], self._mle_terms)
            return {
                "loss/mle": report.loss,
                "grad_norm/generator": report.grad_norm,
                "lr": report.lr,
                "tokens": float(batch.mask_BT.sum()),
            }
        if self.mle_start is None:
            self._begin_adversarial_phase()
        round_ = step - self.mle_steps
        self.discriminator.follow(round_, self.adversarial_steps)
        self.generator.follow(round_, self.adversarial_steps)
        metrics: dict[str, float] = {}
        for _ in range(self.config.discriminator_steps):
            fake = self.sample(len(batch))
            metrics |= self._discriminator_step(batch, fake)
        words = [tuple(row[keep].tolist()) for row, keep in zip(fake.tokens_BT, fake.mask_BT)]
        metrics["unique"] = len(set(words)) / len(words)
        metrics["tokens"] = float(batch.mask_BT.sum() + fake.mask_BT.sum())
        if round_ >= self.warmup_steps:
            metrics |= self._generator_step(batch, fake)
        return metrics

    def _mle_terms(self, batch: Sentences) -> tuple[Tensor, Tensor]:
        with self.runtime.autocast():
            logits_BTV = next_token_logits(self.model, batch, self.bos_id)
        return cross_entropy_sum(logits_BTV.flatten(0, 1), batch.tokens_BT.flatten(), batch.mask_BT.flatten())

    def _begin_adversarial_phase(self) -> None:
        """Remember the MLE start, and give the discriminator a body that knows the language."""
        self.mle_start = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        discriminator: Any = self.discriminator.module
        discriminator.body.load_state_dict(self.mle_start)
        discriminator.set_unit()

    def _discriminator_step(self, real: Sentences, fake: Sentences) -> dict[str, float]:
        judge: Any = self.discriminator.module
        with self.runtime.autocast():
            fake_B, _ = judge(judge.embed(fake.tokens_BT), fake.mask_BT)
            embedded_BTD = judge.embed(real.tokens_BT)
            with twice_differentiable():
                real_B, _ = judge(embedded_BTD, real.mask_BT)
            # In units of the embeddings' scale at the start, or the penalty would depend on how they were made.
            penalty = gradient_penalty(real_B, embedded_BTD) * judge.unit.square()
        loss = discriminator_loss(real_B, fake_B)
        report = self.discriminator.step(loss + self.config.penalty / 2 * penalty)
        return {
            "loss/discriminator": float(loss.detach()),
            "penalty": float(penalty.detach()),
            "accuracy/real": float((real_B > 0).float().mean()),
            "accuracy/fake": float((fake_B <= 0).float().mean()),
            "grad_norm/discriminator": report.grad_norm,
        }

    def _generator_step(self, real: Sentences, fake: Sentences) -> dict[str, float]:
        config = self.config
        judge: Any = self.discriminator.module
        both = Sentences.join(real, fake)
        with frozen(judge), self.runtime.autocast():
            # One pass gives the MLE loss on the real half and the straight-through gradient on the generated half.
            logits_BTV = next_token_logits(self.model, both, self.bos_id)
            real_BTV, fake_BTV = logits_BTV.split([len(real), len(fake)])
            padded = fake.padded(both.tokens_BT.shape[1])
            onehot_BTV = straight_through(fake_BTV, padded.tokens_BT, config.temperature)
            judged_B, fake_BD = judge(judge.embed(onehot_BTV), padded.mask_BT)
            with torch.no_grad():
                _, real_BD = judge(judge.embed(real.tokens_BT), real.mask_BT)
        adversarial = generator_loss(judged_B)
        matching = feature_matching(real_BD, fake_BD)
        joined = real.padded(both.tokens_BT.shape[1])
        loss_sum, count = cross_entropy_sum(
            real_BTV.flatten(0, 1), joined.tokens_BT.flatten(), joined.mask_BT.flatten()
        )
        likelihood = loss_sum / count
        report = self.generator.step(
            config.adversarial_weight * adversarial + config.feature_weight * matching + config.mle_weight * likelihood
        )
        logp_BTV = fake_BTV.detach().float().log_softmax(-1)
        return {
            "loss/generator": float(adversarial.detach()),
            "loss/features": float(matching.detach()),
            "loss/mle": float(likelihood.detach()),
            "entropy": float(masked_mean(-(logp_BTV.exp() * logp_BTV).sum(-1), padded.mask_BT)),
            "grad_norm/generator": report.grad_norm,
            "lr": report.lr,
        }

    def evaluate(self) -> Mapping[str, float]:
        """Scores of the present generator."""
        with self.runtime.autocast():
            return self.score(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, phase, the MLE start and the tokenizer's fingerprint."""
        return {
            "mle": self.mle.state_dict(),
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "step": self.step,
            "mle_start": self.mle_start,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the vocabulary is another one, because the text has changed.
        """
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                "the text has another vocabulary than the one that this run was trained on: restore the text, or start "
                "in another out"
            )
        for name in ("mle", "generator", "discriminator"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        device = self.runtime.device
        start = state["mle_start"]
        self.mle_start = None if start is None else {name: value.to(device) for name, value in start.items()}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the block no gradient is formed for the module's parameters; one still passes through it."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
