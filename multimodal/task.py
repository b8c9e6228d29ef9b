"""The captioning objective.

Shape suffixes: E = examples, L = target tokens, D = model width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.config import OptimConfig
from core.losses import lm_loss
from core.training.runtime import Runtime
from core.training.update import Updater
from multimodal.batch import CaptionBatch
from multimodal.captioner import Captioner
from multimodal.ctc import ctc_losses, sound_logprobs


class CaptionLoss(nn.Module):
    """A captioner and its loss as one module, so that both are compiled, and wrapped for DDP, together.

    The loss is the cross-entropy of the answers; a captioner with a `ctc_weight` gives that share to the CTC loss of
    answers to prompts with sounds (`multimodal.ctc`), where an answer longer than its sounds counts as 0.
    """

    def __init__(self, captioner: Captioner, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.captioner = captioner
        self.label_smoothing = label_smoothing

    def forward(self, batch: CaptionBatch) -> tuple[Tensor, Tensor]:
        """(loss_sum, count) over the answers and their end-of-sequence; prompts, media and padding are not supervised.

        Label smoothing and the CTC loss apply while training only.
        """
        weight = self.captioner.ctc_weight if self.training and "audio" in batch.media else 0.0
        hidden_BTD = self.captioner.read(batch) if weight else None
        loss_sum, count = lm_loss(
            self.captioner.logits,
            self.captioner(batch) if hidden_BTD is None else hidden_BTD.flatten(0, 1)[batch.reads_EL],
            batch.targets_EL,
            batch.mask_EL,
            vocab_size=self.captioner.model.vocab_size,
            label_smoothing=self.label_smoothing if self.training else 0.0,
        )
        if hidden_BTD is not None:
            logprobs_PEV, lengths_E = sound_logprobs(self.captioner, hidden_BTD, batch)
            losses_E = ctc_losses(self.captioner, logprobs_PEV, lengths_E, batch, zero_infinity=True)
            loss_sum = (1 - weight) * loss_sum + weight * losses_E.sum()
        return loss_sum, count


class CaptioningTask:
    """Maximise the likelihood of answers given their prompts and media.

    Args:
        captioner: what to train.
        optim: its optimiser.
        runtime: device and precision.
        total_steps: length of the schedule.
        label_smoothing: see `core.losses.cross_entropy_sum`.
        score: called by `evaluate` with the captioner in evaluation mode; returns further scores, for example those
            of generated captions.
        held_out: called for a pass over held-out captions, whose loss `evaluate` reports.
        shapes_vary: batches come in many lengths; see `Runtime.maybe_compile`.
    """

    def __init__(
        self,
        captioner: Captioner,
        optim: OptimConfig,
        runtime: Runtime,
        total_steps: int,
        *,
        label_smoothing: float = 0.0,
        score: Callable[[], Mapping[str, float]] | None = None,
        held_out: Callable[[], Iterable[CaptionBatch]] | None = None,
        shapes_vary: bool = False,
    ) -> None:
        self.captioner = captioner
        self.runtime = runtime
        self.score = score
        self.held_out = held_out
        self.updater = Updater(
            CaptionLoss(captioner, label_smoothing=label_smoothing), optim, runtime, total_steps,
            # A batch need not have media of every kind, or any.
            find_unused_parameters=True,
        )  # fmt: skip
        runtime.maybe_compile(self.updater.module, shapes_vary=shapes_vary)

    def _loss(self, batch: CaptionBatch) -> tuple[Tensor, Tensor]:
        with self.runtime.autocast():
            return self.updater(batch)

    def train_step(self, batch: Sequence[CaptionBatch]) -> Mapping[str, float]:
        """One step on micro-batches. `loss` is in nats per target token, label smoothing included."""
        self.updater.module.train()
        moved = [part.to(self.runtime.device) for part in batch]
        report = self.updater.step_micro(moved, self._loss)
        tokens = float(sum(part.mask_EL.sum() for part in batch))
        return {"loss": report.loss, "grad_norm": report.grad_norm, "lr": report.lr, "tokens": tokens}

    @torch.no_grad()
    def loss(self, batches: Iterable[CaptionBatch]) -> float:
        """Nats per target token, without label smoothing and dropout; 0 when there is no token."""
        self.updater.module.eval()
        total, count = 0.0, 0.0
        for batch in batches:
            with self.runtime.autocast():
                # The module's own forward: these shapes must not compile again.
                loss_sum, tokens = self.updater.module.forward(batch.to(self.runtime.device))
            total, count = total + loss_sum.item(), count + tokens.item()
        return total / max(count, 1.0)

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """Held-out loss and the scores of generated captions."""
        self.updater.module.eval()
        scores = dict(self.score()) if self.score is not None else {}
        if self.held_out is not None:
            scores["loss"] = self.loss(self.held_out())
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and counters."""
        return {"updater": self.updater.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.updater.load_state_dict(state["updater"])
