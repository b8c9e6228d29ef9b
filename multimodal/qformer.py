"""The Q-Former: BERT layers over learned queries that look at a medium every other layer.

Shape suffixes: N = media, P = positions of a medium, Q = queries, D = model width, W = width of the Q-Former.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.attention import additive, attend
from core.nn.dropout import drop
from multimodal.adapters import Adapter
from multimodal.encoders.encoder import Encoder, heads_of


class QFormerAdapter(Adapter):
    """Queries through a Q-Former, then a projection to the language model.

    Args:
        encoder: gives the sizes.
        width: D.
        num_queries: Q.
        num_layers: layers of the Q-Former; every second one, the first included, attends to the medium.
        options: of `Adapter`.

    References:
        Li et al. 2023, "BLIP-2", arXiv:2301.12597, section 3.1.
    """

    def __init__(
        self, encoder: Encoder, width: int, *, num_queries: int = 16, num_layers: int = 2, **options: float
    ) -> None:
        super().__init__(encoder, width, **options)
        self.queries_QD = nn.Parameter(torch.randn(num_queries, width) * 0.02)
        self.qformer = QFormer(width, num_layers, num_heads=heads_of(width), media_width=width)
        self.language_projection = nn.Linear(width, width)

    def num_embeddings(self, num_positions: int) -> int:
        """Always the number of queries."""
        return len(self.queries_QD)

    def gather(self, x_NPD: Tensor, mask_NP: Tensor) -> tuple[Tensor, Tensor]:
        """What the queries have collected."""
        q_NQD = self.qformer(self.queries_QD.expand(len(x_NPD), -1, -1), x_NPD, mask_NP)
        return self.language_projection(q_NQD), torch.ones(q_NQD.shape[:2], dtype=torch.bool, device=q_NQD.device)


class QFormer(nn.Module):
    """Equal to transformers' Blip2QFormerModel with the same weights.

    Args:
        width: W.
        num_layers: layers.
        num_heads: attention heads; they divide W.
        media_width: width of the positions that are attended to.
        cross_every: every so many layers, the first included, attend to the medium.
        norm_eps: of the layer norms.
        dropout: on embeddings and updates while training.
    """

    def __init__(
        self,
        width: int,
        num_layers: int,
        *,
        num_heads: int,
        media_width: int,
        cross_every: int = 2,
        norm_eps: float = 1e-12,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.layers = nn.ModuleList(
            QFormerLayer(width, num_heads, media_width if index % cross_every == 0 else None, norm_eps, dropout)
            for index in range(num_layers)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, q_NQW: Tensor, x_NPD: Tensor, mask_NP: Tensor) -> Tensor:
        """q_NQW after all layers; the mask is True for a real position."""
        q_NQW = drop(self.norm(q_NQW), self.dropout, self.training)
        bias = additive(mask_NP, torch.float32)[:, None, None]
        for layer in self.layers:
            q_NQW = layer(q_NQW, x_NPD, bias)
        return q_NQW


class QFormerLayer(nn.Module):
    """Post-norm self-attention among the queries, attention to the medium in some layers, and a GELU network."""

    def __init__(self, width: int, num_heads: int, media_width: int | None, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.own = PostNormAttention(width, width, num_heads, norm_eps, dropout)
        self.media = None
        if media_width is not None:
            self.media = PostNormAttention(width, media_width, num_heads, norm_eps, dropout)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = dropout

    def forward(self, q_NQW: Tensor, x_NPD: Tensor, bias: Tensor) -> Tensor:
        q_NQW = self.own(q_NQW, q_NQW, None)
        if self.media is not None:
            q_NQW = self.media(q_NQW, x_NPD, bias)
        update = drop(self.down(F.gelu(self.up(q_NQW))), self.dropout, self.training)
        return self.norm(q_NQW + update)


class PostNormAttention(nn.Module):
    """norm(q + attention(q; x)), as in BERT."""

    def __init__(self, width: int, media_width: int, num_heads: int, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(media_width, width)
        self.value = nn.Linear(media_width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = dropout

    def forward(self, q_NQW: Tensor, x_NPD: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.query(q_NQW), self.key(x_NPD), self.value(x_NPD))
        )
        if bias is not None:
            bias = bias.to(query.dtype).expand(-1, -1, query.shape[2], -1)
        attended = attend(query, key, value, bias, dropout=self.dropout if self.training else 0.0)
        update = drop(self.out(attended.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return self.norm(q_NQW + update)
