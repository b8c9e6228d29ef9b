"""Caption scores: by hand, and equal to stored and to freshly computed numbers of pycocoevalcap."""

import json
import math
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal.metrics.captions import (
    CiderD,
    caption_scores,
    caption_words,
    longest_common_subsequence,
    rouge_l,
    spider,
)

GOLDEN = json.loads((Path(__file__).parent / "golden_caption_metrics.json").read_text())
KEYS = sorted(GOLDEN["refs"], key=int)
CANDIDATES = [GOLDEN["cands"][key][0] for key in KEYS]
REFERENCES = [GOLDEN["refs"][key] for key in KEYS]
NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d")

texts = st.lists(st.sampled_from("abc"), max_size=12)


def words(text: str) -> list[str]:
    return text.split()


def made_up(number: int, seed: int, longest: int = 12) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choice("abcdefgh") for _ in range(chance.randint(1, longest))) for _ in range(number)]


@pytest.mark.parametrize("name", NAMES)
def test_golden_numbers(name: str):
    scores = caption_scores(CANDIDATES, REFERENCES, num_resamples=10)
    assert scores[name] == pytest.approx(GOLDEN["corpus"][name], abs=1e-9)
    np.testing.assert_allclose(scores.per_item[name], GOLDEN["per_item"][name], rtol=0, atol=1e-9)


def test_golden_sacrebleu():
    scores = caption_scores(CANDIDATES, REFERENCES, num_resamples=10)
    assert 100 * scores["bleu_4"] == pytest.approx(GOLDEN["corpus"]["sacrebleu_tok_none"], abs=1e-6)


@pytest.mark.parametrize(("text", "expected"), GOLDEN["ptb_examples"])
def test_treebank_words_are_those_of_the_coco_evaluation(text: str, expected: str):
    # COCO's code runs Stanford's tokeniser, lower-cases, and then drops punctuation. It means to drop brackets too but,
    # lower-cased, no longer knows their names.
    brackets = {"-lrb-": "(", "-rrb-": ")"}
    assert caption_words(text) == [brackets.get(word, word) for word in expected.split()]


def test_against_pycocoevalcap_on_random_captions():
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    candidates = made_up(80, 1)
    references = [made_up(random.Random(n).randint(1, 5), 1000 + n) for n in range(80)]
    asked = {n: [candidate] for n, candidate in enumerate(candidates)}
    given_ = dict(enumerate(references))
    scores = caption_scores(candidates, references, num_resamples=10)
    mean, per_item = cider.Cider().compute_score(given_, asked)
    assert scores["cider_d"] == pytest.approx(mean, abs=1e-9)
    np.testing.assert_allclose(scores.per_item["cider_d"], per_item, rtol=0, atol=1e-9)
    mean, per_item = rouge.Rouge().compute_score(given_, asked)
    assert scores["rouge_l"] == pytest.approx(mean, abs=1e-12)
    np.testing.assert_allclose(scores.per_item["rouge_l"], per_item, rtol=0, atol=1e-12)


def test_longest_common_subsequence_by_hand():
    assert longest_common_subsequence("abcbdab", "bdcaba") == 4
    assert longest_common_subsequence("", "abc") == longest_common_subsequence("abc", "") == 0
    assert longest_common_subsequence(words("a dog runs"), words("the dog quickly runs")) == 2


@given(texts, texts)
def test_longest_common_subsequence_equals_the_table(first: list[str], second: list[str]):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    assert longest_common_subsequence(first, second) == table[-1][-1]


def test_rouge_by_hand():
    # Precision 2/3 from the first reference, recall 1 from the second: not of one reference, as in COCO's code.
    value = rouge_l(words("a dog runs"), [words("the dog always runs"), words("a")])
    assert value == pytest.approx((1 + 1.44) * (2 / 3) * 1 / (1 + 1.44 * 2 / 3))
    assert rouge_l([], [["a"]]) == 0.0
    assert rouge_l(["a"], [["b"]]) == 0.0
    with pytest.raises(ValueError, match="at least one reference"):
        rouge_l(["a"], [])


def test_cider_by_hand():
    """Two pictures, one word: idf(a) = log 2 - log 1, only unigrams exist, so a perfect match scores 10 / 4."""
    cider = CiderD([[["a"]], [["b"]]])
    assert cider.score(["a"], [["a"]]) == pytest.approx(2.5)
    assert cider.score(["b"], [["a"]]) == 0.0
    # Twice "a" against once: clipped to 1 of 2 -> (1 * 1) / (2 * 1), and the lengths differ by one bigram.
    assert cider.score(["a", "a"], [["a"]]) == pytest.approx(2.5 * 0.5 * math.exp(-1 / 72))
    # "z" is in no reference: its weight is log 2, like that of a word of one picture; norms sqrt(2) against 1.
    assert cider.score(["a", "z"], [["a"]]) == pytest.approx(2.5 / math.sqrt(2) * math.exp(-1 / 72))
    # A word of every picture says nothing.
    assert CiderD([[["a"]], [["a"]]]).score(["a"], [["a"]]) == 0.0


