"""Sounds from files that may be damaged or hostile, as mono waveforms of one rate.

Shape suffixes: C = channels, I = samples of the file, S = samples of the wanted rate.

WAV, FLAC, OGG Vorbis and MP3 are read by libsndfile, everything else on the list by FFmpeg. The content of a file
decides, not its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from core.text.atomic import replace_file
from multimodal.media.containers import (
    MAX_FILE_BYTES,
    Decoding,
    announced_s,
    demuxer,
    open_container,
    require_length,
)
from multimodal.media.errors import MediaError, MissingDecoder, read_head, reported_as_damage

if TYPE_CHECKING:
    from soundfile import SoundFile

SOUND_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
"""The libsndfile formats that may be read."""
MAX_CHANNELS = 64
"""Sounds with more channels are refused."""
RATES = (1_000, 768_000)
"""Lowest and highest rate, in samples a second, that is taken for one."""
_BLOCK_VALUES = 2**20
_UNKNOWN_LENGTH = 2**62
_MAX_CHUNKS = 100
"""Of a WAV, looked at in search of the one with the samples."""
_COVER_PIXELS = 2**22
"""Sound files hold pictures too; FFmpeg may decode one to learn its size."""


def load_audio(path: Path, *, rate: int = 16_000, max_seconds: float = 60.0) -> Tensor:
    """Decode a sound completely: channels averaged, resampled, in [-1, 1].

    Values beyond [-1, 1], which files of floating-point numbers and lossy codecs can hold, are clipped.

    Args:
        path: WAV, FLAC, OGG, MP3, M4A/MP4, AAC, Opus, or Matroska/WebM (the first sound stream).
        rate: samples a second of the result.
        max_seconds: longer sounds are refused, before decoding where the header tells their length.

    Returns:
        waveform_S, float32.

    Raises:
        MediaError: the file is missing, damaged, empty of sound, too long or in another format.
        MissingDecoder: the extra `media` is not installed.
        ValueError: an argument is not positive.
    """
    if rate < 1 or not max_seconds > 0:
        raise ValueError(f"rate and max_seconds must be positive, got {rate} and {max_seconds}")
    path = Path(path)
    head = read_head(path, MAX_FILE_BYTES)
    if _is_for_ffmpeg(head):
        waveform_I, file_rate = _read_container(path, max_seconds)
    else:
        waveform_I, file_rate = _read_sound_file(path, head, max_seconds)
    if not len(waveform_I):
        raise MediaError(path, "holds no samples")
    if not waveform_I.isfinite().all():
        raise MediaError(path, "holds values that are not finite")
    return resample(waveform_I.clamp(-1, 1), file_rate, rate)


def resample(waveform_I: Tensor, from_rate: float, to_rate: int) -> Tensor:
    """Change the rate of a waveform (band-limited by a windowed sinc).

    A ratio of rates without small terms, such as 44101 to 16000, would need a filter of gigabytes: it is replaced by
    the nearest one with smaller terms, which is off by less than 0.1 %.

    Args:
        waveform_I: float32 in [-1, 1].
        from_rate: its samples a second.
        to_rate: samples a second wanted.

    Returns:
        waveform_S, float32 in [-1, 1].
    """
    ratio = Fraction(from_rate) / to_rate
    if ratio == 1:
        return waveform_I
    # The filter has about numerator x denominator taps: at most 2**20 of them.
    ratio = ratio.limit_denominator(max(1, math.isqrt(int(2**20 / ratio))))
    from torchaudio.functional import resample as resampled

    return resampled(waveform_I, ratio.numerator, ratio.denominator).clamp(-1, 1)


def save_audio(path: Path, waveform: Tensor, rate: int) -> None:
    """Write a mono waveform with 16 bits a sample.

    Args:
        path: ends in `.wav` or `.flac`. (OGG is refused: libsndfile crashes on writing long ones.)
        waveform: (samples,), floating point in [-1, 1].
        rate: samples a second.

    Raises:
        ValueError: another ending, or not such a waveform.
        MissingDecoder: the extra `media` is not installed.
    """
    format = {".wav": "WAV", ".flac": "FLAC"}.get(Path(path).suffix.lower())
    if format is None:
        raise ValueError(f"{path}: sounds are written as .wav or .flac")
    if waveform.ndim != 1 or not waveform.is_floating_point() or not waveform.isfinite().all():
        raise ValueError(f"{path}: a waveform is finite, floating point and (samples,), got {tuple(waveform.shape)}")
    if waveform.numel() and waveform.abs().max() > 1:
        raise ValueError(f"{path}: a waveform is in [-1, 1], got values up to {waveform.abs().max():g}; scale it down")
    values = waveform.detach().float().cpu().numpy()
    soundfile = _soundfile()
    with replace_file(Path(path)) as file:
        soundfile.write(file, values, rate, subtype="PCM_16", format=format)


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except ImportError as error:
        raise MissingDecoder("soundfile") from error
    return soundfile


def _read_sound_file(path: Path, head: bytes, max_seconds: float) -> tuple[Tensor, int]:
    if not _looks_like_sound(head):
        raise MediaError(path, "not a sound in a format that is read here")
    soundfile = _soundfile()
    _require_whole_riff(path)
    with reported_as_damage(path), soundfile.SoundFile(str(path)) as sound:
        if sound.format not in SOUND_FORMATS:
            raise MediaError(path, f"in the format {sound.format}, not one of {', '.join(SOUND_FORMATS)}")
        limit = _checked_limit(path, sound.channels, sound.samplerate, max_seconds)
        header_s = sound.frames / sound.samplerate if sound.frames < _UNKNOWN_LENGTH else None
        if header_s is not None and header_s > max_seconds:
            raise MediaError(path, f"{header_s:.1f} s long, more than {max_seconds:g}")
        waveform_I = _mono(path, _sound_file_blocks(sound), limit, max_seconds)
        require_length(path, len(waveform_I) / sound.samplerate, header_s)
        return waveform_I, sound.samplerate


def _read_container(path: Path, max_seconds: float) -> tuple[Tensor, int]:
    with open_container(path, max_pixels=_COVER_PIXELS) as container:
        if not container.streams.audio:
            raise MediaError(path, "holds no sound")
        stream = container.streams.audio[0]
        header_s = announced_s(container, stream)
        if header_s is not None and header_s > max_seconds + 0.1:
            raise MediaError(path, f"{header_s:.1f} s long, more than {max_seconds:g}")
        decoding = Decoding(path, container, stream, max_pixels=_COVER_PIXELS)
        frames = iter(decoding)
        first = next(frames, None)
        if first is None:
            raise MediaError(path, "holds no sound that can be decoded")
        limit = _checked_limit(path, len(first.layout.channels), first.sample_rate, max_seconds)
        waveform_I = _mono(path, _frame_blocks(chain([first], frames)), limit, max_seconds)
        decoding.require_whole()
        require_length(path, len(waveform_I) / first.sample_rate, header_s)
        return waveform_I, first.sample_rate


def _sound_file_blocks(sound: SoundFile) -> Iterator[np.ndarray]:
    num_frames = 1 + _BLOCK_VALUES // sound.channels
    while len(block_IC := sound.read(num_frames, dtype="float32", always_2d=True)):
        yield block_IC.T


def _frame_blocks(frames: Iterable) -> Iterator[np.ndarray]:
    from av import AudioResampler

    # Converts the numbers to floating point; channels and rate are left to us.
    converter = AudioResampler(format="fltp")
    for frame in frames:
        for converted in converter.resample(frame):
            yield converted.to_ndarray()


def _checked_limit(path: Path, num_channels: int, file_rate: int, max_seconds: float) -> int:
    """The number of samples that `max_seconds` are."""
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise MediaError(path, f"{num_channels} channels, not 1 to {MAX_CHANNELS}")
    if not RATES[0] <= file_rate <= RATES[1]:
        raise MediaError(path, f"a rate of {file_rate} samples a second, not {RATES[0]} to {RATES[1]}")
    return math.ceil(max_seconds * file_rate)


def _mono(path: Path, blocks_CI: Iterable[np.ndarray], limit: int, max_seconds: float) -> Tensor:
    """waveform_I; decoding stops as soon as there are more than `limit` samples, whatever the header said."""
    parts: list[np.ndarray] = []
    total = 0
    for block_CI in blocks_CI:
        total += block_CI.shape[1]
        if total > limit:
            raise MediaError(path, f"longer than {max_seconds:g} s")
        # A damaged number may be too large for the sum. The result is not finite then, and refused.
        with np.errstate(over="ignore", invalid="ignore"):
            parts.append(block_CI.mean(0))
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0)


def _is_for_ffmpeg(head: bytes) -> bool:
    if head.startswith(b"OggS"):
        return b"OpusHead" in head
    if head.startswith(b"fLaC"):
        # The number of samples is the last 36 bits here. Written to a pipe it is 0, and libsndfile gives up.
        return int.from_bytes(head[18:26], "big") % 2**36 == 0
    return demuxer(head) is not None


def _looks_like_sound(head: bytes) -> bool:
    riff = head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE"
    mp3 = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2
    return riff or mp3 or head[:4] in (b"fLaC", b"OggS") or head[:3] == b"ID3"


def _require_whole_riff(path: Path) -> None:
    """libsndfile reads a WAV that was cut off without complaint; the length of its `data` chunk gives it away."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(4) != b"RIFF":
            return
        stream.seek(12)
        for _ in range(_MAX_CHUNKS):
            chunk = stream.read(8)
            length = int.from_bytes(chunk[4:], "little")
            # Programs that write to a pipe do not know the length and leave 0 or the largest number there.
            unknown = length >= 0x7FFF_F000
            if chunk[:4] == b"data" or len(chunk) < 8:
                if not unknown and stream.tell() + length > size:
                    raise MediaError(path, f"cut off: the header says {length} bytes, {size - stream.tell()} are there")
                return
            stream.seek(length + length % 2, 1)
