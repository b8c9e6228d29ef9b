"""The language-model objective.

Shape suffixes: B = windows, T = tokens, V = vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.config import OptimConfig
from core.losses import lm_loss
from core.nn.transformer import Transformer
from core.training.runtime import Runtime
from core.training.update import Updater

Batch = tuple[Tensor, Tensor]


class NextTokenLoss(nn.Module):
    """A model and its cross-entropy as one module, so that both are compiled, and wrapped for DDP, together."""

    def __init__(self, model: Transformer, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(loss_sum, count) over all positions."""
        hidden_BTD = self.model(inputs_BT)
        smoothing = self.label_smoothing if self.training else 0.0
        return lm_loss(
            self.model.logits, hidden_BTD, targets_BT, vocab_size=self.model.vocab_size, label_smoothing=smoothing
        )


class LanguageTask:
    """Maximise the likelihood of the next token.

    Args:
        model: what to train.
        optim: its optimiser.
        runtime: device and precision.
        total_steps: length of the schedule.
        validation: called for a pass over the held-out (inputs_BT, targets_BT).
        bytes_per_token: mean bytes of a held-out token, for bits per byte.
        label_smoothing: see `core.losses.cross_entropy_sum`.
    """

    def __init__(
        self,
        model: Transformer,
        optim: OptimConfig,
        runtime: Runtime,
        total_steps: int,
        *,
        validation: Callable[[], Iterator[Batch]],
        bytes_per_token: float,
        label_smoothing: float = 0.0,
    ) -> None:
        self.model = model
        self.runtime = runtime
        self.validation = validation
        self.bytes_per_token = bytes_per_token
        self.accumulate = optim.accumulate
        self.updater = Updater(NextTokenLoss(model, label_smoothing=label_smoothing), optim, runtime, total_steps)
        runtime.maybe_compile(model)

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.runtime.autocast():
            return self.updater(*batch)

    def train_step(self, batch: Batch) -> Mapping[str, float]:
        """One step on (inputs_BT, targets_BT)."""
        self.updater.module.train()
        inputs_BT, targets_BT = (part.to(self.runtime.device, non_blocking=True) for part in batch)
        pieces = min(self.accumulate, len(inputs_BT))
        report = self.updater.step_micro(list(zip(inputs_BT.chunk(pieces), targets_BT.chunk(pieces))), self._loss)
        return {"loss": report.loss, "grad_norm": report.grad_norm, "lr": report.lr, "tokens": inputs_BT.numel()}

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """Held-out loss in nats per token, perplexity and bits per byte, over every held-out token."""
        self.updater.module.eval()
        total, count = 0.0, 0.0
        for inputs_BT, targets_BT in self.validation():
            with self.runtime.autocast():
                loss_sum, tokens = self.updater.module(
                    inputs_BT.to(self.runtime.device), targets_BT.to(self.runtime.device)
                )
            total, count = total + loss_sum.item(), count + tokens.item()
        loss = total / count
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": loss / math.log(2) / self.bytes_per_token,
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and counters."""
        return {"updater": self.updater.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.updater.load_state_dict(state["updater"])
