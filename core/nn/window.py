"""A feed-forward language model over the last few tokens, with the same surface as the Transformer and the LSTM.

Shape suffixes: B = rows, T = positions, D = embedding width, W = tokens seen at a time, C = hidden width,
V = vocabulary.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.attention import taken
from core.nn.linear import Linear


class WindowState:
    """The embeddings of the last W - 1 positions of every row: what decoding keeps instead of keys and values."""

    def __init__(self) -> None:
        self.last_BWD: Tensor | None = None

    def reserve(self, num_new: int) -> None:
        """A window needs no room."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named several times."""
        if self.last_BWD is not None:
            self.last_BWD = self.last_BWD[rows]

    def expand(self, prompt_N: Tensor) -> None:
        """Give each sample the window after its prompt, by number."""
        self.select(prompt_N)

    def repeat(self, times: int) -> None:
        """Make `times` copies of every row, side by side."""
        if times > 1 and self.last_BWD is not None:
            self.last_BWD = self.last_BWD.repeat_interleave(times, 0)


class WindowMLP(nn.Module):
    """The embeddings of the last W tokens, hidden layers, and an output projection.

    Args:
        vocab_size: V.
        width: D, and the width C of the hidden layers.
        window: W; what stands further back is not seen. Before the first token stand zeros.
        num_layers: hidden layers.

    References:
        Bengio et al. 2003, "A Neural Probabilistic Language Model".
    """

    def __init__(self, vocab_size: int, width: int, *, window: int, num_layers: int = 2) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window must be >= 1, got {window}")
        self.vocab_size, self.width, self.window = vocab_size, width, window
        self.embed_tokens = nn.Embedding(vocab_size, width)
        sizes = [window * width, *[width] * num_layers]
        self.layers = nn.ModuleList(Linear(before, after) for before, after in pairwise(sizes))
        self.lm_head = Linear(width, vocab_size)
        # All tokens equally likely at the start.
        nn.init.zeros_(self.lm_head.weight)
        nn.init.zeros_(self.lm_head.bias)

    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """embeddings_BTD of token ids."""
        return self.embed_tokens(tokens_BT)

    def logits(self, hidden_BTC: Tensor) -> Tensor:
        """logits_BTV of hidden states."""
        return self.lm_head(hidden_BTC)

    def new_cache(self, batch: int, capacity: int) -> WindowState:
        """An empty window; the sizes are not needed and are taken for symmetry with the Transformer."""
        return WindowState()

    def new_prefix(self, key_mask_BS: Tensor | None = None) -> WindowState:
        """A window, with gradient, for prompts that several samples share."""
        return WindowState()

    def forward(
        self,
        tokens_BT: Tensor | None = None,
        embeddings_BTD: Tensor | None = None,
        *,
        key_mask_BS: Tensor | None = None,
        cache: WindowState | None = None,
        reads_BR: Tensor | None = None,
    ) -> Tensor:
        """hidden_BTC of every position.

        Args:
            tokens_BT: int64 token ids; or give `embeddings_BTD`.
            embeddings_BTD: inputs that are not tokens.
            key_mask_BS: bool, True = a real token. Padding is passed over, on whichever side it stands.
            cache: what was read before the first position; holds the last positions afterwards.
            reads_BR: int64; the positions that are wanted, all by default: hidden_BRC. No others are computed.
        """
        if (tokens_BT is None) == (embeddings_BTD is None):
            raise ValueError("give either tokens_BT or embeddings_BTD, not both and not neither")
        x_BTD = self.embed(tokens_BT) if tokens_BT is not None else embeddings_BTD
        assert x_BTD is not None
        batch, length, width = x_BTD.shape
        before = self.window - 1
        last_BWD = cache.last_BWD if cache is not None else None
        if last_BWD is None:
            last_BWD = x_BTD.new_zeros(batch, before, width)
        if key_mask_BS is None:
            seen_BSD = torch.cat((last_BWD.to(x_BTD.dtype), x_BTD), 1)
            order = None
        else:
            # Real tokens are moved to the front, so that windows hold nothing else; then the results are moved back.
            order = torch.argsort((~key_mask_BS).int(), dim=1, stable=True)
            fronted_BTD = x_BTD.gather(1, order[..., None].expand_as(x_BTD))
            seen_BSD = torch.cat((last_BWD.to(x_BTD.dtype), fronted_BTD), 1)
        if reads_BR is None:
            hidden_BTC = seen_BSD.unfold(1, self.window, 1).transpose(2, 3).flatten(2)
        else:
            places_BR = reads_BR if order is None else torch.argsort(order, dim=1).gather(1, reads_BR)
            places_BW = (places_BR[..., None] + torch.arange(self.window, device=x_BTD.device)).flatten(1)
            hidden_BTC = taken(seen_BSD, places_BW).unflatten(1, (-1, self.window)).flatten(2)
        for layer in self.layers:
            hidden_BTC = F.gelu(layer(hidden_BTC))
        if cache is not None:
            counts_B = torch.full((batch,), length, device=x_BTD.device) if key_mask_BS is None else key_mask_BS.sum(1)
            places_BW = counts_B[:, None] + torch.arange(before, device=x_BTD.device)
            cache.last_BWD = taken(seen_BSD, places_BW)
        if order is not None and reads_BR is None:
            hidden_BTC = taken(hidden_BTC, torch.argsort(order, dim=1))
        return hidden_BTC
