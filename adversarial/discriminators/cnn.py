"""The convolutional discriminator of SeqGAN.

Shape suffixes: B = sequences, T = positions, V = vocabulary, E = embedding width, F = features.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from adversarial.discriminators.maxconvolution import HighwayConvolutions
from core.nn.dropout import drop

CLASSIC_FILTERS = (
    (1, 100), (2, 200), (3, 200), (4, 200), (5, 200), (6, 100), (7, 100), (8, 100), (9, 100), (10, 100), (15, 160),
    (20, 160),
)  # fmt: skip
"""SeqGAN's, for sentences of 20 words: (width, number)."""


class ConvolutionalDiscriminator(nn.Module):
    """Embedding, convolutions with their maxima, a highway layer, dropout, one logit.

    Args:
        vocab_size: V.
        length: longest sentence; shorter ones are padded with zeros.
        width: E.
        filters: (width in words, number) of each group.
        dropout: before the logit.

    References:
        Yu et al. 2017, "SeqGAN", arXiv:1609.05473, which has two logits of which only the difference matters; Zhang and
        LeCun 2015, "Text Understanding from Scratch", arXiv:1502.01710 (the convolutions).
    """

    per_token = False

    def __init__(
        self,
        vocab_size: int,
        length: int,
        *,
        width: int = 64,
        filters: Sequence[tuple[int, int]] = CLASSIC_FILTERS,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        self.convolutions = HighwayConvolutions(width, filters, length)
        features = self.convolutions.num_features
        self.dropout = dropout
        self.judge = nn.Linear(features, 1)

    def embed(self, tokens: Tensor) -> Tensor:
        """embeddings_BTE of int64 token ids BT, or of (soft) one-hot vectors BTV."""
        return self.table(tokens) if tokens.dim() == 2 else tokens @ self.table.weight

    def forward(self, embeddings_BTE: Tensor, mask_BT: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
        """(logit_B, features_BF): see `adversarial.discriminators.build`."""
        x_BTE = self.convolutions.padded(embeddings_BTE, mask_BT)
        features_BF = self.convolutions(x_BTE, twice=twice)
        return self.judge(drop(features_BF, self.dropout, self.training)).squeeze(-1).float(), features_BF.float()
