"""Latent semantic analysis: vectors of sentences from the words and word pairs that occur together.

Shape suffixes: N = sentences, M = terms, F = features.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from core.metrics.ngrams import Tokens, ngrams


class LatentSemantics:
    """An encoder of sentences that needs no download: the first directions of a text's term matrix.

    Terms are the words and pairs of neighbouring words that occur in at least two of the sentences, weighted by
    (1 + log count) log(N / sentences that have the term), each sentence scaled to length 1.

    Args:
        sentences: the text that the directions are taken from.
        features: F, most directions.

    References:
        Deerwester et al. 1990, "Indexing by latent semantic analysis"; Halko et al. 2011, "Finding structure with
        randomness", arXiv:0909.4061 (how the directions are found).
    """

    def __init__(self, sentences: Sequence[Tokens], features: int = 64) -> None:
        frequencies = Counter(term for words in sentences for term in set(_terms(words)))
        common = sorted((term for term, count in frequencies.items() if count > 1), key=repr)
        self._columns = {term: column for column, term in enumerate(common)}
        self._rarity = [math.log(len(sentences) / frequencies[term]) for term in common]
        self.name = f"LSA-{features} of {len(sentences)} sentences"
        if not common:
            self._directions_MF = torch.zeros(0, 0)
            return
        weights_NM = self._weights(sentences)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            wanted = min(features, *weights_NM.shape)
            _, _, self._directions_MF = torch.svd_lowrank(weights_NM, q=wanted, niter=4)

    def encode(self, sentences: Sequence[Tokens]) -> Tensor:
        """features_NF of sentences; 0 where a sentence has no known term."""
        if not self._columns:
            return torch.zeros(len(sentences), 1)
        return self._weights(sentences) @ self._directions_MF

    def _weights(self, sentences: Sequence[Tokens]) -> Tensor:
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
        shape = (len(sentences), len(self._columns))
        return torch.sparse_coo_tensor(
            torch.tensor([rows, columns]), torch.tensor(values), shape, check_invariants=True
        ).coalesce()


def _terms(words: Tokens) -> Iterator[object]:
    yield from words
    yield from ngrams(words, 2)
