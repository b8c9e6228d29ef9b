"""BLEU by hand, against NLTK, pycocoevalcap and sacrebleu, and against the published rows of the text-GAN protocol."""

import math
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.metrics import bleu, ngrams
from core.metrics.bleu import ReferenceIndex, corpus_bleu, corpus_bleu_interval, mean_sentence_bleu, self_bleu

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "captions_text"

sentences = st.lists(st.lists(st.sampled_from("abcd"), max_size=9), min_size=2, max_size=8)


def words(text: str) -> list[str]:
    return text.split()


def made_up(number: int, seed: int) -> list[list[str]]:
    """Sentences with repeated words, of 0 to 12 words."""
    chance = random.Random(seed)
    return [[chance.choice("abcdefgh") for _ in range(chance.randint(0, 12))] for _ in range(number)]


def test_ngrams_by_hand():
    assert list(ngrams.ngrams("abcd", 3)) == [("a", "b", "c"), ("b", "c", "d")]
    assert list(ngrams.ngrams("ab", 3)) == []
    assert ngrams.count_ngrams("aab", 2) == {("a",): 2, ("b",): 1, ("a", "a"): 1, ("a", "b"): 1}


def test_distinct_and_unique_by_hand():
    texts = [words("a b a"), words("a b"), words("a b")]
    assert ngrams.distinct_n(texts, 1) == pytest.approx(2 / 7)
    assert ngrams.distinct_n(texts, 2) == pytest.approx(2 / 4)
    assert ngrams.distinct_n(texts, 4) == 0.0
    assert ngrams.unique_fraction(texts) == pytest.approx(2 / 3)
    assert ngrams.unique_fraction([]) == 0.0


def test_clipping_by_hand():
    """The example of the paper: seven times "the" matches twice, because one reference has it twice."""
    counts = bleu.count([words("the " * 7)], [[words("the cat is on the mat"), words("there is a cat on the mat")]])
    assert counts.matches_NK.tolist() == [[2, 0, 0, 0]]
    assert counts.totals_NK.tolist() == [[7, 6, 5, 4]]
    assert (counts.lengths_N.tolist(), counts.reference_lengths_N.tolist()) == ([7], [7])


def test_brevity_penalty_by_hand():
    candidate, reference = words("a b c"), words("a b c d")
    score = corpus_bleu([candidate], [[reference]], smoothing="none", max_order=2)
    assert score.values == pytest.approx((math.exp(1 - 4 / 3),) * 2)
    # Of two equally near lengths the shorter counts: 2 for a candidate of 3.
    counts = bleu.count([candidate], [[words("a b c d"), words("a b")]])
    assert counts.reference_lengths_N.tolist() == [2]
    longer = corpus_bleu([words("a b c d e")], [[reference]], smoothing="none", max_order=1)
    assert longer.values == pytest.approx((4 / 5,))


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        # Precisions 2/3 and 0/2, length penalty 1.
        ("method1", math.sqrt(2 / 3 * 0.1 / 2)),
        ("exp", math.sqrt(2 / 3 * 0.5 / 2)),
        ("none", 0.0),
        ("coco", math.sqrt(2 / 3 * 1e-15 / 2)),
    ],
)
def test_smoothing_by_hand(smoothing: bleu.Smoothing, expected: float):
    score = corpus_bleu([words("a b c")], [[words("b a d")]], smoothing=smoothing, max_order=2)
    assert score[2] == pytest.approx(expected, rel=1e-6)
    assert f"smooth:{smoothing}" in score.signature


def test_unknown_smoothing_and_order_are_refused():
    with pytest.raises(ValueError, match="smoothing must be"):
        corpus_bleu([["a"]], [[["a"]]], smoothing="laplace")  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="BLEU-1 to BLEU-4, not BLEU-5"):
        corpus_bleu([["a"]], [[["a"]]])[5]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="2 candidates but references for 1"):
        corpus_bleu([["a"], ["b"]], [[["a"]]])
    with pytest.raises(ValueError, match="candidate 0 needs a list"):
        corpus_bleu([["a"]], ["a"])
    with pytest.raises(ValueError, match="no candidates"):
        corpus_bleu([], [])
    with pytest.raises(ValueError, match="at least one reference"):
        ReferenceIndex([])
    with pytest.raises(ValueError, match="at least two"):
        self_bleu([["a"]])


def test_corpus_bleu_equals_pycocoevalcap():
    scorer = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")
    candidates = made_up(60, 1)
    references = [made_up(random.Random(n).randint(1, 5), n) for n in range(60)]
    peer = scorer.BleuScorer(n=4)
    for candidate, own in zip(candidates, references):
        peer += (" ".join(candidate), [" ".join(reference) for reference in own])
    corpus, per_item = peer.compute_score(option="closest", verbose=0)
    score = corpus_bleu(candidates, references)
    assert score.values == pytest.approx(corpus, abs=1e-12)
    np.testing.assert_allclose(score.per_item_NK.T, np.array(per_item), atol=1e-12)


