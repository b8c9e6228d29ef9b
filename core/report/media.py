"""Pictures, sounds and clips of samples, as data URIs within the page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

THUMBNAIL_PX = 192
"""Longest side of a sample's picture on the page."""
DRAWING_PX = 1200
"""Longest side of a drawing that a command left in the run directory."""
MAX_EMBEDDED_BYTES = 400_000
"""Sounds and moving pictures above this are named, not shown: a page has dozens."""
_SOUNDS = {".flac": "audio/flac", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".m4a": "audio/mp4"}
_CLIPS = {".mp4": "video/mp4", ".webm": "video/webm"}
_MOVING = {".webp": "image/webp", ".gif": "image/gif"}


@dataclass(frozen=True)
class Embedded:
    """A medium on a card."""

    kind: Literal["image", "audio", "video"]
    """The element that shows it: a moving WebP or GIF is an `image`."""
    uri: str
    """Empty when it cannot be shown."""
    missing: str = ""
    """Then the file's name and the reason."""


def embed(path: Path, kind: str, *, size: int = THUMBNAIL_PX) -> Embedded:
    """A file as an element of the page; what cannot be shown says so.

    Args:
        path: the file.
        kind: `image`, `audio` or `video`.
        size: longest side of a picture in pixels.
    """
    suffix = path.suffix.lower()
    if kind == "image" or (kind == "video" and suffix not in _CLIPS and suffix not in _MOVING):
        return _as(_thumbnail(path, size), "image", path, "not readable")
    types = _SOUNDS if kind == "audio" else _CLIPS | _MOVING
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if suffix not in types or not data:
        return _as("", "audio", path, "not shown here" if data else "not readable")
    if len(data) > MAX_EMBEDDED_BYTES:
        if suffix in _MOVING:
            return _as(_thumbnail(path, size), "image", path, "not readable")
        return _as("", "audio", path, f"{len(data) / 1e6:.1f} MB, too large for the page")
    element: Literal["image", "audio", "video"] = (
        "audio" if kind == "audio" else "video" if suffix in _CLIPS else "image"
    )
    return _as(_uri(data, types[suffix]), element, path, "")


def _as(uri: str, kind: Literal["image", "audio", "video"], path: Path, reason: str) -> Embedded:
    return Embedded(kind, uri, "" if uri else f"{path.name}: {reason}")


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _thumbnail(path: Path, size: int) -> str:
    """The picture, small; empty when it is missing or cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            small = image.convert("RGBA" if transparent else "RGB")
            small.thumbnail((size, size))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    data = io.BytesIO()
    if transparent:
        small.save(data, "PNG", optimize=True)
        return _uri(data.getvalue(), "image/png")
    small.save(data, "JPEG", quality=85)
    return _uri(data.getvalue(), "image/jpeg")
