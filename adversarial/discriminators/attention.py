"""A bidirectional Transformer that reads a whole sentence before it judges.

Shape suffixes: B = sequences, T = positions, V = vocabulary, D = model width.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

from torch import Tensor, nn

from adversarial.generator import Generator, embedding_table
from adversarial.losses import twice_differentiable
from core.config import ModelConfig
from core.nn.encoder import TransformerEncoder


class AttentionDiscriminator(nn.Module):
    """The blocks of the core Transformer without a causal mask, the mean of their outputs, one logit.

    Args:
        shape: of the network; its vocabulary is that of the text.
        dropout: of the embeddings and before the logit.
    """

    per_token = False

    def __init__(self, shape: ModelConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(shape.vocab_size, shape.width)
        nn.init.normal_(self.table.weight, std=0.1)
        self.encoder = TransformerEncoder(replace(shape, dropout=dropout))
        self.drop = nn.Dropout(dropout)
        self.judge = nn.Linear(shape.width, 1)
        nn.init.zeros_(self.judge.weight)

    def embed(self, tokens: Tensor) -> Tensor:
        """embeddings_BTD of int64 token ids BT, or of (soft) one-hot vectors BTV."""
        return self.table(tokens) if tokens.dim() == 2 else tokens @ self.table.weight

    def forward(self, embeddings_BTD: Tensor, mask_BT: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
        """(logit_B, features_BD)."""
        with twice_differentiable() if twice else nullcontext():
            hidden_BTD = self.encoder(self.drop(embeddings_BTD), mask_BT) * mask_BT.unsqueeze(-1)
        features_BD = hidden_BTD.float().sum(1) / mask_BT.sum(1, keepdim=True)
        return self.judge(self.drop(features_BD)).squeeze(-1).float(), features_BD


class TokenDiscriminator(nn.Module):
    """One logit for every token, from what a causal network has read up to and including it.

    So a generator is told where a sentence goes wrong, not only that it does.

    Args:
        body: a fresh language model's network, without dropout in the recipe.
        dropout: before the logits.

    References:
        de Masson d'Autume et al. 2019, "Training Language GANs from Scratch", arXiv:1905.09922.
    """

    per_token = True

    def __init__(self, body: Generator, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.drop = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(body.width)
        self.judge = nn.Linear(body.width, 1)

    def take_body(self, weights: Mapping[str, Tensor]) -> None:
        """Load a language model's weights into the body."""
        self.body.load_state_dict(dict(weights))

    def embed(self, tokens: Tensor) -> Tensor:
        """embeddings_BTD of int64 token ids BT, or of (soft) one-hot vectors BTV."""
        return self.body.embed(tokens) if tokens.dim() == 2 else tokens @ embedding_table(self.body)

    def forward(self, embeddings_BTD: Tensor, mask_BT: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
        """(logit_BT, features_BD): the features are the mean over the tokens."""
        with twice_differentiable() if twice else nullcontext():
            hidden_BTD = self.norm(self.body(embeddings_BTD=embeddings_BTD))
        logit_BT = self.judge(self.drop(hidden_BTD)).squeeze(-1).float()
        kept_BTD = hidden_BTD.float() * mask_BT.unsqueeze(-1)
        return logit_BT, kept_BTD.sum(1) / mask_BT.sum(1, keepdim=True)
