"""The content of a `Medium`, wherever it comes from, in the form that an encoder asks for.

Shape suffixes: T = frames, H = height, W = width, S = samples, side = a square's side; 3 = red, green, blue.

A damaged file is a `MediaError`, which a run may skip and count. Content that a data set hands over as a tensor is its
own work, so a wrong one is a `ValueError`.
"""

import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from multimodal.examples import Kind, Medium
from multimodal.media.audio import RATES, load_audio, resample
from multimodal.media.image import load_image, to_tensor
from multimodal.media.video import Sampling, load_video, sample_frames


def image_content(medium: Medium, side: int) -> Tensor:
    """A picture as a square.

    Args:
        medium: of kind `image`; of an animation the first frame is taken.
        side: the longer side gets this length, the rest is padded with white.

    Returns:
        image_3HW, uint8, H = W = `side`.

    Raises:
        MediaError: a file that cannot be used.
        ValueError: another kind, or content that is no picture.
    """
    _require_kind(medium, "image")
    if isinstance(medium.source, Path):
        return load_image(medium.source, side=side)
    image_3HW = content(medium)
    _require_pictures(medium, image_3HW, "(3, height, width)", 3)
    return _to_square(image_3HW, side)


def frames(
    medium: Medium,
    num_frames: int,
    sampling: Sampling = "uniform",
    stride: int = 1,
    side: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Chosen frames of a clip.

    Args:
        medium: of kind `video`; a file may also be a picture, which is a clip of one frame.
        num_frames: frames wanted; a shorter clip repeats some.
        sampling: how they are chosen; see `multimodal.media.video.sample_frames`.
        stride: see there.
        side: if given, every frame becomes a square of this side, padded with white.
        generator: see there.

    Returns:
        clip_T3HW, uint8, T = `num_frames`.

    Raises:
        MediaError: a file that cannot be used.
        ValueError: another kind, or content that is no clip.
    """
    _require_kind(medium, "video")
    if isinstance(medium.source, Path):
        return load_video(
            medium.source, num_frames=num_frames, sampling=sampling, stride=stride, side=side, generator=generator
        )
    clip_T3HW = content(medium)
    _require_pictures(medium, clip_T3HW, "(frames, 3, height, width)", 4)
    indices = sample_frames(len(clip_T3HW), num_frames, sampling, stride=stride, generator=generator)
    if side is None:
        return clip_T3HW[indices]
    squares = {index: _to_square(clip_T3HW[index], side) for index in set(indices)}
    return torch.stack([squares[index] for index in indices])


def waveform(medium: Medium, rate: int = 16_000, max_seconds: float = 60.0) -> Tensor:
    """A sound as a mono waveform.

    Args:
        medium: of kind `audio`; decoded content needs a `rate`.
        rate: samples a second wanted.
        max_seconds: longer sounds are refused.

    Returns:
        waveform_S, float32 in [-1, 1].

    Raises:
        MediaError: a file that cannot be used.
        ValueError: another kind, or content that is no sound.
    """
    _require_kind(medium, "audio")
    if isinstance(medium.source, Path):
        return load_audio(medium.source, rate=rate, max_seconds=max_seconds)
    waveform_S = content(medium)
    if waveform_S.dtype != torch.float32 or waveform_S.ndim != 1 or not len(waveform_S):
        raise ValueError(f"{medium.name}: its content must be float32 (samples,), got {_described(waveform_S)}")
    if not waveform_S.isfinite().all():
        raise ValueError(f"{medium.name}: its content holds values that are not finite")
    if waveform_S.abs().max() > 1:
        raise ValueError(f"{medium.name}: its content must be in [-1, 1], got up to {waveform_S.abs().max():g}")
    if not RATES[0] <= medium.rate <= RATES[1]:
        raise ValueError(f"{medium.name}: `rate` must be {RATES[0]} to {RATES[1]} samples a second, got {medium.rate}")
    if len(waveform_S) > math.ceil(max_seconds * medium.rate):
        raise ValueError(f"{medium.name}: {len(waveform_S) / medium.rate:.1f} s long, more than {max_seconds:g}")
    return resample(waveform_S, medium.rate, rate)


def content(medium: Medium) -> Tensor:
    """What a medium without a file holds or makes, unchecked but for being a tensor.

    Raises:
        ValueError: it is none.
    """
    assert not isinstance(medium.source, Path)
    made = medium.source() if callable(medium.source) else medium.source
    if not isinstance(made, Tensor):
        raise ValueError(f"{medium.name}: its source gave a {type(made).__name__}, not a tensor")
    return made


def _require_kind(medium: Medium, kind: Kind) -> None:
    if medium.kind != kind:
        raise ValueError(f"{medium.name}: of kind {medium.kind}, where {kind} is asked for")


def _require_pictures(medium: Medium, pictures: Tensor, shape: str, ndim: int) -> None:
    if pictures.dtype != torch.uint8 or pictures.ndim != ndim or pictures.shape[-3] != 3 or not pictures.numel():
        raise ValueError(f"{medium.name}: its content must be uint8 {shape}, got {_described(pictures)}")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _to_square(image_3HW: Tensor, side: int) -> Tensor:
    if tuple(image_3HW.shape) == (3, side, side):
        return image_3HW
    return to_tensor(Image.fromarray(image_3HW.permute(1, 2, 0).contiguous().cpu().numpy()), side)
