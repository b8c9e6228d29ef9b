"""Supervised fine-tuning on completions: by itself, and as the first steps of preference learning."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from core.policy import LanguageModelPolicy
from core.training.runtime import Runtime
from core.training.update import Updater
from rl.preferences.config import SftConfig
from rl.preferences.encoding import Completion
from rl.preferences.examples import Demonstration
from rl.preferences.scoring import AT_ONCE, completion_loss, frozen
from rl.preferences.writer import Writer

Item = TypeVar("Item")


def pieces(batch: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """A batch in at most `count` parts of about the same size."""
    size = -(-len(batch) // min(count, len(batch)))
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def supervised_update(
    model: Updater, policy: LanguageModelPolicy, completions: Sequence[Completion], runtime: Runtime
) -> dict[str, float]:
    """One update that makes completions likelier; the loss is in nats per token of theirs."""

    def loss(part: Sequence[Completion]) -> tuple[Tensor, Tensor]:
        with runtime.autocast():
            return completion_loss(policy, part)

    report = model.step_micro(pieces(completions, model.config.accumulate), loss)
    return {
        "loss": report.loss,
        "grad_norm": report.grad_norm,
        "lr": report.lr,
        "skipped": float(report.skipped),
        "tokens": float(sum(len(completion) for completion in completions)),
    }


def held_out_loss(policy: LanguageModelPolicy, completions: Sequence[Completion], runtime: Runtime) -> float:
    """Cross-entropy in nats per token over all completions, in evaluation mode."""
    total = count = 0.0
    for start in range(0, len(completions), AT_ONCE):
        with frozen(policy.model), runtime.autocast():
            loss_sum, tokens = completion_loss(policy, completions[start : start + AT_ONCE])
        total, count = total + float(loss_sum), count + float(tokens)
    return total / count if count else math.nan


class SftTask:
    """Write the completions of prompts: cross-entropy over their tokens.

    Args:
        model: the policy's language model.
        train: what to learn.
        held_out: what to score.
        writer: samples completions.
        config: the run.
        runtime: device and precision.
    """

    def __init__(
        self,
        model: Any,
        train: Sequence[Demonstration],
        held_out: Sequence[Demonstration],
        writer: Writer,
        config: SftConfig,
        runtime: Runtime,
    ) -> None:
        self.train, self.held_out = train, held_out
        self.runtime, self.writer = runtime, writer
        self.model = Updater(model, config.optim, runtime, config.steps)

    def train_step(self, batch: Sequence[int]) -> Mapping[str, float]:
        """One update on some examples, given by their numbers."""
        self.writer.remember(0)
        self.model.module.train()
        completions = [self.train[index].completion for index in batch]
        return supervised_update(self.model, self.writer.policy, completions, self.runtime)

    def evaluate(self) -> Mapping[str, float]:
        """Held-out loss in nats per token, perplexity, and the mean score of samples where there is a judge."""
        loss = held_out_loss(self.writer.policy, [example.completion for example in self.held_out], self.runtime)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **self.writer.scores()}

    def state_dict(self) -> dict[str, Any]:
        """Updater, and what the start wrote."""
        return {"model": self.model.state_dict(), "writer": self.writer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.writer.load_state_dict(state["writer"])
