"""The training step of a text GAN: maximum likelihood first, then discriminator against generator."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from adversarial.config import GANConfig
from adversarial.estimators.clipped import clipped_step
from adversarial.estimators.cooperative import cooperative_step, mediator_loss
from adversarial.estimators.game import Game
from adversarial.estimators.reinforce import dense_step, importance_step, mean_baseline, rollout_step
from adversarial.estimators.relaxed import gumbel_step, straight_through_step
from adversarial.fakes import FakePool
from adversarial.generator import Generator, Sentences, draw_latent, draw_samples, weighted_nll
from adversarial.judging import accuracy_on_real, judge_loss
from core.config import OptimConfig
from core.errors import UserError
from core.interfaces import Samples
from core.losses import masked_mean
from core.nn.networks import set_dropout
from core.policy import ValueHead
from core.training import distributed
from core.training.runtime import Runtime
from core.training.update import Updater

ESTIMATORS: Mapping[str, Callable[[Game, Sentences], tuple[Tensor, dict[str, float]]]] = {
    "straight_through": straight_through_step,
    "gumbel": gumbel_step,
    "rollouts": rollout_step,
    "dense": dense_step,
    "importance": importance_step,
    "clipped": clipped_step,
    "cooperative": cooperative_step,
}
"""By name: from the players and real sentences to the generator's loss and what to log."""
THROUGH_TOKENS = ("straight_through", "gumbel")
"""Those whose gradient passes through the discriminator; for the others it only scores."""


class Collapsed(UserError, RuntimeError):
    """The generator has lost its variety or its language; the checkpoint before is kept."""

    exit_code = 1


class Text(Protocol):
    """What the task needs of the text besides its batches."""

    bos_id: int
    eos_id: int | None
    max_tokens: int
    fingerprint: str

    def real(self, count: int) -> Sentences:
        """Training sentences drawn at random."""
        ...

    def score(self, model: Generator) -> Mapping[str, float]:
        """Scores of a generator; `evaluate` gives them."""
        ...

    def validate(self, model: Generator) -> float:
        """nll of validation lines, by which weights are chosen."""
        ...

    def unseen(self) -> Sentences:
        """Some validation lines: real sentences that neither player has learned from."""
        ...


