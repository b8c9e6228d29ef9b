"""A shuffled, endless source of batches with exact state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch

from core.training import distributed

Batch = TypeVar("Batch")

WINDOW = 16
"""Batches that are sorted by length together."""


class ShuffledBatches(Generic[Batch]):
    """Batches of items in a new random order each epoch, for ever.

    The epochs form one stream of items, so a batch may end one epoch and begin the next; every item is drawn once an
    epoch. Under `torchrun` each process gets its slice of the same global batch.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        seed: int,
        collate: Callable[[list[int]], Batch],
        *,
        shuffle: bool = True,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Args:
        num_items: items in the data set.
        batch_size: items in a global batch; a multiple of the number of processes.
        seed: fixes the order of every epoch.
        collate: item numbers → batch.
        shuffle: without it, every epoch goes from the first item to the last.
        lengths: of each item; with them, items that are near in the shuffled order are sorted by length and cut into
            batches, whose order is shuffled: less padding, while every epoch still draws every item once.
        """
        if num_items < 1:
            raise ValueError("the data set is empty: there is nothing to make batches of")
        world = distributed.world()
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"batch_size must be a multiple of the {world} processes, got {batch_size}")
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.collate = collate
        self.shuffle = shuffle
        self.lengths = lengths
        self._drawn = 0
        self._order: tuple[int, Sequence[int]] = (-1, [])

    @property
    def epoch(self) -> float:
        """Epochs drawn so far."""
        return self._drawn / self.num_items

    def __iter__(self) -> Iterator[Batch]:
        while True:
            items = self.items()
            self.advance()
            yield self.collate(items)

    def items(self, ahead: int = 0) -> list[int]:
        """Item numbers of this process's part of the next batch, or of the one so many batches after it."""
        part = self.batch_size // distributed.world()
        start = self._drawn + ahead * self.batch_size + part * distributed.rank()
        return [self._item(start + i) for i in range(part)]

    def advance(self) -> None:
        """Count the next batch as drawn."""
        self._drawn += self.batch_size

    def _item(self, position: int) -> int:
        epoch, index = divmod(position, self.num_items)
        if not self.shuffle:
            return index
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self.num_items, generator=generator).tolist()
            self._order = (epoch, order if self.lengths is None else self._bucketed(order, epoch, generator))
        return self._order[1][index]

    def _bucketed(self, order: list[int], epoch: int, generator: torch.Generator) -> list[int]:
        """The order, sorted by length within windows of `WINDOW` batches, whose batches are shuffled again."""
        assert self.lengths is not None
        size = self.batch_size * WINDOW
        head = -epoch * self.num_items % self.batch_size  # these complete the last batch of the epoch before
        result = order[:head]
        for start in range(head, len(order), size):
            window = sorted(order[start : start + size], key=self.lengths.__getitem__)
            batches = [window[at : at + self.batch_size] for at in range(0, len(window), self.batch_size)]
            # A batch that is not full stays last, so that those after it are not cut across two.
            full = len(batches) - (len(batches[-1]) < self.batch_size)
            for place in [*torch.randperm(full, generator=generator).tolist(), *range(full, len(batches))]:
                result += batches[place]
        return result

    def state_dict(self) -> dict[str, Any]:
        """Position in the stream of items, and what fixes that stream."""
        return {"drawn": self._drawn, "num_items": self.num_items, "seed": self.seed, "shuffle": self.shuffle}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: the data set has another number of items.
        """
        if state["num_items"] != self.num_items:
            raise ValueError(
                f"the data set has {self.num_items} items, the checkpoint was trained on {state['num_items']}: "
                "restore the data, or start in another out"
            )
        self._drawn = state["drawn"]
