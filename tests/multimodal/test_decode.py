"""Media from files, tensors and functions come out in one form; what is wrong with them is said by name."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from multimodal.examples import Kind, Medium
from multimodal.media.audio import load_audio, save_audio
from multimodal.media.decode import frames, image_content, waveform
from multimodal.media.errors import MediaError
from multimodal.media.image import load_image
from multimodal.media.transforms import first_frame, last_frame, reversed_in_time, shuffled_frames

CLIP = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 3, 10, 20).contiguous()
"""Frame n has the colour n everywhere."""


class Maker:
    """A source that counts how often it is asked, and can be sent to another process."""

    def __init__(self, made: Tensor) -> None:
        self.made = made
        self.calls = 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.made


def gif(path: Path) -> Path:
    pictures = [Image.new("L", (20, 10), 30 * index) for index in range(7)]
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:])
    return path


def order(clip: Tensor) -> list[int]:
    return clip[:, 0, clip.shape[2] // 2, 0].tolist()


def test_a_picture_is_the_same_from_a_file_a_tensor_and_a_function(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    expected = load_image(tmp_path / "x.png", side=8)
    decoded = torch.from_numpy(pixels).permute(2, 0, 1)
    for source in (tmp_path / "x.png", decoded, Maker(decoded)):
        assert torch.equal(image_content(Medium("image", source), 8), expected)
    square = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert torch.equal(image_content(Medium("image", square), 8), square)


@pytest.mark.parametrize("sampling", ["uniform", "stride", "segment"])
def test_a_clip_is_the_same_from_a_file_a_tensor_and_a_function(tmp_path: Path, sampling: str):
    Image.new("L", (20, 10)).save(tmp_path / "still.png")
    path = gif(tmp_path / "x.gif")
    for side in (None, 16):
        medium = Medium("video", path)
        expected = frames(medium, 4, sampling, 2, side, torch.Generator().manual_seed(1))
        assert expected.shape == ((4, 3, 10, 20) if side is None else (4, 3, 16, 16))
        decoded = frames(medium, 7, "uniform")
        assert order(decoded) == [0, 30, 60, 90, 120, 150, 180]
        for source in (decoded, Maker(decoded)):
            chosen = frames(Medium("video", source), 4, sampling, 2, side, torch.Generator().manual_seed(1))
            assert torch.equal(chosen, expected)
    still = frames(Medium("video", tmp_path / "still.png"), 3, side=16)
    assert torch.equal(still, image_content(Medium("image", tmp_path / "still.png"), 16).expand(3, -1, -1, -1))


def test_a_sound_is_the_same_from_a_file_a_tensor_and_a_function(tmp_path: Path):
    decoded = torch.round(torch.rand(8_000, generator=torch.Generator().manual_seed(0)) * 65_000 - 32_500) / 32_768
    save_audio(tmp_path / "x.flac", decoded, 8_000)
    expected = load_audio(tmp_path / "x.flac")
    assert expected.shape == (16_000,)
    assert torch.equal(waveform(Medium("audio", tmp_path / "x.flac")), expected)
    for source in (decoded, Maker(decoded)):
        assert torch.equal(waveform(Medium("audio", source, 8_000)), expected)
        assert torch.equal(waveform(Medium("audio", source, 8_000), 8_000), decoded)


def test_an_animation_as_picture_gives_its_first_frame(tmp_path: Path):
    assert image_content(Medium("image", gif(tmp_path / "x.gif")), 20)[:, 10].max() == 0
    (tmp_path / "x.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    with pytest.raises(MediaError):
        image_content(Medium("image", tmp_path / "x.mp4"), 20)


@pytest.mark.parametrize(
    ("kind", "made", "said"),
    [
        (
            "image",
            torch.zeros(3, 4, 4),
            r"image without a file: .* uint8 \(3, height, width\), got float32 \(3, 4, 4\)",
        ),
        ("image", torch.zeros(4, 4, 3, dtype=torch.uint8), r"got uint8 \(4, 4, 3\)"),
        ("image", torch.zeros(3, 0, 4, dtype=torch.uint8), r"got uint8 \(3, 0, 4\)"),
        ("image", "a picture", "gave a str, not a tensor"),
        ("video", torch.zeros(3, 4, 4, dtype=torch.uint8), r"video without a file: .* \(frames, 3, height, width\)"),
        ("video", torch.zeros(0, 3, 4, 4, dtype=torch.uint8), r"got uint8 \(0, 3, 4, 4\)"),
        ("video", torch.zeros(2, 3, 4, 4), r"got float32 \(2, 3, 4, 4\)"),
        ("video", None, "gave a NoneType, not a tensor"),
        ("audio", torch.zeros(1, 9), r"audio without a file: .* float32 \(samples,\), got float32 \(1, 9\)"),
        ("audio", torch.zeros(0), r"got float32 \(0,\)"),
        ("audio", torch.zeros(9, dtype=torch.float64), r"got float64 \(9,\)"),
        ("audio", torch.tensor([0.0, torch.nan]), "not finite"),
        ("audio", torch.tensor([0.0, torch.inf]), "not finite"),
        ("audio", torch.tensor([0.0, -1.5]), r"in \[-1, 1\], got up to 1\.5"),
        ("audio", torch.zeros(16_000 * 61), r"61\.0 s long, more than 60"),
    ],
)
def test_wrong_content_is_named(kind: Kind, made: object, said: str):
    medium = Medium(kind, lambda: made, 16_000)
    reads = {
        "image": lambda: image_content(medium, 8),
        "audio": lambda: waveform(medium),
        "video": lambda: frames(medium, 2),
    }
    with pytest.raises(ValueError, match=said):
        reads[kind]()
    if isinstance(made, Tensor) and kind != "image" and made.ndim and len(made):
        # A transformation neither hides it nor fails over it.
        medium = reversed_in_time(medium)
        with pytest.raises(ValueError, match=said):
            reads[kind]()


def test_kinds_and_rates_are_checked():
    with pytest.raises(ValueError, match="of kind video, where image is asked for"):
        image_content(Medium("video", CLIP), 8)
    with pytest.raises(ValueError, match="of kind image, where video is asked for"):
        frames(Medium("image", CLIP[0]), 8)
    with pytest.raises(ValueError, match="of kind image, where audio is asked for"):
        waveform(Medium("image", CLIP[0]))
    for rate in (0.0, -8_000.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`rate` must be 1000 to 768000 samples a second"):
            waveform(Medium("audio", torch.zeros(9), rate))


def test_controls_by_hand():
    medium = Medium("video", CLIP, 5.0)
    assert order(frames(first_frame(medium), 7)) == [0] * 7
    assert order(frames(last_frame(medium), 7)) == [6] * 7
    assert order(frames(reversed_in_time(medium), 7)) == [6, 5, 4, 3, 2, 1, 0]
    shuffled = order(frames(shuffled_frames(3)(medium), 7))
    assert sorted(shuffled) == list(range(7))
    assert shuffled != list(range(7))
    assert order(frames(shuffled_frames(3)(medium), 7)) == shuffled
    assert order(frames(shuffled_frames(4)(medium), 7)) != shuffled
    sound = Medium("audio", torch.tensor([0.0, 0.25, 0.5]), 8_000)
    assert waveform(reversed_in_time(sound), 8_000).tolist() == [0.5, 0.25, 0.0]
    for changed in (first_frame(medium), shuffled_frames(3)(medium), reversed_in_time(medium)):
        assert (changed.kind, changed.rate) == ("video", 5.0)
    assert order(CLIP) == list(range(7))


def test_controls_of_files(tmp_path: Path):
    medium = Medium("video", gif(tmp_path / "x.gif"))
    assert order(frames(first_frame(medium), 3)) == [0, 0, 0]
    assert order(frames(last_frame(medium), 3)) == [180, 180, 180]
    assert order(frames(reversed_in_time(medium), 3)) == [180, 90, 0]
    decoded = torch.linspace(-0.5, 0.5, 16_000)
    save_audio(tmp_path / "x.flac", decoded, 16_000)
    sound = reversed_in_time(Medium("audio", tmp_path / "x.flac"))
    assert sound.rate == 16_000
    torch.testing.assert_close(waveform(sound), decoded.flip(0), atol=1 / 32_768, rtol=0)
    (tmp_path / "x.gif").write_bytes(b"GIF89a")
    with pytest.raises(MediaError, match=r"x\.gif"):
        frames(first_frame(medium), 3)


def test_controls_are_lazy_can_be_joined_and_sent():
    source = Maker(CLIP)
    medium = reversed_in_time(first_frame(reversed_in_time(Medium("video", source))))
    assert source.calls == 0
    assert order(frames(medium, 3)) == [6, 6, 6]
    assert source.calls == 1
    sent = pickle.loads(pickle.dumps(shuffled_frames(1)(medium)))
    assert order(frames(sent, 3)) == [6, 6, 6]


def test_controls_are_for_what_has_an_order():
    picture, sound = Medium("image", CLIP[0]), Medium("audio", torch.zeros(9), 8_000)
    for control in (first_frame, last_frame, shuffled_frames(0)):
        for medium in (picture, sound):
            with pytest.raises(ValueError, match="where video is asked for"):
                control(medium)
    with pytest.raises(ValueError, match="where audio or video is asked for"):
        reversed_in_time(picture)
