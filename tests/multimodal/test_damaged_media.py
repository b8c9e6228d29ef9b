"""The table of damages: each gives content of the documented form or a `MediaError`, soon, and nothing else.

What each loader must notice is in the tests of that loader; here are the promises that hold for whatever is in a file.
"""

import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from multimodal.examples import KINDS, Kind
from multimodal.media.audio import load_audio
from multimodal.media.errors import MediaError, TooManyBadFiles
from multimodal.media.image import load_image
from multimodal.media.video import load_video

NOISE = np.random.default_rng(0).integers(0, 256, (8, 48, 64, 3), dtype=np.uint8)
SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 8_000).astype(np.float32)
MAX_S = 10.0


def write_picture(path: Path, format: str) -> None:
    Image.fromarray(NOISE[0]).save(path, format=format)


def write_animation(path: Path, format: str) -> None:
    pictures = [Image.fromarray(picture) for picture in NOISE]
    pictures[0].save(path, format=format, save_all=True, append_images=pictures[1:], duration=40)


def write_sound(path: Path, format: str) -> None:
    soundfile.write(path, SOUND, 8_000, format=format, subtype="FLOAT" if format == "WAV" else None)


def write_coded_sound(path: Path, format: str) -> None:
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream("libopus" if format in ("ogg", "webm") else "aac", rate=48_000)
        stream.layout = "mono"
        for start in range(0, len(SOUND) - 960, 960):
            frame = av.AudioFrame.from_ndarray(SOUND[None, start : start + 960], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_video(path: Path, format: str) -> None:
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4", "mov": "mjpeg"}.get(format, "libx264")
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for picture in NOISE:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


Writer = Callable[[Path, str], None]
FILES: list[tuple[Kind, str, Writer]] = [
    *(("image", format, write_picture) for format in ("PNG", "JPEG", "GIF", "WEBP", "BMP")),
    *(("audio", format, write_sound) for format in ("WAV", "FLAC", "OGG", "MP3")),
    *(("audio", format, write_coded_sound) for format in ("ipod", "adts", "ogg", "webm")),
    *(("video", format, write_animation) for format in ("PNG", "GIF", "WEBP")),
    *(("video", format, write_video) for format in ("mp4", "mov", "webm", "matroska", "avi")),
]


def load(kind: Kind, path: Path) -> Tensor:
    if kind == "image":
        return load_image(path, side=16)
    return load_audio(path) if kind == "audio" else load_video(path, num_frames=4, side=16)


def usable(kind: Kind, path: Path) -> bool:
    """Whether a file gives content; anything but content of the documented form or a `MediaError` fails the test."""
    start = time.monotonic()
    content = reason = None
    try:
        content = load(kind, path)
    except MediaError as error:
        reason = error
    assert time.monotonic() - start < MAX_S
    if content is None:
        assert reason is not None
        assert reason.path == path
        assert reason.reason
        assert str(reason) == f"{path}: {reason.reason}"
        return False
    if kind == "audio":
        assert content.dtype == torch.float32
        assert content.ndim == 1
        assert len(content) > 0
        assert content.isfinite().all()
        assert content.abs().max() <= 1
    else:
        assert content.dtype == torch.uint8
        assert content.shape == ((3, 16, 16) if kind == "image" else (4, 3, 16, 16))
    return True


@pytest.fixture(params=FILES, ids=lambda param: f"{param[0]}-{param[1]}-{param[2].__name__}")
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Kind, Path]:
    """A file without damage."""
    kind, format, write = request.param
    write(tmp_path / "whole", format)
    return kind, tmp_path / "whole"


def damaged(path: Path, name: str, data: bytes | bytearray) -> Path:
    path.with_name(name).write_bytes(data)
    return path.with_name(name)


def test_whole_files_are_used_under_any_name(whole: tuple[Kind, Path]):
    kind, path = whole
    data = path.read_bytes()
    for name in ("whole", "x", "x.png", "x.wav", "x.mp4", "x.txt"):
        assert usable(kind, damaged(path, name, data))


