"""Clips: every container and picture format, bounded memory, and nothing left open."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image
from torch import Tensor

from multimodal.media import video
from multimodal.media.audio import load_audio
from multimodal.media.errors import MediaError, MissingDecoder
from multimodal.media.image import load_image
from multimodal.media.video import load_clip, load_video

CONTAINERS = {
    "x.mp4": ("libx264", "yuv420p"),
    "x.mov": ("mpeg4", "yuv420p"),
    "x.webm": ("libvpx-vp9", "yuv420p"),
    "x.mkv": ("libx264", "yuv420p"),
    "x.avi": ("mpeg4", "yuv420p"),
}
SIZE = (64, 48)


def level(index: int) -> int:
    """The grey of frame `index`, by which it is known again."""
    return 10 + 8 * index


def write_video(
    path: Path,
    num_frames: int = 30,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = SIZE,
    pictures: list[np.ndarray] | None = None,
    **options: str,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        for index in range(num_frames):
            picture = pictures[index] if pictures else np.full((size[1], size[0], 3), level(index), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def indices(clip: Tensor) -> list[int]:
    """Which frames of `write_video` these are; the levels are 8 apart, so small coding errors do not matter."""
    return [round((float(frame.float().mean()) - 10) / 8) for frame in clip]


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(tmp_path: Path, name: str):
    codec, pixels = CONTAINERS[name]
    path = write_video(tmp_path / name, codec=codec, pixels=pixels)
    (tmp_path / "renamed.png").write_bytes(path.read_bytes())
    clip = load_video(path, num_frames=4)
    assert clip.shape == (4, 3, 48, 64)
    assert clip.dtype == torch.uint8
    assert indices(clip) == [0, 10, 19, 29]
    assert indices(load_video(path, num_frames=3, sampling="stride", stride=5)) == [0, 5, 10]
    assert indices(load_video(path, num_frames=3, sampling="segment")) == [4, 14, 24]
    assert indices(load_clip(path)) == list(range(30))
    assert torch.equal(load_video(tmp_path / "renamed.png", num_frames=4), clip)


@pytest.mark.parametrize("name", CONTAINERS)
def test_one_frame_and_too_few(tmp_path: Path, name: str):
    codec, pixels = CONTAINERS[name]
    one = write_video(tmp_path / f"one_{name}", 1, codec=codec, pixels=pixels)
    assert indices(load_video(one, num_frames=3)) == [0, 0, 0]
    three = write_video(tmp_path / f"three_{name}", 3, codec=codec, pixels=pixels)
    assert indices(load_video(three, num_frames=5)) == [0, 1, 1, 2, 2]
    assert indices(load_video(three, num_frames=4, sampling="stride", stride=2)) == [0, 2, 2, 2]


def test_no_frame_count_is_needed(tmp_path: Path):
    whole = write_video(tmp_path / "whole.webm", codec="libvpx")
    # Frames that are decoded but not shown, as encoders make them to predict others from: bit 4 of a VP8 frame.
    with av.open(str(whole)) as source, av.open(str(tmp_path / "x.webm"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, original in enumerate(packet for packet in source.demux(video=0) if packet.size):
            data = bytearray(bytes(original))
            assert data[0] & 0x10
            if number in (10, 29):
                data[0] &= ~0x10
            packet = av.Packet(bytes(data))
            packet.pts, packet.dts, packet.time_base = original.pts, original.dts, original.time_base
            packet.duration, packet.is_keyframe, packet.stream = original.duration, original.is_keyframe, stream
            target.mux(packet)
    with av.open(str(tmp_path / "x.webm")) as container:
        assert container.streams.video[0].frames == 0
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 30
    # 28 remain: 0 to 9 and 11 to 28.
    assert indices(load_video(tmp_path / "x.webm", num_frames=4)) == [0, 9, 19, 28]
    assert indices(load_clip(tmp_path / "x.webm")) == [*range(10), *range(11, 29)]


@pytest.mark.parametrize(("name", "codec"), [("x.mkv", "ffv1"), ("x.mov", "png")])
def test_lossless_frames_are_exact(tmp_path: Path, name: str, codec: str):
    pictures = list(np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8))
    pixels = "rgb24" if codec == "png" else "bgr0"
    path = write_video(tmp_path / name, 5, codec=codec, pixels=pixels, pictures=pictures)
    expected = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    assert torch.equal(load_video(path, num_frames=5), expected)
    # A square as `load_image` makes it.
    Image.fromarray(pictures[2]).save(tmp_path / "still.png")
    still = load_image(tmp_path / "still.png", side=32)
    assert torch.equal(load_video(path, num_frames=1, side=32)[0], still)
    assert still[:, 0].min() == 255


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("x.mov", "png", "rgba"), ("x.webm", "libvpx-vp9", "yuva420p"), ("y.webm", "libvpx", "yuva420p")],
)
def test_transparency_is_laid_on_white(tmp_path: Path, name: str, codec: str, pixels: str):
    picture = np.zeros((48, 64, 4), np.uint8)
    picture[:, 32:, 3] = 255
    options = {"auto-alt-ref": "0"} if codec != "png" else {}
    path = write_video(tmp_path / name, 3, codec=codec, pixels=pixels, pictures=[picture] * 3, **options)
    clip = load_video(path, num_frames=2)
    assert clip[..., :24].min() >= 250
    assert clip[..., 40:].max() <= 5


def test_orientation_is_applied(tmp_path: Path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32] = 255
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        # As a telephone does it: to be turned by a quarter counterclockwise when shown.
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    frame = load_video(path, num_frames=1)[0]
    assert frame.shape == (3, 64, 48)
    # The left half is below after it.
    assert frame[:, :24].max() <= 5
    assert frame[:, 40:].min() >= 250


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animated_pictures(tmp_path: Path, format: str):
    frames = [Image.new("RGB", (12, 8), (level(index),) * 3) for index in range(10)]
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / "x.mp4"
    frames[0].save(path, format=format, save_all=True, append_images=frames[1:], duration=40, **options)
    clip = load_video(path, num_frames=4)
    assert clip.shape == (4, 3, 8, 12)
    assert indices(clip) == [0, 3, 6, 9]
    assert indices(load_clip(path)) == list(range(10))
    square = load_video(path, num_frames=2, side=6)
    assert square.shape == (2, 3, 6, 6)
    assert square[:, :, 0].min() == 255


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_a_picture_is_a_clip_of_one_frame(tmp_path: Path, format: str):
    Image.new("RGBA" if format == "PNG" else "RGB", (10, 10), (0, 0, 0, 0)[: 4 if format == "PNG" else 3]).save(
        tmp_path / "x", format=format
    )
    clip = load_video(tmp_path / "x", num_frames=3, side=10)
    assert torch.equal(clip, load_image(tmp_path / "x", side=10).expand(3, -1, -1, -1))


def test_what_was_cut_off_is_refused(tmp_path: Path):
    noise = list(np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), dtype=np.uint8))
    for name in ("x.mp4", "x.mkv", "x.avi"):
        codec, pixels = CONTAINERS[name]
        data = write_video(tmp_path / name, 30, codec=codec, pixels=pixels, pictures=noise).read_bytes()
        cut = tmp_path / f"cut_{name}"
        cut.write_bytes(data[: len(data) // 2])
        with pytest.raises(MediaError):
            load_video(cut, num_frames=4)
    # With its index at the front, an MP4 that was cut off can be played to that place.
    data = write_video(tmp_path / "fast.mp4", 30, pictures=noise).read_bytes()
    with (
        av.open(str(tmp_path / "x.mp4")) as source,
        av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "front.mp4").read_bytes()
    assert len(load_video(tmp_path / "front.mp4", num_frames=4)) == 4
    (tmp_path / "front.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="cut off"):
        load_video(tmp_path / "front.mp4", num_frames=4)


def test_without_its_index_an_mp4_is_refused(tmp_path: Path):
    data = write_video(tmp_path / "x.mp4").read_bytes()
    place = data.index(b"moov")
    for name, damaged in (("cut", data[: place - 4]), ("renamed", data[:place] + b"junk" + data[place + 4 :])):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(MediaError):
            load_video(tmp_path / name, num_frames=4)


@pytest.mark.parametrize("cover", [False, True])
def test_sounds_and_covers_are_no_clips(tmp_path: Path, cover: bool):
    path = tmp_path / "x.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=48_000)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = Disposition.attached_pic
            grey = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux([*picture.encode(grey), *picture.encode(None)])
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        container.mux([*sound.encode(frame), *sound.encode(None)])
    with av.open(str(path)) as container:
        assert len(container.streams.video) == cover
    with pytest.raises(MediaError, match="holds no clip"):
        load_video(path, num_frames=1)
    assert load_audio(path).abs().max() < 1e-3


def test_caps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "x.mp4")
    frames = [Image.new("L", (8, 8), index) for index in range(5)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with monkeypatch.context() as patched:
        patched.setattr(video, "MAX_SECONDS", 0.5)
        with pytest.raises(MediaError, match=r"1\.0 s long, more than 0\.5"):
            load_video(path, num_frames=2)
    with monkeypatch.context() as patched:
        patched.setattr(video, "MAX_FRAMES", 29)
        with pytest.raises(MediaError, match="more than 29 frames"):
            load_video(path, num_frames=2)
    with monkeypatch.context() as patched:
        patched.setattr(video, "MAX_ANIMATION_FRAMES", 4)
        with pytest.raises(MediaError, match="more than 4 frames of 8 x 8 pixels"):
            load_video(tmp_path / "x.gif", num_frames=2)
    monkeypatch.setattr(video, "MAX_CLIP_BYTES", 4 * 3 * 64 * 48)
    with pytest.raises(MediaError, match="give a smaller side"):
        load_video(path, num_frames=5)
    assert len(load_video(path, num_frames=5, side=20)) == 5
    # As many as fit, evenly spaced.
    assert indices(load_clip(path)) == [0, 10, 19, 29]


PEAK = """
import sys
from pathlib import Path
from multimodal.media.errors import MediaError
from multimodal.media.video import load_video
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
load_video(Path(sys.argv[1]), num_frames=2)
before = peak()
for name in sys.argv[2:]:
    try:
        print(tuple(load_video(Path(name), num_frames=8, side=64).shape))
    except MediaError as error:
        print(error.reason)
