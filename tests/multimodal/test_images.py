"""Pictures: every colour mode gives a right tensor, every damage a MediaError, and nothing else."""

import random
import resource
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from multimodal.media.errors import MediaError
from multimodal.media.image import load_image

FORMATS = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "WEBP": "webp", "BMP": "bmp"}


def picture(width: int = 48, height: int = 48) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def save(path: Path, format: str, image: Image.Image | None = None, **options: object) -> Path:
    (image or picture()).save(path, format=format, **options)
    return path


def png(path: Path, width: int, height: int, *, extra: bytes = b"") -> Path:
    """A valid header of any size with hardly any data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(b"\0" * 1000)))
    return path


def usable(path: Path) -> Tensor | None:
    """The picture or None for a MediaError; any other exception, a hang or a wrong tensor fails the test."""
    start = time.monotonic()
    image = reason = None
    try:
        image = load_image(path, side=16)
    except MediaError as error:
        reason = error
    assert time.monotonic() - start < 10
    if image is None:
        assert reason is not None
        assert reason.reason
        assert str(reason).startswith(f"{path}: ")
        return None
    assert image.shape == (3, 16, 16)
    assert image.dtype == torch.uint8
    return image


@pytest.mark.parametrize("format", FORMATS)
def test_whole_pictures_load(tmp_path: Path, format: str):
    image = load_image(save(tmp_path / "x", format))
    assert image.shape == (3, 48, 48)
    assert usable(tmp_path / "x") is not None
    if format in ("PNG", "BMP"):
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(np.array(picture())))


@pytest.mark.parametrize("format", FORMATS)
def test_truncated_pictures_are_refused(tmp_path: Path, format: str):
    data = save(tmp_path / "whole", format).read_bytes()
    for length in (0, 1, 10, 30, len(data) // 2, len(data) * 3 // 4):
        path = tmp_path / f"cut{length}"
        path.write_bytes(data[:length])
        assert usable(path) is None, f"{format} cut to {length} of {len(data)} bytes"


@pytest.mark.parametrize("format", FORMATS)
def test_flipped_bytes_give_a_picture_or_a_media_error(tmp_path: Path, format: str):
    data = save(tmp_path / "whole", format).read_bytes()
    chance = random.Random(0)
    refused = 0
    for trial in range(60):
        damaged = bytearray(data)
        position = trial if trial < 40 else chance.randrange(len(data))
        damaged[position] ^= chance.randrange(1, 256)
        path = tmp_path / f"flip{trial}"
        path.write_bytes(damaged)
        refused += usable(path) is None
    assert refused > 0
    if format == "PNG":
        # Every byte of a PNG is covered by a signature or a checksum; only those after the last used one may differ.
        assert refused >= 55


def test_zero_bytes_text_and_wrong_names(tmp_path: Path):
    (tmp_path / "zeros.png").write_bytes(bytes(5000))
    (tmp_path / "text.png").write_text("this is a caption, not a picture\n" * 50)
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("zeros", "text", "empty", "folder", "not_there"):
        assert usable(tmp_path / f"{name}.png") is None
    # The content decides: a JPEG called .png is a picture.
    assert usable(save(tmp_path / "jpeg.png", "JPEG")) is not None


@pytest.mark.parametrize(("format", "name"), [("EPS", "x.eps"), ("TIFF", "x.png"), ("ICO", "x.ico"), ("PPM", "x.png")])
def test_other_formats_are_refused(tmp_path: Path, format: str, name: str):
    assert usable(save(tmp_path / name, format)) is None


def test_svg_and_fits_are_refused(tmp_path: Path):
    (tmp_path / "x.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    (tmp_path / "x.fits").write_bytes(b"SIMPLE  =                    T".ljust(2880))
    assert usable(tmp_path / "x.svg") is None
    assert usable(tmp_path / "x.fits") is None


def test_transparency_is_laid_on_white(tmp_path: Path):
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    loaded = load_image(save(tmp_path / "rgba.png", "PNG", image))
    assert loaded[:, 0].T.tolist() == [[255, 255, 255], [10, 20, 30]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    loaded = load_image(save(tmp_path / "p.png", "PNG", palette, transparency=0))
    assert loaded[:, 0].T.tolist() == [[255, 255, 255], [200, 100, 50]]
    grey = Image.new("LA", (1, 1), (100, 128))
    assert load_image(save(tmp_path / "la.png", "PNG", grey)).flatten().tolist() == [177, 177, 177]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path):
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    loaded = load_image(save(tmp_path / "x.png", "PNG", Image.fromarray(values)))
    assert loaded[0, 0].tolist() == loaded[2, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_colour_modes(tmp_path: Path, mode: str):
    format = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    image = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    loaded = load_image(save(tmp_path / "x", format, image))
    assert loaded.shape == (3, 8, 8)
    assert loaded.min() >= 250


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(tmp_path: Path, format: str):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    options = {"lossless": True} if format == "WEBP" else {}
    path = save(tmp_path / "x", format, red, save_all=True, append_images=[blue], duration=100, **options)
    assert load_image(path)[:, 4, 4].tolist() == [255, 0, 0]


def test_camera_orientation_is_applied(tmp_path: Path):
    image = picture(20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(save(tmp_path / "x.png", "PNG", image, exif=exif)).shape == (3, 20, 10)


def test_other_shapes_are_padded_with_white(tmp_path: Path):
    black = Image.new("RGB", (20, 10))
    loaded = load_image(save(tmp_path / "x.png", "PNG", black), side=20)
    assert loaded.shape == (3, 20, 20)
    assert loaded[:, :5].min() == 255
    assert loaded[:, 5:15].max() == 0
    assert loaded[:, 15:].min() == 255


def test_a_long_thin_picture_is_never_padded_at_full_size(tmp_path: Path):
    path = save(tmp_path / "x.png", "PNG", Image.new("L", (1, 60_000)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert load_image(path, side=16).shape == (3, 16, 16)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert usable(png(tmp_path / "huge.png", 20_000, 20_000)) is None
    assert usable(png(tmp_path / "warned.png", 12_000, 10_000)) is None
    with pytest.raises(MediaError, match="6000 x 6000 pixels, more than 33554432"):
        load_image(png(tmp_path / "large.png", 6_000, 6_000))
    with pytest.raises(MediaError, match="more than 100"):
        load_image(save(tmp_path / "small.png", "PNG"), max_pixels=100)
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "A" * 50_000_000, zip=True)
    bomb = save(tmp_path / "text.png", "PNG", pnginfo=info)
    assert bomb.stat().st_size < 100_000
    del info
    before = max(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert usable(bomb) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
