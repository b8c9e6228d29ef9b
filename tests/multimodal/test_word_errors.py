"""Word, character and match error rates: by hand, against the table of distances, stored numbers and jiwer itself."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.metrics.edits import edit_distance, word_edits
from multimodal.metrics.words import normalise_words, word_scores

GOLDEN = json.loads((Path(__file__).parent / "golden_caption_metrics.json").read_text())["wer"]
texts = st.text("abc", max_size=12)


def made_up(number: int, seed: int, letters: str = "abcdef") -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(letters, k=chance.randint(1, 15))) for _ in range(number)]


def test_golden_numbers():
    scores = word_scores(GOLDEN["hyps"], GOLDEN["refs"], num_resamples=10)
    for name in ("wer", "cer", "mer"):
        assert scores[name] == pytest.approx(GOLDEN[name], abs=1e-9)


def test_by_hand():
    scores = word_scores(
        ["the cat sat on mat", "", "a b c"], ["the cat sat on the mat", "x y", "a c"], num_resamples=10
    )
    # Deletions 1, 2, 0; insertions 0, 0, 1; words of the references 6, 2, 2.
    assert scores.edits["deletions"].tolist() == [1, 2, 0]
    assert scores.edits["insertions"].tolist() == [0, 0, 1]
    assert scores.edits["substitutions"].tolist() == [0, 0, 0]
    assert scores.edits["hits"].tolist() == [5, 0, 2]
    assert scores["wer"] == pytest.approx(4 / 10)
    assert scores["mer"] == pytest.approx(4 / 11)
    # Characters with spaces: "the " is lacking, then "x y", then "b " is too much; 22, 3 and 3 of the references.
    assert scores["cer"] == pytest.approx((4 + 3 + 2) / 28)
    assert scores.per_item["wer"].tolist() == pytest.approx([1 / 6, 1, 1 / 2])
    assert scores.per_item["mer"].tolist() == pytest.approx([1 / 6, 1, 1 / 3])
    assert scores.per_item["cer"].tolist() == pytest.approx([4 / 22, 1, 2 / 3])
    assert scores["exact_match"] == 0.0
    assert len(scores) == 3


def test_counts_against_jiwer():
    jiwer = pytest.importorskip("jiwer")
    for letters in ("ab", "abcdefgh"):
        references, hypotheses = made_up(400, 1, letters), ["", *made_up(399, 2, letters)]
        for reference, hypothesis in zip(references, hypotheses):
            theirs = jiwer.process_words(reference, hypothesis)
            ours = word_edits(reference.split(), hypothesis.split())
            assert ours == (theirs.hits, theirs.substitutions, theirs.deletions, theirs.insertions)
        scores = word_scores(hypotheses, references, num_resamples=10)
        assert scores["wer"] == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-9)
        assert scores["mer"] == pytest.approx(jiwer.mer(references, hypotheses), abs=1e-9)
        assert scores["cer"] == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-9)


@given(texts, texts)
def test_distance_equals_the_table(first: str, second: str):
    table = [[max(i, j) for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = min(table[i][j] + (one != other), table[i][j + 1] + 1, table[i + 1][j] + 1)
    assert edit_distance(first, second) == table[-1][-1]
    edits = word_edits(first, second)
    assert edits.distance == table[-1][-1]
    assert edits.hits + edits.substitutions + edits.deletions == len(first)
    assert edits.hits + edits.substitutions + edits.insertions == len(second)


@given(texts, texts, texts)
def test_distance_is_a_metric(first: str, second: str, third: str):
    assert edit_distance(first, first) == 0
    assert edit_distance(first, second) == edit_distance(second, first)
    assert edit_distance(first, third) <= edit_distance(first, second) + edit_distance(second, third)


def test_normalisation_is_off_unless_asked_for():
    said, right = ["Hello, world!"], ["hello world"]
    strict, lenient = word_scores(said, right), word_scores(said, right, normalise=normalise_words)
    assert (strict["wer"], lenient["wer"], lenient["exact_match"]) == (1.0, 0.0, 1.0)
    assert "norm:None" in strict.signature
    assert "norm:normalise_words" in lenient.signature


def test_normalised_words():
    assert normalise_words("Twenty-one, e.g. 3.5") == "twenty one e g 3 5"
    assert normalise_words("DON’T 'quote' the dogs' Straße_x") == "don't quote the dogs straße x"
    assert normalise_words(" ... ") == ""
    assert normalise_words(normalise_words("A  b-C")) == "a b c"


def test_an_empty_reference_adds_its_insertions():
    scores = word_scores(["a b", "c d"], ["", "c d"], num_resamples=50, seed=1)
    assert scores["wer"] == pytest.approx(2 / 2)
    assert scores.per_item["wer"].tolist() == [2.0, 0.0]
    assert np.isfinite([scores.intervals["wer"].low, scores.intervals["wer"].high]).all()


def test_interval_is_of_the_ratio_of_sums():
    references = made_up(60, 3)
    hypotheses = [text if number % 3 else "a" for number, text in enumerate(references)]
    scores = word_scores(hypotheses, references, seed=4)
    assert scores.intervals["wer"].value == scores["wer"] == scores.corpus["wer"]
    assert scores.intervals["wer"].low < scores["wer"] < scores.intervals["wer"].high
    assert scores["wer"] != pytest.approx(scores.per_item["wer"].mean(), abs=1e-3)
    assert "seed:4" in scores.intervals["wer"].signature


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="1 hypotheses but 2 references"):
        word_scores(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no transcripts"):
        word_scores([], [])
    with pytest.raises(ValueError, match="references with words"):
        word_scores(["a"], ["!"], normalise=normalise_words)
    with pytest.raises(ValueError, match="item 0 has"):
        word_scores(["a"], [["a", "b"]])  # type: ignore[list-item]


def test_ten_thousand_sentences_take_a_second():
    """About 0.3 s on an idle core without the bootstrap, counted in this process's own time."""
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 8))) for _ in range(2000)]
    references = [chance.choices(vocabulary, k=chance.randint(8, 20)) for _ in range(10_000)]
    hypotheses = [[chance.choice(vocabulary) if chance.random() < 0.1 else word for word in own] for own in references]
    said, right = [" ".join(own) for own in hypotheses], [" ".join(own) for own in references]
    start = time.process_time()
    word_scores(said, right, num_resamples=1)
    assert time.process_time() - start < 2
