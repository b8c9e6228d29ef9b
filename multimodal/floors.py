"""Captions that need no training: what a captioner must beat before its score means anything.

Shape suffixes: N = training pictures, M = test pictures, F = features; 3HW = colour, height, width.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor


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
            "features must be (N, F) for training and (M, F) for test pictures, with the same F; "
            f"got {tuple(train_NF.shape)} and {tuple(test_MF.shape)}"
        )
    train_NF, test_MF = train_NF.float(), test_MF.float()
    if cosine:
        train_NF, test_MF = (torch.nn.functional.normalize(x, dim=1) for x in (train_NF, test_MF))
    # |a - b|^2 = |a|^2 - 2ab + |b|^2, and |a| is the same for all candidates.
    squared_MN = train_NF.square().sum(1) - 2 * test_MF @ train_NF.T
    return squared_MN.argmin(1).tolist()


def nearest_captions(
    train_NF: Tensor, test_MF: Tensor, train_captions: Sequence[str], *, cosine: bool = False
) -> list[str]:
    """For each test picture the caption of the closest training picture."""
    if len(train_captions) != len(train_NF):
        raise ValueError(f"{len(train_NF)} training features but {len(train_captions)} captions")
    return [train_captions[index] for index in nearest_neighbours(train_NF, test_MF, cosine=cosine)]


def pixel_features(images_N3HW: Tensor) -> Tensor:
    """Pictures as rows: features_NF float32 in [0, 1]."""
    return images_N3HW.flatten(1).float() / 255
