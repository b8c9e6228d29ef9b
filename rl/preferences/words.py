"""A toy task with a known answer: short words, each judged by how many of its letters are the one that was asked for.

Preferences are drawn from the Bradley-Terry model of that rule. So the best accuracy that any judge can have on them,
and the expected score of the best policy at a given distance from the data, can be computed.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

LETTERS = "abcd"
LENGTHS = (2, 3, 4, 5)
SCALE = 6.0
"""Score of a word that has no other letter: a good word is preferred to a random one most of the time, not always."""


def word_scores(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """The rule: SCALE times the share of letters that are the prompt's first; 0 for an empty word.

    Args:
        prompts: such as "b:".
        completions: words.
        columns: not looked at; rewards are given all that a data set has.
    """
    return [SCALE * word.count(prompt[0]) / len(word) if word else 0.0 for prompt, word in zip(prompts, completions)]


def word_pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Preferences between different words, as lines of a file have them.

    A word has a uniformly drawn length and uniformly drawn letters; the better one is preferred with the probability
    sigma(difference of their scores), which is noted down.

    Args:
        count: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        prompt = f"{LETTERS[rng.integers(len(LETTERS))]}:"
        first, second = _word(rng), _word(rng)
        if first == second:
            continue
        scores = word_scores([prompt] * 2, [first, second])
        probability = _sigma(scores[0] - scores[1])
        if rng.random() > probability:
            first, second, probability = second, first, 1 - probability
        rows.append({"prompt": prompt, "chosen": first, "rejected": second, "probability": probability})
    return rows


def optimal_score(beta: float) -> float:
    """Expected score under pi* = pi_ref e^(score / beta) / Z, where pi_ref is the distribution of the chosen words.

    Args:
        beta: of DPO, whose optimum pi* is.
    """
    words = ["".join(letters) for length in LENGTHS for letters in itertools.product(LETTERS, repeat=length)]
    chance_W = np.array([1 / len(LENGTHS) / len(LETTERS) ** len(word) for word in words])
    score_W = np.array(word_scores([LETTERS[0]] * len(words), words))  # by symmetry the same for every letter
    # Words of one score win alike. Of a word against itself no preference is drawn.
    levels_L, level_W = np.unique(score_W.round(9), return_inverse=True)
    mass_L = np.bincount(level_W, weights=chance_W)
    wins_L = np.array([sum(m * _sigma(own - other) for m, other in zip(mass_L, levels_L)) for own in levels_L])
    reference_W = chance_W * (wins_L[level_W] - chance_W / 2)
    tilted_W = reference_W * np.exp((score_W - score_W.max()) / beta)
    return float((tilted_W * score_W).sum() / tilted_W.sum())


def _word(rng: np.random.Generator) -> str:
    length = LENGTHS[rng.integers(len(LENGTHS))]
    return "".join(LETTERS[index] for index in rng.integers(len(LETTERS), size=length))


def _sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))
