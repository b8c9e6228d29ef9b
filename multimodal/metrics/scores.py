"""The shape that all scores of this package share: the corpus, every item, intervals, and how they were made."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.metrics.bootstrap import Interval


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a list of N items. `scores["wer"]` is the score of the corpus."""

    per_item: Mapping[str, NDArray[np.float64]]
    """For each score its value for each item alone: arrays of N, the same keys as `intervals`."""
    intervals: Mapping[str, Interval]
    """For each score its value for the corpus and a bootstrap confidence interval over the items."""
    signature: str
    """All choices that change the numbers."""

    @property
    def corpus(self) -> dict[str, float]:
        """The value of each score for the corpus."""
        return {name: interval.value for name, interval in self.intervals.items()}

    def __getitem__(self, name: str) -> float:
        return self.intervals[name].value

    def __len__(self) -> int:
        return len(next(iter(self.per_item.values())))