def test_corpus_bleu_equals_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    candidates = made_up(40, 2)
    # sacrebleu wants the same number of references for all.
    references = [made_up(3, 100 + n) for n in range(40)]
    streams = [[" ".join(references[n][k]) for n in range(40)] for k in range(3)]
    for smoothing in ("exp", "none"):
        for size in (1, 3, 40):
            peer = sacrebleu.corpus_bleu(
                [" ".join(candidate) for candidate in candidates[:size]],
                [stream[:size] for stream in streams],
                tokenize="none",
                force=True,
                smooth_method=smoothing,
            )
            ours = corpus_bleu(candidates[:size], references[:size], smoothing=smoothing)
            assert 100 * ours[4] == pytest.approx(peer.score, abs=1e-9)


def test_sentence_bleu_equals_nltk():
    nltk = pytest.importorskip("nltk.translate.bleu_score")
    references, hypotheses = made_up(40, 3), made_up(40, 4)
    ours = mean_sentence_bleu(hypotheses, references, max_order=5).per_item_NK
    method1 = nltk.SmoothingFunction().method1
    for hypothesis, row in zip(hypotheses, ours):
        for order in range(1, 6):
            peer = nltk.sentence_bleu(references, hypothesis, (1 / order,) * order, smoothing_function=method1)
            assert row[order - 1] == pytest.approx(peer, abs=1e-12)


def test_self_bleu_equals_nltk_with_each_sentence_left_out():
    nltk = pytest.importorskip("nltk.translate.bleu_score")
    texts = made_up(30, 5)
    texts += texts[:3]
    ours = self_bleu(texts, max_order=3).per_item_NK
    method1 = nltk.SmoothingFunction().method1
    for place, text in enumerate(texts):
        peer = nltk.sentence_bleu(texts[:place] + texts[place + 1 :], text, (1 / 3,) * 3, smoothing_function=method1)
        assert ours[place, 2] == pytest.approx(peer, abs=1e-12)


@given(sentences, sentences)
def test_index_counts_equal_direct_counts(hypotheses: list[list[str]], references: list[list[str]]):
    fast = ReferenceIndex(references, max_order=4).count(hypotheses)
    direct = bleu.count(hypotheses, [references] * len(hypotheses), max_order=4)
    assert fast.rows().tolist() == direct.rows().tolist()


@given(sentences)
def test_leave_one_out_counts_equal_direct_counts(texts: list[list[str]]):
    fast = ReferenceIndex(texts, max_order=4).count(texts, leave_one_out=True)
    others = [texts[:place] + texts[place + 1 :] for place in range(len(texts))]
    assert fast.rows().tolist() == bleu.count(texts, others, max_order=4).rows().tolist()


@given(sentences)
def test_scores_stay_in_range_and_copies_are_perfect(texts: list[list[str]]):
    for smoothing in ("coco", "method1", "exp", "none"):
        values = corpus_bleu(texts, [[text] for text in reversed(texts)], smoothing=smoothing).values
        assert all(0 <= value <= 1 for value in values)
    long_enough = [text + list("abcd") for text in texts]
    assert mean_sentence_bleu(long_enough, long_enough, max_order=4).values == pytest.approx((1, 1, 1, 1))


def test_interval_of_corpus_bleu():
    references = [[text] for text in made_up(80, 6)]
    candidates = [own[0] if place % 2 else list("hgfe") for place, own in enumerate(references)]
    score = corpus_bleu(candidates, references)
    interval = corpus_bleu_interval(score, 2, num_resamples=300)
    assert interval.value == pytest.approx(score[2], abs=1e-12)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low < 0.5
    assert "items:80" in interval.signature


def test_a_thousand_sentences_take_seconds():
    """The small twin of the full-size check below."""
    texts = made_up(1000, 7)
    start = time.process_time()
    mean_sentence_bleu(texts, made_up(1000, 8))
    self_bleu(texts)
    assert time.process_time() - start < 3


PUBLISHED = {
    "coco_train": ((0.740, 0.520, 0.337, 0.218), (0.892, 0.747, 0.574, 0.416)),
    "mle": ((0.731, 0.497, 0.305, 0.189), (0.916, 0.769, 0.583, 0.408)),
    "seqgan": ((0.745, 0.498, 0.294, 0.180), (0.950, 0.840, 0.670, 0.489)),
}


@pytest.mark.soak
@pytest.mark.parametrize("model", PUBLISHED)
def test_published_rows_of_the_text_gan_protocol(model: str):
    """About 10,000 hypotheses against 10,000 references: each number to 0.001, the scoring in 10 seconds.

    The rows of the models are published; that of real training text is from `data/README.md`.
    """
    if not SHARED.exists():
        pytest.skip(f"the shared captions are not on this machine ({SHARED})")
    tokenize = pytest.importorskip("nltk.tokenize").NLTKWordTokenizer().tokenize
    references = [tokenize(line) for line in (SHARED / "coco_test.txt").read_text().splitlines()]
    file = SHARED / "coco_train.txt" if model == "coco_train" else SHARED / "samples" / f"{model}.txt"
    texts = [tokenize(line) for line in file.read_text().splitlines()]
    assert len(references) == 10_000
    assert len(texts) == (10_000 if model == "coco_train" else 9984)
    start = time.process_time()
    quality, likeness = mean_sentence_bleu(texts, references), self_bleu(texts)
    assert time.process_time() - start < 10
    # The rows are printed with three digits: a difference of 0.001 may be rounding on both sides.
    assert quality.values[1:] == pytest.approx(PUBLISHED[model][0], abs=0.00151)
    assert likeness.values[1:] == pytest.approx(PUBLISHED[model][1], abs=0.00151)
