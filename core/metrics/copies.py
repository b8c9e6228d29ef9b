"""How much of a sentence stands word for word in another set of sentences."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.metrics.ngrams import Tokens

_BASE = np.uint64(0x9E3779B97F4A7C15)


class CopyFinder:
    """Longest runs of words that occur in a row in one of the given sentences.

    n-grams are compared by 64-bit hashes, one order after the other, so that a million sentences take seconds and no
    n-gram is kept.

    Args:
        sentences: where runs may have been copied from: training text.
    """

    def __init__(self, sentences: Sequence[Tokens]) -> None:
        self._numbers: dict[object, int] = {}
        self._source = _Runs([[self._number(word) for word in words] for words in sentences])

    def longest(self, sentences: Sequence[Tokens]) -> list[int]:
        """Of each sentence the length of its longest copied run, in words; 0 where no word occurs in the source."""
        unknown = len(self._numbers) + 1
        ours = _Runs([[self._numbers.get(word, unknown) for word in words] for words in sentences])
        source = self._source.restarted()
        longest_N = np.zeros(len(sentences), dtype=np.int64)
        for order in range(1, max(map(len, sentences), default=0) + 1):
            hits = np.isin(ours.grow(), source.grow())
            # A longer copied run begins with a shorter one: what has none is left out from here on.
            ours.keep(hits)
            if not len(ours.owner):
                break
            longest_N[ours.owner] = order
        return longest_N.tolist()

    def _number(self, word: object) -> int:
        return self._numbers.setdefault(word, len(self._numbers) + 1)


class _Runs:
    """All n-grams of sentences as hashes; `grow` makes them a word longer."""

    def __init__(self, sentences: Sequence[Sequence[int]]) -> None:
        lengths = np.array([len(words) for words in sentences], dtype=np.int64)
        self.words = np.array([number for words in sentences for number in words], dtype=np.uint64)
        self.ends = np.repeat(np.cumsum(lengths), lengths)
        self.owners = np.repeat(np.arange(len(sentences)), lengths)
        self._restart()

    def _restart(self) -> None:
        self.starts = np.arange(len(self.words))
        self.hashes = np.zeros(len(self.words), dtype=np.uint64)
        self.order = 0

    def restarted(self) -> "_Runs":
        """The same sentences, with n-grams of no word."""
        self._restart()
        return self

    @property
    def owner(self) -> NDArray[np.int64]:
        """The sentence that each n-gram belongs to."""
        return self.owners[self.starts]

    def grow(self) -> NDArray[np.uint64]:
        """The hashes of the n-grams that are a word longer; those at the end of their sentence fall away."""
        self.keep(self.starts + self.order < self.ends[self.starts])
        self.hashes = self.hashes * _BASE + self.words[self.starts + self.order]
        self.order += 1
        return self.hashes

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        """Leave all other n-grams out."""
        self.starts, self.hashes = self.starts[chosen], self.hashes[chosen]
