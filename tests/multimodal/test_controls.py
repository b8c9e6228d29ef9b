"""Controls show less, and of the rest the same."""

from functools import partial
from typing import Any

import pytest
import torch

from multimodal.controls import changed, changes_for, shuffled_media
from multimodal.examples import Example, Medium
from multimodal.media.decode import content
from multimodal.media.video import sample_frames

CLIP_T3HW = (torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1)).expand(12, 3, 2, 2).contiguous()
SOUND_T = torch.linspace(-1, 1, 100)
PICTURE_3HW = torch.full((3, 2, 2), 9, dtype=torch.uint8)


def example(key: str = "a") -> Example:
    return Example(
        ("what", Medium("video", CLIP_T3HW, 8), Medium("image", PICTURE_3HW), Medium("audio", SOUND_T, 50)), ("x",), key
    )


def seen(one: Example) -> list[Any]:
    return [content(medium) for medium in one.media]


def test_one_frame_is_all_that_is_left() -> None:
    for change, frame in (("first_frame", 0), ("last_frame", 11)):
        clip, picture, sound = seen(changed(example(), change))
        assert clip.shape == CLIP_T3HW.shape
        assert clip.unique().tolist() == [frame]
        assert torch.equal(picture, PICTURE_3HW)
        assert torch.equal(sound, SOUND_T)
    assert changed(example(), "none") == example()


def test_reversed_turns_sounds_round_too() -> None:
    one = changed(example(), "reversed")
    clip, picture, sound = seen(one)
    assert torch.equal(clip, CLIP_T3HW.flip(0))
    assert torch.equal(sound, SOUND_T.flip(0))
    assert torch.equal(picture, PICTURE_3HW)
    assert [medium.rate for medium in one.media] == [8, 0, 50]
    assert one.prompt[0] == "what"


def test_frames_are_shuffled_in_an_order_of_the_example_s_own() -> None:
    orders = [seen(changed(example(key), "shuffled_frames"))[0][:, 0, 0, 0].tolist() for key in ("a", "b", "a")]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == list(range(12)) != orders[0]


def test_only_the_frames_that_are_looked_at_change_places() -> None:
    looked_at = partial(sample_frames, num_frames=3)  # the first, the middle one and the last of twelve
    orders = {
        tuple(seen(changed(example(key), "shuffled_frames", looked_at))[0][[0, 6, 11], 0, 0, 0].tolist())
        for key in "abcdefghijklmnop"
    }
    assert len(orders) > 3
    assert {tuple(sorted(order)) for order in orders} == {(0, 6, 11)}


def test_changes_are_those_that_touch_the_kinds() -> None:
    assert changes_for(["image"]) == []
    assert changes_for(["audio", "image"]) == ["reversed"]
    assert changes_for(["video"]) == ["first_frame", "last_frame", "shuffled_frames", "reversed"]


@pytest.mark.parametrize("seed", range(4))
def test_media_are_exchanged_among_examples_with_as_many_of_the_same_kinds(seed: int) -> None:
    def picture() -> Medium:
        return Medium("image", torch.zeros(3, 1, 1))

    def sound() -> Medium:
        return Medium("audio", torch.zeros(9), 9)

    examples = [
        Example((picture(), "p0"), ("",)), Example(("p1", picture()), ("",)), Example((picture(), "p2"), ("",)),
        Example((sound(), "s0"), ("",)), Example((picture(), sound()), ("",)), Example(("no medium",), ("",)),
        Example((picture(), "x", picture()), ("",)), Example((picture(), picture(), "y"), ("",)),
    ]  # fmt: skip
    exchanged = shuffled_media(examples, seed)

    def sources(one: Example) -> list[int]:
        return [id(medium.source) for medium in one.media]

    for before, after in zip(examples, exchanged):
        assert [part if isinstance(part, str) else part.kind for part in before.prompt] == [
            part if isinstance(part, str) else part.kind for part in after.prompt
        ]
    assert all(sources(examples[i]) != sources(exchanged[i]) for i in (0, 1, 2, 6, 7))
    assert sorted(sources(one) for one in examples) == sorted(sources(one) for one in exchanged)
    assert exchanged[3:6] == examples[3:6]  # there is no other with media like theirs
    assert shuffled_media(examples, seed) == exchanged
