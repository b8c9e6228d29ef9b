"""The contrastive objective.

Shape suffixes: N = pairs, M = media of one kind, T = tokens of a text, V = numbers of a vector.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.config import OptimConfig
from core.training.runtime import Runtime
from core.training.update import Updater
from multimodal.batch import MediaBatch
from multimodal.examples import Kind
from multimodal.retrieval.batch import NUM_SPECIAL, RetrievalBatch
from multimodal.retrieval.loss import contrastive_loss, equal_pairs, gathered
from multimodal.retrieval.towers import MAX_LOGIT_SCALE, Towers


class PairModel(nn.Module):
    """Both towers on the pairs of a batch, as one module, so that they are wrapped for DDP together.

    Args:
        towers: the two.
        unk_id: the unknown word.
        word_dropout: share of the words that training reads as unknown.
    """

    def __init__(self, towers: Towers, *, unk_id: int, word_dropout: float = 0.0) -> None:
        super().__init__()
        self.towers = towers
        self.unk_id = unk_id
        self.word_dropout = word_dropout

    def forward(self, batch: RetrievalBatch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """media_NV, texts_NV, the factor of their products and what is added to them."""
        ids_NT = batch.ids_NT
        if self.training and self.word_dropout:
            dropped_NT = torch.rand(ids_NT.shape, device=ids_NT.device) < self.word_dropout
            ids_NT = torch.where(dropped_NT & (ids_NT >= NUM_SPECIAL), self.unk_id, ids_NT)
        scale, bias = self.towers.scale
        # DistributedDataParallel finds by the results' history what was used; a parameter itself has none.
        added = None if bias is None else bias.clone()
        return embed_media(self.towers, batch.media, len(ids_NT)), self.towers.texts(ids_NT), scale.exp(), added


def embed_media(towers: Towers, media: Mapping[Kind, MediaBatch], count: int) -> Tensor:
    """vectors_NV of media of several kinds, each in the row that it names.

    Args:
        towers: with encoders for these kinds.
        media: by kind.
        count: N.
    """
    rows_N = torch.cat([batch.rows_N for batch in media.values()])
    if len(rows_N) != count:
        raise ValueError(f"{len(rows_N)} media for {count} rows: give one medium for each")
    vectors_NV = torch.cat([towers.media(kind, one.inputs_NI, one.lengths_N) for kind, one in media.items()])
    return vectors_NV[rows_N.argsort()]


class RetrievalTask:
    """Bring the vectors of media and of their texts together, and those of other pairs apart.

    Args:
        model: what to train.
        optim: its optimiser.
        runtime: device and precision.
        total_steps: length of the schedule.
        loss: which contrastive loss.
        score: called by `evaluate` with the towers in evaluation mode.
    """

    def __init__(
        self,
        model: PairModel,
        optim: OptimConfig,
        runtime: Runtime,
        total_steps: int,
        *,
        loss: Literal["clip", "siglip"],
        score: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        self.towers = model.towers
        self.runtime = runtime
        self.loss = loss
        self.score = score
        # A batch need not have media of every kind.
        several = len(self.towers.encoders) > 1
        self.updater = Updater(model, optim, runtime, total_steps, find_unused_parameters=several)
        for part in self.towers.to_compile():
            runtime.maybe_compile(part)

    def train_step(self, batch: RetrievalBatch) -> Mapping[str, float]:
        """One step. `loss` is in nats per pair, `scale` the factor of the products."""
        self.updater.module.train()
        with torch.no_grad():
            self.towers.scale[0].clamp_(max=MAX_LOGIT_SCALE)
        batch = batch.to(self.runtime.device)
        with self.runtime.autocast():
            media_NV, texts_NV, scale, bias = self.updater(batch)
        # Outside of autocast: a product of unit vectors times 100 is too coarse in bfloat16.
        media_NV, texts_NV, (media_N, texts_N) = gathered(media_NV, texts_NV, batch.numbers_2N)
        loss = contrastive_loss(media_NV, texts_NV, scale, bias, kind=self.loss, same_NN=equal_pairs(media_N, texts_N))
        report = self.updater.step(loss)
        return {"loss": report.loss, "grad_norm": report.grad_norm, "lr": report.lr, "scale": scale.item()}

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """Scores of the held-out pairs."""
        self.updater.module.eval()
        return dict(self.score()) if self.score is not None else {}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and counters."""
        return {"updater": self.updater.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.updater.load_state_dict(state["updater"])
