"""Shards in WebDataset's format: tar archives in which the members of a sample share a name and differ in the ending.

    shard-000000.tar: 0001.jpg 0001.txt 0002.jpg 0002.json clips/0003.mp4 clips/0003.txt

A member's name up to the first dot behind the last slash is its sample's key. Media endings are those of `ENDINGS`;
`.txt` holds one caption; `.json` an object with `caption`, `text` or `answer` (a text or a list of texts) and perhaps
`prompt` or `question`. Where both are there, as img2dataset writes them, the caption is the `.txt`. Other members are
counted and ignored.

Only names, sizes, places and texts are read at first. A medium is read from its place when it is asked for; nothing is
unpacked.

References:
    Aizman et al. 2020, "High Performance I/O For Large Scale Deep Learning", arXiv:2001.01858.
"""

import glob
import json
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

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
from multimodal.examples import KINDS, Example, Examples, Kind, Medium
from multimodal.media.errors import MediaError

ENDINGS: dict[str, Kind] = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp"), "image"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "opus", "m4a"), "audio"),
    **dict.fromkeys(("mp4", "webm", "mkv", "mov", "avi"), "video"),
}
MAX_SHARDS = 100_000
MAX_TEXT_BYTES = 2**20
"""Texts above 1 MiB are refused."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NAME = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<ending>[^/]+)", re.DOTALL)
_TARGETS, _PROMPTS = ("caption", "text", "answer"), ("prompt", "question")


@dataclass(frozen=True)
class Member:
    """Decodes one medium of a shard, each time it is called; can be sent to loader processes."""

    shard: Path
    name: str
    offset: int
    """Of its content, in bytes from the start of the shard."""
    size: int
    kind: Kind
    max_seconds: float
    side: int

    @property
    def where(self) -> str:
        """Shard and member, for messages."""
        return f"{self.shard}:{self.name}"

    def __call__(self) -> Tensor:
        """See `multimodal.datasets.packed.decode`. Raises `MediaError` naming shard and member."""
        if self.size > MAX_BYTES[self.kind]:
            raise MediaError(Path(self.where), f"{self.size} bytes, more than {MAX_BYTES[self.kind]}")
        try:
            with self.shard.open("rb") as stream:
                stream.seek(self.offset)
                data = stream.read(self.size)
        except OSError as error:
            raise MediaError(Path(self.where), error.strerror or "cannot be opened") from error
        if len(data) < self.size:
            raise MediaError(Path(self.where), "the shard has become shorter since it was listed")
        return decode(self.kind, data, self.where, max_seconds=self.max_seconds, side=self.side)


@dataclass
class _Sample:
    shard: Path
    key: str
    media: list[Member] = field(default_factory=list)
    text: str | None = None
    record: dict[str, Any] | None = None

    @property
    def place(self) -> str:
        return f"{self.shard}:{self.key}"


@dataclass
class _Side:
    """Examples of some shards, with their keys, and what was left out."""

    examples: list[tuple[str, Example]] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def examples(
    *,
    shards: str,
    test: str = "",
    test_fraction: float = 0.1,
    limit: int = 0,
    skip_missing: bool = False,
    max_seconds: float = 30.0,
    side: int = 224,
) -> Examples:
    """Samples of tar shards: media and texts, as the top of this module tells.

    Source, licence and sizes are those of the reader's own files. Sounds are brought to 16,000 samples a second.

    Args:
        shards: a shard, a folder of them, or a pattern such as `data/shard-{000000..000012}.tar` or `data/*.tar`.
        test: the same, of shards to be scored on, which are not learnt from; empty holds out a share of the samples by
            the hash of their keys.
        test_fraction: that share.
        limit: so many samples of each side, for a quick try; 0 means all. Shards beyond are not opened when `test` is
            given.
        skip_missing: leave out samples without medium or text, and empty shards, and say how many.
        max_seconds: longer sounds count as damaged; not below a run's own `max_seconds`.
        side: clips are decoded to squares of so many pixels a side.

    Returns:
        Examples whose media are decoded from the shards when they are asked for.

    Raises:
        LayoutError: no such shards, a shard that is damaged, compressed or hostile, a key that is there twice, samples
            without medium or text, or nothing to train or test on.
        ValueError: an option out of range.
    """
    require_limit(limit)
    require_share(test_fraction)
    require_limits(max_seconds, side)
    every, to_test = expand(shards), expand(test) if test else []
    tested_paths = {path.resolve() for path in to_test}
    apart = [path for path in every if path.resolve() not in tested_paths]
    # Should nothing be left to learn from, the same shards twice are what is asked for: a note says so.
    learnt = _read(apart or every, limit if test else 0, max_seconds, side)
    held_out = _read(to_test, limit, max_seconds, side)
    if test:
        train, tested = ([example for _, example in part.examples] for part in (learnt, held_out))
        how = f"held out in {test}"
    else:
        train = [example for key, example in learnt.examples if not is_held_out(key, test_fraction, "webdataset")]
        tested = [example for key, example in learnt.examples if is_held_out(key, test_fraction, "webdataset")]
        train, tested = train[: limit or None], tested[: limit or None]
        how = "held out by the hash of their keys"
    incomplete, empty = learnt.incomplete + held_out.incomplete, learnt.empty + held_out.empty
    if incomplete and not skip_missing:
        raise LayoutError(
            f"{len(incomplete)} samples lack a medium or a text, the first is {incomplete[0]}: complete them, or leave "
            "them out with skip_missing=true"
        )
    if empty and not skip_missing:
        raise LayoutError(
            f"{len(empty)} shards are empty, the first is {empty[0]}: remove them, or leave them out with "
            "skip_missing=true"
        )
    require_both(train, tested, shards)
    notes = [f"{shards}: {len(train)} samples to learn from, {len(tested)} {how}"]
    if len(apart) < len(every):
        both = f"{len(every) - len(apart)} shards are both to learn from and to test on: "
        notes.append(both + ("they are only tested on" if apart else "all test samples are trained on as well"))
    if incomplete:
        notes.append(f"{len(incomplete)} samples without medium or text are left out, the first is {incomplete[0]}")
    if empty:
        notes.append(f"{len(empty)} empty shards are left out, the first is {empty[0]}")
    if ignored := learnt.ignored + held_out.ignored:
        listed = ", ".join(f"{count} of .{ending}" for ending, count in ignored.most_common(5))
        notes.append(f"members that are neither media nor texts are ignored: {listed}")
    return Examples(train=train, test=tested, scoring="captions", notes=notes)


def expand(pattern: str) -> list[Path]:
    """The shards that a path, folder, `{000000..000012}` range or `*` pattern stands for, in order.

    Raises:
        LayoutError: none, too many, or one of a range is missing.
    """
    names = [pattern]
    while match := _RANGE.search(names[0]):
        first, last = int(match[1]), int(match[2])
        if not first <= last < first + MAX_SHARDS or (last - first + 1) * len(names) > MAX_SHARDS:
            raise LayoutError(f"{pattern} must stand for 1 to {MAX_SHARDS} shards")
        width = len(match[1])
        names = [
            _RANGE.sub(f"{number:0{width}}", name, count=1) for name in names for number in range(first, last + 1)
        ]  # fmt: skip
    paths: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            paths += sorted(path.glob("*.tar"))
        elif not path.is_file() and glob.has_magic(name):
            paths += sorted(Path(found) for found in glob.glob(str(path)))
        else:
            paths.append(path)
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        what = (
            f"{len(missing)} of {len(paths)} shards are missing, the first is {missing[0]}" if missing else "no shard"
        )
        raise LayoutError(f"{pattern}: {what}: give a .tar file, a folder of them, or a pattern of their names")
    return paths


def _read(paths: Sequence[Path], limit: int, max_seconds: float, side: int) -> _Side:
    read = _Side()
    places: dict[str, Path] = {}
    for path in paths:
        samples = _samples(path, read.ignored, max_seconds, side)
        if not samples:
            read.empty.append(path)
        for sample in samples:
            if sample.key in places:
                raise LayoutError(
                    f"the key {sample.key} is in {places[sample.key]} and in {path}: a sample's members must be in one "
                    "shard, and its key its own"
                )
            places[sample.key] = path
            if (example := _example(sample)) is None:
                read.incomplete.append(sample.place)
            else:
                read.examples.append((sample.key, example))
            if limit and len(read.examples) == limit:
                return read
    return read


def _samples(path: Path, ignored: Counter[str], max_seconds: float, side: int) -> list[_Sample]:
    """The samples of one shard, in order."""
    samples: dict[str, _Sample] = {}
    seen: set[str] = set()
    with path.open("rb") as stream:
        for member in _members(path, stream):
            match = _NAME.fullmatch(member.name)
            if member.name in seen:
                raise LayoutError(f"{path}:{member.name} is there twice: keep one of them")
            seen.add(member.name)
            ending = match["ending"].lower() if match else ""
            if match is None or (ending not in ENDINGS and ending not in ("txt", "json")):
                ignored[ending or "no ending"] += 1
                continue
            sample = samples.setdefault(match["key"], _Sample(path, match["key"]))
            if ending in ENDINGS:
                offset, size = member.offset_data, member.size
                sample.media.append(Member(path, member.name, offset, size, ENDINGS[ending], max_seconds, side))
            elif ending == "txt":
                sample.text = _text(path, member, stream)
            else:
                sample.record = _record(path, member, stream)
    return list(samples.values())


def _members(path: Path, stream: BinaryIO) -> list[tarfile.TarInfo]:
    """The files of an archive that is whole and holds nothing but files and folders."""
    size_bytes = path.stat().st_size
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            members = archive.getmembers()
            end = archive.offset
        stream.seek(end)
        rest = stream.read(tarfile.BLOCKSIZE)
    except Exception as error:  # tarfile raises what it likes on hostile headers
        raise LayoutError(
            f"{path} is not a whole, uncompressed tar archive ({error}): make or fetch it again; a compressed one must "
            "be decompressed, since members are sought in it"
        ) from error
    # tarfile takes a header that it cannot read for the end; without its block of zeros, the rest would be lost in
    # silence.
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise LayoutError(f"{path} is damaged or cut off at byte {end}: make or fetch it again")
    files = []
    for member in members:
        if member.isdir():
            continue
        parts = member.name.split("/")
        if member.name.startswith("/") or ".." in parts or "\0" in member.name:
            raise LayoutError(f"{path} has a member named {member.name!r}, which leaves the archive: do not use it")
        if not member.isreg() or member.issparse():
            raise LayoutError(f"{path}:{member.name} is a link, a device or sparse: a shard holds plain files")
        if member.offset_data + member.size > size_bytes:
            raise LayoutError(f"{path} is cut off within {member.name}: make or fetch it again")
        files.append(member)
    return files


def _text(path: Path, member: tarfile.TarInfo, stream: BinaryIO) -> str:
    place = f"{path}:{member.name}"
    if member.size > MAX_TEXT_BYTES:
        raise LayoutError(f"{place} has {member.size} bytes; {MAX_TEXT_BYTES} are allowed for a text")
    stream.seek(member.offset_data)
    try:
        return stream.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LayoutError(f"{place} is not UTF-8 text: {error.reason}") from error


def _record(path: Path, member: tarfile.TarInfo, stream: BinaryIO) -> dict[str, Any]:
    place = f"{path}:{member.name}"
    text = _text(path, member, stream)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{place} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise LayoutError(f"{place} must be an object with `caption`")
    return record


def _example(sample: _Sample) -> Example | None:
    """None: it lacks a medium or a text."""
    record = sample.record or {}
    said = record.get(next((name for name in _TARGETS if record.get(name) not in (None, "")), ""), [])
    if sample.text is not None:
        said = sample.text
    targets = captions(said if isinstance(said, list) else [said], sample.place)
    if not sample.media or not targets:
        return None
    prompt = record.get(next((name for name in _PROMPTS if record.get(name) not in (None, "")), ""), "")
    ordered = sorted(sample.media, key=lambda member: (KINDS.index(member.kind), member.name))
    media = [Medium(member.kind, member, RATE if member.kind == "audio" else 0.0) for member in ordered]
    parts = arrange(clean(prompt, sample.place), media, sample.place)
    return Example(parts, targets, f"{sample.shard.stem}/{sample.key}")
