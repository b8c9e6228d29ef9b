"""The key-value cache of a Transformer, written in place.

Shape suffixes: B = batch, G = key-value heads, T = new positions, S = cached positions, K = head width,
M = memory positions.
"""

import torch
from torch import Tensor

from core.nn.attention import attend, attend_one

GROWTH = 32
"""Positions that a CPU's cache grows by: few enough to waste little, enough that copying the old ones is seldom."""
SHORT = 64
"""Positions up to which it grows by half as many: there what is wasted is a large part."""

ROOM = 64
"""Positions of which a cache gets more than it needs when it has to grow beyond its capacity."""


class KVCache:
    """Keys and values of the positions read so far, for every layer, as (B, G, S, K).

    Accelerators get their memory at once; on a CPU it grows, and positions not written yet hold zeros.
    """

    def __init__(
        self,
        num_layers: int,
        batch: int,
        kv_heads: int,
        head_width: int,
        capacity: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.capacity = capacity
        self.length = 0
        """Positions held, padding included; the same for every row."""
        self.mask_BS: Tensor | None = None
        """bool (B, capacity); True = a real token. None while no row has padding."""
        self.next_position_B = torch.zeros(batch, dtype=torch.long, device=device)
        """Position index that the next token of each row gets."""
        shape = (batch, kv_heads, 0 if device.type == "cpu" else capacity, head_width)
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.shift_BD: Tensor | None = None
        """What is added to every embedding of a row."""
        self.memory: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        """Keys, values and bias of the cross-attention memory by layer, computed at the first call."""

    @property
    def batch(self) -> int:
        """Rows held."""
        return len(self.next_position_B)

    def attend(self, layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, bias: Tensor | None) -> Tensor:
        """Store the new keys and values of one layer, then attend to everything stored.

        Args:
            layer: its index.
            q_BHTK: queries of the new positions.
            k_BGTK: their keys.
            v_BGTK: their values.
            bias: additive bias over the positions stored and new, TS or B1TS; None where all may be seen.

        Returns:
            attended_BHTK in the dtype of the queries.

        Raises:
            ValueError: the cache is full.
        """
        start, stop = self.length, self.length + k_BGTK.shape[2]
        if stop > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, {stop} are needed: make it larger")
        if stop > self.keys[layer].shape[2]:
            self.keys[layer] = _grown(self.keys[layer], start, stop)
            self.values[layer] = _grown(self.values[layer], start, stop)
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, start:stop] = k_BGTK
        values[:, :, start:stop] = v_BGTK
        if start == 0:
            return attend(q_BHTK, k_BGTK, v_BGTK, bias)
        query, bias = q_BHTK.to(keys.dtype), None if bias is None else bias.to(keys.dtype)
        if stop == start + 1 and keys.device.type == "cpu" and keys.dtype == torch.bfloat16:
            attended = attend_one(query, keys, values, stop, bias)
        else:
            attended = attend(query, keys[:, :, :stop], values[:, :, :stop], bias)
        return attended.to(q_BHTK.dtype)

    def advance(self, num_new: int, key_mask_BT: Tensor | None) -> None:
        """Count the positions that every layer has stored; `key_mask_BT` False marks padding among them."""
        start, stop = self.length, self.length + num_new
        if key_mask_BT is not None and self.mask_BS is None:
            self.mask_BS = torch.ones(self.batch, self.capacity, dtype=torch.bool, device=key_mask_BT.device)
        if key_mask_BT is not None and self.mask_BS is not None:
            self.mask_BS[:, start:stop] = key_mask_BT
            self.next_position_B = self.next_position_B + key_mask_BT.sum(1)
        else:
            self.next_position_B = self.next_position_B + num_new
        self.length = stop

    def reserve(self, num_new: int) -> None:
        """Make room for so many more positions, and some for those to come."""
        if self.length + num_new <= self.capacity:
            return
        larger = self.length + num_new + ROOM
        if self.mask_BS is not None:
            self.mask_BS = torch.cat((self.mask_BS, self.mask_BS.new_ones(self.batch, larger - self.capacity)), 1)
        self.capacity = larger
        if self.keys[0].device.type != "cpu":
            self.keys = [_grown(keys, self.length, larger) for keys in self.keys]
            self.values = [_grown(values, self.length, larger) for values in self.values]

    def select(self, rows: Tensor) -> None:
        """Keep these rows (int64 indices) in this order; a row may be named several times, which copies it."""
        live = self.length

        def pick(tensor: Tensor) -> Tensor:
            out = tensor.new_zeros(len(rows), *tensor.shape[1:])
            out[:, :, :live] = tensor[:, :, :live].index_select(0, rows)
            return out

        self.keys = [pick(keys) for keys in self.keys]
        self.values = [pick(values) for values in self.values]
        if self.mask_BS is not None:
            self.mask_BS = self.mask_BS[rows]
        self.next_position_B = self.next_position_B[rows]
        self.shift_BD = None if self.shift_BD is None else self.shift_BD[rows]
        self.memory = {
            layer: (k[rows], v[rows], None if bias is None else bias[rows])
            for layer, (k, v, bias) in self.memory.items()
        }

    def repeat(self, times: int) -> None:
        """Make `times` copies of every row, side by side: one prefill serves all samples of a prompt."""
        if times > 1:
            self.select(torch.arange(self.batch, device=self.next_position_B.device).repeat_interleave(times))


