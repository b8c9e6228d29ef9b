"""What the readers of data on disk share: texts, tables, folders of media, the split by hash, and one error."""

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from multimodal.datasets.hashing import hash_number
from multimodal.datasets.manifest import MARK, MAX_CHARACTERS, place_media
from multimodal.examples import KINDS, Example, Examples, Kind, Medium, Part, Scoring


class LayoutError(UserError, ValueError):
    """Files of a data set that are not there, or not what their layout says. The message names the first."""


@dataclass(frozen=True)
class Item:
    """A file and its captions, before it is known whether the file is there."""

    key: str
    wanted: str
    """The file's name, for messages."""
    file: Path | None
    """None: it is missing."""
    captions: tuple[str, ...]
    """Cleaned; an item without any is left out and counted."""


class MediaFolder:
    """The files of some folders, each listed once: a name can only be that of a file in them, never a path elsewhere.

    Args:
        root: the data set's folder.
        names: folders in it that may hold the media, the best first; those that exist are used.
        suffixes: endings of the files, in lower case.

    Raises:
        LayoutError: none of the folders exists.
    """

    def __init__(self, root: Path, names: Sequence[str], suffixes: Sequence[str]) -> None:
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, Path] = {}
        folders = [root / name for name in names if (root / name).is_dir()]
        if not folders:
            raise LayoutError(f"{root} has none of the folders {', '.join(names)}: put the media into one of them")
        self.folder = folders[0]
        """The best folder, for messages."""
        for folder in folders:
            for name in sorted(os.listdir(folder)):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in suffixes:
                    self._by_name.setdefault(name, folder / name)
                    self._by_stem.setdefault(stem, folder / name)

    def file(self, name: str) -> Path | None:
        """The file of this name; None: there is none."""
        return self._by_name.get(name)

    def stem(self, *stems: str) -> Path | None:
        """The file with the first of these names, endings apart; None: there is none."""
        return next((self._by_stem[stem] for stem in stems if stem in self._by_stem), None)


def data_folder(folder: str) -> Path:
    """The folder that a user named. Raises `LayoutError` if there is none."""
    path = Path(folder).expanduser()
    if not folder or not path.is_dir():
        raise LayoutError(f"no folder {folder!r}: give the folder that holds the data set as folder=…")
    return path


