"""Scores of generated texts beside the floors and controls without which they mean little."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multimodal.controls import NAMES, changed, changes_for, shuffled_media
from multimodal.examples import Example, Scoring
from multimodal.floors import most_common_answers, most_common_caption
from multimodal.metrics.answers import AnswerScores, ClassificationScores, answer_scores, classification_scores
from multimodal.metrics.captions import caption_scores, caption_words
from multimodal.metrics.scores import Scores
from multimodal.metrics.words import normalise_words, word_scores
from multimodal.reading import TooLong

SHOWN: Mapping[Scoring, tuple[str, ...]] = {
    "captions": ("exact_match", "bleu_4", "cider_d", "rouge_l", "meteor", "bleu_1", "bleu_2", "bleu_3"),
    "words": ("wer", "cer", "exact_match"),
    "answers": ("accuracy",),
    "classes": ("accuracy", "macro_f1"),
}
"""The scores in the order in which tables show them."""

Generate = Callable[[Sequence[Example], bool], list[str]]
"""Examples, and whether their media are withheld, to texts."""


class Evaluation:
    """Held-out examples and what the model says of them.

    Args:
        generate: the model.
        test: the held-out examples.
        scoring: which scores.
        seed: of the shuffled media and the confidence intervals.
        looked_at: from a clip's length to the frames that the model takes of it, for the control that shuffles them.
    """

    def __init__(
        self,
        generate: Generate,
        test: Sequence[Example],
        scoring: Scoring,
        *,
        seed: int = 0,
        looked_at: Callable[[int], list[int]] | None = None,
    ) -> None:
        self.generate = generate
        self.test = test
        self.scoring = scoring
        self.seed = seed
        self.looked_at = looked_at
        self.texts: list[str] = []
        """What the model said when it was scored last."""
        self._scores: Scores | None = None
        self._left_out: list[str] = []

    def score(self) -> Mapping[str, float]:
        """Scores of the model as it is."""
        self.texts = self.generate(self.test, False)
        self._scores = self.scores_of(self.texts)
        return {name: self._scores[name] for name in SHOWN[self.scoring]}

    @property
    def scores(self) -> Scores:
        """The model's scores; it generates if it has not yet."""
        if self._scores is None:
            self.score()
        assert self._scores is not None
        return self._scores

    def rows(self, train: Sequence[Example], nearest: Sequence[str]) -> list[dict[str, Any]]:
        """The model, its controls and the floors with confidence intervals, as rows of `eval.json`.

        Controls: no media (their features are 0), media exchanged, and what takes time away. Floors: the most common
        text, and that of the nearest training example. Last, the references themselves.

        Args:
            train: the training examples.
            nearest: for each test example the text of the nearest training example.
        """
        scored = {"model": self.scores}
        for name, texts in self.controls().items():
            scored[name] = self.scores_of(texts)
        scored["most common text"] = self.scores_of(self._most_common(train))
        scored["nearest example's text"] = self.scores_of(nearest)
        scored["the references themselves"] = self.scores_of([example.targets[0] for example in self.test])
        return [{"name": name, **self._with_intervals(scores)} for name, scores in scored.items()]

    def controls(self) -> dict[str, list[str]]:
        """What the model says when its media are withheld, exchanged, or robbed of time."""
        kinds = [medium.kind for example in self.test for medium in example.media]
        if not kinds:
            return {}
        said = {"no media": self.generate(self.test, True)}
        try:
            said["exchanged media"] = self.generate(shuffled_media(self.test, self.seed), False)
        except TooLong as error:  # of a long text with the long sound of another
            self._left_out = [f"the control with exchanged media is left out: {error}"]
        for change in changes_for(kinds):
            test = [changed(example, change, self.looked_at) for example in self.test]
            said[NAMES[change]] = self.generate(test, False)
        return said

    def scores_of(self, texts: Sequence[str]) -> Scores:
        """Scores of any texts against the references."""
        references = [example.targets for example in self.test]
        if self.scoring == "words":
            firsts = [own[0] for own in references]
            return word_scores(texts, firsts, normalise=normalise_words, seed=self.seed)
        groups = [example.group for example in self.test]
        if self.scoring == "answers":
            return answer_scores(texts, references, groups=groups, seed=self.seed)
        if self.scoring == "classes":
            return classification_scores(texts, [own[0] for own in references], groups=groups, seed=self.seed)
        return caption_scores(texts, references, tokenise=caption_words, seed=self.seed)

    def notes(self) -> list[str]:
        """How the scores were made, accuracy by group, and what classes were taken for one another."""
        notes = [f"intervals are 95 % over the test examples; {self.scores.signature}", *self._left_out]
        if isinstance(self.scores, AnswerScores) and self.scores.groups:
            by_group = ", ".join(
                f"{group} {interval.value:.3f} (of {self.scores.group_sizes[group]})"
                for group, interval in self.scores.groups.items()
            )
            notes.append(f"accuracy by group: {by_group}")
        if isinstance(self.scores, ClassificationScores):
            by_class = (f"{name} {own.f1:.3f} (of {own.support})" for name, own in self.scores.classes.items())
            notes.append(f"F1 by class: {', '.join(by_class)}")
            confused = (f"{one.count} x {one.said} for {one.right}" for one in self.scores.confusions)
            notes.append(f"most frequent confusions: {', '.join(confused) or 'none'}")
        return notes

    def _most_common(self, train: Sequence[Example]) -> list[str]:
        if self.scoring == "captions":
            return [most_common_caption([example.targets[0] for example in train])] * len(self.test)
        return most_common_answers(train, self.test)

    def _with_intervals(self, scores: Scores) -> dict[str, dict[str, float]]:
        return {
            name: {key: getattr(scores.intervals[name], key) for key in ("value", "low", "high")}
            for name in SHOWN[self.scoring]
        }
