"""Longest copied runs, by hand and against a plain search."""

import random

from core.metrics.copies import CopyFinder


def test_by_hand() -> None:
    finder = CopyFinder([["a", "b", "c", "d"], ["d", "e"], ["x"]])
    sentences = [
        ["b", "c", "d", "e"],  # b c d; d e stands in another sentence
        ["a", "b", "c", "d"],
        ["q", "e", "q"],
        ["q"],
        [],
        ["d", "x"],  # in no sentence in a row
    ]
    assert finder.longest(sentences) == [3, 4, 1, 0, 0, 1]
    assert finder.longest(sentences[:1]) == [3]  # nothing is left over from the first call
    assert finder.longest([]) == []


def test_against_a_plain_search() -> None:
    rng = random.Random(0)
    source = [rng.choices("abc", k=rng.randint(0, 12)) for _ in range(30)]
    ours = [rng.choices("abcd", k=rng.randint(0, 14)) for _ in range(60)]

    def plain(words: list[str]) -> int:
        runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
        inside = [run for run in runs if any(run == s[k : k + len(run)] for s in source for k in range(len(s)))]
        return max(map(len, inside), default=0)

    assert CopyFinder(source).longest(ours) == [plain(words) for words in ours]
