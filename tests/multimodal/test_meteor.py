"""METEOR (exact and stem matches): by hand, against every alignment, stored numbers and the Java program itself."""

import itertools
import json
import random
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal.metrics.meteor import FUNCTION_WORDS, Match, align, meteor_exact_stem

GOLDEN = json.loads((Path(__file__).parent / "golden_caption_metrics.json").read_text())
KEYS = sorted(GOLDEN["refs"], key=int)
CANDIDATES = [GOLDEN["cands"][key][0].split() for key in KEYS]
REFERENCES = [[text.split() for text in GOLDEN["refs"][key]] for key in KEYS]

# Made up, so that a stem has several spellings: the stem is the letter before the dot.
spelt = st.lists(st.sampled_from(["a.1", "a.2", "b.1", "b.2", "c.1"]), max_size=5)


def one(candidate: str, *references: str) -> float:
    return meteor_exact_stem([candidate.split()], [[text.split() for text in references]]).value


def fmean(precision: float, recall: float) -> float:
    return precision * recall / (0.85 * precision + 0.15 * recall)


def test_exact_matches_by_hand():
    # Three content words, two matched in one chunk: P = R = 2/3, chunks / matches = 1/2.
    assert one("small dog runs", "small dog sleeps") == pytest.approx(2 / 3 * (1 - 0.6 * 0.5**0.2))
    # Matched the wrong way round: two chunks of one word, so the whole penalty.
    assert one("dog small", "small dog") == pytest.approx(1 - 0.6)
    # P = 1, R = 1/2: the mean leans towards recall.
    assert one("dog", "dog sleeps") == pytest.approx(fmean(1, 0.5) * 0.4)
    assert one("dog sleeps", "dog") == pytest.approx(fmean(0.5, 1) * 0.4)
    assert one("dog", "dog") == 1.0
    assert one("cat", "dog") == one("", "dog") == one("dog", "") == one("", "") == 0.0


def test_function_words_count_a_third():
    # "the" 0.25 and "dog" 0.75: P = R = 0.75.
    assert one("the dog", "a dog") == pytest.approx(0.75 * 0.4)
    assert one("the dog", "the cat") == pytest.approx(0.25 * 0.4)
    given_ = meteor_exact_stem([["the", "dog"]], [[["a", "dog"]]], function_words=frozenset())
    assert given_.value == pytest.approx(0.5 * 0.4)
    assert "function words:given" in given_.signature
    assert {"the", "is", "of", "they", "and", "."} <= FUNCTION_WORDS
    assert not {"dog", "above", "red", "two"} & FUNCTION_WORDS


def test_equal_stems_count_three_fifths():
    assert one("dogs", "dog sleeps") == pytest.approx(fmean(0.6, 0.3) * 0.4)
    # All words matched in one run: no penalty, though they are not equal.
    assert one("dogs", "dog") == pytest.approx(0.6)
    # One exact and one stem match in one chunk of two.
    assert one("dogs sleep soundly", "dog sleep tight") == pytest.approx(1.6 / 3 * (1 - 0.6 * 0.5**0.2))


def test_the_best_reference_counts_and_the_corpus_adds_up():
    assert one("small dog", "cat", "small dog", "dog") == 1.0
    score = meteor_exact_stem([["dog"], ["cat", "dog"]], [[["dog", "sleeps"]], [["cow"], ["cat", "cow"]]])
    assert score.per_item_N == pytest.approx([fmean(1, 0.5) * 0.4, 0.5 * 0.4])
    # Together 2 of 3 words of the captions and 2 of 4 of the references, in 2 chunks.
    assert score.value == pytest.approx(fmean(2 / 3, 2 / 4) * 0.4)
    assert score.value != pytest.approx(score.per_item_N.mean())
    interval = score.interval(num_resamples=200)
    assert interval.value == score.value
    assert interval.low <= interval.value <= interval.high


def test_alignment_has_the_fewest_chunks():
    stems = {word: word for word in "abcdxy"}
    # "a" occurs twice; only the second makes one run of it.
    assert align("xab", "aab", stems) == [Match(1, 1), Match(2, 2)]
    assert align("abcabd", "abdabc", stems) == [Match(n, (n + 3) % 6) for n in range(6)]
    # Of equal chunks the nearer place.
    assert align("ya", "axa", stems) in ([Match(1, 0)], [Match(1, 2)])
    assert align("aya", "xxa", stems) == [Match(2, 2)]


def test_alignment_prefers_exact_matches_to_stems():
    stems = {"dogs": "dog", "dog": "dog", "x": "x", "y": "y"}
    # The stem match would be nearer.
    assert align(["dogs", "x", "dog"], ["dog", "y", "y"], stems) == [Match(2, 0)]


