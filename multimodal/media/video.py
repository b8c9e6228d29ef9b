"""Clips from files that may be damaged or hostile: chosen frames of videos and animated pictures.

Shape suffixes: T = frames, H = height, W = width; 3 = red, green, blue.

A file is streamed through and only the chosen frames are kept. Headers are not trusted with the number of frames, and
nothing is sought: a first pass counts the packets without decoding them, a second decodes as far as the last chosen
frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from PIL import Image, ImageOps
from torch import Tensor

from multimodal.media import containers
from multimodal.media.containers import (
    Decoding,
    announced_s,
    demuxer,
    open_container,
    packet_end_s,
    packets,
    require_length,
)
from multimodal.media.errors import MediaError, read_head, reported_as_damage, require_file
from multimodal.media.image import FORMATS, MAX_FILE_BYTES, bombs_are_errors, to_tensor

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Sampling = Literal["uniform", "stride", "segment"]

MAX_PIXELS = 4096 * 2304
"""Clips with larger frames are refused before decoding: a decoder keeps many frames at a time."""
MAX_SECONDS = 1200.0
"""Longer videos are refused before decoding."""
MAX_FRAMES = 2**16
"""Videos of more frames are refused before decoding: 20 minutes at 54 frames a second."""
MAX_ANIMATION_FRAMES = 2**12
"""The same for animated pictures, which are slower to decode."""
MAX_ANIMATION_PIXELS = 2**30
"""All frames of an animated picture together."""
MAX_CLIP_BYTES = 2**28
"""Size of the frames kept: 256 MiB, or 1783 frames of 224 x 224."""

_Choose = Callable[[int, int], list[int]]
"""From the number of frames and the bytes of each to the indices wanted."""


def load_video(
    path: Path,
    *,
    num_frames: int,
    sampling: Sampling = "uniform",
    stride: int = 1,
    side: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Decode chosen frames of a clip.

    Transparency, 16-bit colours, orientation and `side` are treated as `load_image` treats them. Frames count alike,
    however long each is shown.

    Args:
        path: MP4, MOV, WebM, MKV or AVI; or a picture, animated (GIF, WebP, PNG) or not (a clip of one frame).
        num_frames: frames wanted; a shorter clip repeats some.
        sampling: how they are chosen; see `sample_frames`.
        stride: see `sample_frames`.
        side: if given, every frame becomes a square of this side, padded with white.
        generator: see `sample_frames`.

    Returns:
        clip_T3HW, uint8, T = `num_frames`.

    Raises:
        MediaError: the file is missing, damaged, cut off, too large or in another format.
        MissingDecoder: the extra `media` is not installed.
        ValueError: an argument is out of its range.
    """
    sample_frames(1, num_frames, sampling, stride=stride)

    def choose(total: int, frame_bytes: int) -> list[int]:
        indices = sample_frames(total, num_frames, sampling, stride=stride, generator=generator)
        if len(set(indices)) * frame_bytes > MAX_CLIP_BYTES:
            raise MediaError(
                Path(path), f"{num_frames} frames of it are more than {MAX_CLIP_BYTES} bytes; give a smaller side"
            )
        return indices

    return _load(Path(path), choose, side)


