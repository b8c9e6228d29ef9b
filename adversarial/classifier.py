"""A classifier of sentences by their words and pairs of words: what augmentation is for, and what measures it.

Shape suffixes: N = sentences, M = words and pairs of words, C = classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.metrics.ngrams import Tokens
from core.metrics.terms import TermWeights

STRENGTH = 10.0
"""Inverse of the weight decay."""


class BagClassifier:
    """Softmax regression: minimises sum_n w_n cross-entropy_n + |W|^2 / (2 * STRENGTH).

    The loss is convex and minimised to its end, so that two training sets give scores that differ by the sets alone.

    Args:
        sentences: words of each.
        labels: class of each.
        weights: w, how much each counts; by default 1.

    References:
        Wang and Manning 2012, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification".
    """

    def __init__(
        self, sentences: Sequence[Tokens], labels: Sequence[str], *, weights: Sequence[float] | None = None
    ) -> None:
        if not sentences:
            raise ValueError("a classifier needs sentences to learn from")
        self.labels = sorted(set(labels))
        self._terms = TermWeights(sentences)
        inputs_NM = self._terms.of(sentences)
        places = {label: place for place, label in enumerate(self.labels)}
        goal_N = torch.tensor([places[label] for label in labels])
        weight_N = torch.ones(len(sentences)) if weights is None else torch.tensor(weights)
        self.weight_MC = torch.zeros(len(self._terms), len(self.labels), requires_grad=True)
        self.bias_C = torch.zeros(len(self.labels), requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [self.weight_MC, self.bias_C], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            losses_N = F.cross_entropy(inputs_NM @ self.weight_MC + self.bias_C, goal_N, reduction="none")
            total = (losses_N * weight_N).sum() + self.weight_MC.square().sum() / (2 * STRENGTH)
            mean = total / weight_N.sum()  # the tolerance is for losses of one size
            mean.backward()
            return mean

        with torch.enable_grad():
            optimizer.step(loss)

    @torch.no_grad()
    def predict(self, sentences: Sequence[Tokens]) -> list[str]:
        """The likeliest class of each sentence."""
        scores_NC = self._terms.of(sentences) @ self.weight_MC + self.bias_C
        return [self.labels[index] for index in scores_NC.argmax(1).tolist()]
