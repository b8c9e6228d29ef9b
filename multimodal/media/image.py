"""Pictures from files that may be damaged, hostile or in any colour mode.

Shape suffixes: N = pictures, H = height, W = width; 3 = red, green, blue.

A decoder's silence proves little: a flipped byte in a JPEG decodes without complaint. What can be noticed is noticed
here; beyond that, data that we fetch is compared with its SHA-256 (`core.pretrained.sources`).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from multimodal.media.errors import MediaError, reported_as_damage, require_file

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
"""The decoders that may run. Everything else that Pillow can read (EPS starts a program) is refused."""
MAX_PIXELS = 2**25
"""Pictures with more pixels are refused before they are decoded: 33.5 million, about 100 MB as RGB."""
MAX_FILE_BYTES = 2**26
"""Files above 64 MiB are refused before they are opened."""


def load_image(path: Path, *, side: int | None = None, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode a picture completely.

    Transparency is laid on white, a grey or 16-bit picture is scaled to 8-bit RGB, of an animation the first frame is
    taken, and the orientation that a camera noted is applied.

    Args:
        path: a file in one of `FORMATS`; its content decides, not its name.
        side: if given, resize (bicubic) so that the longer side has this length, and pad with white to a square.
        max_pixels: refuse larger pictures before decoding.

    Returns:
        image_3HW, uint8.

    Raises:
        MediaError: the file is missing, damaged, too large or in another format.
    """
    with bombs_are_errors():
        return _load_image(Path(path), side, max_pixels)


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Turns Pillow's warning about large pictures into an error, so that none above its own limit is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _load_image(path: Path, side: int | None, max_pixels: int) -> Tensor:
    require_file(path, MAX_FILE_BYTES)
    with reported_as_damage(path), Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise MediaError(path, f"{width} x {height} pixels, more than {max_pixels}")
        if side is not None:
            # A JPEG can be decoded at a fraction of its size, which is much faster for photographs.
            image.draft("RGB", (side, side))
        image.load()
        return to_tensor(ImageOps.exif_transpose(image), side)


def to_tensor(image: Image.Image, side: int | None) -> Tensor:
    """A decoded picture of any mode by the rules of `load_image`: image_3HW, uint8."""
    rgb = _to_rgb(image)
    if side is not None:
        rgb = _to_square(rgb, side)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits; converting directly would clip everything above 255 to white.
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def _to_square(image: Image.Image, side: int) -> Image.Image:
    # Resized before it is padded: a picture of 1 x 30 million pixels must not become a square of that side.
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if width == height:
        return image
    square = Image.new("RGB", (side, side), (255, 255, 255))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
