"""Texts and prompts as the readers of public data sets make them."""

from pathlib import Path

import pytest

from multimodal.datasets.files import LayoutError, arrange, captions, items_to_examples
from multimodal.datasets.manifest import MAX_CHARACTERS
from multimodal.examples import Medium


def test_captions_are_cleaned_and_kept_once() -> None:
    assert captions([" a \t dog\n", "", "a dog", "b"], "here") == ("a dog", "b")
    assert captions(["x" * MAX_CHARACTERS], "here") == ("x" * MAX_CHARACTERS,)
    with pytest.raises(LayoutError, match="here: a text is wanted, not int"):
        captions(["a", 3], "here")


def test_marks_place_media_in_a_prompt() -> None:
    first, second, sound = Medium("image", Path("1")), Medium("image", Path("2")), Medium("audio", Path("3"))
    media = [first, second, sound]
    assert arrange("what?", media, "here") == (first, second, sound, "what?")
    assert arrange("", media, "here") == (first, second, sound)
    assert arrange("<audio>then <image> <image> end", media, "here") == (sound, "then", first, second, "end")
    with pytest.raises(LayoutError, match="here: the prompt has the mark <image> 1 times for 2 of image"):
        arrange("<image> <audio>", media, "here")


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(LayoutError, match=r"x has no example to train on \(0 to train, 0 to test on\)"):
        items_to_examples("x", "image", [], [], limit=0, skip_missing=True, notes=())
