"""Documents from files, one at a time: JSON lines, text, CSV and Parquet.

A reader remembers where it is, so that a run can stop and go on in the middle of a file. UTF-8 with or without a byte
order mark, and LF or CRLF line ends, are read alike.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from core.errors import UserError

_BOM = b"\xef\xbb\xbf"
Unit = Literal["line", "paragraph", "file"]
OnBad = Callable[[str], None]


class DataError(UserError, ValueError):
    """A record that cannot be used. The message has the file and the line."""


@dataclass(frozen=True)
class Record:
    """One record of a file."""

    fields: dict[str, Any]
    """Its values by name; a text file's record has `text` alone."""
    where: str
    """File and line (Parquet: row), for messages."""
    position: list[int]
    """Where the next record starts, to be given to `start`: [byte offset or row, lines or rows before it]."""


def refuse(message: str) -> None:
    """What to do with a bad record by default: stop.

    Raises:
        DataError: always.
    """
    raise DataError(message)


def read_records(
    path: Path | str, *, unit: Unit = "line", start: list[int] | None = None, on_bad: OnBad = refuse
) -> Iterator[Record]:
    """Records of one file; the format goes by its ending.

    Args:
        path: `.jsonl`/`.ndjson` (an object a line), `.csv`/`.tsv` (with a header), `.parquet`, or else text.
        unit: what a document is in a text file: a line, a paragraph (up to a blank line), or the whole file.
        start: position from which to go on, from a `Record`.
        on_bad: called with a message for each malformed record; when it returns, the record is skipped.

    Raises:
        DataError: a missing file, or one so damaged that what follows cannot be read; and what `on_bad` raises.
    """
    path = Path(path)
    if unit not in get_args(Unit):
        raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, got {unit!r}")
    if not path.is_file():
        raise DataError(f"no file {path}")
    suffix = path.suffix.lower()
    place = start or [0, 0]
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(path, place, on_bad)
    if suffix in (".csv", ".tsv"):
        return _read_csv(path, "\t" if suffix == ".tsv" else ",", place, on_bad)
    if suffix == ".parquet":
        return _read_parquet(path, place)
    return {"line": _read_lines, "paragraph": _read_paragraphs, "file": _read_whole}[unit](path, place, on_bad)


def text_of(record: Record, field: str = "text") -> str:
    """The text of a record.

    Raises:
        DataError: no such field, not a string, or a lone surrogate in it.
    """
    if field not in record.fields:
        names = ", ".join(map(str, record.fields)) or "none"
        raise DataError(f"{record.where}: no field {field!r}; the record has {names}")
    text = record.fields[field]
    if not isinstance(text, str):
        raise DataError(f"{record.where}: field {field!r} must be a string, found {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{record.where}: field {field!r} has a lone surrogate at character {error.start}") from None
    return text


class TextReader:
    """Texts of one or more files, in order, with a count of what was skipped.

    Attributes:
        num_read: texts given in the last iteration.
        skipped: messages of the records that were skipped in the last iteration.
    """

    def __init__(
        self,
        paths: Path | str | Iterable[Path | str],
        *,
        field: str = "text",
        unit: Unit = "line",
        on_bad: Literal["raise", "skip"] = "raise",
    ) -> None:
        """Describe what to read; nothing is opened yet.

        Args:
            paths: files, in the order in which to read them.
            field: field that holds the text (JSON lines, CSV, Parquet).
            unit: what a document is in a text file.
            on_bad: stop at a bad record, or skip it and remember the message.
        """
        self.paths = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
        if not self.paths:
            raise ValueError("no files to read")
        self.field, self.unit, self.on_bad = field, unit, on_bad
        self.num_read = 0
        self.skipped: list[str] = []

    def __iter__(self) -> Iterator[str]:
        self.num_read, self.skipped = 0, []
        for file in range(len(self.paths)):
            for text, _ in self.read(file):
                self.num_read += 1
                yield text

    def read(self, file: int, start: list[int] | None = None) -> Iterator[tuple[str, list[int]]]:
        """Texts of file number `file` from a position on, each with the position after it."""
        on_bad = refuse if self.on_bad == "raise" else self.skipped.append
        for record in read_records(self.paths[file], unit=self.unit, start=start, on_bad=on_bad):
            try:
                text = text_of(record, self.field)
            except DataError as error:
                on_bad(str(error))
            else:
                yield text, record.position


