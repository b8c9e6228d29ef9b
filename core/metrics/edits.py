"""The fewest edits that make one sequence of another.

References:
    Myers 1999, "A Fast Bit-Vector Algorithm for Approximate String Matching Based on Dynamic Programming", J. ACM.
    Hyyrö 2003, "A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit Distances", Nordic J. of Computing.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple


class Edits(NamedTuple):
    """How a hypothesis becomes of its reference with the fewest edits."""

    hits: int
    """Tokens left as they are."""
    substitutions: int
    deletions: int
    """Tokens of the reference that the hypothesis lacks."""
    insertions: int

    @property
    def distance(self) -> int:
        """Edits in all: the Levenshtein distance."""
        return self.substitutions + self.deletions + self.insertions


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions that make one of the other."""
    _, first, second = _differing(first, second)
    rising, falling = (1 << len(first)) - 1, 0
    for row in _rows(first, second):
        rising, falling = row
    return len(second) + rising.bit_count() - falling.bit_count()


def word_edits(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> Edits:
    """Hits, substitutions, deletions and insertions of an alignment with the fewest edits.

    Several alignments may be equally short. As in jiwer, equal tokens at both ends are joined first, and then, from the
    right, a deletion is taken before an insertion and that before a substitution.
    """
    hits, first, second = _differing(reference, hypothesis)
    row, column = len(second), len(first)
    rows = list(_rows(first, second))
    substitutions = deletions = insertions = 0
    while row and column:
        if rows[row - 1][0] >> column - 1 & 1:
            deletions += 1
            column -= 1
            continue
        row -= 1
        if row and rows[row - 1][1] >> column - 1 & 1:
            insertions += 1
            continue
        column -= 1
        if first[column] == second[row]:
            hits += 1
        else:
            substitutions += 1
    return Edits(hits, substitutions, deletions + column, insertions + row)


def _differing(
    first: Sequence[Hashable], second: Sequence[Hashable]
) -> tuple[int, Sequence[Hashable], Sequence[Hashable]]:
    """How many tokens the two share at their ends, and what is left of each between them."""
    shorter = min(len(first), len(second))
    start = 0
    while start < shorter and first[start] == second[start]:
        start += 1
    end = 0
    while end < shorter - start and first[-1 - end] == second[-1 - end]:
        end += 1
    return start + end, first[start : len(first) - end], second[start : len(second) - end]


def _rows(first: Sequence[Hashable], second: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """The table of edit distances, a row for each token of `second`, with the columns as bits of two integers.

    Bit i of the first integer says that the distance to i + 1 tokens of `first` is one more than to i tokens, bit i of
    the second that it is one less. The distance to no token of `first` is the number of the row, from 1.
    """
    places: dict[Hashable, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    full = (1 << len(first)) - 1
    rising, falling = full, 0
    for token in second:
        matched = places.get(token, 0)
        # Names as in Hyyrö 2003: D0 diagonal zero, HP and HN horizontal (here from row to row) plus and minus one.
        diagonal = ((((matched & rising) + rising) ^ rising) | matched | falling) & full
        plus = falling | (full & ~(diagonal | rising))
        minus = diagonal & rising
        plus = (plus << 1 | 1) & full
        minus = (minus << 1) & full
        rising = minus | (full & ~(diagonal | plus))
        falling = plus & diagonal
        yield rising, falling
