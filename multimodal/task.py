"""The captioning objective.

Shape suffixes: B = captions, T = caption tokens, P = positions of a picture, F = features of a position.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.config import OptimConfig
from core.losses import lm_loss
from core.training.runtime import Runtime
from core.training.update import Updater
from multimodal.captioner import Captioner


@dataclass(frozen=True)
class CaptionBatch:
    """Pictures with one caption each."""

    features_BPF: Tensor
    """Encoded pictures."""
    tokens_BT: Tensor
    """int64; begin token, caption, end-of-sequence, padding."""
    mask_BT: Tensor
    """bool; True = a real token. Padding is known by this mask alone, so its id may be that of end-of-sequence."""

    def to(self, device: torch.device) -> "CaptionBatch":
        """The batch on a device."""
        return CaptionBatch(*(part.to(device, non_blocking=True) for part in vars(self).values()))

    def chunk(self, pieces: int) -> "list[CaptionBatch]":
        """The batch in at most `pieces` parts."""
        return [CaptionBatch(*parts) for parts in zip(*(part.chunk(pieces) for part in vars(self).values()))]


def caption_batch(
    features_BPF: Tensor, captions: Sequence[Sequence[int]], *, bos_id: int, eos_id: int, length: int | None = None
) -> CaptionBatch:
    """Frame captions with begin and end-of-sequence, and pad them on the right.

    Args:
        features_BPF: one encoded picture a caption.
        captions: token ids, without special tokens.
        bos_id: begin token.
        eos_id: end-of-sequence; it is the padding, too.
        length: T; the longest caption with its frame when absent.
    """
    framed = [[bos_id, *caption, eos_id] for caption in captions]
    longest = max(len(row) for row in framed)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"a caption of {longest} tokens, begin and end included, does not fit into {length}")
    tokens_BT = torch.tensor([row + [eos_id] * (length - len(row)) for row in framed])
    lengths_B = torch.tensor([len(row) for row in framed])
    return CaptionBatch(features_BPF, tokens_BT, torch.arange(length) < lengths_B[:, None])


class CaptionLoss(nn.Module):
    """A captioner and its cross-entropy as one module, so that both are compiled, and wrapped for DDP, together."""

    def __init__(self, captioner: Captioner, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.captioner = captioner
        self.label_smoothing = label_smoothing

    def forward(self, features_BPF: Tensor, tokens_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(loss_sum, count) over the caption's tokens and its end-of-sequence; nothing else is supervised.

        Label smoothing applies while training only.
        """
        hidden_BTD = self.captioner(features_BPF, tokens_BT[:, :-1])
        return lm_loss(
            self.captioner.logits,
            hidden_BTD,
            tokens_BT[:, 1:],
            mask_BT[:, 1:],
            vocab_size=self.captioner.model.vocab_size,
            label_smoothing=self.label_smoothing if self.training else 0.0,
        )


class CaptioningTask:
    """Maximise the likelihood of captions given their pictures.

    Args:
        captioner: what to train.
        optim: its optimiser.
        runtime: device and precision.
        total_steps: length of the schedule.
        label_smoothing: see `core.losses.cross_entropy_sum`.
        score: called by `evaluate` with the captioner in evaluation mode; returns further scores, for example those
            of generated captions.
        held_out: called for a pass over held-out captions, whose loss `evaluate` reports.
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
    ) -> None:
        self.captioner = captioner
        self.runtime = runtime
        self.score = score
        self.held_out = held_out
        self.accumulate = optim.accumulate
        self.updater = Updater(CaptionLoss(captioner, label_smoothing=label_smoothing), optim, runtime, total_steps)
        runtime.maybe_compile(self.updater.module)

    def _loss(self, batch: CaptionBatch) -> tuple[Tensor, Tensor]:
        with self.runtime.autocast():
            return self.updater(batch.features_BPF, batch.tokens_BT, batch.mask_BT)

    def train_step(self, batch: CaptionBatch) -> Mapping[str, float]:
        """One step. `loss` is in nats per caption token, label smoothing included."""
        self.updater.module.train()
        batch = batch.to(self.runtime.device)
        report = self.updater.step_micro(batch.chunk(self.accumulate), self._loss)
        tokens = float(batch.mask_BT[:, 1:].sum())
        return {"loss": report.loss, "grad_norm": report.grad_norm, "lr": report.lr, "tokens": tokens}

    @torch.no_grad()
    def loss(self, batches: Iterable[CaptionBatch]) -> float:
        """Nats per caption token, without label smoothing and dropout; 0 when there is no token."""
        self.updater.module.eval()
        total, count = 0.0, 0.0
        for batch in batches:
            moved = batch.to(self.runtime.device)
            with self.runtime.autocast():
                # The module's own forward: these shapes must not compile again.
                loss_sum, tokens = self.updater.module.forward(moved.features_BPF, moved.tokens_BT, moved.mask_BT)
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
