"""Code that draws from the process's global generators, kept apart from everything else that does."""

import random
from types import TracebackType

import numpy as np


class PrivateRandomness:
    """Within its block, `random` and `numpy.random` continue from where its last block left them.

    Some games seed and draw from the global generators. Two of them side by side would change one another, and the
    rest of the program with them; with a `PrivateRandomness` each they cannot. Blocks of different objects may follow
    one another in any order, but not nest.

    Args:
        seed: where both generators start.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start both generators anew, outside a block."""
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed % 2**32).get_state()

    def __enter__(self) -> None:
        self._outer = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        random.setstate(self._outer[0])
        np.random.set_state(self._outer[1])
