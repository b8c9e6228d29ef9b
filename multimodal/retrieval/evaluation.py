"""Scores of both directions of retrieval, beside the floors and controls without which they mean little.

Shape suffixes: Q = queries, I = media, V = numbers of a vector.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from multimodal.controls import NAMES, changed, changes_for, shuffled_media
from multimodal.examples import Example, Medium
from multimodal.metrics.retrieval import RetrievalScores, feature_retrieval_scores
from multimodal.samples import sample_row

SHOWN = ("recall_1", "recall_5", "recall_10", "median_rank")
"""The scores of each direction in the order in which tables show them."""
PICTURED = 3
"""Media that a sample shows."""
RANDOM_WIDTH = 64


class RetrievalEvaluation:
    """Held-out media and texts, each once, and which belong together.

    Args:
        embed_media: media to vectors_IV.
        embed_texts: texts to vectors_QV.
        test: examples of one medium each; equal texts are one query, for which all their media are right.
        seed: of exchanged media, random vectors and confidence intervals.
    """

    def __init__(
        self,
        embed_media: Callable[[Sequence[Medium]], Tensor],
        embed_texts: Callable[[Sequence[str]], Tensor],
        test: Sequence[Example],
        *,
        seed: int = 0,
    ) -> None:
        self.embed_media = embed_media
        self.embed_texts = embed_texts
        self.seed = seed
        media = {example.media[0].identity: example.media[0] for example in test}
        places = {identity: index for index, identity in enumerate(media)}
        self.media = list(media.values())
        self.texts = list(dict.fromkeys(text for example in test for text in example.targets))
        queries = {text: index for index, text in enumerate(self.texts)}
        self.media_of: list[set[int]] = [set() for _ in self.texts]
        self.texts_of: list[set[int]] = [set() for _ in self.media]
        for example in test:
            for text in example.targets:
                self.media_of[queries[text]].add(places[example.media[0].identity])
                self.texts_of[places[example.media[0].identity]].add(queries[text])
        self.model: dict[str, RetrievalScores] = {}
        """The model's scores by direction, as it was scored last."""
        self._vectors: tuple[Tensor, Tensor] | None = None

    def score(self) -> Mapping[str, float]:
        """Scores of the model as it is: `medium_…` of finding media by text, `text_…` the other way round."""
        self._vectors = self.embed_media(self.media), self.embed_texts(self.texts)
        self.model = self.scores_of(*self._vectors)
        return {f"{way}_{name}": scores[name] for way, scores in self.model.items() for name in SHOWN}

    def scores_of(self, media_IV: Tensor, texts_QV: Tensor) -> dict[str, RetrievalScores]:
        """`medium`: each text seeks its media among all; `text`: each medium seeks its texts."""
        return {
            "medium": feature_retrieval_scores(texts_QV, media_IV, self.media_of, seed=self.seed),
            "text": feature_retrieval_scores(media_IV, texts_QV, self.texts_of, seed=self.seed),
        }

    def rows(self, untrained: Callable[[], tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
        """The model, its controls and the floors with confidence intervals, as rows of `eval.json`.

        Args:
            untrained: the vectors of the media and of the texts by towers that were never trained.
        """
        texts_QV = self.vectors[1]
        scored = {"model": self.model}
        for name, media in self.controls().items():
            scored[name] = self.scores_of(self.embed_media(media), texts_QV)
        scored["untrained towers"] = self.scores_of(*untrained())
        generator = torch.Generator().manual_seed(self.seed)
        chance = [torch.randn(len(one), RANDOM_WIDTH, generator=generator) for one in (self.media, self.texts)]
        scored["random ranking"] = self.scores_of(chance[0], chance[1])
        return [{"name": name, **_with_intervals(both)} for name, both in scored.items()]

    def controls(self) -> dict[str, list[Medium]]:
        """For each control the media that take the places of the right ones: exchanged, or robbed of time."""
        alone = [Example((medium,), ("",), str(index)) for index, medium in enumerate(self.media)]
        found = {"exchanged media": shuffled_media(alone, self.seed)}
        for change in changes_for([medium.kind for medium in self.media]):
            found[NAMES[change]] = [changed(example, change) for example in alone]
        return {name: [example.media[0] for example in examples] for name, examples in found.items()}

    def samples(self, count: int, out: Any) -> list[dict[str, Any]]:
        """Queries, always the same ones, with the media found first, for the report.

        Args:
            count: how many.
            out: the run directory.
        """
        media_IV, texts_QV = self.vectors
        total = len(self.texts)
        chosen = [index * total // min(count, total) for index in range(min(count, total))]
        rows = []
        for query in chosen:
            order = (media_IV @ texts_QV[query]).argsort(descending=True, stable=True).tolist()
            rank = 1 + min(order.index(one) for one in self.media_of[query])
            found = tuple(self.media[index] for index in order[:PICTURED])
            said = f"the first {len(found)} of {len(order)}; the right one is number {rank}"
            row = sample_row(Example((self.texts[query], *found), ("",)), said, out)
            del row["reference"]
            rows.append(row | {"ok": rank == 1})
        return rows

    @property
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Those of media and texts when the model was scored last; it is scored if it has not been yet."""
        if self._vectors is None:
            self.score()
        assert self._vectors is not None
        return self._vectors

    def notes(self) -> list[str]:
        """How the scores were made."""
        return [
            f"medium_…: {len(self.texts)} texts seek among {len(self.media)} media; text_…: the other way round",
            f"intervals are 95 % over the queries; {self.model['medium'].signature}",
        ]


def _with_intervals(both: Mapping[str, RetrievalScores]) -> dict[str, dict[str, float]]:
    return {
        f"{way}_{name}": {key: getattr(scores.intervals[name], key) for key in ("value", "low", "high")}
        for way, scores in both.items()
        for name in SHOWN
    }
