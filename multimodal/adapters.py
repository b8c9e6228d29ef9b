"""Adapters: from an encoder's features to embeddings of the language model's width.

Shape suffixes: N = media, P = positions of a medium, F = features of a position, Q = embeddings of a medium,
D = model width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.attention import additive, attend
from core.nn.block import RMSNorm
from core.nn.dropout import drop
from multimodal.encoders.encoder import Encoder

HEAD_WIDTH = 64


class Adapter(nn.Module):
    """Standardised features, projected, with learned positions in time and within a step.

    The mean and scale of each feature are part of the module, so a saved captioner needs nothing of its training data.
    Subclasses turn the projected positions into the embeddings that the language model gets.

    Args:
        encoder: gives the sizes.
        width: D.
        dropout: on the standardised features while training.
        blank_probability: share of media that are blanked while training: all features 0, which are those of the
            average medium where they are standardised, that is, of a frozen encoder. The number of positions stays.

    References:
        Mokady et al. 2021, "ClipCap: CLIP Prefix for Image Captioning", arXiv:2111.09734: a prefix of projected
        features. Ours has one embedding per position, and trains the language model with it.
    """

    def __init__(self, encoder: Encoder, width: int, *, dropout: float = 0.0, blank_probability: float = 0.0) -> None:
        super().__init__()
        self.num_features = encoder.num_features
        self.positions_per_step = encoder.positions_per_step
        self.dropout = dropout
        self.blank_probability = blank_probability
        self.blanked = False
        """All features are 0: the control without media."""
        self.project = nn.Linear(encoder.num_features, width)
        self.place = nn.Embedding(encoder.positions_per_step, width)
        self.time = nn.Embedding(encoder.max_steps, width)
        for embedding in (self.place, self.time):
            nn.init.normal_(embedding.weight, std=0.02)
        self.gain: Tensor
        self.mean_F: Tensor
        self.inverse_scale_F: Tensor
        # A factor of all embeddings, so that they can be made as large as a pretrained model's own.
        self.register_buffer("gain", torch.ones(()))
        self.register_buffer("mean_F", torch.zeros(encoder.num_features))
        self.register_buffer("inverse_scale_F", torch.ones(encoder.num_features))

    @torch.no_grad()
    def standardise_by(self, features: "list[Tensor]") -> None:
        """Take mean and scale of each feature from training media, each (P, F). A constant feature counts as 0.

        Raises:
            ValueError: there are no media.
        """
        if not features:
            raise ValueError("mean and scale of no media were asked for: a kind that is tested needs training media")
        total = torch.zeros(2, self.num_features, dtype=torch.float64)
        count = 0
        for start in range(0, len(features), 256):
            values = torch.cat(features[start : start + 256]).double()
            total += torch.stack((values.sum(0), values.square().sum(0)))
            count += len(values)
        mean_F, square_F = total / count
        scale_F = (square_F - mean_F.square()).clamp(min=0).sqrt()
        self.mean_F.copy_(mean_F)
        self.inverse_scale_F.copy_(torch.where(scale_F > 1e-4, 1 / scale_F.clamp(min=1e-4), 0.0))

    def num_embeddings(self, num_positions: int) -> int:
        """Q of a medium with so many positions."""
        return num_positions

    def forward(self, features_NPF: Tensor, mask_NP: Tensor) -> tuple[Tensor, Tensor]:
        """embedded_NQD and mask_NQ.

        Args:
            features_NPF: from the encoder.
            mask_NP: bool, True = a real position.
        """
        if features_NPF.ndim != 3 or features_NPF.shape[2] != self.num_features:
            raise ValueError(
                f"features must be (media, positions, {self.num_features} features), got {tuple(features_NPF.shape)}: "
                "encode the media with the encoder of this captioner"
            )
        x_NPF = (features_NPF.float() - self.mean_F) * self.inverse_scale_F
        if self.blanked:
            x_NPF = torch.zeros_like(x_NPF)
        if self.training:
            if self.blank_probability:
                kept_N11 = torch.rand(len(x_NPF), 1, 1, device=x_NPF.device) >= self.blank_probability
                x_NPF = x_NPF * kept_N11
            x_NPF = drop(x_NPF, self.dropout)
        position = torch.arange(x_NPF.shape[1], device=x_NPF.device)
        step = position // self.positions_per_step
        x_NPD = self.project(x_NPF) + self.place(position % self.positions_per_step) + self.time(step)
        embedded_NQD, mask_NQ = self.gather(x_NPD, mask_NP)
        return embedded_NQD * self.gain, mask_NQ

    def gather(self, x_NPD: Tensor, mask_NP: Tensor) -> tuple[Tensor, Tensor]:
        """embedded_NQD and mask_NQ of projected positions: here, one embedding each."""
        return x_NPD, mask_NP


class PooledAdapter(Adapter):
    """One vector a medium: the mean over its positions."""

    def num_embeddings(self, num_positions: int) -> int:
        """One."""
        return 1

    def gather(self, x_NPD: Tensor, mask_NP: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over the real positions."""
        weight_NP1 = mask_NP.to(x_NPD.dtype)[..., None]
        mean_N1D = (x_NPD * weight_NP1).sum(1, keepdim=True) / weight_NP1.sum(1, keepdim=True).clamp(min=1)
        return mean_N1D, torch.ones(mean_N1D.shape[:2], dtype=torch.bool, device=x_NPD.device)


