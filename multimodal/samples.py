"""What a report shows of an example: its media as small files, and texts."""

import hashlib
import os
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from core.text.atomic import replace_file
from multimodal.examples import Example, Medium
from multimodal.media.decode import content, waveform

MEDIA_NAME = "media"
RATE = 16_000
FRAME_MS = 125
MAX_FRAMES = 32
"""Of a clip in a report; of a longer one every n-th is shown."""


def sample_row(example: Example, text: str, out: Path) -> dict[str, Any]:
    """A row of a run's samples; media without a file of their own are written beside them.

    Args:
        example: what was shown.
        text: what the model said.
        out: the run directory.
    """
    row: dict[str, Any] = {}
    for medium in example.media:
        row.setdefault(medium.kind, []).append(os.path.relpath(_file(medium, out).resolve(), out.resolve()))
    for kind, paths in row.items():
        row[kind] = paths[0] if len(paths) == 1 else paths
    prompt = " ".join(part for part in example.prompt if isinstance(part, str))
    if prompt:
        row["prompt"] = prompt
    row["text"] = text
    row["reference"] = example.targets[0] if len(example.targets) == 1 else list(example.targets)
    row["ok"] = text.split() in [target.split() for target in example.targets]
    return row


def _file(medium: Medium, out: Path) -> Path:
    """Its file; for content without one, a file written from it, named by a hash of the content."""
    if isinstance(medium.source, Path):
        return medium.source
    made = content(medium)
    digest = hashlib.sha256(made.contiguous().numpy().data).hexdigest()[:16]
    folder = out / "samples" / MEDIA_NAME
    folder.mkdir(parents=True, exist_ok=True)
    if medium.kind == "audio":
        from multimodal.media.audio import save_audio

        path = folder / f"{digest}.flac"
        if not path.exists():
            save_audio(path, waveform(medium, RATE), RATE)
        return path
    path = folder / f"{digest}.webp"
    if not path.exists():
        shown = made[None] if medium.kind == "image" else made[:: -(-len(made) // MAX_FRAMES)]
        frames = [_picture(frame) for frame in shown]
        duration = round(1000 / medium.rate) if medium.rate else FRAME_MS
        with replace_file(path) as file:
            frames[0].save(
                file, "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0, lossless=True
            )
    return path


def _picture(image_3HW: Tensor) -> Image.Image:
    return Image.fromarray(image_3HW.permute(1, 2, 0).contiguous().numpy())
