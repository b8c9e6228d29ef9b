"""RelGAN's generator: a recurrent network whose state is a memory that attends to itself and to the new token.

Shape suffixes: B = rows, T = positions, D = embedding width, V = vocabulary, S = memory slots, M = slot width,
H = heads, K = head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.attention import taken


class MemoryState:
    """The memory of every row: what decoding keeps instead of keys and values."""

    def __init__(self) -> None:
        self.memory_BSM: Tensor | None = None

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be named several times."""
        if self.memory_BSM is not None:
            self.memory_BSM = self.memory_BSM[rows]

    def repeat(self, times: int) -> None:
        """Make `times` copies of every row, side by side."""
        if self.memory_BSM is not None:
            self.memory_BSM = self.memory_BSM.repeat_interleave(times, 0)


class RelationalMemory(nn.Module):
    """Embedding, relational memory core and output projection, with the surface of the core LSTM.

    Args:
        vocab_size: V.
        width: D.
        num_slots: S.
        num_heads: H.
        head_width: K; M = H * K.

    References:
        Santoro et al. 2018, "Relational recurrent neural networks", arXiv:1806.01822; Nie et al. 2019, "RelGAN", ICLR.
    """

    def __init__(
        self, vocab_size: int, width: int = 32, *, num_slots: int = 1, num_heads: int = 2, head_width: int = 256
    ) -> None:
        super().__init__()
        slot = num_heads * head_width
        self.vocab_size, self.width = vocab_size, num_slots * slot
        self.num_slots, self.num_heads, self.slot = num_slots, num_heads, slot
        self.embed_tokens = nn.Embedding(vocab_size, width)
        self.read = nn.Linear(width, slot)
        self.query, self.key, self.value = (nn.Linear(slot, slot) for _ in range(3))
        self.query_norm, self.key_norm, self.value_norm = (nn.LayerNorm(slot) for _ in range(3))
        self.inner = nn.Sequential(nn.Linear(slot, slot), nn.ReLU(), nn.Linear(slot, slot), nn.ReLU())
        self.norm, self.inner_norm = nn.LayerNorm(slot), nn.LayerNorm(slot)
        self.input_gates, self.memory_gates = nn.Linear(slot, 2 * slot), nn.Linear(slot, 2 * slot)
        self.lm_head = nn.Linear(self.width, vocab_size)

    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """embeddings_BTD of token ids."""
        return self.embed_tokens(tokens_BT)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """logits_BTV of hidden states."""
        return self.lm_head(hidden_BTD)

    def new_cache(self, batch: int, capacity: int) -> MemoryState:
        """An empty memory; the sizes are not needed and are taken for symmetry with the Transformer."""
        return MemoryState()

    def forward(
        self,
        tokens_BT: Tensor | None = None,
        embeddings_BTD: Tensor | None = None,
        *,
        cache: MemoryState | None = None,
        reads_BR: Tensor | None = None,
    ) -> Tensor:
        """hidden_BTM of every position: the whole memory after it.

        Args:
            tokens_BT: int64 token ids; or give `embeddings_BTD`.
            embeddings_BTD: inputs that are not tokens.
            cache: memory before the first position; holds that after the last one afterwards.
            reads_BR: int64; the positions that are wanted, all by default.
        """
        if (tokens_BT is None) == (embeddings_BTD is None):
            raise ValueError("give either tokens_BT or embeddings_BTD, not both and not neither")
        x_BTD = self.embed(tokens_BT) if tokens_BT is not None else embeddings_BTD
        assert x_BTD is not None
        inputs_BTM = self.read(x_BTD)
        gates_BTM = self.input_gates(inputs_BTM)
        memory_BSM = None if cache is None else cache.memory_BSM
        if memory_BSM is None:
            memory_BSM = torch.eye(self.num_slots, self.slot, device=x_BTD.device).expand(len(x_BTD), -1, -1)
        outputs = []
        for step in range(x_BTD.shape[1]):
            memory_BSM = self._step(memory_BSM, inputs_BTM[:, step : step + 1], gates_BTM[:, step : step + 1])
            outputs.append(memory_BSM.flatten(1))
        if cache is not None:
            cache.memory_BSM = memory_BSM
        hidden_BTM = torch.stack(outputs, 1)
        return hidden_BTM if reads_BR is None else taken(hidden_BTM, reads_BR)

    def _step(self, memory_BSM: Tensor, input_B1M: Tensor, gates_B1M: Tensor) -> Tensor:
        seen_BSM = torch.cat((memory_BSM, input_B1M), 1)

        def heads(x_BSM: Tensor) -> Tensor:
            return x_BSM.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

        attended_BHSK = F.scaled_dot_product_attention(
            heads(self.query_norm(self.query(memory_BSM))),
            heads(self.key_norm(self.key(seen_BSM))),
            heads(self.value_norm(self.value(seen_BSM))),
        )
        next_BSM = self.norm(memory_BSM + attended_BHSK.transpose(1, 2).flatten(2))
        next_BSM = self.inner_norm(next_BSM + self.inner(next_BSM))
        input_gate, forget_gate = (gates_B1M + self.memory_gates(torch.tanh(memory_BSM))).chunk(2, -1)
        return torch.sigmoid(input_gate) * torch.tanh(next_BSM) + torch.sigmoid(forget_gate + 1) * memory_BSM
