"""Data sets of the Hugging Face library `datasets`: on this machine or, with a network, on the Hub.

Media are taken undecoded from the table and decoded by our own loaders, so that damage is named by split and row, and
counted like that of files. No code of a data set is run: the library has not done so since its version 4.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from core.errors import UserError
from multimodal.datasets.files import (
    LayoutError,
    arrange,
    captions,
    clean,
    is_held_out,
    require_both,
    require_limit,
    require_share,
)
from multimodal.datasets.packed import MAX_BYTES, RATE, decode, require_limits
from multimodal.examples import Example, Examples, Kind, Medium
from multimodal.media.errors import MediaError, require_file

if TYPE_CHECKING:
    from datasets import Dataset

TABLES = (".parquet", ".arrow")


@dataclass(frozen=True)
class Cell:
    """Decodes one medium of a table, each time it is called; can be sent to loader processes."""

    table: "Dataset"
    """With this one column, undecoded: `bytes` and `path`."""
    column: str
    row: int
    name: str
    """Of the split, for messages."""
    kind: Kind
    roots: tuple[Path, ...]
    """Folders whose files a row may name."""
    max_seconds: float
    side: int

    @property
    def where(self) -> str:
        """Split, row and column, for messages."""
        return f"{self.name} row {self.row} {self.column}"

    def __call__(self) -> Tensor:
        """See `multimodal.datasets.packed.decode`. Raises `MediaError` naming split, row and column."""
        return decode(self.kind, self.data(), self.where, max_seconds=self.max_seconds, side=self.side)

    def data(self) -> bytes:
        """The medium's undecoded bytes. Raises `MediaError`."""
        where = Path(self.where)
        value = self.table[self.row][self.column]
        if not isinstance(value, dict) or (value.get("bytes") is None and not value.get("path")):
            raise MediaError(where, "no medium in this row")
        if value.get("bytes") is not None:
            data = bytes(value["bytes"])
            if len(data) > MAX_BYTES[self.kind]:
                raise MediaError(where, f"{len(data)} bytes, more than {MAX_BYTES[self.kind]}")
            return data
        path = Path(value["path"])
        try:
            inside = any(path.resolve().is_relative_to(root) for root in self.roots)
        except (OSError, RuntimeError, ValueError):  # links in a circle, an embedded NUL
            inside = False
        if not inside:
            raise MediaError(where, f"names {path}, which is outside of the data set's folder")
        require_file(path, MAX_BYTES[self.kind])
        return path.read_bytes()


def examples(
    *,
    name: str,
    image: str = "",
    audio: str = "",
    video: str = "",
    text: str = "text",
    prompt: str = "",
    split: str = "train",
    test_split: str = "test",
    config: str = "",
    test_fraction: float = 0.1,
    limit: int = 0,
    max_seconds: float = 30.0,
    side: int = 224,
) -> Examples:
    """Rows of a Hugging Face data set: columns of media, a column of texts.

    A column of media has the feature Image, Audio or Video, or holds undecoded files as bytes. A row without a text is
    left out and counted. Sounds are brought to 16,000 samples a second.

    Source, licence and sizes are those of the data set.

    Args:
        name: a folder that `save_to_disk` wrote, a folder of parquet or arrow files, such a file, or a name on the Hub.
        image: the column of pictures, if any.
        audio: the column of sounds, if any.
        video: the column of clips, if any. At least one of the three is needed.
        text: the column of captions, transcripts or answers: a text, or a list of texts.
        prompt: the column of questions, if any; `<image>`, `<audio>` and `<video>` stand for the media in it.
        split: the split to learn from.
        test_split: the split to be scored on; empty holds out a share by the hash of the media's bytes.
        config: the configuration, of a data set on the Hub that has several.
        test_fraction: the share held out where `test_split` is empty.
        limit: so many rows of each split, for a quick try; 0 means all.
        max_seconds: longer sounds count as damaged; not below a run's own `max_seconds`.
        side: clips are decoded to squares of so many pixels a side.

    Returns:
        Examples whose media are decoded from the table when they are asked for.

    Raises:
        LayoutError: no such data set, split or column, a text that is none, or nothing to train or test on.
        UserError: the library `datasets` is not installed.
        ValueError: an option out of range.
    """
    require_limit(limit)
    require_share(test_fraction)
    require_limits(max_seconds, side)
    given: dict[Kind, str] = {"image": image, "audio": audio, "video": video}
    columns = {kind: column for kind, column in given.items() if column}
    if not columns:
        raise LayoutError(f"{name}: name a column of media, as in huggingface:name={name},image=image,text=caption")
    tables = _load(name, config)
    reader = _Reader(columns, text, prompt, _roots(name), max_seconds, side)
    learnt = reader.rows(*_split(tables, name, split), limit=limit, hashed=not test_split)
    if test_split:
        held_out = reader.rows(*_split(tables, name, test_split), limit=limit, hashed=False)
        train, test = [example for _, example in learnt], [example for _, example in held_out]
        how = f"held out in the split {test_split}"
    else:
        train = [example for key, example in learnt if not is_held_out(key, test_fraction, "huggingface")]
        test = [example for key, example in learnt if is_held_out(key, test_fraction, "huggingface")]
        how = "held out by the hash of their media"
    require_both(train, test, name)
    notes = [f"{name}: {len(train)} rows to learn from, {len(test)} {how}"]
    if reader.num_empty:
        notes.append(f"{reader.num_empty} rows without a text are left out")
    return Examples(train=train, test=test, scoring="captions", notes=notes)


