"""Pictures and captions of one's own: a manifest beside the pictures.

A manifest is a JSON-lines file

    {"image": "cats/001.jpg", "caption": "a cat asleep on a chair"}
    {"image": "cats/002.jpg", "caption": ["two kittens", "kittens at play"], "split": "test"}

or a CSV file with a heading of the same names. `image` is relative to the manifest's folder, or absolute; an image may
have several lines, and a JSON line several captions: all of them are learnt, and all are references when scored.
`split` is `train` or `test`; where no line names one, a share of the pictures is held out by the hash of their names,
so that a picture never moves when others are added.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError

SPLITS = ("train", "test")


class ManifestError(UserError, ValueError):
    """A manifest that cannot be used. The message names the line."""


@dataclass(frozen=True)
class CaptionedImage:
    """A picture and what may be said of it."""

    image: Path
    captions: tuple[str, ...]


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures to learn from, and others to be scored on."""

    train: Sequence[CaptionedImage]
    test: Sequence[CaptionedImage]


def load_manifest(path: Path, *, test_fraction: float = 0.1) -> CaptionedImages:
    """Read a manifest. The pictures themselves are not opened here.

    Args:
        path: a `.jsonl` (or `.json` with one object a line) or `.csv` file.
        test_fraction: share of the pictures held out, where the manifest names no `split`.

    Raises:
        ManifestError: no such file, another format, a line that cannot be used, or nothing to train or test on.
    """
    if not path.is_file():
        raise ManifestError(
            f"no manifest {path}: give a JSON-lines or CSV file with `image` and `caption`, or the name `twemoji`"
        )
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    for place, row in _rows(path):
        image = row.get("image")
        if not isinstance(image, str) or not image.strip():
            raise ManifestError(f"{place}: `image` must name a picture; there are: {', '.join(row) or 'no fields'}")
        image = Path(image).as_posix()  # "./a.png" and "a.png" are one picture
        captions.setdefault(image, []).extend(_captions(row.get("caption"), place))
        split = row.get("split") or ""
        if split and split not in SPLITS:
            raise ManifestError(f"{place}: `split` must be train or test, not {split!r}")
        if splits.setdefault(image, split) != split:
            raise ManifestError(
                f"{place}: {image} is in `{splits[image] or 'no split'}` and in `{split or 'no split'}`"
            )
    if any(splits.values()) and not all(splits.values()):
        missing = next(image for image, split in splits.items() if not split)
        raise ManifestError(f"{path}: {missing} has no `split` while other pictures have: give it to all or to none")
    parts: dict[str, list[CaptionedImage]] = {split: [] for split in SPLITS}
    for image, said in captions.items():
        split = splits[image] or ("test" if _position(image) < test_fraction else "train")
        parts[split].append(CaptionedImage(path.parent / image, tuple(dict.fromkeys(said))))
    for split, items in parts.items():
        if not items:
            raise ManifestError(
                f"{path} has {len(captions)} pictures and none to {split} on: add pictures, "
                "name `split` in the manifest, or change test_fraction"
            )
    return CaptionedImages(parts["train"], parts["test"])


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place, for messages, and its fields."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if not reader.fieldnames or not {"image", "caption"} <= set(reader.fieldnames):
            raise ManifestError(
                f"{path}: the first line must name the columns `image` and `caption`; "
                f"it has: {', '.join(reader.fieldnames or ['nothing'])}"
            )
        try:
            for row in reader:
                place = f"{path} line {reader.line_num}"
                if None in row:
                    raise ManifestError(f"{place} has more fields than the heading: quote captions with commas")
                yield place, row
        except csv.Error as error:
            raise ManifestError(f"{path} line {reader.line_num}: {error}") from error
        return
    if path.suffix.lower() not in (".jsonl", ".json", ".ndjson"):
        raise ManifestError(f"{path}: a manifest is a .jsonl or .csv file, not {path.suffix or 'one without ending'}")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ManifestError(f"{place} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{place} must be an object with `image` and `caption`")
        yield place, row


def _captions(value: Any, place: str) -> list[str]:
    given = value if isinstance(value, list) else [value]
    said = [" ".join(caption.split()) for caption in given if isinstance(caption, str)]
    if not said or len(said) != len(given) or not all(said):
        raise ManifestError(f"{place}: `caption` must be a text, or a list of texts, none of them empty")
    return said


def _position(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(f"manifest/{name}".encode()).digest()[:8], "big") / 2**64