def first_file(root: Path, names: Sequence[str]) -> Path:
    """The first of some files that exists. Raises `LayoutError` if none does."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise LayoutError(f"{root} has none of the files {', '.join(names)}: see the layout in docs/multimodal-data.md")


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without byte order mark. Raises `LayoutError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise LayoutError(f"{path} line {line} is not UTF-8 text: {error.reason}; save the file as UTF-8") from error
    except OSError as error:
        raise LayoutError(f"{path} cannot be read: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises `LayoutError`."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, LayoutError):
            raise
        raise LayoutError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise LayoutError(f"{path} must hold one JSON object, not a {type(value).__name__}")
    return value


def field(row: Any, name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """A field of a JSON object. Raises `LayoutError` unless it is there and of the kind."""
    value = row.get(name) if isinstance(row, dict) else None
    if value is None or not isinstance(value, kind) or isinstance(value, bool):
        raise LayoutError(f"{place}: `{name}` is missing or of another type: is this the file of this data set?")
    return value


def read_csv(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Place, for messages, and fields of each row of a CSV file with a heading.

    The last column is often a caption that was written without quotes: commas beyond the heading's belong to it.

    Raises:
        LayoutError: no such columns, a row that is too short, or text that is no CSV.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        names = [name.strip() for name in next(reader, [])]
        if missing := [name for name in columns if name not in names]:
            raise LayoutError(f"{path} line 1 must name the column `{missing[0]}`; it has: {', '.join(names)}")
        last = len(names) - 1
        for row in reader:
            if not row:
                continue
            place = f"{path} line {reader.line_num}"
            if len(row) <= last:
                raise LayoutError(f"{place} has {len(row)} fields, not {len(names)}")
            rows.append((place, dict(zip(names, [*row[:last], ",".join(row[last:])]))))
    except csv.Error as error:
        raise LayoutError(f"{path} line {reader.line_num}: {error}") from error
    return rows


def clean(value: Any, place: str) -> str:
    """A text with single spaces; may be empty. Raises `LayoutError` for what is no usable text."""
    if not isinstance(value, str):
        raise LayoutError(f"{place}: a text is wanted, not {type(value).__name__}")
    text = " ".join(value.split())
    if len(text) > MAX_CHARACTERS:
        raise LayoutError(f"{place}: a text of {len(text)} characters; {MAX_CHARACTERS} are allowed: shorten it")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise LayoutError(f"{place}: a text holds NUL or half of a character: write it in UTF-8")
    return text


def captions(values: Iterable[Any], place: str) -> tuple[str, ...]:
    """Cleaned texts without empty and repeated ones, in order. Raises `LayoutError` as `clean`."""
    return tuple(filter(None, dict.fromkeys(clean(value, place) for value in values)))


def arrange(prompt: str, media: Sequence[Medium], place: str) -> tuple[Part, ...]:
    """Media where `<image>`, `<audio>` and `<video>` stand in a text; without such marks before it.

    Raises:
        LayoutError: not one mark for each medium.
    """
    for kind in KINDS:
        marks, count = prompt.count(f"<{kind}>"), sum(medium.kind == kind for medium in media)
        if MARK.search(prompt) and marks != count:
            raise LayoutError(f"{place}: the prompt has the mark <{kind}> {marks} times for {count} of {kind}")
    return place_media(prompt, media)


def is_held_out(key: str, share: float, salt: str) -> bool:
    """Whether a key is for the test: depends on the key alone, so that none changes sides when others are added."""
    return hash_number(f"{salt}/{key}") / 2**64 < share


def require_share(test_fraction: float) -> None:
    """Raises `ValueError` for a share that leaves one side empty."""
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be in (0, 1), got {test_fraction}")


def require_limit(limit: int) -> None:
    """Raises `ValueError` for a negative number of examples."""
    if limit < 0:
        raise ValueError(f"limit must be at least 0, got {limit}")


def require_both(train: Sequence[Example], test: Sequence[Example], where: str) -> None:
    """Raises `LayoutError` if a side is empty."""
    for side, what in ((train, "train"), (test, "test")):
        if not side:
            raise LayoutError(f"{where} has no example to {what} on ({len(train)} to train, {len(test)} to test on)")


def items_to_examples(
    name: str,
    kind: Kind,
    train: Sequence[Item],
    test: Sequence[Item],
    *,
    limit: int,
    skip_missing: bool,
    notes: Sequence[str],
    scoring: Scoring = "captions",
) -> Examples:
    """Examples of items with one file each.

    Args:
        name: of the data set.
        kind: of the files.
        train: items to learn from.
        test: items to be scored on.
        limit: so many of each side; 0: all.
        skip_missing: leave items out whose file is missing, and say how many.
        notes: further lines for the report.
        scoring: see `Examples`.

    Raises:
        LayoutError: files are missing, or a side is empty.
    """
    require_limit(limit)
    sides: list[list[Example]] = []
    missing: list[Item] = []
    empty = looked_at = 0
    for items in (train, test):
        told = [item for item in items if item.captions]
        empty += len(items) - len(told)
        # A quick try may be with a part of the files: what lies beyond it need not be there.
        told = told[:limit] if limit and not skip_missing else told
        looked_at += len(told)
        missing += [item for item in told if item.file is None]
        side = [Example((Medium(kind, item.file),), item.captions, item.key) for item in told if item.file is not None]
        sides.append(side[: limit or None])
    if missing and not skip_missing:
        raise LayoutError(
            f"{name}: {len(missing)} of {looked_at} files are missing, the first is {missing[0].wanted}: put them "
            "there, or leave them out with skip_missing=true"
        )
    aside = f" but for {len(missing)} missing files, such as {missing[0].wanted}," if missing else ""
    require_both(sides[0], sides[1], name + aside)
    counts = [f"{name}: {len(sides[0])} examples to learn from, {len(sides[1])} held out"]
    if missing:
        counts.append(f"{len(missing)} files are missing and left out, the first is {missing[0].wanted}")
    if empty:
        counts.append(f"{empty} examples without a caption are left out")
    return Examples(train=sides[0], test=sides[1], scoring=scoring, notes=(*counts, *notes))
