"""The discriminator of RelGAN: many small views of a sentence, each judged on its own.

Shape suffixes: B = sequences, T = positions, V = vocabulary, R = representations, E = width of one, F = features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversarial.discriminators.maxconvolution import HighwayConvolutions
from core.nn.dropout import drop

FILTERS = ((2, 300), (3, 300), (4, 300), (5, 300))


class RepresentationsDiscriminator(nn.Module):
    """Embeds a sentence R times, in E dimensions each; the same network gives every one a logit.

    Args:
        vocab_size: V.
        length: longest sentence; shorter ones are padded with zeros.
        width: R * E.
        representations: R.
        filters: (width in words, number) of each group.
        dropout: after the highway layer.

    References:
        Nie et al. 2019, "RelGAN: Relational Generative Adversarial Networks for Text Generation", ICLR.
    """

    per_token = False

    def __init__(
        self,
        vocab_size: int,
        length: int,
        *,
        width: int = 64,
        representations: int = 64,
        filters: Sequence[tuple[int, int]] = FILTERS,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        if width % representations:
            raise ValueError(f"width {width} cannot be divided into {representations} representations")
        self.representations = representations
        self.table = nn.Parameter(torch.empty(vocab_size, width).uniform_(-0.05, 0.05))
        self.convolutions = HighwayConvolutions(width // representations, filters, length)
        features = self.convolutions.num_features
        self.dropout = dropout
        self.narrow = nn.Linear(features, 100)
        self.judge = nn.Linear(100, 1)

    def embed(self, tokens: Tensor) -> Tensor:
        """embeddings_BTE of int64 token ids BT, or of (soft) one-hot vectors BTV; all representations side by side."""
        return F.embedding(tokens, self.table) if tokens.dim() == 2 else tokens @ self.table

    def forward(self, embeddings_BTE: Tensor, mask_BT: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
        """(logit_BR, features_BF), the features averaged over the representations."""
        x_BTE = self.convolutions.padded(embeddings_BTE, mask_BT)
        batch = len(x_BTE)
        x_BTE = x_BTE.unflatten(2, (self.representations, -1)).transpose(1, 2).flatten(0, 1)
        features_BF = self.convolutions(x_BTE, twice=twice)
        features_BF = self.narrow(drop(features_BF, self.dropout, self.training))
        logit_BR = self.judge(features_BF).view(batch, -1).float()
        return logit_BR, features_BF.view(batch, self.representations, -1).mean(1).float()
