"""Media and texts of one's own: a manifest beside the files.

A manifest is a JSON-lines file

    {"image": "cats/001.jpg", "caption": "a cat asleep on a chair"}
    {"image": "cats/002.jpg", "caption": ["two kittens", "kittens at play"], "split": "test"}
    {"image": ["a.png", "b.png"], "prompt": "<image> and then <image>: what changed?", "answer": "the cat left"}
    {"video": "clip.mp4", "audio": "clip.flac", "caption": "a dog barks"}

or a CSV file with a heading of the same names, one path in a field.

- `image`, `audio`, `video`: a path each, or in JSON a list of paths; at least one medium a line. A path is relative to
  the manifest's folder and may not leave it, neither with `..` nor through a symbolic link: what lies elsewhere must be
  written out as an absolute path, so that nobody's manifest reads files that its user did not name.
- `prompt` (or `question`), optional: a text in which `<image>`, `<audio>` and `<video>` stand for the media of their
  kind in order, one mark for each. Without marks the media come first: images, sounds, clips, then the text.
- `caption` (or `answer`, or `text`): what may be said, a text, or in JSON a list of texts. Lines with the same media
  and prompt are one example; all their captions are learnt, and all are references when scored.
- `split`: `train` or `test`. Where no line names one, a share of the media is held out by the hash of their names, so
  that all questions about a picture are on one side, and none changes sides when others are added.

Other fields are ignored. A text has at most 10,000 characters; runs of white space count as one space.
"""

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_args

from core.errors import UserError
from multimodal.datasets.hashing import hash_number
from multimodal.examples import KINDS, Example, Examples, Kind, Medium, Part, Scoring

PROMPT_NAMES = ("prompt", "question")
TARGET_NAMES = ("caption", "answer", "text")
SPLITS = ("train", "test")
MAX_CHARACTERS = 10_000

MARK = re.compile(r"(<(?:image|audio|video)>)")
_WANTED = "one of `image`, `audio` or `video`, and a `caption`"


class ManifestError(UserError, ValueError):
    """A manifest that cannot be used. The message names the line."""


_Media: TypeAlias = tuple[tuple[Kind, str], ...]
_Asked: TypeAlias = tuple[_Media, str]
"""Media and prompt: what makes an example."""


@dataclass(frozen=True)
class _Line:
    """What one line of a manifest says."""

    media: _Media
    """Kind and path of each medium, in the order of `KINDS`: paths as written, but for `./` and `a/../`."""
    prompt: str
    targets: tuple[str, ...]
    split: str

    @property
    def media_name(self) -> str:
        return " + ".join(path if kind == "image" else f"{kind} {path}" for kind, path in self.media)

    @property
    def key(self) -> str:
        return f"{self.media_name}: {self.prompt}" if self.prompt else self.media_name


def examples(path: Path | str, *, test_fraction: float = 0.1, scoring: Scoring = "captions") -> Examples:
    """Read a manifest, completely or not at all. The media themselves are not opened here.

    Source, licence and sizes are those of the reader's own files; the format is told at the top of this module.

    Args:
        path: a `.jsonl` (or `.ndjson`, or `.json` with one object a line) or `.csv` file, UTF-8.
        test_fraction: share of the media held out, where the manifest names no `split`.
        scoring: what the test is scored by: `captions`, `words` (for transcripts) or `answers`.

    Returns:
        Examples in the order of the lines; their media are files.

    Raises:
        ManifestError: no such file, another format, a line that cannot be used, or nothing to train or test on.
        ValueError: an option out of range.
    """
    path = Path(path)
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be in (0, 1), got {test_fraction}")
    if scoring not in get_args(Scoring):
        raise ValueError(f"scoring must be one of {', '.join(get_args(Scoring))}, got {scoring!r}")
    if not path.is_file():
        raise ManifestError(f"no manifest {path}: give a JSON-lines or CSV file with {_WANTED}")
    folder = path.parent.resolve()
    lines: dict[_Asked, list[_Line]] = {}
    for place, row in _rows(path):
        line = _line(row, folder, place)
        same = lines.setdefault((line.media, line.prompt), [])
        if same and same[0].split != line.split:
            here, above = (split or "no split" for split in (line.split, same[0].split))
            raise ManifestError(f"{place}: {line.key} is in `{here}` here and in `{above}` further up: keep to one")
        same.append(line)
    splits = {same[0].key: same[0].split for same in lines.values()}
    if any(splits.values()) and not all(splits.values()):
        missing = next(key for key, split in splits.items() if not split)
        raise ManifestError(f"{path}: {missing} has no `split` while other lines have: give it to all or to none")
    parts: dict[str, list[Example]] = {split: [] for split in SPLITS}
    media: dict[str, list[_Media]] = {split: [] for split in SPLITS}
    for line, *others in lines.values():
        split = line.split or ("test" if _position(line.media_name) < test_fraction else "train")
        targets = dict.fromkeys(target for one in (line, *others) for target in one.targets)
        parts[split].append(Example(_prompt(line, path.parent), tuple(targets), line.key))
        media[split].append(line.media)
    for split in SPLITS:
        if not parts[split]:
            raise ManifestError(
                f"{path} has {len(lines)} examples and none to {split} on: add some, name `split` in the manifest, "
                "or change test_fraction"
            )
    notes = [
        f"{path}: {len(parts['train'])} examples to learn from, {len(parts['test'])} held out by "
        + ("the manifest's `split`" if any(splits.values()) else "the hash of their media's names")
    ]
    learnt = {medium for own in media["train"] for medium in own}
    if both := sum(not learnt.isdisjoint(own) for own in media["test"]):
        notes.append(f"media of {both} test examples are trained on as well, in other examples")
    return Examples(train=parts["train"], test=parts["test"], scoring=scoring, notes=notes)


