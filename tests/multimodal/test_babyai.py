"""BabyAI demonstrations: what a clip shows, and that the mission can be read off it."""

import itertools

import pytest
import torch
from torch import Tensor

from multimodal.datasets import babyai
from multimodal.examples import Example, Examples

minigrid = pytest.importorskip("minigrid")

TILE = 8
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Right, down, left, up: what minigrid's directions 0 … 3 add to x and y."""


@pytest.fixture(scope="module")
def demonstrations() -> Examples:
    return babyai.examples(train=60, test=20)


def clip_T3HW(example: Example) -> Tensor:
    source = example.media[0].source
    assert isinstance(source, Tensor)
    return source


def cell(frame_3HW: Tensor, x: int, y: int) -> bytes:
    tile = frame_3HW[:, y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
    return tile.permute(1, 2, 0).contiguous().numpy().tobytes()


@pytest.fixture(scope="module")
def agents() -> dict[bytes, int]:
    """From the picture of the agent to its direction."""
    from minigrid.core.grid import Grid

    return {
        Grid.render_tile(None, agent_dir=facing, tile_size=TILE).astype("uint8").tobytes(): facing
        for facing in range(4)
    }


@pytest.fixture(scope="module")
def objects() -> dict[bytes, str]:
    """From the picture of an object to its name."""
    from minigrid.core.constants import COLOR_NAMES
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Ball, Box, Key

    kinds = {"ball": Ball, "box": Box, "key": Key}
    return {
        Grid.render_tile(make(colour), tile_size=TILE).astype("uint8").tobytes(): f"{colour} {name}"
        for name, make in kinds.items()
        for colour in COLOR_NAMES
    }


def agent_place(frame_3HW: Tensor, agents: dict[bytes, int]) -> tuple[int, int, int]:
    (place,) = [(x, y, agents[name]) for y in range(8) for x in range(8) if (name := cell(frame_3HW, x, y)) in agents]
    return place


def test_clips_have_the_promised_form(demonstrations: Examples) -> None:
    assert (len(demonstrations.train), len(demonstrations.test), demonstrations.scoring) == (60, 20, "captions")
    clips = [clip_T3HW(example) for part in (demonstrations.train, demonstrations.test) for example in part]
    assert all(clip.dtype == torch.uint8 and clip.shape[1:] == (3, 64, 64) and 2 <= len(clip) <= 16 for clip in clips)
    assert len({len(clip) for clip in clips}) > 4
    assert len({clip.numpy().tobytes() for clip in clips}) == 80
    assert len({example.key for part in (demonstrations.train, demonstrations.test) for example in part}) == 80


def test_the_tiles_can_be_told_apart(agents: dict[bytes, int], objects: dict[bytes, str]) -> None:
    assert len(agents) == 4
    assert len(objects) == 18


def test_the_last_frame_shows_the_object_of_the_mission_before_the_agent(
    demonstrations: Examples, agents: dict[bytes, int], objects: dict[bytes, str]
) -> None:
    at_the_start = 0
    for example in (*demonstrations.train, *demonstrations.test):
        said = example.targets[0]
        clip = clip_T3HW(example)
        shown = []
        for frame in (clip[0], clip[-1]):
            x, y, facing = agent_place(frame, agents)
            right, down = STEPS[facing]
            shown.append(objects.get(cell(frame, x + right, y + down), "nothing"))
        assert said.endswith(shown[1]), said
        at_the_start += said.endswith(shown[0])
        # "a" or "the" says whether there are several of them.
        everything = [objects.get(cell(clip[0], x, y), "") for y in range(8) for x in range(8)]
        assert said.startswith("go to the") == (everything.count(shown[1]) == 1)
    assert at_the_start < 8  # of 80: the first frame does not tell


def test_the_agent_turns_or_takes_one_step_from_frame_to_frame(
    demonstrations: Examples, agents: dict[bytes, int]
) -> None:
    for example in demonstrations.test:
        clip = clip_T3HW(example)
        if len(clip) == 16:
            continue  # may be thinned out
        places = [agent_place(frame, agents) for frame in clip]
        for (x, y, facing), after in itertools.pairwise(places):
            right, down = STEPS[facing]
            turns = {(x, y, (facing + 1) % 4), (x, y, (facing - 1) % 4)}
            assert after in turns | {(x + right, y + down, facing)}


def test_equal_calls_give_equal_bits_and_the_test_does_not_depend_on_train(demonstrations: Examples) -> None:
    again, other = babyai.examples(train=5, test=20), babyai.examples(train=5, test=20, seed=1)
    for part, few in ((demonstrations.train[:5], again.train), (demonstrations.test, again.test)):
        for a, b in zip(part, few, strict=True):
            assert a.targets == b.targets
            assert torch.equal(clip_T3HW(a), clip_T3HW(b))
    assert [e.targets for e in other.test] != [e.targets for e in again.test]


def test_long_episodes_are_thinned_out_evenly(demonstrations: Examples) -> None:
    whole = babyai.examples(train=20, test=1, max_frames=1000)
    thin = babyai.examples(train=20, test=1, max_frames=3)
    assert any(len(clip_T3HW(example)) > 3 for example in whole.train)
    for long, short in zip(whole.train, thin.train, strict=True):
        frames, chosen = clip_T3HW(long), clip_T3HW(short)
        assert len(chosen) == min(3, len(frames))
        assert torch.equal(chosen[0], frames[0])
        assert torch.equal(chosen[-1], frames[-1])
        if len(frames) >= 3:
            middle = (len(frames) - 1) / 2
            assert any(torch.equal(chosen[1], frames[index]) for index in {int(middle), int(middle + 0.5)})


def test_another_level_and_tile_size(capsys: pytest.CaptureFixture[str]) -> None:
    parts = babyai.examples(level="OpenTwoDoors", train=2, test=1, tile=4)
    assert all(", then open " in example.targets[0] or " after you " in example.targets[0] for example in parts.train)
    assert clip_T3HW(parts.test[0]).shape[1:] == (3, 64, 64)  # 16 x 16 cells
    assert capsys.readouterr().out == ""


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"level must be one of BabyAI's, got 'GoHome'; there are: .*GoToLocal"):
        babyai.examples(level="GoHome")
    with pytest.raises(ValueError, match="train and test must be at least 1"):
        babyai.examples(test=0)
    with pytest.raises(ValueError, match="max_frames must be at least 2"):
        babyai.examples(max_frames=1)
    with pytest.raises(ValueError, match="tile must be at least 4"):
        babyai.examples(tile=2)


def test_a_level_that_the_bot_cannot_solve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from minigrid.utils.baby_ai_bot import BabyAIBot

    def give_up(self: object, action: object = None) -> int:
        raise AssertionError("no plan")

    monkeypatch.setattr(BabyAIBot, "replan", give_up)
    with pytest.raises(ValueError, match="the bot fails at 20 episodes of GoToLocal in a row"):
        babyai.examples(train=1, test=1)