print(peak() - before)
"""


def outcomes(*paths: Path) -> tuple[list[str], int]:
    """What a process of its own says of the files after the first, and by how much its peak of memory grew, in MB."""
    command = [sys.executable, "-c", PEAK, *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    return lines[:-1], int(lines[-1]) // 1024


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path):
    small = write_video(tmp_path / "small.mkv", 3)
    huge = write_video(tmp_path / "huge.mkv", 1, size=(7680, 4320), preset="ultrafast")
    unsized = write_video(tmp_path / "unsized.mp4", 1, codec="png", pixels="rgb24", size=(7680, 4320))
    data = huge.read_bytes()
    # A header that lies about it: width and height, with their identifiers and lengths in EBML.
    assert data.count(b"\xb0\x82\x1e\x00\xba\x82\x10\xe0") == 1
    lying = tmp_path / "lying.mkv"
    lying.write_bytes(data.replace(b"\xb0\x82\x1e\x00\xba\x82\x10\xe0", b"\xb0\x82\x00\x40\xba\x82\x00\x30"))
    said, growth_mb = outcomes(small, huge, lying, unsized)
    assert said[:2] == ["7680 x 4320 pixels, more than 9437184"] * 2
    assert said[2] == "its frames have no size, or one above 9437184 pixels"
    assert growth_mb < 64


def test_long_clips_are_not_held_in_memory(tmp_path: Path):
    small = write_video(tmp_path / "small.mp4", 3)
    # Decoded, all frames are 300 x 640 x 480 x 3 bytes: 276 MB.
    still = [np.zeros((480, 640, 3), np.uint8)] * 300
    long = write_video(tmp_path / "long.mp4", 300, size=(640, 480), pictures=still, preset="ultrafast")
    said, growth_mb = outcomes(small, long)
    assert said == ["(8, 3, 64, 64)"]
    assert growth_mb < 64


def test_a_missing_decoder_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "x.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.gif")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDecoder, match=r"pip install 'trillium-lm\[media\]'"):
        load_video(path, num_frames=2)
    # Pillow is always there.
    assert len(load_video(tmp_path / "x.gif", num_frames=2)) == 2


def test_files_are_closed(tmp_path: Path):
    paths = [write_video(tmp_path / name, 3, codec=codec) for name, (codec, _) in CONTAINERS.items()]
    frames = [Image.new("L", (8, 8), index) for index in range(5)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    paths.append(tmp_path / "x.gif")
    bad = []
    for path in paths:
        data = path.read_bytes()
        for name, damaged in (
            ("start", data[:300]),
            ("half", data[: len(data) // 2]),
            ("zeros", data[:64] + bytes(900)),
        ):
            bad.append(tmp_path / f"{name}_{path.name}")
            bad[-1].write_bytes(damaged)
    load_video(paths[0], num_frames=2)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(50):
        load_video(paths[n % len(paths)], num_frames=2)
    assert len(os.listdir("/proc/self/fd")) == before
    failures = 0
    for n in range(50):
        try:
            load_video(bad[n % len(bad)], num_frames=2)
        except MediaError:
            failures += 1
    assert failures >= 40
    assert len(os.listdir("/proc/self/fd")) == before


def test_playlists_are_not_opened(tmp_path: Path):
    secret = write_video(tmp_path / "secret.mp4")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {secret.name}\n")
    (tmp_path / "hls.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret.name}\n#EXT-X-ENDLIST\n")
    (tmp_path / "box.mp4").write_bytes(struct.pack(">I", 8) + b"free" + b"#EXTM3U\n" + secret.name.encode())
    for name in ("concat.mp4", "hls.mp4", "box.mp4"):
        with pytest.raises(MediaError):
            load_video(tmp_path / name, num_frames=1)
