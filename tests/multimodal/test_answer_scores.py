"""Accuracy in all and by group, and the report by class: by hand, and against counts made another way."""

import random

import numpy as np
import pytest

from multimodal.metrics.answers import answer_scores, classification_scores, normalise_answer


def test_accuracy_by_hand():
    scores = answer_scores(["Yes.", "two", "red", "3"], ["yes", ["2", "two"], "blue", "-3"])
    assert scores.per_item["accuracy"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert scores["accuracy"] == scores.corpus["accuracy"] == 0.5
    assert len(scores) == 4
    assert scores.intervals["accuracy"].low < 0.5 < scores.intervals["accuracy"].high
    assert scores.signature == "accuracy:equal to any reference|norm:normalise_answer|rev:1"


def test_accuracy_of_groups():
    scores = answer_scores(["a", "b", "c", "d", "e"], ["a", "b", "x", "d", "x"], groups=["n", "m", "n", "", "n"])
    assert {name: interval.value for name, interval in scores.groups.items()} == pytest.approx({"m": 1.0, "n": 1 / 3})
    assert scores.group_sizes == {"m": 1, "n": 3}
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert "items:3" in scores.groups["n"].signature
    assert answer_scores(["a"], ["a"]).groups == {}


def test_groups_weighted_by_size_give_the_whole():
    chance = random.Random(0)
    right = [chance.choice("ab") for _ in range(200)]
    said = [chance.choice("ab") for _ in right]
    scores = answer_scores(said, right, groups=[chance.choice("xyz") for _ in right], num_resamples=10)
    total = sum(scores.groups[name].value * size for name, size in scores.group_sizes.items())
    assert total / 200 == pytest.approx(scores["accuracy"])


def test_normalisation():
    assert normalise_answer("  A  red Car. ") == "a red car"
    assert normalise_answer("-3.5") == "-3.5"
    assert answer_scores(["Yes"], ["yes"], normalise=str)["accuracy"] == 0.0


def test_classes_by_hand():
    right = ["cat", "cat", "cat", "dog", "dog", "cow"]
    said = ["cat", "dog", "dog", "dog", "a horse", "cow"]
    scores = classification_scores(said, right)
    cat, dog, cow = scores.classes["cat"], scores.classes["dog"], scores.classes["cow"]
    assert (cat.precision, cat.recall, cat.f1, cat.support) == pytest.approx((1, 1 / 3, 1 / 2, 3))
    assert (dog.precision, dog.recall, dog.f1, dog.support) == pytest.approx((1 / 3, 1 / 2, 2 / 5, 2))
    assert (cow.precision, cow.recall, cow.f1, cow.support) == (1, 1, 1, 1)
    assert scores["accuracy"] == pytest.approx(3 / 6)
    assert scores["macro_f1"] == pytest.approx((1 / 2 + 2 / 5 + 1) / 3)
    assert [(one.right, one.said, one.count) for one in scores.confusions] == [("cat", "dog", 2), ("dog", "a horse", 1)]
    assert len(classification_scores(said, right, num_confusions=1).confusions) == 1


def test_a_class_that_is_never_said_scores_nothing():
    scores = classification_scores(["a", "a"], ["a", "b"])
    assert scores.classes["b"].precision == scores.classes["b"].recall == scores.classes["b"].f1 == 0.0
    # Resamples that lack a class leave it out of the mean, and so stay within [0, 1].
    interval = scores.intervals["macro_f1"]
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.value == pytest.approx((2 / 3 + 0) / 2)


def test_report_agrees_with_a_confusion_matrix():
    chance = random.Random(1)
    names = ["a", "b", "c", "d"]
    right = [chance.choice(names) for _ in range(300)]
    said = [own if chance.random() < 0.6 else chance.choice(names) for own in right]
    matrix = np.zeros((4, 4), int)
    for one, other in zip(right, said):
        matrix[names.index(one), names.index(other)] += 1
    scores = classification_scores(said, right, groups=["g"] * 300, num_confusions=99)
    for number, name in enumerate(names):
        assert scores.classes[name].precision == pytest.approx(matrix[number, number] / matrix[:, number].sum())
        assert scores.classes[name].recall == pytest.approx(matrix[number, number] / matrix[number].sum())
    assert scores["accuracy"] == pytest.approx(matrix.trace() / 300)
    assert sum(one.count for one in scores.confusions) == 300 - matrix.trace()
    assert scores.groups["g"].value == scores["accuracy"]


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="no answers"):
        answer_scores([], [])
    with pytest.raises(ValueError, match="1 answers but references for 2"):
        answer_scores(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="groups for 2"):
        answer_scores(["a"], ["a"], groups=["x", "y"])
    with pytest.raises(ValueError, match="answer 0 needs one or more"):
        answer_scores(["a"], [[]])
    with pytest.raises(ValueError, match="one right class per item: item 0"):
        classification_scores(["a"], [["a", "b"]])  # type: ignore[list-item]
