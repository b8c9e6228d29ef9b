"""The grammar against sums over all its sentences, and its English by example."""

import itertools
import math
import random
from collections import Counter

import pytest

from adversarial.grammar import Grammar, english

TINY = Grammar(
    {
        "S": [(1.0, ("A", "B")), (3.0, ("A",))],
        "A": [(1.0, ("x",)), (1.0, ("y", "x"))],
        "B": [(2.0, ("z",)), (1.0, ("x", "z")), (1.0, ("A", "A"))],
    }
)


def every_sentence(longest: int) -> list[str]:
    return [" ".join(words) for n in range(1, longest + 1) for words in itertools.product("xyz", repeat=n)]


def test_probabilities_of_all_sentences_add_up_to_1() -> None:
    probabilities = [TINY.probability(sentence) for sentence in every_sentence(6)]
    assert math.fsum(probabilities) == pytest.approx(1)
    # S -> A B, A -> x, B -> z
    assert TINY.probability("x z") == pytest.approx(1 / 4 * 1 / 2 * 1 / 2)
    assert TINY.probability("") == TINY.probability("z") == TINY.probability("x unknown") == 0


def test_sampling_follows_the_probabilities() -> None:
    rng = random.Random(0)
    counts = Counter(TINY.sample(rng) for _ in range(20_000))
    for sentence, number in counts.items():
        assert number / 20_000 == pytest.approx(TINY.probability(sentence), abs=0.012)


def test_entropy_and_mean_length_are_those_of_all_sentences() -> None:
    grammar = english()
    rng = random.Random(1)
    sentences = [grammar.sample(rng) for _ in range(1500)]
    nll = [-math.log(grammar.probability(sentence)) for sentence in sentences]
    assert math.fsum(nll) / len(nll) == pytest.approx(grammar.entropy, rel=0.02)
    assert sum(len(s.split()) for s in sentences) / len(sentences) == pytest.approx(grammar.mean_length, rel=0.02)

    small = Grammar({"S": [(1.0, ("a",)), (1.0, ("a", "S2"))], "S2": [(1.0, ("b",)), (3.0, ("c", "c"))]})
    listed = {"a": 1 / 2, "a b": 1 / 8, "a c c": 3 / 8}
    assert small.entropy == pytest.approx(-sum(p * math.log(p) for p in listed.values()))
    assert small.mean_length == pytest.approx(1 / 2 + 2 / 8 + 9 / 8)
    assert small.words == ["a", "b", "c"]


@pytest.mark.parametrize(
    "sentence",
    [
        "the cat sleeps .",
        "the cats sleep .",
        "yesterday the owls that the king admires painted themselves .",
        "today every small cat that sees the dogs is happy .",
        "two foxes that dance ran behind the castle .",
    ],
)
def test_english_accepts_what_agrees(sentence: str) -> None:
    assert english().accepts(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "the cat sleep .",  # number
        "these cat sleeps .",
        "yesterday the owls that the king admires paint themselves .",  # tense
        "the owls that the king admires paints themselves .",  # number across the clause
        "the owls that the king admires painted itself .",  # reflexive
        "the cat sleeps",
        "the cat sleeps . .",
        "cat the sleeps .",
        "",
    ],
)
def test_english_rejects_what_does_not(sentence: str) -> None:
    assert not english().accepts(sentence)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"A": [(1.0, ("x",))]}, "start symbol 'S' has no rule"),
        ({"S": []}, "weights > 0"),
        ({"S": [(0.0, ("x",))]}, "weights > 0"),
        ({"S": [(1.0, ("x", "A"))], "A": [(1.0, ("S",))]}, "can contain itself"),
    ],
)
def test_bad_grammars_are_refused(rules: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grammar(rules)
