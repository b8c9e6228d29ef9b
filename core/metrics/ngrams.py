"""Counting n-grams, and two measures of how varied a set of sentences is."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence

Tokens = Sequence[Hashable]
"""One sentence: words, or token ids."""


def ngrams(tokens: Tokens, order: int) -> Iterator[tuple[Hashable, ...]]:
    """The n-grams of a sentence from left to right; none if it is shorter than `order`."""
    return zip(*(tokens[start:] for start in range(order)))


def count_ngrams(tokens: Tokens, max_order: int) -> Counter[tuple[Hashable, ...]]:
    """How often each n-gram of order 1 to `max_order` occurs in a sentence."""
    counts: Counter[tuple[Hashable, ...]] = Counter()
    for order in range(1, max_order + 1):
        counts.update(ngrams(tokens, order))
    return counts


def distinct_n(sentences: Iterable[Tokens], order: int) -> float:
    """Different n-grams divided by all n-grams of a set of sentences; 0 where there are none.

    Falls as the set grows: compare sets of equal size only.

    References:
        Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", arXiv:1510.03055.
    """
    seen: set[tuple[Hashable, ...]] = set()
    total = 0
    for tokens in sentences:
        found = list(ngrams(tokens, order))
        seen.update(found)
        total += len(found)
    return len(seen) / total if total else 0.0


def unique_fraction(sentences: Iterable[Tokens]) -> float:
    """Different sentences divided by all sentences; 0 where there are none."""
    listed = [tuple(tokens) for tokens in sentences]
    return len(set(listed)) / len(listed) if listed else 0.0
