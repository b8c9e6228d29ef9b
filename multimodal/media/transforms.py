"""Media with their order in time taken away: controls that show whether a model uses it.

Each takes a medium and gives one of the same kind, whose content is made when it is asked for. They can be sent to
loader processes. A model that does as well on `shuffled_frames` as on the clips sees pictures, not movement.

Shape suffixes: T = frames or samples.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from multimodal.examples import Kind, Medium
from multimodal.media.audio import load_audio
from multimodal.media.decode import content
from multimodal.media.video import load_clip

FILE_RATE = 16_000
"""Samples a second to which the sound of a file is brought before it is changed."""
FILE_SECONDS = 600.0
"""Longer sounds of files are refused."""


def first_frame(clip: Medium) -> Medium:
    """All frames replaced by the first. Raises `ValueError` for another kind than `video`."""
    return _changed(clip, ("video",), _repeat_first)


def last_frame(clip: Medium) -> Medium:
    """All frames replaced by the last. Raises `ValueError` for another kind than `video`."""
    return _changed(clip, ("video",), _repeat_last)


def shuffled_frames(seed: int, looked_at: Callable[[int], list[int]] | None = None) -> Callable[[Medium], Medium]:
    """A transformation that puts a clip's frames in a random order, the same for all clips of one length.

    It raises `ValueError` for another kind than `video`.

    Args:
        seed: of the order.
        looked_at: from a clip's length to the frames that will be taken of it: these change places with one another
            only, so that what is seen stays the same. All frames by default.
    """
    return partial(_changed, kinds=("video",), change=partial(_shuffle, seed=seed, looked_at=looked_at))


def reversed_in_time(medium: Medium) -> Medium:
    """A sound or clip backwards. Raises `ValueError` for a picture."""
    return _changed(medium, ("audio", "video"), _reverse)


def _changed(medium: Medium, kinds: tuple[Kind, ...], change: Callable[[Tensor], Tensor]) -> Medium:
    if medium.kind not in kinds:
        raise ValueError(f"{medium.name}: of kind {medium.kind}, where {' or '.join(kinds)} is asked for")
    is_sound_file = medium.kind == "audio" and isinstance(medium.source, Path)
    return replace(medium, source=partial(_make, medium, change), rate=FILE_RATE if is_sound_file else medium.rate)


def _make(medium: Medium, change: Callable[[Tensor], Tensor]) -> Tensor:
    if not isinstance(medium.source, Path):
        whole_T = content(medium)
    elif medium.kind == "audio":
        whole_T = load_audio(medium.source, rate=FILE_RATE, max_seconds=FILE_SECONDS)
    else:
        whole_T = load_clip(medium.source)
    # What is wrong with empty content is said where the result is checked.
    return change(whole_T) if whole_T.ndim and len(whole_T) else whole_T


def _repeat_first(clip_T: Tensor) -> Tensor:
    return clip_T[:1].expand_as(clip_T)


def _repeat_last(clip_T: Tensor) -> Tensor:
    return clip_T[-1:].expand_as(clip_T)


def _shuffle(clip_T: Tensor, seed: int, looked_at: Callable[[int], list[int]] | None) -> Tensor:
    places = torch.tensor(sorted(set(looked_at(len(clip_T)))) if looked_at else range(len(clip_T)))
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    shuffled_T = clip_T.clone()
    shuffled_T[places] = clip_T[places[order]]
    return shuffled_T


def _reverse(whole_T: Tensor) -> Tensor:
    return whole_T.flip(0)