def load_clip(path: Path, *, side: int | None = None) -> Tensor:
    """Decode all frames of a clip or, if they are more than `MAX_CLIP_BYTES`, as many evenly spaced ones as fit.

    Args:
        path: see `load_video`.
        side: see `load_video`.

    Returns:
        clip_T3HW, uint8.

    Raises:
        MediaError: as `load_video`.
        MissingDecoder: as `load_video`.
    """

    def choose(total: int, frame_bytes: int) -> list[int]:
        return sample_frames(total, min(total, max(1, MAX_CLIP_BYTES // frame_bytes)), "uniform")

    return _load(Path(path), choose, side)


def sample_frames(
    total: int,
    num_frames: int,
    sampling: Sampling = "uniform",
    *,
    stride: int = 1,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Which frames of a clip to look at; in order, and repeated where the clip is too short.

    Args:
        total: frames of the clip.
        num_frames: frames wanted.
        sampling: `uniform`: evenly spaced from the first to the last (one alone: the middle); `stride`: every
            `stride`-th from the start, or with a generator from a random start from which they fit, the last frame
            repeated when the clip is too short; `segment`: of `num_frames` equal parts the middle frame of each, or
            with a generator a random one of each.
        stride: for `stride`.
        generator: makes `stride` and `segment` random.

    Returns:
        `num_frames` indices in [0, total).

    Raises:
        ValueError: a number below 1, or an unknown sampling.

    References:
        Wang et al. 2016, "Temporal Segment Networks", arXiv:1608.00859 (`segment`).
    """
    if min(total, num_frames, stride) < 1:
        raise ValueError(f"total, num_frames and stride must be at least 1, got {total}, {num_frames} and {stride}")
    if sampling == "uniform":
        if num_frames == 1:
            return [(total - 1) // 2]
        # Rounded half up: from whichever end one counts, the same frames are chosen up to those halves.
        return [(2 * n * (total - 1) + num_frames - 1) // (2 * (num_frames - 1)) for n in range(num_frames)]
    if sampling == "stride":
        latest = max(0, total - 1 - (num_frames - 1) * stride)
        start = 0 if generator is None else int(torch.randint(latest + 1, (), generator=generator))
        return [min(start + n * stride, total - 1) for n in range(num_frames)]
    if sampling == "segment":
        starts = [n * total // num_frames for n in range(num_frames)]
        lengths = [max(1, (n + 1) * total // num_frames - start) for n, start in enumerate(starts)]
        if generator is None:
            return [start + (length - 1) // 2 for start, length in zip(starts, lengths)]
        places = torch.rand(num_frames, generator=generator, dtype=torch.float64).tolist()
        return [start + int(place * length) for start, length, place in zip(starts, lengths, places)]
    raise ValueError(f"sampling must be one of {', '.join(get_args(Sampling))}, got {sampling!r}")


def _load(path: Path, choose: _Choose, side: int | None) -> Tensor:
    head = read_head(path, containers.MAX_FILE_BYTES)
    # The sound containers among them fail later: they hold no pictures.
    return _load_animation(path, choose, side) if demuxer(head) is None else _load_video(path, choose, side)


def _load_video(path: Path, choose: _Choose, side: int | None) -> Tensor:
    with open_container(path, max_pixels=MAX_PIXELS) as container:
        total, width, height = _count_frames(path, container)
    while True:
        indices = choose(total, 3 * (width * height if side is None else side**2))
        with open_container(path, max_pixels=MAX_PIXELS) as container:
            kept, num_decoded = _decode_frames(path, container, set(indices), side)
        if len(kept) == len(set(indices)):
            break
        if num_decoded == 0:
            raise MediaError(path, "holds no frame that can be decoded")
        # Fewer frames than packets (some make none, as in VP8): choose again, now from the true number.
        assert num_decoded < total
        total = num_decoded
    if len({frame.shape for frame in kept.values()}) > 1:
        raise MediaError(path, "its frames differ in size")
    return torch.stack([kept[index] for index in indices])


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    from av.stream import Disposition

    for stream in container.streams.video:
        # Sound files show their cover as a video of one frame.
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise MediaError(path, "holds no clip")


def _count_frames(path: Path, container: InputContainer) -> tuple[int, int, int]:
    """Packets of the clip, and the header's width and height; refuses clips that are cut off or too large."""
    stream = _video_stream(path, container)
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise MediaError(path, f"{width} x {height} pixels, more than {MAX_PIXELS}")
    if width < 1 or height < 1:
        # Where only the frames tell their size, FFmpeg looks at one, and keeps to the cap in doing so.
        raise MediaError(path, f"its frames have no size, or one above {MAX_PIXELS} pixels")
    header_s = announced_s(container, stream)
    if header_s is not None and header_s > MAX_SECONDS:
        raise MediaError(path, f"{header_s:.1f} s long, more than {MAX_SECONDS:g}")
    total, end_s = 0, 0.0
    for packet in packets(container, stream):
        total += 1
        end_s = max(end_s, packet_end_s(packet, stream))
        if total > MAX_FRAMES:
            raise MediaError(path, f"more than {MAX_FRAMES} frames")
    if total == 0:
        raise MediaError(path, "holds no frames")
    # A container that gives no times ends at 0.
    if end_s > 0:
        require_length(path, end_s, header_s)
    return total, width, height


def _decode_frames(
    path: Path, container: InputContainer, wanted: set[int], side: int | None
) -> tuple[dict[int, Tensor], int]:
    """The wanted frames that exist by index, and how many frames were decoded."""
    decoding = Decoding(path, container, _video_stream(path, container), max_pixels=MAX_PIXELS)
    kept: dict[int, Tensor] = {}
    num_decoded = 0
    last = max(wanted)
    for frame in decoding:
        if frame.width * frame.height > MAX_PIXELS:
            raise MediaError(path, f"{frame.width} x {frame.height} pixels, more than {MAX_PIXELS}")
        if num_decoded in wanted:
            kept[num_decoded] = to_tensor(_to_image(frame), side)
        num_decoded += 1
        if num_decoded > last:
            break
    decoding.require_whole()
    return kept, num_decoded


def _to_image(frame: VideoFrame) -> Image.Image:
    if any(component.is_alpha for component in frame.format.components):
        image = Image.fromarray(frame.to_ndarray(format="rgba"))
    else:
        image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    # Telephones note how they were held instead of turning the frames.
    quarters = round(frame.rotation / 90) % 4
    turns = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    turn = turns[quarters]
    return image if turn is None else image.transpose(turn)


def _load_animation(path: Path, choose: _Choose, side: int | None) -> Tensor:
    require_file(path, MAX_FILE_BYTES)
    with bombs_are_errors(), reported_as_damage(path), Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise MediaError(path, f"{width} x {height} pixels, more than {MAX_PIXELS}")
        total = _count_pictures(path, image)
        indices = choose(total, 3 * (width * height if side is None else side**2))
        kept: dict[int, Tensor] = {}
        for index in sorted(set(indices)):
            image.seek(index)
            image.load()
            kept[index] = to_tensor(ImageOps.exif_transpose(image), side)
        return torch.stack([kept[index] for index in indices])


def _count_pictures(path: Path, image: Image.Image) -> int:
    """Frames of an animated picture."""
    limit = max(1, min(MAX_ANIMATION_FRAMES, MAX_ANIMATION_PIXELS // math.prod(image.size)))
    if image.format == "GIF":
        # A GIF does not say how many it has, and counting them all first could take minutes.
        total = 1
        while total <= limit:
            try:
                image.seek(total)
            except EOFError:
                break
            total += 1
        image.seek(0)
    else:
        total = getattr(image, "n_frames", 1)
    if total > limit:
        raise MediaError(path, f"more than {limit} frames of {image.width} x {image.height} pixels")
    return total
