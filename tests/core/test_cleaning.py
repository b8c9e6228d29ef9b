"""Cleaning: each step on its own, the counts, and the duplicates."""

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.text.cleaning import Cleaner, CleaningConfig, collapse_whitespace, remove_control_characters, repair
from core.text.dedup import NearDuplicates


def clean(texts, **options):
    cleaner = Cleaner(CleaningConfig(**options))
    return list(cleaner.clean(texts)), cleaner.report


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("doesnâ€™t", "doesn’t"),
        ("cafÃ© naÃ¯ve", "café naïve"),
        ("a &lt;b&gt; &amp; c", "a <b> & c"),
        ("x\ud800y", "x�y"),
        ("pair \ud83d\ude00", "pair 😀"),
        ("“curly” ﬁ ＡＢＣ，", "“curly” ﬁ ＡＢＣ，"),
        ("今天天气很好", "今天天气很好"),
        ("", ""),
    ],
)
def test_repair_mends_what_was_wrongly_decoded_and_nothing_else(broken, mended):
    assert repair(broken) == mended


def test_control_characters_go_and_line_ends_become_line_feeds():
    assert remove_control_characters("a\x00b\x07\ufeffc\x9f") == "abc"
    assert remove_control_characters("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\n\th") == "a\nb\nc\nd\ne\nf\ng\n\th"
    assert remove_control_characters("👩\u200d👩\u200d👧 ی\u200cک") == "👩\u200d👩\u200d👧 ی\u200cک"


def test_white_space_is_collapsed():
    assert collapse_whitespace("  a\t\xa0 b　c  \n  d \n\n\n\n e\n") == "a b c\nd\n\ne"


# Repair is left out: without a control character in between, two characters may look like a wrong decoding.
@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_cleaning_twice_changes_nothing_more(text):
    once, _ = clean([text], repair=False)
    again, report = clean(once, repair=False)
    assert again == once
    assert sum(report.changed.values()) == 0


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_whatever_goes_in_clean_text_comes_out(text):
    for cleaned in clean([text])[0]:
        assert unicodedata.is_normalized("NFC", cleaned)
        assert cleaned == cleaned.strip()
        assert not any(unicodedata.category(c) in ("Cc", "Cs") and c != "\n" for c in cleaned)


def test_report_counts_each_change_and_each_drop():
    texts = ["cafe\u0301  au lait", "doesnâ€™t\x00", "ok", "ok", "", "x" * 50, "  ok "]
    kept, report = clean(texts, min_characters=1, max_characters=20)
    assert kept == ["café au lait", "doesn’t", "ok"]
    assert report.as_dict() == {
        "num_in": 7,
        "num_out": 3,
        "changed": {"unicode_form": 1, "whitespace": 2, "repair": 1, "control_characters": 1},
        "dropped": {"exact_duplicate": 2, "too_short": 1, "too_long": 1},
    }
    assert report.num_in - report.num_out == sum(report.dropped.values())
    assert report.lines()[0] == "7 texts in, 3 out"


def test_language_filter_is_a_callable_of_the_user():
    cleaner = Cleaner(language=lambda text: text.isascii())
    assert list(cleaner.clean(["hello", "你好"])) == ["hello"]
    assert cleaner.report.dropped == {"language": 1}


def test_steps_can_be_switched_off():
    text = "cafe\u0301 \x07 â€™\t x"
    kept, report = clean([text], repair=False, control_characters=False, unicode_form="none", whitespace=False)
    assert kept == [text]
    assert not report.changed
    assert clean(["ＡＢＣ"], unicode_form="NFKC")[0] == ["ABC"]
    assert clean(["a", "a"], exact_duplicates=False)[0] == ["a", "a"]


def test_duplicates_are_found_across_calls():
    cleaner = Cleaner()
    assert list(cleaner.clean(["a", "b"])) == ["a", "b"]
    assert list(cleaner.clean(["b", "c"])) == ["c"]


WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("a", "ee", "o", "uch", "ind")]


def sentence(seed: int, length: int = 60) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def test_near_duplicates_are_dropped_and_others_stay():
    first, other = sentence(1), sentence(2)
    nearly = [*first[:30], "changed", *first[31:]]
    kept, report = clean(map(" ".join, [first, other, nearly]), near_duplicates=0.8)
    assert kept == [" ".join(first), " ".join(other)]
    assert report.dropped == {"near_duplicate": 1}


def test_near_duplicates_work_in_chinese():
    generator = random.Random(0)
    text = "".join(chr(generator.randrange(0x4E00, 0x6000)) for _ in range(300))
    assert NearDuplicates(0.8).seen(text) is False
    detector = NearDuplicates(0.8)
    assert [detector.seen(t) for t in (text, text[:150] + "变" + text[151:], text[::-1])] == [False, True, False]


def test_estimated_similarity_is_near_the_true_jaccard():
    detector = NearDuplicates(0.5, num_hashes=512)
    errors = []
    for seed in range(20):
        first = " ".join(sentence(seed))
        second = " ".join([*sentence(seed)[:45], *sentence(seed + 100)[:15]])
        runs = [{text[i : i + 5] for i in range(len(text) - 4)} for text in (first, second)]
        true = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        errors.append(detector.similarity(detector.signature(first), detector.signature(second)) - true)
    assert max(map(abs, errors)) < 0.09  # about 4 standard errors of sqrt(s (1 - s) / 512)
    assert abs(sum(errors) / len(errors)) < 0.015


def test_short_and_empty_texts_do_not_break_near_duplicate_detection():
    detector = NearDuplicates(0.9)
    assert [detector.seen(text) for text in ("", "a", "", "a", "b")] == [False, False, True, True, False]


@pytest.mark.parametrize(
    "options",
    [{"min_characters": -1}, {"max_characters": 0}, {"near_duplicates": 0.0}, {"near_duplicates": 1.5}],
)
def test_bad_settings_name_the_option(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CleaningConfig(**options)
