"""Latent semantic analysis: vectors of sentences from the words and word pairs that occur together.

Shape suffixes: N = sentences, M = terms, F = features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.metrics.ngrams import Tokens
from core.metrics.terms import TermWeights


class LatentSemantics:
    """An encoder of sentences that needs no download: the first directions of a text's term matrix.

    Terms are the words and pairs of neighbouring words that occur in at least two of the sentences.

    Args:
        sentences: the text that the directions are taken from.
        features: F, most directions.

    References:
        Deerwester et al. 1990, "Indexing by latent semantic analysis"; Halko et al. 2011, "Finding structure with
        randomness", arXiv:0909.4061 (how the directions are found).
    """

    def __init__(self, sentences: Sequence[Tokens], features: int = 64) -> None:
        self._terms = TermWeights(sentences, least=2)
        self.name = f"LSA-{features} of {len(sentences)} sentences"
        if not len(self._terms):
            self._directions_MF = torch.zeros(0, 0)
            return
        weights_NM = self._terms.of(sentences)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            wanted = min(features, *weights_NM.shape)
            _, _, self._directions_MF = torch.svd_lowrank(weights_NM, q=wanted, niter=4)

    def encode(self, sentences: Sequence[Tokens]) -> Tensor:
        """features_NF of sentences; 0 where a sentence has no known term."""
        if not len(self._terms):
            return torch.zeros(len(sentences), 1)
        return self._terms.of(sentences) @ self._directions_MF