def test_document_frequencies_of_another_corpus():
    corpus = [[words(text)] for text in made_up(50, 2)]
    cider = CiderD(corpus)
    scores = caption_scores(["a b c"], ["a b d"], cider=cider, num_resamples=10)
    assert scores["cider_d"] == pytest.approx(cider.score(words("a b c"), [words("a b d")]))
    assert "df:50 pictures" in scores.signature
    # With its own single picture as corpus every weight would be 0.
    assert caption_scores(["a b c"], ["a b d"], num_resamples=10)["cider_d"] == 0.0


def test_exact_match_and_tokenise():
    scores = caption_scores(
        ["A dog", "a cat"], [["a cow", "a dog"], "the cat"], tokenise=lambda text: text.lower().split()
    )
    assert scores.per_item["exact_match"].tolist() == [1.0, 0.0]
    assert scores["exact_match"] == 0.5
    assert caption_scores(["A dog"], ["a dog"])["exact_match"] == 0.0


def test_perfect_captions_and_empty_captions():
    references = [f"{text} tail one two three" for text in made_up(20, 3)]
    perfect = caption_scores(references, references, num_resamples=50)
    assert perfect["exact_match"] == perfect["meteor"] == 1.0
    assert perfect["rouge_l"] == 1.0
    assert perfect["bleu_4"] == pytest.approx(1.0)
    assert perfect["cider_d"] == pytest.approx(10.0)
    empty = caption_scores([""] * 20, references, num_resamples=50)
    assert all(empty[name] == pytest.approx(0.0, abs=1e-9) for name in (*NAMES, "meteor", "exact_match"))
    assert all(np.isfinite(values).all() for values in empty.per_item.values())


def test_order_of_the_pictures_does_not_matter():
    order = list(range(len(CANDIDATES)))
    random.Random(0).shuffle(order)
    straight = caption_scores(CANDIDATES, REFERENCES, num_resamples=10)
    shuffled = caption_scores([CANDIDATES[n] for n in order], [REFERENCES[n] for n in order], num_resamples=10)
    for name in NAMES:
        assert straight[name] == pytest.approx(shuffled[name], abs=1e-12)
        np.testing.assert_allclose(straight.per_item[name][order], shuffled.per_item[name], atol=1e-12)


def test_intervals_hold_the_scores_and_the_signature_says_all():
    scores = caption_scores(CANDIDATES, REFERENCES, seed=3)
    for name, interval in scores.intervals.items():
        assert interval.value == scores[name]
        assert interval.low <= interval.value <= interval.high
        assert "seed:3" in interval.signature
    assert len(scores) == 60
    assert scores.signature == (
        "BLEU-4|level:corpus|refs:1-5|length:closest|smooth:coco|rev:1|METEOR-1.5|match:exact+stem, no synonyms, no "
        "paraphrases|function words:own|a 0.85 b 0.2 g 0.6 d 0.75|rev:1|rouge:L beta 1.2|cider:D sigma 6 x10 "
        "df:60 pictures|tok:str.split|rev:2"
    )


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="2 candidates but references for 1"):
        caption_scores(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="candidate 1 needs a list"):
        caption_scores(["a", "b"], ["a", []])
    with pytest.raises(ValueError, match="no candidates"):
        caption_scores([], [])


def test_spider_is_the_mean_of_cider_and_spice():
    assert spider([0.4, 1.0, 10.0], [0.2, 0.0, 1.0]).tolist() == pytest.approx([0.3, 0.5, 5.5])
    # As published for Qwen-Audio on Clotho: CIDEr 0.441, SPICE 0.136, SPIDEr 0.288.
    assert spider([0.441], [0.136])[0] == pytest.approx(0.288, abs=6e-4)
    with pytest.raises(ValueError, match=r"SPIDEr needs the SPICE value of every caption.*CoreNLP"):
        spider([0.4], None)
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1,\)"):
        spider([0.4, 0.1], [0.2])


def test_five_thousand_captions_take_seconds():
    """CIDEr-D of 5,000 captions with 5 references each: 0.7 s on an idle core, counted in this process's own time."""
    texts_ = [text.split() for text in made_up(30_000, 4, longest=20)]
    candidates, references = texts_[:5000], [texts_[5000 + 5 * n : 5005 + 5 * n] for n in range(5000)]
    start = time.process_time()
    CiderD(references).scores(candidates, references)
    assert time.process_time() - start < 2
