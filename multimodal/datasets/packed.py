"""Media that lie inside other files, such as archives and tables: decoded from their bytes by our own loaders."""

import tempfile
from pathlib import Path

from torch import Tensor

from multimodal.examples import Kind
from multimodal.media import containers, image
from multimodal.media.audio import load_audio
from multimodal.media.errors import MediaError
from multimodal.media.image import load_image
from multimodal.media.video import load_clip

RATE = 16_000
"""Samples a second to which packed sounds are brought: the `rate` of their `Medium`."""
MAX_BYTES: dict[Kind, int] = {
    "image": image.MAX_FILE_BYTES, "audio": containers.MAX_FILE_BYTES, "video": containers.MAX_FILE_BYTES,
}  # fmt: skip
"""Larger media are refused before they are read."""


def decode(kind: Kind, data: bytes, name: str, *, max_seconds: float, side: int) -> Tensor:
    """What bytes hold, by the rules and limits of `load_image`, `load_audio` and `load_clip`.

    The loaders take files, since FFmpeg and libsndfile do; the bytes are in a temporary one meanwhile.

    Args:
        kind: of the medium.
        data: a file's content.
        name: for messages, such as `SHARD:MEMBER`.
        max_seconds: of sounds; longer ones are refused.
        side: of clips; their frames become squares of so many pixels a side. Pictures keep their size.

    Returns:
        uint8 (3, height, width) of a picture, float32 (samples,) at `RATE` of a sound, uint8 (frames, 3, side, side)
        of a clip.

    Raises:
        MediaError: under `name`, whatever is wrong with them.
    """
    with tempfile.TemporaryDirectory(prefix="trillium-") as folder:
        path = Path(folder) / "packed"
        path.write_bytes(data)
        try:
            if kind == "image":
                return load_image(path)
            if kind == "audio":
                return load_audio(path, rate=RATE, max_seconds=max_seconds)
            return load_clip(path, side=side)
        except MediaError as error:
            raise MediaError(Path(name), error.reason.replace(str(path), name)) from error


def require_limits(max_seconds: float, side: int) -> None:
    """Raises `ValueError` for limits out of range."""
    if not 0 < max_seconds <= 600:
        raise ValueError(f"max_seconds must be in (0, 600], got {max_seconds}")
    if not 8 <= side <= 1024:
        raise ValueError(f"side must be in [8, 1024], got {side}")
