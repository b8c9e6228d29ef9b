"""Drawn clips: what they show, that they repeat, and that only the order of the frames tells the action."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from multimodal.datasets.moving_shapes import ACTIONS, COLOURS, SHAPES, examples
from multimodal.examples import Example, Examples

PHASE = 8
OPPOSITES = {"moves left": "moves right", "moves up": "moves down", "grows": "shrinks"}


@pytest.fixture(scope="module")
def clips() -> Examples:
    return examples(train=3000, test=300)


def clip_T3HW(example: Example) -> Tensor:
    source = example.media[0].source
    assert isinstance(source, Tensor)
    return source


def actions(example: Example) -> list[str]:
    first, second = example.targets[0].split(" ", 3)[3].split(" then ")
    return [first, second]


def phases(clips: Examples, action: str) -> list[Tensor]:
    """The phases, (8, 3, 32, 32), of all training clips with this action."""
    return [
        clip_T3HW(example)[PHASE * part : PHASE * (part + 1)]
        for example in clips.train
        for part, name in enumerate(actions(example))
        if name == action
    ]


def lit_area(frames_T3HW: Tensor) -> list[int]:
    return (frames_T3HW.sum(1) > 0).sum((1, 2)).tolist()


def test_clips_have_the_promised_form(clips: Examples) -> None:
    assert (len(clips.train), len(clips.test), clips.scoring) == (3000, 300, "captions")
    for example in (clips.train[0], clips.test[-1]):
        clip = clip_T3HW(example)
        assert clip.shape == (16, 3, 32, 32)
        assert clip.dtype == torch.uint8
        assert (clip.flatten(1).sum(1) > 0).all()  # something is seen in every frame
    assert len({example.key for part in (clips.train, clips.test) for example in part}) == 3300
    # Rows of one tensor, not copies.
    rows = [clip_T3HW(example) for example in clips.train]
    assert len({row.untyped_storage().data_ptr() for row in rows}) == 1


def test_captions_use_every_word_and_never_one_action_twice(clips: Examples) -> None:
    said = Counter(example.targets[0] for example in clips.train)
    text = " ".join(said)
    assert all(word in text for word in (*COLOURS, *SHAPES, *ACTIONS))
    assert all(first != second for first, second in map(actions, clips.train))
    assert len(said) > 900  # of 6 * 3 * 8 * 7 = 1,008
    known = set(said)
    unseen = sum(example.targets[0] not in known for example in clips.test)
    assert f"{unseen} of their captions belong to no training clip" in clips.notes[1]


def test_equal_calls_give_equal_bits_and_the_test_does_not_depend_on_train() -> None:
    first, again, longer, other = (
        examples(objects=2, train=train, test=40, seed=seed) for train, seed in ((60, 1), (60, 1), (90, 1), (60, 2))
    )
    for part in ("train", "test"):
        for a, b in zip(getattr(first, part), getattr(again, part)):
            assert a.targets == b.targets
            assert torch.equal(clip_T3HW(a), clip_T3HW(b))
    assert [e.targets for e in first.test] == [e.targets for e in longer.test]
    assert all(torch.equal(clip_T3HW(a), clip_T3HW(b)) for a, b in zip(first.test, longer.test))
    assert [e.targets for e in first.test] != [e.targets for e in other.test]


def test_no_clip_occurs_twice(clips: Examples) -> None:
    seen = {clip_T3HW(example).numpy().tobytes() for part in (clips.train, clips.test) for example in part}
    assert len(seen) == 3300


@pytest.mark.parametrize(
    ("action", "axis", "step"),
    [("moves left", 2, -4), ("moves right", 2, 4), ("moves up", 1, -4), ("moves down", 1, 4)],
)
def test_movement_is_one_round_through_the_picture(clips: Examples, action: str, axis: int, step: int) -> None:
    for frames in phases(clips, action):
        for time, frame in enumerate(frames):
            assert torch.equal(frame, frames[0].roll(step * time, axis))


def test_growth_takes_every_size_once_in_order(clips: Examples) -> None:
    for action, sign in (("grows", 1), ("shrinks", -1)):
        for frames in phases(clips, action):
            area = lit_area(frames)
            steps = [sign * (after - before) for before, after in zip(area, area[1:] + area[:1])]
            assert len(set(area)) == PHASE
            assert sum(step > 0 for step in steps) == PHASE - 1  # and one fall, from the largest to the smallest


def test_blinking_changes_brightness_only_and_shaking_returns(clips: Examples) -> None:
    for frames in phases(clips, "blinks"):
        assert all(torch.equal(frame, frames[time % 2]) for time, frame in enumerate(frames))
        assert torch.equal(frames[0] > 0, frames[1] > 0)
        assert not torch.equal(frames[0], frames[1])
    for frames in phases(clips, "shakes"):
        for time, by in enumerate((0, 3, 0, -3) * 2):
            assert torch.equal(frames[time], frames[0].roll(by, 2))


@pytest.mark.parametrize(("action", "opposite"), OPPOSITES.items())
def test_opposites_are_one_another_backwards(clips: Examples, action: str, opposite: str) -> None:
    """Every phase of an action, played backwards, is a phase of its opposite: as heaps of frames they are alike."""

    def cycle(frames: Tensor) -> tuple[bytes, ...]:
        """The frames in a circle, from a fixed one on: equal for phases that differ only in where they begin."""
        names = [frame.numpy().tobytes() for frame in frames]
        begin = names.index(min(names))
        return tuple(names[begin:] + names[:begin])

    forwards = {cycle(frames) for frames in phases(clips, action)}
    backwards = {cycle(frames.flip(0)) for frames in phases(clips, opposite)}
    against = {cycle(frames) for frames in phases(clips, opposite)}
    # Of some 300 places, sizes and looks on either side many are met on both, as nothing but the order differs.
    assert len(forwards & backwards) > 10
    assert not forwards & against


def test_frames_without_order_tell_13_of_56_pairs_of_actions(clips: Examples) -> None:
    """The 56 clips that differ in nothing but the two actions make 13 different heaps of frames."""
    grows, blinks = next(
        clip_T3HW(example).split(PHASE) for example in clips.train if actions(example) == ["grows", "blinks"]
    )
    start, times = grows[0], range(PHASE)
    shown = {
        "moves left": [start.roll(-4 * time, 2) for time in times],
        "moves right": [start.roll(4 * time, 2) for time in times],
        "moves up": [start.roll(-4 * time, 1) for time in times],
        "moves down": [start.roll(4 * time, 1) for time in times],
        "grows": list(grows),
        "shrinks": [grows[-time % PHASE] for time in times],
        "blinks": list(blinks),
        "shakes": [start.roll(by, 2) for by in (0, 3, 0, -3) * 2],
    }
    pairs = list(itertools.permutations(ACTIONS, 2))
    heaps = {tuple(sorted(frame.numpy().tobytes() for frame in shown[a] + shown[b])) for a, b in pairs}
    assert (len(pairs), len(heaps)) == (56, 13)


def test_both_phases_begin_in_the_same_state(clips: Examples) -> None:
    assert all(torch.equal(clip_T3HW(example)[0], clip_T3HW(example)[PHASE]) for example in clips.train)


@pytest.mark.parametrize("time", [0, 5, 15])
def test_one_frame_does_not_tell_the_action(clips: Examples, time: int) -> None:
    """The nearest training frame names the action no better than chance, 1 in 8."""
    train, test = clips.train, clips.test
    frames_NF, frames_MF = (
        torch.stack([clip_T3HW(example)[time] for example in part]).flatten(1).float() for part in (train, test)
    )
    nearest = torch.cdist(frames_MF, frames_NF).argmin(1).tolist()
    phase = time // PHASE
    right = [actions(test[index])[phase] == actions(train[other])[phase] for index, other in enumerate(nearest)]
    assert np.mean(right) < 1 / 8 + 3 * (1 / 8 * 7 / 8 / len(right)) ** 0.5
    # The same rule names the colour nearly always, so that it is not the rule that fails.
    colours = [
        test[index].targets[0].split()[1] == train[other].targets[0].split()[1] for index, other in enumerate(nearest)
    ]
    assert np.mean(colours) > 0.7


def test_the_start_does_not_depend_on_the_action(clips: Examples) -> None:
    """Starts are uniform over the picture, under every action: quarters of it are met equally often."""
    for action in ACTIONS:
        frames = [clip_T3HW(example)[0] for example in clips.train if actions(example)[0] == action]
        lit_NHW = torch.stack(frames).sum(1) > 0
        share = lit_NHW.float().mean((1, 2), keepdim=True)
        density_HW = (lit_NHW / share).mean(0)  # 1 everywhere but for chance
        quarters = density_HW.reshape(2, 16, 2, 16).mean((1, 3))
        assert (quarters - 1).abs().max() < 3 * (3 / len(frames)) ** 0.5


def test_two_objects_are_named_in_the_order_of_the_colours_and_start_apart() -> None:
    order = list(COLOURS)
    for example in examples(objects=2, train=200, test=1).train:
        first, second = example.targets[0].split(" and ")
        colours = [first.split()[1], second.split()[1]]
        assert order.index(colours[0]) < order.index(colours[1])
        looks = {tuple(pixel) for pixel in clip_T3HW(example)[0].flatten(1).T.tolist()}
        assert len(looks) == 3  # black and both colours


def test_other_sizes() -> None:
    clip = clip_T3HW(examples(train=3, test=2, frames=24, side=48).train[0])
    assert clip.shape == (24, 3, 48, 48)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objects": 3}, "objects must be 1 or 2, got 3"),
        ({"train": 0}, "train and test must be at least 1, got 0"),
        ({"frames": 12}, "frames must be a multiple of 8"),
        ({"side": 30}, "multiple of frames / 2 = 8 and at least 32, got 30"),
        ({"side": 16}, "at least 32, got 16"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        examples(**options)  # type: ignore[arg-type]