def _lines(path: Path, start: list[int], on_bad: OnBad) -> Iterator[tuple[str, list[int]]]:
    """Lines without their ends, each with the position after it: [byte offset, lines before it]."""
    with path.open("rb") as file:
        offset, number = start
        if offset == 0 and file.read(3) == _BOM:
            offset = 3
        file.seek(offset)
        for content in file:
            offset += len(content)
            number += 1
            text = _decoded(content.removesuffix(b"\n").removesuffix(b"\r"), f"{path}:{number}", on_bad)
            if text is not None:
                yield text, [offset, number]


def _decoded(content: bytes, where: str, on_bad: OnBad) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        on_bad(f"{where}: byte {error.start} ({content[error.start]:#04x}) is not UTF-8; convert the file to UTF-8")
        return None


def _read_lines(path: Path, start: list[int], on_bad: OnBad) -> Iterator[Record]:
    for line, position in _lines(path, start, on_bad):
        if line.strip():
            yield Record({"text": line}, f"{path}:{position[1]}", position)


def _read_paragraphs(path: Path, start: list[int], on_bad: OnBad) -> Iterator[Record]:
    collected: list[str] = []
    first, last = 0, start
    for line, position in _lines(path, start, on_bad):
        last = position
        if line.strip():
            first = first or position[1]
            collected.append(line)
        elif collected:
            yield Record({"text": "\n".join(collected)}, f"{path}:{first}", position)
            collected, first = [], 0
    if collected:
        yield Record({"text": "\n".join(collected)}, f"{path}:{first}", last)


def _read_whole(path: Path, start: list[int], on_bad: OnBad) -> Iterator[Record]:
    content = path.read_bytes()
    if start[0] or not content:
        return
    text = _decoded(content.removeprefix(_BOM), str(path), on_bad)
    if text is not None:
        yield Record({"text": text.replace("\r\n", "\n")}, str(path), [len(content), content.count(b"\n")])


def _read_json_lines(path: Path, start: list[int], on_bad: OnBad) -> Iterator[Record]:
    for line, position in _lines(path, start, on_bad):
        where = f"{path}:{position[1]}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            on_bad(f"{where}: not JSON ({error.msg} at column {error.colno}); mend or remove the line")
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, nesting without end
            on_bad(f"{where}: JSON that cannot be read ({error})")
        else:
            if isinstance(value, dict):
                yield Record(value, where, position)
            else:
                on_bad(f"{where}: a line must be a JSON object, found {type(value).__name__}")


def _read_csv(path: Path, delimiter: str, start: list[int], on_bad: OnBad) -> Iterator[Record]:
    with path.open("rb") as raw:
        rows = csv.reader(_csv_lines(raw, path), delimiter=delimiter, strict=True)
        names: list[str] = []
        number = 0
        while True:
            where = f"{path}:{rows.line_num + 1}"
            try:
                row = next(rows, None)
            except csv.Error as error:  # a quote that is not closed swallows the rest of the file
                raise DataError(f"{where}: not CSV ({error})") from None
            if row is None:
                return
            if not row:
                continue
            if not names:
                names = row
                continue
            number += 1
            if number <= start[0]:
                continue
            if len(row) == len(names):
                yield Record(dict(zip(names, row)), where, [number, number])
            else:
                on_bad(f"{where}: {len(row)} fields, the header has {len(names)}")


def _csv_lines(raw: BinaryIO, path: Path) -> Iterator[str]:
    for number, line in enumerate(raw, 1):
        # A line may be part of a quoted field, so it cannot be left out.
        yield _decoded(line.removeprefix(_BOM) if number == 1 else line, f"{path}:{number}", refuse) or ""


def _read_parquet(path: Path, start: list[int]) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow; run: pip install 'trillium-lm[interop]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if number + size <= start[0]:
                    number += size
                    continue
                for batch in file.iter_batches(batch_size=1024, row_groups=[group]):
                    for fields in batch.to_pylist():
                        number += 1
                        if number > start[0]:
                            yield Record(fields, f"{path}:row {number}", [number, number])
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
