"""Sentences as weighted words and pairs of neighbouring words (tf-idf).

Shape suffixes: N = sentences, M = terms.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from core.metrics.ngrams import Tokens, ngrams


class TermWeights:
    """Weights (1 + log count) log(N / sentences that have the term), each sentence scaled to length 1.

    Args:
        sentences: where terms and their rarity are taken from.
        least: sentences that must have a term.

    References:
        Salton and Buckley 1988, "Term-weighting approaches in automatic text retrieval".
    """

    def __init__(self, sentences: Sequence[Tokens], *, least: int = 1) -> None:
        frequencies = Counter(term for words in sentences for term in set(_terms(words)))
        common = sorted((term for term, count in frequencies.items() if count >= least), key=repr)
        self._columns = {term: column for column, term in enumerate(common)}
        self._rarity = [math.log(len(sentences) / frequencies[term]) for term in common]

    def __len__(self) -> int:
        """M."""
        return len(self._columns)

    def of(self, sentences: Sequence[Tokens]) -> Tensor:
        """Sparse weights_NM of sentences; unknown terms are left out."""
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for row, words in enumerate(sentences):
            counts = Counter(self._columns[term] for term in _terms(words) if term in self._columns)
            found = {column: (1 + math.log(count)) * self._rarity[column] for column, count in counts.items()}
            length = math.sqrt(sum(value * value for value in found.values())) or 1.0
            rows += [row] * len(found)
            columns += found
            values += [value / length for value in found.values()]
        shape = (len(sentences), len(self))
        return torch.sparse_coo_tensor(
            torch.tensor([rows, columns], dtype=torch.long), torch.tensor(values), shape, check_invariants=True
        ).coalesce()


def _terms(words: Tokens) -> Iterator[object]:
    yield from words
    yield from ngrams(words, 2)
