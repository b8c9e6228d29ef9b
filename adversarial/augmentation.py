"""Augmentation: more sentences for a small labelled set, and what a classifier gains by them."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from adversarial.classifier import BagClassifier
from adversarial.corpus import Corpus
from adversarial.labels import join_label, split_label
from core.errors import UserError
from core.metrics.bootstrap import bootstrap_mean

FACTOR = 10
"""Additional sentences for each training line."""
MOST = 20_000
"""But no more than this."""
MOST_DRAWN = 20
"""Sentences drawn for each new one that is wanted, at most."""
CHANGED = 0.1
"""Share of the words that simple augmentation changes."""
_AT_ONCE = 500


def simple_augmentation(lines: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Training lines with a tenth of their words, at least one, swapped, left out or repeated elsewhere.

    Args:
        lines: sentences, with their labels if they have any.
        count: how many are wanted; each line in turn.
        rng: the chance.

    References:
        Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques", arXiv:1901.11196; synonyms are left out, since they
        need a thesaurus.
    """
    found = []
    for index in range(count):
        label, text = split_label(lines[index % len(lines)])
        words = text.split()
        for _ in range(max(1, round(CHANGED * len(words)))):
            place, other = rng.randrange(len(words)), rng.randrange(len(words))
            how = rng.choice(("swap", "leave out", "repeat"))
            if how == "swap":
                words[place], words[other] = words[other], words[place]
            elif how == "repeat":
                words.insert(place, words[other])
            elif len(words) > 1:
                del words[place]
        found.append(join_label(label, " ".join(words)))
    return found


class TooFewNew(UserError, RuntimeError):
    """A generator that repeats itself or its training lines."""

    exit_code = 1


def new_lines(draw: Callable[[int], list[str]], known: Iterable[str], count: int) -> list[str]:
    """`count` different lines that a generator draws and that are not known.

    Args:
        draw: from a number to so many generated lines.
        known: training lines.
        count: how many.

    Raises:
        TooFewNew: not even one in twenty of those drawn is new.
    """
    seen, fresh, drawn = set(known), list[str](), 0
    while len(fresh) < count:
        if drawn > MOST_DRAWN * count + MOST_DRAWN * _AT_ONCE:
            raise TooFewNew(
                f"only {len(fresh):,} of {drawn:,} generated sentences were new: ask for fewer, or train a generator "
                "that is less sure of itself"
            )
        for line in draw(_AT_ONCE):
            if split_label(line)[1] and line not in seen:
                seen.add(line)
                fresh.append(line)
        drawn += _AT_ONCE
    return fresh[:count]


class AugmentationGain:
    """How much better a classifier is on held-out lines when it also learns from more sentences.

    All additional sentences together count as much as the training lines, whoever wrote them.

    Args:
        corpus: labelled lines.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.count = min(MOST, FACTOR * len(corpus.train))
        """Additional sentences that are wanted."""
        self.alone_N = self.correct([])
        """Without any."""

    def correct(self, more: Sequence[str]) -> NDArray[np.float64]:
        """correct_N: 1 for each held-out line whose label is found after learning from training lines and `more`."""
        train, held_out = self.corpus.train, self.corpus.held_out
        more = [line for line in more if split_label(line)[0] in self.corpus.labels]  # a generator may forget it
        weights = [1.0] * len(train) + [len(train) / max(1, len(more))] * len(more)
        predicted = fit_classifier(self.corpus, [*train, *more], weights=weights).predict(
            [self.corpus.tokenizer.split(line) for line in held_out]
        )
        return np.array([float(own == split_label(line)[0]) for own, line in zip(predicted, held_out)])

    def notes(self, generated: Mapping[str, NDArray[np.float64]]) -> list[str]:
        """The gain of each generator over what there is without it, for the report.

        Args:
            generated: by name correct_N of the classifiers that learned from a generator's sentences too.
        """
        simple = simple_augmentation(self.corpus.train, self.count, random.Random(0))
        others = {"the training lines alone": self.alone_N, "simple augmentation": self.correct(simple), **generated}
        lines = [
            "accuracy of a classifier on held-out lines: "
            + ", ".join(f"{float(correct_N.mean()):.1%} with {name}" for name, correct_N in others.items())
            + f"; {self.count:,} sentences are added, which count as much as the training lines"
        ]
        last = list(others)[-1]
        gains = [
            f"{bootstrap_mean(others[last] - correct_N)} over {name}"
            for name, correct_N in others.items()
            if name != last
        ]
        return [*lines, f"gain with {last}, on the same lines: {'; '.join(gains)}"]


def fit_classifier(corpus: Corpus, lines: Sequence[str], *, weights: Sequence[float] | None = None) -> BagClassifier:
    """A classifier that has learned from labelled lines."""
    labels = [split_label(line)[0] for line in lines]
    return BagClassifier([corpus.tokenizer.split(line) for line in lines], labels, weights=weights)