class GanTask:
    """A generator trained by MLE and then against a discriminator.

    The generator has an updater for each phase, so that its moments and schedule start anew with the new objective.

    Args:
        model: the generator.
        judge: the discriminator; see `adversarial.discriminators.build`.
        config: the run.
        runtime: device and precision.
        text: where sentences come from and how generators are scored.
    """

    def __init__(self, model: Generator, judge: nn.Module, config: GANConfig, runtime: Runtime, text: Text) -> None:
        self.config = config
        self.runtime = runtime
        self.text = text
        self.mle_steps = config.mle_steps
        self.adversarial_steps = config.steps - config.mle_steps
        self.warmup_steps = round(self.adversarial_steps * config.discriminator_warmup)
        self.mle = Updater(model, config.mle, runtime, self.mle_steps)
        self.generator = Updater(model, config.optim, runtime, self.adversarial_steps)
        self.discriminator = Updater(judge, config.discriminator, runtime, self.adversarial_steps)
        self.cooperative = config.estimator == "cooperative"
        if self.cooperative:
            self.mediator_mle = Updater(judge, config.mle, runtime, self.mle_steps)
        if config.baseline == "critic":
            self.critic = Updater(ValueHead(model.width), _critic_optimizer(config), runtime, self.adversarial_steps)
        self.fakes = FakePool(config.replay)
        self.step = 0
        self.chosen_nll = math.inf
        self.chosen: dict[str, Tensor] | None = None
        """The weights that were best on validation lines so far in this phase, and their nll."""
        self.mle_start: dict[str, Tensor] | None = None
        """Weights of the generator when the adversarial phase began: the other half of every paired score."""
        self.poor_rounds = 0

    @property
    def _further(self) -> list[str]:
        """Updaters that only some methods have."""
        return [name for name in ("mediator_mle", "critic") if hasattr(self, name)]

    @property
    def model(self) -> Generator:
        """The generator's network."""
        return self.generator.module  # type: ignore[return-value]

    def draw(self, count: int) -> Sentences:
        """Sentences for the game, with the noise that they were drawn with."""
        latent_BZ = draw_latent(self.model, count)
        return Sentences.of(self.sample(count, latent_BZ=latent_BZ), latent_BZ)

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        begin: Sequence[int] = (),
        latent_BZ: Tensor | None = None,
    ) -> Samples:
        """Draw sentences from the present generator; see `draw_samples`."""
        text = self.text
        with self.runtime.autocast():
            return draw_samples(
                self.model, count, max_tokens=text.max_tokens - len(begin), bos_id=text.bos_id, eos_id=text.eos_id,
                generator=generator, begin=begin, latent_BZ=latent_BZ,
            )  # fmt: skip

    def train_step(self, batch: Sentences) -> Mapping[str, float]:
        """One MLE step, or one round of discriminator steps and then generator steps.

        Args:
            batch: `batch_size` real sentences.

        Raises:
            Collapsed: the generator writes the same few sentences, or has unlearned the text.
        """
        step, self.step = self.step, self.step + 1
        if step < self.mle_steps:
            return self._mle_step(batch, step)
        if step == self.mle_steps:
            self._begin_adversarial_phase()
        if self.config.adversarial_dropout is not None:
            set_dropout(self.model, self.config.adversarial_dropout)
        round_ = step - self.mle_steps
        for updater in (self.discriminator, self.generator, getattr(self, "critic", None)):
            if updater is not None:
                updater.follow(round_, self.adversarial_steps)
        metrics = self._discriminator_steps(batch)
        if round_ >= self.warmup_steps:
            game = self._game(round_)
            for turn in range(self.config.generator_steps):
                metrics |= self._generator_step(game, batch if turn == 0 else self.text.real(len(batch)))
        metrics["tokens"] = float(batch.mask_BT.sum())
        metrics |= self._choose_weights(self.config.steps)
        self._require_variety(metrics)
        return metrics

    # Maximum likelihood.

    def _mle_step(self, batch: Sentences, step: int) -> dict[str, float]:
        self.mle.follow(step, self.mle_steps)
        report = self.mle.step_micro([batch], self._mle_terms)
        self.generator.restart_average()
        if self.cooperative:
            self.mediator_mle.follow(step, self.mle_steps)
            self.mediator_mle.step_micro([batch], self._mediator_terms)
        return {
            "loss/mle": report.loss,
            "grad_norm/generator": report.grad_norm,
            "lr": report.lr,
            "tokens": float(batch.mask_BT.sum()),
            **self._choose_weights(self.mle_steps),
        }

    def _mle_terms(self, batch: Sentences) -> tuple[Tensor, Tensor]:
        return self._nll_terms(self.model, batch)

    def _mediator_terms(self, batch: Sentences) -> tuple[Tensor, Tensor]:
        mediator: Any = self.discriminator.module
        return self._nll_terms(mediator, batch)

    def _nll_terms(self, model: Generator, batch: Sentences) -> tuple[Tensor, Tensor]:
        with self.runtime.autocast():
            loss_sum, _ = weighted_nll(model, batch, batch.mask_BT.float(), self.text.bos_id)
        return loss_sum, batch.mask_BT.sum()

    def _choose_weights(self, last_step: int) -> dict[str, float]:
        """Remember the weights if they are the best so far on validation lines; take the best at the last step."""
        every, last = self.config.select_every, self.step == last_step
        adversarial = self.step > self.mle_steps
        if not every or (self.step % every and not last):
            return {}
        nll = self.text.validate(self.model)
        metrics = {"validation_nll": nll}
        if self.cooperative:
            metrics["validation_nll/mediator"] = self.text.validate(self.discriminator.module)  # type: ignore[arg-type]
        if adversarial:
            if not self.cooperative and self.config.loss != "ranking":
                metrics["accuracy/unseen"] = accuracy_on_real(self.discriminator.module, self.text.unseen())
            if not self.config.select_generator:
                return metrics
        if nll < self.chosen_nll:
            self.chosen_nll, self.chosen = nll, self._weights()
        if last:
            assert self.chosen is not None
            self.model.load_state_dict(self.chosen)
            self.chosen = None
            self.generator.restart_average()
        return metrics

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    # The game.

    def _begin_adversarial_phase(self) -> None:
        """Remember the MLE start, and give a discriminator that is a language model a body that knows the language."""
        self.mle_start = self._weights()
        if self.config.select_generator:
            self.chosen = self.mle_start
        judge: Any = self.discriminator.module
        if hasattr(judge, "take_body"):
            judge.take_body({name: value for name, value in self.mle_start.items() if name != "noise.weight"})

    def _discriminator_steps(self, batch: Sentences) -> dict[str, float]:
        """`discriminator_steps` updates on the real batch and fresh ones, each against as many generated sentences."""
        config = self.config
        size = config.discriminator_batch // distributed.world() or len(batch)
        metrics: dict[str, float] = {}
        counts = config.fakes_per_round or config.discriminator_steps * size
        self.fakes.renew(self.draw, counts)
        metrics["unique"] = self.fakes.unique
        for turn in range(config.discriminator_steps):
            real = batch if turn == 0 and len(batch) == size else self.text.real(size)
            fake = self.fakes.take(size)
            last = self._mediator_step(real, fake) if self.cooperative else self._discriminator_step(real, fake)
        return metrics | {name: float(value) for name, value in last.items()}

    def _mediator_step(self, real: Sentences, fake: Sentences) -> dict[str, Tensor | float]:
        mediator: Any = self.discriminator.module
        with self.runtime.autocast():
            loss = mediator_loss(mediator, real, fake, self.config.fake_weight, self.text.bos_id)
        report = self.discriminator.step(loss)
        return {"loss/mediator": report.loss, "grad_norm/mediator": report.grad_norm}

    def _discriminator_step(self, real: Sentences, fake: Sentences) -> dict[str, Tensor | float]:
        # On a CPU so small a network loses more by conversions than it gains.
        tiny = self.config.judge == "light_cnn" and self.runtime.device.type == "cpu"
        with nullcontext() if tiny else self.runtime.autocast():
            loss, metrics = judge_loss(self.discriminator.module, self.config, real, fake)
        report = self.discriminator.step(loss)
        return {**metrics, "grad_norm/discriminator": report.grad_norm}

    def _game(self, round_: int) -> Game:
        text = self.text
        return Game(
            self.model, self.discriminator.module, self._baseline, self.config, text.bos_id, text.eos_id,
            text.max_tokens, self.draw, round_ / max(1, self.adversarial_steps), {},
        )  # fmt: skip

    def _generator_step(self, game: Game, real: Sentences) -> dict[str, float]:
        config = self.config
        noisy = config.estimator in THROUGH_TOKENS
        with frozen(self.discriminator.module, training=noisy), self.runtime.autocast():
            loss, metrics = ESTIMATORS[config.estimator](game, real)
            if config.mle_weight:
                loss_sum, count = self._mle_terms(real)
                loss = loss + config.mle_weight * loss_sum / count
                metrics["loss/mle"] = float(loss_sum.detach() / count)
        report = self.generator.step(loss)
        return {**metrics, "grad_norm/generator": report.grad_norm, "lr": report.lr}

    def _baseline(self, hidden_BTD: Tensor, rewards_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """What rewards were to be expected: nothing, the mean, or the critic's prediction, which then learns."""
        if self.config.baseline == "none":
            return torch.zeros_like(rewards_BT)
        if self.config.baseline == "mean":
            return mean_baseline(rewards_BT, mask_BT)
        predicted_BT = self.critic.module(hidden_BTD.detach())
        self.critic.step(masked_mean((rewards_BT - predicted_BT).square(), mask_BT) / 2)
        return predicted_BT.detach()

    def _require_variety(self, metrics: Mapping[str, float]) -> None:
        """Stop a run that has collapsed, before a checkpoint of it is written."""
        config = self.config
        nll = metrics.get("validation_nll")
        if nll is not None and nll > self.chosen_nll + config.max_nll_rise:
            raise Collapsed(
                f"step {self.step}: the generator has unlearned the text: its validation nll is {nll:.2f}, "
                f"{self.chosen_nll:.2f} at its best; the last checkpoint is kept; raise mle_weight or lower optim.lr"
            )
        self.poor_rounds = self.poor_rounds + 1 if metrics["unique"] < config.min_unique else 0
        if self.poor_rounds >= 10:
            raise Collapsed(
                f"step {self.step}: the generator has collapsed: only {metrics['unique']:.0%} of its sentences differ, "
                "ten rounds in a row; the last checkpoint is kept; raise mle_weight or penalty, lower optim.lr, or "
                "set min_unique to 0 to go on regardless"
            )

    # What the loop asks for.

    def evaluate(self) -> Mapping[str, float]:
        """Scores of the present generator, computed in the precision of its weights."""
        return self.text.score(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, phase, chosen weights, old fakes and the tokenizer's fingerprint."""
        state = {
            "mle": self.mle.state_dict(),
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "fakes": self.fakes.state_dict(),
            "step": self.step,
            "mle_start": self.mle_start,
            "chosen": self.chosen,
            "chosen_nll": self.chosen_nll,
            "poor_rounds": self.poor_rounds,
            "fingerprint": self.text.fingerprint,
        }
        return state | {name: getattr(self, name).state_dict() for name in self._further}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the vocabulary is another one, because the text has changed.
        """
        if state["fingerprint"] != self.text.fingerprint:
            raise ValueError(
                "the text has another vocabulary than the one that this run was trained on: restore the text, or start "
                "in another out"
            )
        for name in ("mle", "generator", "discriminator", "fakes", *self._further):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        self.chosen_nll = state["chosen_nll"]
        self.poor_rounds = state["poor_rounds"]
        for name in ("chosen", "mle_start"):
            weights = state[name]
            moved = None if weights is None else {k: value.to(self.runtime.device) for k, value in weights.items()}
            setattr(self, name, moved)


def _critic_optimizer(config: GANConfig) -> OptimConfig:
    """The critic is one linear layer: it may learn fast, and has no schedule of its own."""
    return OptimConfig(lr=1e-2, schedule="constant", max_grad_norm=config.optim.max_grad_norm)


@contextmanager
def frozen(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Within the block no gradient is formed for the module's parameters; one still passes through it.

    Args:
        module: a discriminator.
        training: whether its dropout is at work meanwhile; a reward would be blurred by it.
    """
    before = module.training
    module.train(training)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        module.train(before)
        for parameter in parameters:
            parameter.requires_grad_(True)
