"""BabyAI demonstrations: a bot carries out an instruction in a grid world; the clip's caption is the instruction.

The package `minigrid` brings the levels and the bot. Only episodes that the bot solved are kept. A caption can be
read off a clip because of how an episode ends: in `GoToLocal` it ends as soon as the agent stands before the object
and faces it, so the LAST FRAME ALONE SHOWS THE ANSWER, and a model that sees only that frame is a fair rival, not a
floor. The first frame tells nothing but which objects there are. In levels of several steps (`GoToSeq`,
`OpenTwoDoors`, `PutNextLocal`, `BossLevel`) the middle of the clip counts as well.

Shape suffixes: T = frames, H = height, W = width; 3 = red, green, blue.

References:
    Chevalier-Boisvert et al. 2019, "BabyAI: A Platform to Study the Sample Efficiency of Grounded Language Learning",
    arXiv:1810.08272.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.babyai import make_level, silent
from multimodal.datasets.hashing import hash_number
from multimodal.examples import Example, Examples, Medium

_FRAMES_A_SECOND = 4.0
_TRIES = 20
"""Episodes tried for each clip: a level at which the bot fails more often than that is refused."""


def examples(
    *,
    level: str = "GoToLocal",
    train: int = 3000,
    test: int = 300,
    seed: int = 0,
    max_frames: int = 16,
    tile: int = 8,
) -> Examples:
    """Clips of a bot that does what the caption says: "go to the red ball".

    Each clip is the whole grid seen from above before every action and after the last one. The agent is a red triangle
    that points where it faces. An episode follows from `level`, `seed`, the part it is for and its number, so that
    training and test share none and the test does not depend on `train`. Missions recur: `GoToLocal` has 36, six
    colours, three kinds of object, "a" where there are several such objects and "the" where there is one.

    Some 5 ms and 80 kB an episode. Notes say how many missions of the test belong to no training clip, and how
    many episodes the bot did not solve.

    Source: made by `minigrid` 3.2.0 (levels, bot and drawing). Licence: Apache-2.0.

    Args:
        level: a BabyAI level, the part of its name between `BabyAI-` and the version: GoToLocal, PickupLoc, GoToSeq …
        train: clips to learn from.
        test: held-out clips.
        seed: from which the episodes' seeds are taken; equal arguments give equal bits.
        max_frames: longer episodes are thinned out evenly to this many frames; the first and the last stay.
        tile: pixels a side of a cell of the grid; at 8 the eye tells key, ball and box apart, and the one room of
            `GoToLocal` (8 x 8 cells) has 64 x 64 pixels.

    Returns:
        Examples with one clip (frames, 3, height, width), uint8, 2 <= frames <= max_frames, and one caption each.

    Raises:
        ValueError: an unknown level, an option out of range, or a level that the bot cannot solve.
        MissingData: `minigrid` is not installed.
    """
    if train < 1 or test < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
    if max_frames < 2:
        raise ValueError(f"max_frames must be at least 2, the beginning and the end, got {max_frames}")
    if tile < 4:
        raise ValueError(f"tile must be at least 4 pixels, got {tile}")
    env = make_level(level)
    failed = 0
    clips: dict[str, list[Example]] = {"train": [], "test": []}
    for part, count in (("train", train), ("test", test)):
        for index in range(count):
            for attempt in range(_TRIES):
                clip_T3HW = _episode(env, _seed(f"{level}/{seed}/{part}/{index}/{attempt}"), tile)
                if clip_T3HW is not None:
                    break
                failed += 1
            else:
                raise ValueError(f"the bot fails at {_TRIES} episodes of {level} in a row: choose another level")
            clip_T3HW = _thinned(clip_T3HW, max_frames)
            medium = Medium("video", clip_T3HW, _FRAMES_A_SECOND)
            clips[part].append(Example((medium,), (env.mission,), f"{part}-{index}"))
    env.close()
    known = {example.targets for example in clips["train"]}
    unseen = sum(example.targets not in known for example in clips["test"])
    return Examples(
        train=clips["train"],
        test=clips["test"],
        scoring="captions",
        notes=(
            f"BabyAI {level}: {train} episodes of its bot, seed {seed}; {failed} more, not solved, were left out",
            f"{test} new episodes held out; the missions of {unseen} of them belong to no training clip",
            "an episode ends when the mission is fulfilled: compare with the last frame alone, which may show it all",
        ),
    )


def _episode(env: Any, seed: int, tile: int) -> Tensor | None:
    """clip_T3HW uint8 of an episode, or nothing where the bot did not solve it."""
    from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

    frames = []

    def see() -> None:
        # Not `env.render`: it would shade what the agent sees, and spend most of the time on that.
        frames.append(env.grid.render(tile, env.agent_pos, env.agent_dir))

    with silent():
        env.reset(seed=seed)
        see()
        try:
            bot, action = BabyAIBot(env), None
            reward, ended = 0.0, False
            while not ended:
                action = bot.replan(action)
                _, reward, terminated, truncated, _ = env.step(action)
                see()
                ended = terminated or truncated
        except (AssertionError, DisappearedBoxError):  # how the bot says that it cannot go on
            return None
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous() if reward > 0 else None


def _thinned(clip_T3HW: Tensor, max_frames: int) -> Tensor:
    """At most so many frames, evenly spaced, with the first and the last."""
    if len(clip_T3HW) <= max_frames:
        return clip_T3HW
    return clip_T3HW[np.linspace(0, len(clip_T3HW) - 1, max_frames).round().astype(int)]


def _seed(name: str) -> int:
    """Depends on the name alone; wide enough that no two names share one."""
    return hash_number(f"babyai/{name}") >> 1
