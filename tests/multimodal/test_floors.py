"""Captions that need no training."""

import pytest
import torch

from multimodal import floors
from multimodal.examples import Example


def test_most_common_caption():
    assert floors.most_common_caption(["a dog", "a cat", "a dog"]) == "a dog"
    # All unique: words occur (a: 3, red: 2, dog: 2, cat: 1, car: 1, blue: 1) times; "a red dog" is the most typical.
    assert floors.most_common_caption(["a red car", "a blue dog", "a red dog"]) == "a red dog"
    with pytest.raises(ValueError, match="no captions"):
        floors.most_common_caption([])


def test_nearest_neighbours_by_hand():
    train = torch.tensor([[1.0, 0.0], [0.0, 10.0]])
    test = torch.tensor([[0.5, 2.0], [3.0, 1.0]])
    # Distances 0.25 + 4 < 0.25 + 64; by angle the first is closer to (0, 10).
    assert floors.nearest_neighbours(train, test) == [0, 0]
    assert floors.nearest_neighbours(train, test, cosine=True) == [1, 0]


def test_nearest_neighbours_agree_with_cdist():
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(50, 7, generator=generator), torch.randn(20, 7, generator=generator)
    assert floors.nearest_neighbours(train, test) == torch.cdist(test, train).argmin(1).tolist()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        floors.nearest_neighbours(torch.zeros(2, 3), torch.zeros(2, 4))


def test_the_most_common_answer_to_the_same_question():
    train = [
        Example(("what colour?",), ("red",)), Example(("what colour?",), ("blue",)),
        Example(("what colour?",), ("red",)),
        Example(("how many?",), ("two",)), Example(("how many?",), ("two",)), Example(("how many?",), ("two",)),
        Example(("really?",), ("yes",)), Example(("really?",), ("no",)),
    ]  # fmt: skip
    asked = [Example((question,), ("?",)) for question in ("what colour?", "how many?", "really?", "what else?")]
    # Of equally common answers the alphabetically first; "two" is the most common of all.
    assert floors.most_common_answers(train, asked) == ["red", "two", "no", "two"]
