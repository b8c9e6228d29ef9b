"""Which episodes to play: a data source for reinforcement learning.

All randomness of an episode follows from the run's seed and the episode's number, so nothing but a counter has to be
stored for a run to go on exactly, and an episode is the same whatever others are played beside it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from core.training import distributed

TRAINING, EVALUATION, SHUFFLING, REPLACING = 0, 1, 2, 3
"""Purposes: numbers of one purpose never share a seed with those of another."""


def derived_seed(seed: int, purpose: int, number: int) -> int:
    """A seed below 2**63 that is independent of those of other purposes and numbers.

    References:
        O'Neill 2015, "Developing a seed_seq Alternative", which NumPy's `SeedSequence` follows.
    """
    return int(np.random.SeedSequence((seed, purpose, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class EpisodeSeed:
    """One episode to play."""

    number: int
    """Counts the episodes of its purpose from 0."""
    group: int
    """Counts the starts: episodes of a group have the same environment seed."""
    environment: int
    """Seed of the environment's reset."""
    sampling: int
    """Seed of the generator that draws the policy's tokens."""
    purpose: int = TRAINING
    """What it is played for."""

    @classmethod
    def derive(cls, seed: int, purpose: int, number: int, group_size: int = 1) -> "EpisodeSeed":
        """The episode of a run seed, a purpose and a number, when `group_size` episodes in a row have one start."""
        group = number // group_size
        environment = derived_seed(seed, purpose, 2 * group * group_size)
        return cls(number, group, environment, derived_seed(seed, purpose, 2 * number + 1), purpose)

    def generator(self) -> torch.Generator:
        """A new generator for the policy's tokens."""
        return torch.Generator().manual_seed(self.sampling)


class EpisodeSeeds:
    """An endless source of batches of training episodes. Under `torchrun` each process gets its slice of a batch.

    Args:
        seed: of the run.
        batch_size: episodes a batch, over all processes.
        group_size: episodes in a row with the same start.

    Raises:
        ValueError: the processes cannot share a batch, or its groups, evenly.
    """

    def __init__(self, seed: int, batch_size: int, group_size: int = 1) -> None:
        world = distributed.world()
        if batch_size % (world * group_size):
            raise ValueError(
                f"batch_size must be a multiple of {world * group_size} ({world} processes x {group_size} episodes of "
                f"each start), got {batch_size}"
            )
        self.seed = seed
        self.batch_size = batch_size
        self.group_size = group_size
        self._next = 0

    def __iter__(self) -> Iterator[list[EpisodeSeed]]:
        share = self.batch_size // distributed.world()
        while True:
            first = self._next + share * distributed.rank()
            self._next += self.batch_size
            yield [EpisodeSeed.derive(self.seed, TRAINING, first + i, self.group_size) for i in range(share)]

    def state_dict(self) -> dict[str, Any]:
        """The number of the next episode."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._next = state["next"]
