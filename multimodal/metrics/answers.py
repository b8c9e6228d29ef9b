"""Accuracy of answers, in all and by group, and a report by class for classification.

Shape suffixes: N = answers, C = classes, F = statistics of an answer, R = resamples.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.metrics.bootstrap import BootstrapSettings, Interval, bootstrap_mean, bootstrap_sums
from multimodal.metrics.scores import Scores

_REVISION = 1


@dataclass(frozen=True, kw_only=True)
class AnswerScores(Scores):
    """Scores of a list of answers; the key is accuracy."""

    groups: Mapping[str, Interval]
    """Accuracy of each group, by name, with its own interval."""
    group_sizes: Mapping[str, int]
    """Answers in each group."""


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How well one class is told from the others."""

    precision: float
    """Of the items given this class, those that have it; 0 if none was given it."""
    recall: float
    """Of the items that have this class, those given it."""
    f1: float
    """Harmonic mean of the two; 0 if no item was rightly given the class."""
    support: int
    """Items that have this class."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """One wrong class said for a right one."""

    right: str
    said: str
    count: int


@dataclass(frozen=True, kw_only=True)
class ClassificationScores(AnswerScores):
    """Scores of a classification; the keys are accuracy and macro_f1, the mean F1 of the classes that occur."""

    classes: Mapping[str, ClassScore]
    """By name, in the order of the alphabet."""
    confusions: Sequence[Confusion]
    """The most frequent first."""


def normalise_answer(text: str) -> str:
    """Lower case, single spaces, no full stop at the end. Signs and points within stay: "-3.5" is not "3 5"."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def answer_scores(
    answers: Sequence[str],
    references: Sequence[Sequence[str] | str],
    *,
    groups: Sequence[str] | None = None,
    normalise: Callable[[str], str] = normalise_answer,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> AnswerScores:
    """Accuracy: an answer is right if it equals any of its references.

    Args:
        answers: N answers by the model.
        references: for each the right answer, or a list of right ones.
        groups: for each the name of its group (`Example.group`); the empty name is of no group.
        normalise: applied to answers and references before they are compared; `str` compares them as they stand.
        level: of the confidence intervals.
        num_resamples: bootstrap resamples of the items.
        seed: of the bootstrap.

    Raises:
        ValueError: for no answers, unequal numbers, or an answer without a reference.
    """
    if not answers:
        raise ValueError("the accuracy of no answers was asked for")
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers but references for {len(references)}")
    if groups is not None and len(groups) != len(answers):
        raise ValueError(f"{len(answers)} answers but groups for {len(groups)}: name a group for each, empty for none")
    right = []
    for index, (answer, own) in enumerate(zip(answers, references)):
        accepted = [own] if isinstance(own, str) else own
        if not accepted:
            raise ValueError(f"answer {index} needs one or more right answers")
        right.append(normalise(answer) in {normalise(reference) for reference in accepted})
    right_N = np.array(right, dtype=np.float64)
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups or ()):
        if group:
            members.setdefault(group, []).append(index)
    settings: BootstrapSettings = {"level": level, "num_resamples": num_resamples, "seed": seed}
    return AnswerScores(
        per_item={"accuracy": right_N},
        intervals={"accuracy": bootstrap_mean(right_N, **settings)},
        groups={group: bootstrap_mean(right_N[members[group]], **settings) for group in sorted(members)},
        group_sizes={group: len(members[group]) for group in sorted(members)},
        signature=f"accuracy:equal to any reference|norm:{_name(normalise)}|rev:{_REVISION}",
    )


def classification_scores(
    answers: Sequence[str],
    references: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    normalise: Callable[[str], str] = normalise_answer,
    num_confusions: int = 10,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> ClassificationScores:
    """Accuracy, and precision, recall and F1 of every class that occurs in the references.

    What the model says need be no class at all: it is then wrong, and shows among the confusions.

    Args:
        answers: N classes by the model.
        references: the right class of each.
        groups: as in `answer_scores`.
        normalise: as in `answer_scores`; classes go by their normalised names.
        num_confusions: how many confusions to list.
        level: of the confidence intervals.
        num_resamples: bootstrap resamples of the items; a class that a resample lacks is left out of its macro F1.
            With few items per class (some ten) the interval of the macro F1 lies too low and may miss its own value,
            because F1 is no mean over items: then trust that of the accuracy.
        seed: of the bootstrap.

    Raises:
        ValueError: as `answer_scores`, or several references for an item.
    """
    for index, reference in enumerate(references):
        if not isinstance(reference, str):
            raise ValueError(f"classification takes one right class per item: item {index} has {reference!r}")
    settings: BootstrapSettings = {"level": level, "num_resamples": num_resamples, "seed": seed}
    accuracy = answer_scores(answers, references, groups=groups, normalise=normalise, **settings)
    said, true = [normalise(answer) for answer in answers], [normalise(reference) for reference in references]
    names = sorted(set(true))
    numbers = {name: number for number, name in enumerate(names)}
    said_NC = _one_hot([numbers.get(name, -1) for name in said], len(names))
    true_NC = _one_hot([numbers[name] for name in true], len(names))
    statistics_NF = np.concatenate([said_NC * true_NC, said_NC, true_NC], 1)
    hits_C, given_C, support_C = (part.tolist() for part in np.split(statistics_NF.sum(0, dtype=np.int64), 3))
    classes = {
        name: ClassScore(
            precision=hits / given if given else 0.0,
            recall=hits / support,
            f1=2 * hits / (given + support),
            support=support,
        )
        for name, hits, given, support in zip(names, hits_C, given_C, support_C)
    }
    confused = Counter((right, wrong) for right, wrong in zip(true, said) if right != wrong)
    ordered = sorted(confused.items(), key=lambda item: (-item[1], item[0]))
    # One item has but one class: its macro F1 is whether it is right.
    return ClassificationScores(
        per_item={**accuracy.per_item, "macro_f1": accuracy.per_item["accuracy"]},
        intervals={**accuracy.intervals, "macro_f1": bootstrap_sums(statistics_NF, _macro_f1, **settings)},
        groups=accuracy.groups,
        group_sizes=accuracy.group_sizes,
        classes=classes,
        confusions=[Confusion(right=pair[0], said=pair[1], count=count) for pair, count in ordered[:num_confusions]],
        signature=f"{accuracy.signature}|macro:{len(names)} classes of the references",
    )


def _macro_f1(sums_RF: NDArray) -> NDArray[np.float64]:
    hits_RC, given_RC, support_RC = np.split(sums_RF.astype(np.float64), 3, axis=1)
    occurs_RC = support_RC > 0
    f1_RC = np.where(occurs_RC, 2 * hits_RC / np.maximum(given_RC + support_RC, 1), 0.0)
    return f1_RC.sum(1) / occurs_RC.sum(1)


def _one_hot(numbers: Sequence[int], num_classes: int) -> NDArray[np.int8]:
    """A row of a single 1 for each number, of none for -1."""
    column_N1 = np.array(numbers)[:, None]
    return (column_N1 == np.arange(num_classes)).astype(np.int8)


def _name(function: Callable) -> str:
    return getattr(function, "__qualname__", repr(function))
