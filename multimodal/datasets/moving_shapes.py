"""MovingShapes: drawn clips of shapes that do one thing and then another, so that only the order of the frames tells.

Every action is one full turn of a circle: a shape that moves left leaves the picture, comes back on the other side and
ends where it began; one that grows reaches the largest size, starts again at the smallest and ends at its own. So an
action and its opposite show the same frames in opposite order, every phase begins in the state in which the clip
began, and of one object (colour, shape, place, size, brightness) any single frame is equally likely under all
actions. Who knows all the rest of a sentence about one object gets its two actions right in 1 of 56 clips from one
frame, and in 13 of 56 from all frames without their order; a model that does better has used the order.

Shape suffixes: N = clips, K = objects, T = frames, F = the drawn properties; 3 = red, green, blue; H, W = side.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from multimodal.datasets.hashing import hash_number
from multimodal.examples import Example, Examples, Medium

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 200, 0),
    "blue": (40, 80, 255),
    "yellow": (255, 255, 0),
    "purple": (200, 0, 255),
    "white": (255, 255, 255),
}
SHAPES = ("circle", "square", "triangle")
ACTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "blinks", "shakes")

_DIM = 0.4
"""Brightness of a dim shape. Every shape is bright or dim; a blinking one changes with every frame."""
_FRAMES_A_SECOND = 8.0
_CHUNK = 256

# The columns of a scene: what is drawn at random for every object.
_COLOUR, _SHAPE, _FIRST, _SECOND, _X, _Y, _SIZE, _BRIGHT = range(8)


def examples(
    *, objects: int = 1, train: int = 12_000, test: int = 500, seed: int = 0, frames: int = 16, side: int = 32
) -> Examples:
    """Clips of one or two shapes, each with two actions in a row: "a red circle moves left then grows".

    6 colours, 3 shapes and 8 actions; the two actions of an object differ, which makes 1,008 sentences for one object.
    Two objects differ in colour, are named in the order of `COLOURS`, start well apart and are drawn in that order, so
    that for a few frames the second may hide the first. No clip occurs twice, in training or in the test; the test's
    sentences may be those of training clips (a note says how many are not). Held-out clips depend on `objects`,
    `test`, `seed`, `frames` and `side`, not on `train`.

    All clips of a side are rows of one uint8 tensor: 49 kB each, 590 MB for 12,000.

    Source: drawn here. Licence: none needed.

    Args:
        objects: shapes in a clip, 1 or 2.
        train: clips to learn from.
        test: held-out clips.
        seed: of everything drawn at random; equal arguments give equal bits.
        frames: of a clip, half of them for each action: a multiple of 8.
        side: pixels of the square picture: a multiple of half of `frames`, at least twice `frames` and 24.

    Returns:
        Examples with one clip (frames, 3, side, side), uint8, and one caption each.

    Raises:
        ValueError: an option out of range.
    """
    if objects not in (1, 2):
        raise ValueError(f"objects must be 1 or 2, got {objects}")
    if train < 1 or test < 1:
        raise ValueError(f"train and test must be at least 1, got {train} and {test}")
    if frames < 8 or frames % 8:
        raise ValueError(f"frames must be a multiple of 8 (two actions, each a whole number of shakes), got {frames}")
    if side < max(24, 2 * frames) or side % (frames // 2):
        raise ValueError(
            f"side must be a multiple of frames / 2 = {frames // 2} and at least {max(24, 2 * frames)}, got {side}"
        )
    phase = frames // 2
    held_out_NKF = _scenes(test, objects, phase, side, f"{seed}/test", ())
    learnt_NKF = _scenes(train, objects, phase, side, f"{seed}/train", held_out_NKF.tolist())
    learnt, held_out = _captions(learnt_NKF), _captions(held_out_NKF)
    known = set(learnt)
    unseen = sum(caption not in known for caption in held_out)
    return Examples(
        train=_as_examples("train", _draw(learnt_NKF, frames, side), learnt),
        test=_as_examples("test", _draw(held_out_NKF, frames, side), held_out),
        scoring="captions",
        notes=(
            f"MovingShapes: {train} clips of {objects} object(s), {frames} frames of {side} x {side}, seed {seed}",
            f"{test} new clips held out; {unseen} of their captions belong to no training clip",
            "of one object, one frame tells at best 1 of 56 pairs of actions, the frames without their order 13 of 56",
        ),
    )


def _scenes(
    count: int, objects: int, phase: int, side: int, seed: str, taken: Sequence[list[list[int]]]
) -> NDArray[np.int64]:
    """scenes_NKF: different scenes, none of them one of `taken`."""
    number = hash_number(f"moving_shapes/{seed}")
    random = np.random.default_rng(number)
    seen = {str(scene) for scene in taken}
    kept: list[list[list[int]]] = []
    while len(kept) < count:
        before = len(kept)
        for scene in _random_scenes(random, count, objects, phase, side).tolist():
            if (name := str(scene)) not in seen and len(kept) < count:
                seen.add(name)
                kept.append(scene)
        if len(kept) == before:
            raise ValueError(f"there are fewer than {count} different clips: lower train or test")
    return np.array(kept)


def _random_scenes(random: np.random.Generator, count: int, objects: int, phase: int, side: int) -> NDArray[np.int64]:
    """scenes_NKF: colours differ and ascend, the actions of an object differ, everything else is uniform."""
    colours_NK = np.sort(random.permuted(np.tile(np.arange(len(COLOURS)), (count, 1)), axis=1)[:, :objects], axis=1)
    shape = (count, objects)
    first_NK = random.integers(len(ACTIONS), size=shape)
    second_NK = (first_NK + random.integers(1, len(ACTIONS), size=shape)) % len(ACTIONS)
    place_NK2 = random.integers(side, size=(*shape, 2))
    if objects == 2:
        # Added to a uniform place and taken modulo the side, a gap leaves the second place uniform too.
        clear = side * 3 // 8
        gaps = np.array(
            [(x, y) for x in range(side) for y in range(side) if max(min(x, side - x), min(y, side - y)) >= clear]
        )
        place_NK2[:, 1] = (place_NK2[:, 0] + random.choice(gaps, count)) % side
    size_NK = random.integers(phase, size=shape)
    bright_NK = random.integers(2, size=shape)
    columns = (colours_NK, random.integers(len(SHAPES), size=shape), first_NK, second_NK)
    return np.stack([*columns, place_NK2[..., 0], place_NK2[..., 1], size_NK, bright_NK], axis=-1)


def _captions(scenes_NKF: NDArray[np.int64]) -> list[str]:
    colours = tuple(COLOURS)

    def say(thing: list[int]) -> str:
        what = f"a {colours[thing[_COLOUR]]} {SHAPES[thing[_SHAPE]]}"
        return f"{what} {ACTIONS[thing[_FIRST]]} then {ACTIONS[thing[_SECOND]]}"

    return [" and ".join(say(thing) for thing in scene) for scene in scenes_NKF.tolist()]


def _as_examples(part: str, clips_NT3HW: Tensor, captions: Sequence[str]) -> list[Example]:
    return [
        Example((Medium("video", clip_T3HW, _FRAMES_A_SECOND),), (caption,), f"{part}-{index}")
        for index, (clip_T3HW, caption) in enumerate(zip(clips_NT3HW, captions))
    ]


def _draw(scenes_NKF: NDArray[np.int64], frames: int, side: int) -> Tensor:
    """clips_NT3HW uint8."""
    phase = frames // 2
    turns_ATF = _turns(phase, side)
    windows_SJHWHW = _windows(phase, side)
    colours = np.array([[tuple(int(_DIM * c) for c in colour), colour] for colour in COLOURS.values()], dtype=np.uint8)
    clips_NT3HW = np.zeros((len(scenes_NKF), frames, 3, side, side), dtype=np.uint8)
    # In pieces that stay in the processor's cache.
    for begin in range(0, len(scenes_NKF), _CHUNK):
        part_NT3HW = clips_NT3HW[begin : begin + _CHUNK]
        for scenes_NF in scenes_NKF[begin : begin + _CHUNK].swapaxes(0, 1):
            now = np.concatenate([turns_ATF[scenes_NF[:, _FIRST]], turns_ATF[scenes_NF[:, _SECOND]]], axis=1)
            x_NT, y_NT = ((scenes_NF[:, [column]] + now[..., i]) % side for i, column in enumerate((_X, _Y)))
            size_NT = (scenes_NF[:, [_SIZE]] + now[..., 2]) % phase
            bright_NT = (scenes_NF[:, [_BRIGHT]] + now[..., 3]) % 2
            mask_NTHW = windows_SJHWHW[scenes_NF[:, [_SHAPE]], size_NT, side - y_NT, side - x_NT]
            colour_NT3 = colours[scenes_NF[:, [_COLOUR]], bright_NT]
            for light in range(3):
                np.copyto(part_NT3HW[:, :, light], colour_NT3[..., light, None, None], where=mask_NTHW)
    return torch.from_numpy(clips_NT3HW)


def _turns(phase: int, side: int) -> NDArray[np.int64]:
    """turns_ATF: what each action adds to x, y, size and brightness in the frames of a phase. All come back to 0."""
    time_T = np.arange(phase)
    nothing_T = 0 * time_T
    step_T = time_T * (side // phase)
    shake_T = np.array([0, 1, 0, -1])[time_T % 4] * (side // 10)
    turns = {
        "moves left": (-step_T, nothing_T, nothing_T, nothing_T),
        "moves right": (step_T, nothing_T, nothing_T, nothing_T),
        "moves up": (nothing_T, -step_T, nothing_T, nothing_T),
        "moves down": (nothing_T, step_T, nothing_T, nothing_T),
        "grows": (nothing_T, nothing_T, time_T, nothing_T),
        "shrinks": (nothing_T, nothing_T, -time_T, nothing_T),
        "blinks": (nothing_T, nothing_T, nothing_T, time_T),
        "shakes": (shake_T, nothing_T, nothing_T, nothing_T),
    }
    return np.stack([np.stack(turns[action], axis=-1) for action in ACTIONS])


def _windows(phase: int, side: int) -> NDArray[np.bool_]:
    """For each shape and size all shifted pictures of it: [.., side - y, side - x] has its middle at (x, y)."""
    # The way from column 0 to each column, on the circle of columns.
    way = (np.arange(side) + side // 2) % side - side // 2
    masks = []
    for index in range(phase):
        # Every step is seen: a whole number of pixels, odd or even.
        width = side * 3 // 16 + index * (side // (4 * phase))
        x_HW = way[None, :] + (0.5 if width % 2 == 0 else 0)
        y_HW = x_HW.T
        box_HW = np.maximum(abs(x_HW), abs(y_HW)) < width / 2
        circle_HW = x_HW**2 + y_HW**2 < (width / 2) ** 2
        triangle_HW = box_HW & (2 * abs(x_HW) <= y_HW + width / 2)
        masks.append([circle_HW, box_HW, triangle_HW])
    masks_SJHW = np.array(masks).swapaxes(0, 1)
    return sliding_window_view(np.tile(masks_SJHW, (1, 1, 2, 2)), (side, side), axis=(2, 3))