class PrefixCache:
    """Keys and values of prompts, with gradient: read once in training however many samples follow each of them.

    The first call of the model reads the prompts, one row each; `expand` then gives every sample its prompt, and the
    second call reads the samples. Nothing is written in place.

    Args:
        num_layers: of the model.
        key_mask_BS: bool, True = a real token of the prompts; None when none is padded.
    """

    def __init__(self, num_layers: int, key_mask_BS: Tensor | None) -> None:
        self.length = 0
        self.mask_BS: Tensor | None = None
        self.shift_BD: Tensor | None = None
        self.memory: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        device = None if key_mask_BS is None else key_mask_BS.device
        self.next_position_B = torch.zeros(1, dtype=torch.long, device=device)
        self._prompt_mask_BS = key_mask_BS
        self._stored: list[tuple[Tensor, Tensor] | None] = [None] * num_layers

    def attend(self, layer: int, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, bias: Tensor | None) -> Tensor:
        """As `KVCache.attend`, but only the prompts are kept."""
        stored = self._stored[layer]
        if stored is None:
            self._stored[layer] = (k_BGTK, v_BGTK)
        else:
            k_BGTK, v_BGTK = (torch.cat(pair, 2) for pair in zip(stored, (k_BGTK, v_BGTK)))
        return attend(q_BHTK, k_BGTK, v_BGTK, bias)

    def advance(self, num_new: int, key_mask_BT: Tensor | None) -> None:
        """Called after every layer has read the new positions."""
        self.length += num_new

    def expand(self, prompt_N: Tensor) -> None:
        """Give each sample the keys and values of its prompt, by number."""
        # Not by indexing, whose gradient takes several times as long.
        self._stored = [
            (k.index_select(0, prompt_N), v.index_select(0, prompt_N)) for k, v in filter(None, self._stored)
        ]
        if self._prompt_mask_BS is None:
            self.next_position_B = torch.full_like(prompt_N, self.length)
        else:
            self.mask_BS = self._prompt_mask_BS[prompt_N]
            self.next_position_B = self.mask_BS.sum(1)


def _grown(stored: Tensor, used: int, needed: int) -> Tensor:
    """A copy of the first `used` positions with room for at least `needed`."""
    batch, heads, _, width = stored.shape
    growth = GROWTH if needed > SHORT else GROWTH // 2
    larger = stored.new_zeros(batch, heads, -(-needed // growth) * growth, width)
    larger[:, :, :used] = stored[:, :, :used]
    return larger