def _line(row: dict[str, Any], folder: Path, place: str) -> _Line:
    media = tuple((kind, _path(given, kind, folder, place)) for kind in KINDS for given in _listed(row.get(kind)))
    if not media:
        raise ManifestError(f"{place}: there must be {_WANTED}; there are: {', '.join(row) or 'no fields'}")
    name, prompt = _one_of(row, PROMPT_NAMES, place)
    prompt = "" if prompt in (None, "") else _text(prompt, name, place)
    for kind in KINDS:
        marks, count = prompt.count(f"<{kind}>"), sum(own == kind for own, _ in media)
        if MARK.search(prompt) and marks != count:
            raise ManifestError(
                f"{place}: `{name}` has the mark <{kind}> {marks} times for {count} of `{kind}`: give each medium one "
                "mark, or none at all to put the media first"
            )
    name, said = _one_of(row, TARGET_NAMES, place)
    targets = tuple(_text(target, name, place) for target in _listed(said))
    if not targets:
        raise ManifestError(f"{place}: `{name}` must be a text, or a list of texts, none of them empty")
    split = row.get("split")
    if split not in (None, "", *SPLITS):
        raise ManifestError(f"{place}: `split` must be train or test, not {split!r}")
    return _Line(media, prompt, targets, split or "")


def _listed(value: Any) -> list[Any]:
    """A list as it is, one value as a list of it, and nothing for a field that is absent or null."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _one_of(row: dict[str, Any], names: tuple[str, ...], place: str) -> tuple[str, Any]:
    """The name that a line uses for a field of several names, and what it says there."""
    given = [name for name in names if row.get(name) not in (None, "")]
    if len(given) > 1:
        raise ManifestError(f"{place}: `{given[0]}` and `{given[1]}` are names of the same field: keep one of them")
    name = given[0] if given else names[0]
    return name, row.get(name)


def _text(value: Any, name: str, place: str) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not text:
        raise ManifestError(f"{place}: `{name}` must be a text, or a list of texts, none of them empty")
    if len(text) > MAX_CHARACTERS:
        raise ManifestError(f"{place}: `{name}` has {len(text)} characters; {MAX_CHARACTERS} are allowed: shorten it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ManifestError(f"{place}: `{name}` holds half of a character (a lone surrogate): write it out in UTF-8")
    return text


def _path(value: Any, kind: str, folder: Path, place: str) -> str:
    """A medium's path, as written but for `./` and `a/../`; raises unless it is absolute or stays in the folder."""
    if not isinstance(value, str) or not value.strip():
        raise ManifestError(f"{place}: `{kind}` must be the path of a file, or a list of such paths")
    name = posixpath.normpath(Path(value).as_posix())
    try:
        inside = (folder / name).resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, an embedded NUL, half a character
        raise ManifestError(f"{place}: `{kind}` names no usable path: {error}") from error
    if not inside and not Path(name).is_absolute():
        raise ManifestError(
            f"{place}: {value} leaves the manifest's folder {folder}: move the file there, or write its absolute path"
        )
    return name


def _prompt(line: _Line, folder: Path) -> tuple[Part, ...]:
    return place_media(line.prompt, [Medium(kind, folder / path) for kind, path in line.media])


def place_media(prompt: str, media: Sequence[Medium]) -> tuple[Part, ...]:
    """Media where their marks stand in a text, of which there must be one for each; without marks before it."""
    if not MARK.search(prompt):
        return (*media, *([prompt] if prompt else []))
    waiting = {f"<{kind}>": iter([medium for medium in media if medium.kind == kind]) for kind in KINDS}
    pieces = (piece.strip() for piece in MARK.split(prompt))
    return tuple(next(waiting[piece]) if piece in waiting else piece for piece in pieces if piece)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place, for messages, and its fields."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path} line {line} is not UTF-8 text: {error.reason}; save the file as UTF-8") from error
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    if path.suffix.lower() == ".csv":
        return _csv_rows(path, text)
    if path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        return _json_rows(path, text)
    raise ManifestError(f"{path}: a manifest is a .jsonl or .csv file, not {path.suffix or 'one without ending'}")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or []]
        if not set(names) & set(KINDS) or not set(names) & set(TARGET_NAMES):
            raise ManifestError(
                f"{path} line 1 must name the columns: {_WANTED}; it has: {', '.join(names) or 'nothing'}"
            )
        if double := next((name for name in names if name and names.count(name) > 1), None):
            raise ManifestError(f"{path} line 1 names the column `{double}` twice")
        reader.fieldnames = names
        for row in reader:
            place = f"{path} line {reader.line_num}"
            if None in row:
                raise ManifestError(f"{place} has more fields than the heading: quote captions with commas")
            # An empty field is an absent one.
            yield place, {name: value for name, value in row.items() if value and value.strip()}
    except csv.Error as error:
        # The outer reader counts a line only when it is read to its end.
        raise ManifestError(f"{path} line {reader.reader.line_num}: {error}") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_once_each)
        except _TwiceError as error:
            raise ManifestError(f"{place} has the field `{error}` twice: keep one of them, or give a list") from error
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{place} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{place} must be an object with {_WANTED}")
        yield place, row


class _TwiceError(Exception):
    """A name that one JSON object has twice."""


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return row


def _position(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return hash_number(f"manifest/{name}") / 2**64
