"""Joining a picture to a language model.

Shape suffixes: B = batch, N = training pictures, P = positions of a picture, F = features of a position,
D = model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrefixFusion(nn.Module):
    """Features of a picture to embeddings that stand before the caption: standardise, project, add the position.

    The mean and scale of each feature are part of the module, so a saved captioner needs nothing of its training data.

    Args:
        num_features: F, features of a position.
        num_positions: P, positions of a picture.
        width: D of the language model.
        dropout: dropout on the standardised features while training.
        blank_probability: share of pictures that are replaced by the average one while training.

    References:
        Mokady et al. 2021, "ClipCap: CLIP Prefix for Image Captioning", arXiv:2111.09734: a prefix of projected
        features. Ours has one position per grid cell, and trains the language model with it.
    """

    def __init__(
        self,
        num_features: int,
        num_positions: int,
        width: int,
        *,
        dropout: float = 0.0,
        blank_probability: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_positions = num_positions
        self.dropout = dropout
        self.blank_probability = blank_probability
        self.project = nn.Linear(num_features, width)
        self.position = nn.Embedding(num_positions, width)
        self.mean_F: Tensor
        self.inverse_scale_F: Tensor
        self.register_buffer("mean_F", torch.zeros(num_features))
        self.register_buffer("inverse_scale_F", torch.ones(num_features))
        nn.init.normal_(self.position.weight, std=0.02)

    @torch.no_grad()
    def standardise_by(self, features_NPF: Tensor) -> None:
        """Take mean and scale of each feature from training pictures. A feature that never varies counts as 0."""
        self._check(features_NPF)
        total_F = torch.zeros(self.num_features, dtype=torch.float64)
        squares_F = torch.zeros(self.num_features, dtype=torch.float64)
        for part in features_NPF.split(256):
            values = part.double().flatten(0, 1)
            total_F += values.sum(0)
            squares_F += values.square().sum(0)
        count = features_NPF.shape[0] * features_NPF.shape[1]
        mean_F = total_F / count
        scale_F = (squares_F / count - mean_F.square()).clamp(min=0).sqrt()
        self.mean_F.copy_(mean_F)
        self.inverse_scale_F.copy_(torch.where(scale_F > 1e-4, 1 / scale_F.clamp(min=1e-4), 0.0))

    def blank(self, batch: int) -> Tensor:
        """features_BPF of the average picture: what stands for "no picture" in a control."""
        return self.mean_F.expand(batch, self.num_positions, self.num_features)

    def forward(self, features_BPF: Tensor) -> Tensor:
        """prefix_BPD."""
        self._check(features_BPF)
        x_BPF = (features_BPF.float() - self.mean_F) * self.inverse_scale_F
        if self.training:
            if self.blank_probability:
                kept_B11 = torch.rand(len(x_BPF), 1, 1, device=x_BPF.device) >= self.blank_probability
                x_BPF = x_BPF * kept_B11
            x_BPF = F.dropout(x_BPF, self.dropout)
        return self.project(x_BPF) + self.position.weight

    def _check(self, features: Tensor) -> None:
        wanted = (self.num_positions, self.num_features)
        if features.ndim != 3 or tuple(features.shape[1:]) != wanted:
            raise ValueError(
                f"picture features must be (pictures, {wanted[0]} positions, {wanted[1]} features), "
                f"got {tuple(features.shape)}: encode the pictures with the encoder and grid of this captioner"
            )