@settings(deadline=None)
@given(spelt, spelt)
def test_alignment_is_the_best_of_all(candidate: list[str], reference: list[str]):
    stems = {word: word[0] for word in candidate + reference}

    def cost(matches: tuple[Match, ...]) -> tuple[float, int, int]:
        coverage = sum(1.0 if candidate[i] == reference[j] else 0.5 for i, j in matches)
        chunks = sum(Match(i - 1, j - 1) not in matches for i, j in matches)
        return -coverage, chunks, sum(abs(i - j) for i, j in matches)

    # Every way to give each word of the candidate a place in the reference, or none.
    places = [None, *range(len(reference))]
    costs = []
    for chosen in itertools.product(places, repeat=len(candidate)):
        matches = tuple(Match(i, j) for i, j in enumerate(chosen) if j is not None)
        distinct = len({match.reference for match in matches}) == len(matches)
        if distinct and all(stems[candidate[i]] == stems[reference[j]] for i, j in matches):
            costs.append(cost(matches))
    found = tuple(align(candidate, reference, stems))
    assert cost(found) == min(costs)
    assert len({match.reference for match in found}) == len({match.candidate for match in found}) == len(found)


def test_repeated_words_take_no_longer_than_they_should():
    # Without a limit on the paths this would look at some 10^13 of them.
    chance = random.Random(0)
    words = [chance.choice("ab") for _ in range(60)]
    others = [chance.choice("ab") for _ in range(60)]
    matches = align(words, others, {"a": "a", "b": "b"})
    assert len(matches) == sum(min(words.count(letter), others.count(letter)) for letter in "ab")


def test_how_close_to_the_java_program_with_synonyms():
    """Measured 2026-11: 50 of 60 equal, correlation 0.9992, mean difference -0.0024, corpus 0.2979 against 0.2987."""
    score = meteor_exact_stem(CANDIDATES, REFERENCES)
    theirs = np.array(GOLDEN["per_item"]["meteor"])
    difference = score.per_item_N - theirs
    assert (abs(difference) < 1e-9).sum() == 50
    assert np.corrcoef(score.per_item_N, theirs)[0, 1] > 0.999
    assert difference.mean() == pytest.approx(-0.0024, abs=1e-4)
    assert abs(difference).max() < 0.051
    assert score.value == pytest.approx(GOLDEN["corpus"]["meteor"], abs=1e-3)


def java_meteor(jar: Path, candidates: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """Scores of each caption and, last, of the corpus, by METEOR 1.5 with exact and stem matches only."""
    command = [
        "java", "-Xmx1G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-lower", "-m", "exact stem",
        "-w", "1.0 0.6", "-p", "0.85 0.2 0.6 0.75",
    ]  # fmt: skip

    def talk(lines: list[str]) -> list[str]:
        text = "\n".join(lines) + "\n"
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=True, timeout=120
        ).stdout.split("\n")[:-1]

    asked = [
        " ||| ".join(["SCORE", *(" ".join(words) for words in own), " ".join(candidate)])
        for candidate, own in zip(candidates, references)
    ]
    statistics = talk(asked)
    return [float(value) for value in talk([" ||| ".join(["EVAL", *statistics])])]


def test_equal_to_the_java_program_with_the_same_matchers():
    pycocoevalcap = pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("java is not on the path")
    jar = Path(next(iter(pycocoevalcap.__path__))) / "meteor" / "meteor-1.5.jar"
    function_words = frozenset(zipfile.ZipFile(jar).read("function/english.words").decode().split())
    candidates, references = [*CANDIDATES, ["small", "dogs"]], [*REFERENCES, [["small", "dog"], ["smaller"]]]
    theirs = java_meteor(jar, candidates, references)
    ours = meteor_exact_stem(candidates, references, function_words=function_words)
    np.testing.assert_allclose(ours.per_item_N, theirs[:-1], rtol=0, atol=1e-9)
    assert ours.value == pytest.approx(theirs[-1], abs=1e-9)

    # Words that repeat, and one per caption that matches by its stem only. Our search may find fewer chunks: the
    # program's drops paths that ours keeps.
    chance = random.Random(1)
    vocabulary = "dog the a of is quick small boat over near . , ran tree".split()

    def caption(*unique: str) -> list[str]:
        words = chance.choices(vocabulary, k=chance.randint(1, 10))
        words.insert(chance.randint(0, len(words)), chance.choice(unique))
        return words

    candidates = [caption("jumps", "flying") for _ in range(300)]
    references = [[caption("jumping", "flies") for _ in range(chance.randint(1, 4))] for _ in range(300)]
    theirs = java_meteor(jar, candidates, references)
    ours = meteor_exact_stem(candidates, references, function_words=function_words)
    difference = ours.per_item_N - theirs[:-1]
    assert difference.min() > -1e-9
    assert (difference < 1e-9).mean() >= 0.99


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="no candidates"):
        meteor_exact_stem([], [])
    with pytest.raises(ValueError, match="1 candidates but references for 2"):
        meteor_exact_stem([["a"]], [[["a"]], [["a"]]])
    with pytest.raises(ValueError, match="candidate 0 needs a list"):
        meteor_exact_stem([["a"]], [[]])
