"""Batches that other processes prepare, in the same order and with the same state as without them."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch.utils.data import DataLoader, Dataset

from core.errors import UserError
from core.training.batches import Batch, ShuffledBatches

PREFETCH = 2
"""Batches that a process prepares ahead."""
TIMEOUT_S = 600
"""Seconds that a batch may take before the processes count as stuck."""


class WorkerDied(UserError, RuntimeError):
    """A loader process was killed, or is stuck."""

    exit_code = 1


class WorkerBatches(Generic[Batch]):
    """What a `ShuffledBatches` gives, made by loader processes.

    The order does not depend on their number, and the state counts the batches that were taken, not those prepared.

    Args:
        source: the batches; its `collate` runs in the processes.
        workers: how many processes; 0 makes the batches here.
        name_of: names an item, for messages.
    """

    def __init__(self, source: ShuffledBatches[Batch], workers: int, name_of: Callable[[int], str] = str) -> None:
        if workers and not sys.platform.startswith("linux"):
            raise UserError("loader processes need Linux: set workers to 0")
        self.source = source
        self.workers = workers
        self.name_of = name_of

    @property
    def epoch(self) -> float:
        """Epochs drawn so far."""
        return self.source.epoch

    def __iter__(self) -> Iterator[Batch]:
        if not self.workers:
            yield from self.source
        loader = iter(
            DataLoader(
                _Collated(self.source.collate),
                batch_size=None,
                sampler=_Upcoming(self.source),
                num_workers=self.workers,
                prefetch_factor=PREFETCH,
                timeout=TIMEOUT_S,
                # The data set holds closures and large tensors, which a fork shares and a spawn would have to copy.
                multiprocessing_context="fork",
                worker_init_fn=_use_one_thread,
            )
        )
        while True:
            try:
                made = next(loader)
            except RuntimeError as error:
                first = ", ".join(map(self.name_of, self.source.items()[:3]))
                raise WorkerDied(
                    f"a loader process ended or got stuck before the batch that begins with {first} was ready "
                    f"({str(error).splitlines()[0]}): look for a file that cannot be read or for a lack of memory, or "
                    "set workers to 0"
                ) from error
            if isinstance(made, _Failed):
                raise made.error
            self.source.advance()
            yield made

    def state_dict(self) -> dict[str, Any]:
        """That of the source."""
        return self.source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; before the first batch is drawn."""
        self.source.load_state_dict(state)


@dataclass(frozen=True)
class _Failed:
    """An exception on its way out of a loader process, which would else be rebuilt from its message alone."""

    error: Exception


class _Collated(Dataset[Any]):
    def __init__(self, collate: Callable[[list[int]], Any]) -> None:
        self.collate = collate

    def __getitem__(self, items: Any) -> Any:
        try:
            return self.collate(items)
        except Exception as error:
            return _Failed(_portable(error))


def _portable(error: Exception) -> Exception:
    """The exception, or its message where it cannot be sent to another process."""
    made: Any = error.__reduce__()
    try:
        made[0](*made[1])  # as the receiving process will
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


class _Upcoming:
    """The item lists of the batches to come, from where the source stands when it is asked."""

    def __init__(self, source: ShuffledBatches[Any]) -> None:
        self.source = source

    def __iter__(self) -> Iterator[list[int]]:
        # The source advances while batches are taken, so what is ahead is counted from where it stood.
        start = self.source.state_dict()["drawn"]
        asked = 0
        while True:
            taken = (self.source.state_dict()["drawn"] - start) // self.source.batch_size
            yield self.source.items(asked - taken)
            asked += 1


def _use_one_thread(_: int) -> None:
    torch.set_num_threads(1)
