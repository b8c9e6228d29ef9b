"""Windows of a token stream: random or epoch-wise for training, one after the other for evaluation.

Shape suffixes: B = windows in a batch, T = tokens in a window.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ids = npt.NDArray[np.integer[Any]]
Order = Literal["random", "epoch"]
Batch = tuple[Tensor, Tensor]
"""(inputs_BT, targets_BT), int64; the targets are the inputs one token later."""


@runtime_checkable
class TokenStream(Protocol):
    """A long row of token ids, in memory or on disk."""

    def __len__(self) -> int: ...

    def windows(self, starts_B: Ids, length: int) -> Ids:
        """ids_BT: `length` tokens from each start."""
        ...


class ArrayStream:
    """Tokens in one array, memory-mapped or not."""

    def __init__(self, tokens: Ids | Tensor | Sequence[int]) -> None:
        """Take a flat array, tensor or list of integers.

        Raises:
            ValueError: not flat, or not integers.
        """
        array = tokens.numpy(force=True) if isinstance(tokens, Tensor) else np.asarray(tokens)
        if array.ndim != 1:
            raise ValueError(f"tokens must be one flat row of ids, got shape {array.shape}")
        if array.size and array.dtype.kind not in "iu":
            raise ValueError(f"tokens must be integers, got {array.dtype}")
        self.array: Ids = array

    def __len__(self) -> int:
        return len(self.array)

    def windows(self, starts_B: Ids, length: int) -> Ids:
        """ids_BT: `length` tokens from each start."""
        return self.array[starts_B[:, None] + np.arange(length)]


def as_stream(tokens: TokenStream | Ids | Tensor | Sequence[int]) -> TokenStream:
    """The tokens as a stream; arrays are not copied."""
    return tokens if isinstance(tokens, TokenStream) else ArrayStream(tokens)


class TokenWindows:
    """Endless batches of windows for training a language model; a `BatchSource`.

    The windows of step n depend on the seed and n alone, so the state is the step number and resuming is exact.
    With several processes each draws the same global batch and keeps its own rows: the union over the processes is
    the batch of a single process.
    """

    def __init__(
        self,
        tokens: TokenStream | Ids | Tensor | Sequence[int],
        length: int,
        batch_size: int,
        seed: int = 0,
        *,
        order: Order = "random",
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """Describe the batches; nothing is read yet.

        Args:
            tokens: one flat row of ids, or token shards.
            length: tokens T of a window.
            batch_size: windows a step, over all processes.
            seed: seed of the order.
            order: `random`: each window starts anywhere, with replacement; `epoch`: the stream is cut at a new random
                phase every epoch and its windows are visited once each, so no token is seen twice before all others
                were seen once (up to a partial window at the ends).
            rank: number of this process; `None` asks `core.training.distributed`.
            world: number of processes; `None` asks `core.training.distributed`.

        Raises:
            ValueError: fewer tokens than one window needs, or sizes below 1.
        """
        if length < 1 or batch_size < 1:
            raise ValueError(f"length and batch_size must be >= 1, got {length} and {batch_size}")
        if order not in get_args(Order):
            raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {order!r}")
        self.tokens = as_stream(tokens)
        needed = length + 1 if order == "random" else 2 * length
        if len(self.tokens) < needed:
            raise ValueError(
                f"windows of {length} tokens ({order} order) need at least {needed} tokens, the data has "
                f"{len(self.tokens)}; give more text or a shorter length"
            )
        self.length, self.batch_size, self.seed, self.order = length, batch_size, seed, order
        self.step = 0
        """Batches given so far."""
        self._rank, self._world = rank, world
        self._epoch: tuple[int, Ids] | None = None

    def __iter__(self) -> Iterator[Batch]:
        rows = self._rows()
        while True:
            batch = self._cut(self.starts(self.step)[rows])
            self.step += 1
            yield batch

    def starts(self, step: int) -> npt.NDArray[np.int64]:
        """starts_B: first token of each window of a step's global batch."""
        if self.order == "random":
            return self._generator(step).integers(0, len(self.tokens) - self.length, self.batch_size)
        first = step * self.batch_size
        per_epoch = (len(self.tokens) - self.length) // self.length
        places = [divmod(first + i, per_epoch) for i in range(self.batch_size)]
        return np.array([self._epoch_starts(epoch, per_epoch)[place] for epoch, place in places], dtype=np.int64)

    def state_dict(self) -> dict[str, Any]:
        """The number of the next step, and the size of the data to notice a change."""
        return {"step": self.step, "num_tokens": len(self.tokens)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: the data is not what it was.
        """
        if state["num_tokens"] != len(self.tokens):
            raise ValueError(
                f"the checkpoint was made with {state['num_tokens']} tokens, the data now has {len(self.tokens)}; "
                "restore the data or start a new run"
            )
        self.step = int(state["step"])

    def _generator(self, counter: int) -> np.random.Generator:
        # Counter-based: the key (seed, counter) names the random numbers of one step, without any that went before.
        key = np.array([self.seed % 2**64, counter], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def _epoch_starts(self, epoch: int, count: int) -> Ids:
        if self._epoch is None or self._epoch[0] != epoch:
            generator = self._generator(epoch)
            phase = generator.integers(0, self.length)
            self._epoch = epoch, phase + self.length * generator.permutation(count)
        return self._epoch[1]

    def _rows(self) -> slice:
        rank, world = process(self._rank, self._world)
        if self.batch_size % world:
            raise ValueError(f"batch_size {self.batch_size} cannot be shared by {world} processes; make it a multiple")
        share = self.batch_size // world
        return slice(rank * share, (rank + 1) * share)

    def _cut(self, starts_B: Ids) -> Batch:
        ids = torch.from_numpy(self.tokens.windows(starts_B, self.length + 1).astype(np.int64))
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def sequential_windows(
    tokens: TokenStream | Ids | Tensor | Sequence[int], length: int, batch_size: int = 64
) -> Iterator[Batch]:
    """Non-overlapping windows in order, for evaluation: every token but the first is a target exactly once.

    Args:
        tokens: one flat row of ids, or token shards.
        length: tokens T of a window.
        batch_size: windows in a batch; the results do not depend on it.

    Yields:
        (inputs_BT, targets_BT), int64. The last batch is a single shorter window where the stream does not divide.

    Raises:
        ValueError: fewer than two tokens, or sizes below 1.
    """
    stream = as_stream(tokens)
    if length < 1 or batch_size < 1:
        raise ValueError(f"length and batch_size must be >= 1, got {length} and {batch_size}")
    if len(stream) < 2:
        raise ValueError(f"scoring needs at least 2 tokens (one to predict another from), the data has {len(stream)}")
    return _sequential(stream, length, batch_size)


def _sequential(stream: TokenStream, length: int, batch_size: int) -> Iterator[Batch]:
    num_targets = len(stream) - 1
    starts = np.arange(0, num_targets - length + 1, length)
    tail = len(starts) * length
    parts = [(starts[i : i + batch_size], length) for i in range(0, len(starts), batch_size)]
    if tail < num_targets:
        parts.append((np.array([tail]), num_targets - tail))
    for starts_B, width in parts:
        ids = torch.from_numpy(stream.windows(starts_B, width + 1).astype(np.int64))
        yield ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def process(rank: int | None, world: int | None) -> tuple[int, int]:
    """(rank, world) of this process, asking `core.training.distributed` for what is `None`."""
    if rank is None or world is None:
        from core.training import distributed

        rank = distributed.rank() if rank is None else rank
        world = distributed.world() if world is None else world
    if not 0 <= rank < world:
        raise ValueError(f"rank must be in [0, world), got rank {rank} of {world}")
    return rank, world