class PerceiverAdapter(Adapter):
    """Perceiver resampler: a fixed number of learned queries attend to the positions and to one another.

    Args:
        encoder: gives the sizes.
        width: D.
        num_queries: Q.
        num_layers: layers of the resampler.
        options: of `Adapter`.

    References:
        Alayrac et al. 2022, "Flamingo", arXiv:2204.14198, section 3.1.1: keys and values come from the positions and
        the queries together.
    """

    def __init__(
        self, encoder: Encoder, width: int, *, num_queries: int = 16, num_layers: int = 2, **options: float
    ) -> None:
        super().__init__(encoder, width, **options)
        self.queries_QD = nn.Parameter(torch.randn(num_queries, width) * 0.02)
        self.layers = nn.ModuleList(PerceiverLayer(width) for _ in range(num_layers))
        self.norm = RMSNorm(width, eps=1e-6)

    def num_embeddings(self, num_positions: int) -> int:
        """Always the number of queries."""
        return len(self.queries_QD)

    def gather(self, x_NPD: Tensor, mask_NP: Tensor) -> tuple[Tensor, Tensor]:
        """What the queries have collected."""
        q_NQD = self.queries_QD.expand(len(x_NPD), -1, -1)
        mask_NQ = torch.ones(q_NQD.shape[:2], dtype=torch.bool, device=x_NPD.device)
        bias = additive(torch.cat((mask_NP, mask_NQ), dim=1), torch.float32)[:, None, None]
        for layer in self.layers:
            q_NQD = layer(q_NQD, x_NPD, bias)
        return self.norm(q_NQD), mask_NQ


class PerceiverLayer(nn.Module):
    """q + attention(q; [positions, q]), then q + mlp(q), both pre-norm; each starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm = RMSNorm(width, eps=1e-6)
        self.media_norm = RMSNorm(width, eps=1e-6)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.mlp_norm = RMSNorm(width, eps=1e-6)
        self.up_proj = nn.Linear(width, 4 * width, bias=False)
        self.down_proj = nn.Linear(4 * width, width, bias=False)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.up_proj):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.o_proj.weight)
        nn.init.zeros_(self.down_proj.weight)

    def forward(self, q_NQD: Tensor, x_NPD: Tensor, bias: Tensor) -> Tensor:
        """q_NQD after the layer; the bias is additive over positions and queries."""
        own = self.query_norm(q_NQD)
        both = torch.cat((self.media_norm(x_NPD), own), dim=1)
        query, key, value = _heads(self.q_proj(own)), _heads(self.k_proj(both)), _heads(self.v_proj(both))
        attended = attend(query, key, value, bias.to(query.dtype).expand(-1, -1, query.shape[2], -1))
        q_NQD = q_NQD + self.o_proj(attended.transpose(1, 2).flatten(2))
        return q_NQD + self.down_proj(F.gelu(self.up_proj(self.mlp_norm(q_NQD))))


def _heads(x_NSD: Tensor) -> Tensor:
    width = HEAD_WIDTH if x_NSD.shape[-1] % HEAD_WIDTH == 0 else x_NSD.shape[-1]
    return x_NSD.unflatten(-1, (-1, width)).transpose(1, 2)