def test_files_that_were_cut_off(whole: tuple[Kind, Path]):
    kind, path = whole
    data = path.read_bytes()
    for length in (0, 1, 10, 30, 100):
        assert not usable(kind, damaged(path, f"cut{length}", data[:length])), f"cut to {length} bytes"
    for eighths in range(1, 8):
        usable(kind, damaged(path, f"cut{eighths}of8", data[: len(data) * eighths // 8]))


def test_flipped_bytes(whole: tuple[Kind, Path]):
    kind, path = whole
    data = path.read_bytes()
    chance = random.Random(0)
    for trial in range(60):
        flipped = bytearray(data)
        # Headers are where a single byte does most.
        flipped[trial if trial < 30 else chance.randrange(len(data))] ^= chance.randrange(1, 256)
        usable(kind, damaged(path, "flipped", flipped))
    flipped = bytearray(data)
    flipped[0] ^= 0xFF
    flipped[4] ^= 0xFF
    flipped[8] ^= 0xFF
    assert not usable(kind, damaged(path, "flipped", flipped))


def test_overwritten_and_added_bytes(whole: tuple[Kind, Path]):
    kind, path = whole
    data = path.read_bytes()
    chance = random.Random(0)
    for trial in range(10):
        start = chance.randrange(len(data))
        for name, filling in (("zeros", bytes(200)), ("noise", chance.randbytes(200))):
            usable(kind, damaged(path, f"{name}{trial}", data[:start] + filling + data[start + 200 :]))
            usable(kind, damaged(path, f"inserted_{name}{trial}", data[:start] + filling + data[start:]))
    usable(kind, damaged(path, "twice", data + data))
    usable(kind, damaged(path, "trailing", data + chance.randbytes(5_000)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_medium_is_refused(tmp_path: Path, kind: Kind):
    chance = random.Random(0)
    contents = {
        "empty": b"",
        "zeros": bytes(5_000),
        "ones": b"\xff" * 5_000,
        "text": b"this is a caption, and no medium\n" * 50,
        "noise": chance.randbytes(5_000),
        "x.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "x.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n0 0 moveto 9 9 lineto stroke\n",
        "x.fits": b"SIMPLE  =                    T".ljust(2_880),
        "x.pdf": b"%PDF-1.4\n",
        "x.m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
        "x.pkl": pickle.dumps({"a": 1}),
        **{f"{magic[:4]!r}": magic + bytes(500) for magic in (b"RIFF\xff\xff\xff\xffWAVE", b"RIFF\0\0\0\0AVI ")},
        **{f"{magic!r}": magic + bytes(500) for magic in (b"fLaC", b"OggS", b"ID3", b"GIF89a", b"\x1aE\xdf\xa3")},
        "boxes": bytes(4) + b"ftyp" + bytes(500),
    }
    for number, data in enumerate(contents.values()):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert not usable(kind, path), data[:20]
    (tmp_path / "folder").mkdir()
    for name in ("folder", "missing", "a\0b", "x" * 5_000):
        assert not usable(kind, tmp_path / name)
    assert not usable(kind, Path("/dev/zero"))


@pytest.mark.parametrize("kind", KINDS)
def test_media_of_another_kind(tmp_path: Path, kind: Kind):
    for number, (other, format, write) in enumerate(FILES):
        path = tmp_path / f"{number}.{kind}"
        write(path, format)
        # Of an animation the first frame is a picture, and a picture is a clip of one frame.
        related = {kind, other} == {"image", "video"} and write in (write_picture, write_animation)
        assert usable(kind, path) == (kind == other or related)


def test_a_file_that_cannot_be_read(tmp_path: Path):
    # In a process of its own, that no decoder's crash or endless wait takes this one along: a pipe nobody writes to.
    script = """
import os, sys
from pathlib import Path
from multimodal.media.audio import load_audio
from multimodal.media.errors import MediaError
from multimodal.media.image import load_image
from multimodal.media.video import load_video
os.mkfifo(sys.argv[1])
for load in (load_image, load_audio, lambda path: load_video(path, num_frames=1)):
    try:
        load(Path(sys.argv[1]))
    except MediaError as error:
        print(error.reason)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "pipe")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines() == ["not a file"] * 3


def test_errors_survive_the_way_from_a_loader_process():
    error = pickle.loads(pickle.dumps(MediaError(Path("a/b.wav"), "empty file")))
    assert (error.path, error.reason, str(error)) == (Path("a/b.wav"), "empty file", "a/b.wav: empty file")


def test_too_many_bad_files_are_counted_by_kind():
    bad = [MediaError(Path(f"{n}.wav"), "empty file") for n in range(12)]
    error = TooManyBadFiles(bad, 100, 0.1, "audio")
    assert str(error).startswith("12 of 100 audio files cannot be used, more than max_bad_fraction=0.1 allows")
    assert str(error).count("empty file") == 10
    assert error.exit_code == 1
    assert error.bad == bad
