"""Captions that need no training: what a captioner must beat before its score means anything.

Shape suffixes: N = training examples, M = test examples, F = features.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from multimodal.examples import Example

_AT_ONCE = 512
"""Test examples compared at a time: the distances of all would not fit into memory for large sets."""


def most_common_caption(captions: Sequence[str]) -> str:
    """The caption that occurs most often; of several, the one that shares most words with all the others.

    Where every caption is unique (Twemoji) this is the most typical one.
    """
    if not captions:
        raise ValueError("the most common caption of no captions was asked for")
    counts = Counter(captions)
    words = Counter(word for caption in captions for word in set(caption.split()))
    typical = {
        caption: sum(words[word] for word in set(caption.split())) / len(caption.split() or [""]) for caption in counts
    }
    return max(sorted(counts), key=lambda caption: (counts[caption], typical[caption]))


def nearest_neighbours(train_NF: Tensor, test_MF: Tensor, *, cosine: bool = False) -> list[int]:
    """For each test row the index of the closest training row (Euclidean, or by angle)."""
    if train_NF.ndim != 2 or test_MF.ndim != 2 or train_NF.shape[1] != test_MF.shape[1]:
        raise ValueError(
            "features must be (N, F) for training and (M, F) for test examples, with the same F; "
            f"got {tuple(train_NF.shape)} and {tuple(test_MF.shape)}"
        )
    train_NF, test_MF = train_NF.float(), test_MF.float()
    if cosine:
        train_NF, test_MF = (torch.nn.functional.normalize(x, dim=1) for x in (train_NF, test_MF))
    own_N = train_NF.square().sum(1)
    nearest: list[int] = []
    for some_MF in test_MF.split(_AT_ONCE):
        # |a - b|^2 = |a|^2 - 2ab + |b|^2, and |a| is the same for all candidates.
        nearest += (own_N - 2 * some_MF @ train_NF.T).argmin(1).tolist()
    return nearest


def most_common_answers(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """For each test example the most common target of training examples with the same text in their prompt.

    Without such examples, the most common target of all: what can be said without looking or listening.
    """
    by_text: dict[str, Counter[str]] = {}
    overall: Counter[str] = Counter()
    for example in train:
        by_text.setdefault(_text(example), Counter())[example.targets[0]] += 1
        overall[example.targets[0]] += 1
    return [_first(by_text.get(_text(example), overall)) for example in test]


def _text(example: Example) -> str:
    return " ".join(part for part in example.prompt if isinstance(part, str))


def _first(counts: Counter[str]) -> str:
    return min(counts, key=lambda text: (-counts[text], text))
