"""A discriminator with a language model's body that adds up, token by token, what speaks for a real sentence.

Shape suffixes: B = sequences, T = positions, D = embedding width, V = vocabulary, C = width of the hidden states.
"""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from adversarial.generator import Generator, embedding_table
from adversarial.losses import twice_differentiable


class RatioDiscriminator(nn.Module):
    """logit = sum over the tokens of <A h_t, e_t> / sqrt(D), with h_t the state that has read the tokens before t.

    The best discriminator is the log-ratio log p_real(x) - log p_generated(x), which is such a sum over tokens given
    their left context. So the body is a causal language model (a copy of the generator after MLE: features that know
    the language from the first step), e_t is the token's embedding in that body, and A, a matrix of zeros at the
    start, turns states into directions in which a real next token lies. For a fixed context the logit is linear in
    e_t, so its gradient there says exactly what every other token would have scored.

    The features for feature matching are the terms of the sum: sum_t (A h_t) * e_t, one per embedding dimension.

    Args:
        body: the generator to copy; the copy is trained, the generator is not touched.
        bos_id: token before the first one.

    References:
        Goodfellow et al. 2014, arXiv:1406.2661, proposition 1 (the best discriminator); de Masson d'Autume et al.
        2019, "Training Language GANs from Scratch", arXiv:1905.09922 (a discriminator that judges token by token).
    """

    per_token = False

    def __init__(self, body: Generator, bos_id: int) -> None:
        super().__init__()
        self.body = body
        self.bos_id = bos_id
        table_VD = embedding_table(body)
        self.judge = nn.Linear(body.width, table_VD.shape[1], bias=False)
        nn.init.zeros_(self.judge.weight)
        # The embeddings' scale is divided out of the logit and of the gradient penalty.
        self.unit: Tensor
        self.register_buffer("unit", torch.ones(()))
        self.set_unit()

    def take_body(self, weights: Mapping[str, Tensor]) -> None:
        """Load a language model's weights into the body."""
        self.body.load_state_dict(dict(weights))
        self.set_unit()

    @torch.no_grad()
    def set_unit(self) -> None:
        """Measure the root mean square of the embedding table."""
        self.unit.copy_(embedding_table(self.body).square().mean().sqrt())

    def embed(self, tokens: Tensor) -> Tensor:
        """embeddings_BTD of int64 token ids BT, or of (soft) one-hot vectors BTV."""
        return self.body.embed(tokens) if tokens.dim() == 2 else tokens @ embedding_table(self.body)

    def forward(self, embeddings_BTD: Tensor, mask_BT: Tensor, *, twice: bool = False) -> tuple[Tensor, Tensor]:
        """(logit_B, features_BD): see `adversarial.discriminators.build`."""
        begin_B1D = embedding_table(self.body)[self.bos_id].expand(len(embeddings_BTD), 1, -1)
        with twice_differentiable() if twice else nullcontext():
            states_BTC = self.body(embeddings_BTD=torch.cat((begin_B1D, embeddings_BTD[:, :-1]), dim=1))
        scale = self.unit * embeddings_BTD.shape[-1] ** 0.5
        terms_BTD = self.judge(states_BTC) * embeddings_BTD / scale * mask_BT.unsqueeze(-1)
        features_BD = terms_BTD.sum(1)
        return features_BD.sum(1), features_BD