@dataclass
class _Reader:
    """Makes examples of rows."""

    columns: Mapping[Kind, str]
    text: str
    prompt: str
    roots: tuple[Path, ...]
    max_seconds: float
    side: int
    num_empty: int = 0

    def rows(self, table: "Dataset", name: str, *, limit: int, hashed: bool) -> list[tuple[str, Example]]:
        """The examples of a split, each with the hash of its media's bytes if asked for."""
        for column in (*self.columns.values(), self.text, *filter(None, [self.prompt])):
            if column not in table.column_names:
                raise LayoutError(f"{name} has no column {column!r}; it has: {', '.join(table.column_names)}")
        if limit:
            table = table.select(range(min(limit, len(table))))
        media = {kind: _undecoded(table, column, kind, name) for kind, column in self.columns.items()}
        prompts = table[self.prompt] if self.prompt else [""] * len(table)
        found = []
        for row, (said, asked) in enumerate(zip(table[self.text], prompts)):
            place = f"{name} row {row}"
            values = said if isinstance(said, list) else [said]
            targets = captions([value for value in values if value is not None], place)
            if not targets:
                self.num_empty += 1
                continue
            cells = {
                kind: Cell(media[kind], column, row, name, kind, self.roots, self.max_seconds, self.side)
                for kind, column in self.columns.items()
            }
            read = [Medium(kind, cell, RATE if kind == "audio" else 0.0) for kind, cell in cells.items()]
            parts = arrange(clean(asked or "", place), read, place)
            found.append((_hash(cells.values()) if hashed else "", Example(parts, targets, place)))
        return found


def _load(name: str, config: str) -> Mapping[str, "Dataset"]:
    """The splits by name."""
    try:
        import datasets
    except ImportError as error:
        raise UserError("Hugging Face data needs the package `datasets`: `pip install datasets`") from error
    path = Path(name).expanduser()
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = datasets.load_from_disk(str(path))
        elif path.is_dir():
            # Read as tables, whatever else lies there.
            kinds = [suffix for suffix in TABLES if any(path.rglob(f"*{suffix}"))]
            builder = kinds[0].removeprefix(".") if kinds else None
            loaded = datasets.load_dataset(builder, data_dir=str(path)) if builder else datasets.load_dataset(str(path))
        elif path.is_file() and path.suffix in TABLES:
            loaded = datasets.load_dataset(path.suffix.removeprefix("."), data_files=str(path))
        elif path.exists() or len(path.parts) > 2 or name.startswith((".", "/", "~")):
            raise LayoutError(f"{name} is neither a folder nor a {' or '.join(TABLES)} file on this machine")
        else:
            loaded = datasets.load_dataset(name, config or None)
    except UserError:
        raise
    except Exception as error:  # whatever is wrong with files, network or features
        raise LayoutError(f"the data set {name} cannot be loaded ({type(error).__name__}: {error})") from error
    return {"train": loaded} if isinstance(loaded, datasets.Dataset) else loaded


def _split(tables: Mapping[str, "Dataset"], name: str, split: str) -> tuple["Dataset", str]:
    if split not in tables:
        raise LayoutError(
            f"{name} has no split {split!r}; it has: {', '.join(tables)}. Name them as split=… and test_split=…; an "
            "empty test_split= holds out a share"
        )
    return tables[split], f"{name}[{split}]"


def _roots(name: str) -> tuple[Path, ...]:
    """Where files that rows name may be: in the data set's folder, or where the library keeps what it has fetched."""
    from datasets import config
    from huggingface_hub import constants

    path = Path(name).expanduser()
    kept = [Path(config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]
    return tuple(root.resolve() for root in [*([path] if path.is_dir() else []), *kept])


def _undecoded(table: "Dataset", column: str, kind: Kind, name: str) -> "Dataset":
    """The one column, with bytes and path instead of what the library would decode."""
    import datasets

    features: dict[Kind, Any] = {"image": datasets.Image, "audio": datasets.Audio, "video": datasets.Video}
    try:
        return table.select_columns([column]).cast_column(column, features[kind](decode=False))
    except Exception as error:  # pyarrow's, of many types
        raise LayoutError(f"{name}: the column {column!r} does not hold {kind} ({error})") from error


def _hash(cells: Iterable[Cell]) -> str:
    """Of the content of media, so that all rows about a picture are on one side."""
    digest = hashlib.sha256()
    for cell in cells:
        try:
            data = cell.data()
        except MediaError:
            data = b"unreadable"
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()
