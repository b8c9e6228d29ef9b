"""Vectors of many files, kept on disk and found again by the files' content.

Shape suffixes: I = files, C = different contents, V = numbers of a vector.

An index is one safetensors file: the vectors, and as its metadata a JSON record of what they belong to. It may know
files of many folders; a search names the folders.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.errors import UserError
from core.pretrained.sources import cache_dir
from multimodal.examples import Kind, Medium
from multimodal.media.errors import MediaError
from multimodal.media.kinds import kind_of
from multimodal.retrieval.retriever import Retriever

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp"),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".m4a"),
    "video": (".mp4", ".webm", ".mkv", ".gif", ".webp"),
}
"""Files of a folder that are taken for media; their content then tells the kind."""
CHUNK = 256
"""Files that are encoded at a time."""
TELL_EVERY_S = 5.0
"""Seconds between two lines of progress."""
SAVE_EVERY_S = 30.0
"""Seconds after which a long build writes what it has, so that an interrupted one goes on there."""
_FORMAT = 1


class IndexFault(UserError):
    """Folders without a file to index, or an index file that cannot be used."""


@dataclass(frozen=True)
class Found:
    """What the files of some folders are."""

    files: list[Path]
    """The usable ones."""
    vectors_IV: Tensor
    """float32 of length 1, one row a file."""
    bad: list[MediaError]
    """The others."""


def files_of(folders: Sequence[Path], kinds: Sequence[Kind]) -> tuple[list[Path], int]:
    """Media files in folders and all their subfolders, sorted, each once; hidden ones are left out.

    Args:
        folders: which must exist.
        kinds: of media.

    Returns:
        The files, and how many files with other endings there are.

    Raises:
        IndexFault: a folder is missing, or there is no media file in any of them.
    """
    suffixes = {suffix for kind in kinds for suffix in SUFFIXES[kind]}
    files: dict[Path, None] = {}
    others = 0
    for folder in folders:
        if not folder.is_dir():
            raise IndexFault(f"{folder} is not a folder: name one that holds media")
        for parent, inner, names in os.walk(folder):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            for name in sorted(names):
                if name.startswith("."):
                    continue
                if Path(name).suffix.lower() in suffixes:
                    files[Path(parent) / name] = None
                else:
                    others += 1
    if not files:
        raise IndexFault(
            f"{', '.join(map(str, folders))} holds no file with one of the endings {', '.join(sorted(suffixes))}, "
            f"which are those of the kinds that this run takes: {', '.join(kinds)}"
        )
    return list(files), others


class Index:
    """Vectors by the content of files.

    Args:
        retriever: makes them.
        path: the index file; by default one in Trillium's cache that belongs to the retriever's weights.
        tell: called with a line about progress.

    Raises:
        IndexFault: the file is damaged, or was made by another run.
    """

    def __init__(
        self, retriever: Retriever, path: Path | None = None, *, tell: Callable[[str], None] | None = None
    ) -> None:
        self.retriever = retriever
        name = hashlib.sha256(retriever.name.encode()).hexdigest()[:32]
        self.path = path or cache_dir() / "indexes" / f"{name}.safetensors"
        self.tell = tell
        self._rows: dict[str, int] = {}
        """Content to row."""
        self._parts: list[Tensor] = []
        self._bad: dict[str, str] = {}
        """Content to what is wrong with it."""
        self._known: dict[str, tuple[int, int, str]] = {}
        """Absolute path to size, time of the last change and content, so that a file is read once."""
        if self.path.exists():
            self._read()

    def look_up(self, files: Sequence[Path]) -> Found:
        """Vectors of files; those that are new or have changed are encoded, and the index is written.

        Args:
            files: any; damaged ones are named in the result.
        """
        before = (len(self._rows), len(self._bad), dict(self._known))
        contents: dict[Path, str] = {}
        bad: list[MediaError] = []
        for file in files:
            try:
                contents[file] = self._content(file)
            except OSError as error:
                bad.append(MediaError(file, error.strerror or "cannot be read"))
        fresh: dict[str, Path] = {}
        for file, content in contents.items():
            if content not in self._rows and content not in self._bad:
                fresh.setdefault(content, file)
        self._encode(fresh)
        if before != (len(self._rows), len(self._bad), self._known):
            self._write()
        bad += [MediaError(file, self._bad[content]) for file, content in contents.items() if content in self._bad]
        usable = [file for file, content in contents.items() if content in self._rows]
        rows = [self._rows[contents[file]] for file in usable]
        return Found(usable, torch.cat(self._parts)[rows] if rows else torch.empty(0, 0), bad)

    def _encode(self, fresh: dict[str, Path]) -> None:
        """Take in files by their content."""
        waiting = list(fresh.items())
        began = told_s = saved_s = time.perf_counter()
        for start in range(0, len(waiting), CHUNK):
            media: dict[str, Medium] = {}
            for content, file in waiting[start : start + CHUNK]:
                try:
                    media[content] = Medium(kind_of(file, self.retriever.kinds), file)
                except MediaError as error:
                    self._bad[content] = error.reason
            names = list(media)
            vectors_NV, kept, bad = self.retriever.media(list(media.values()))
            for index in kept:
                self._rows[names[index]] = len(self._rows)
            self._parts.append(vectors_NV)
            by_file = {medium.source: content for content, medium in media.items()}
            self._bad |= {by_file[error.path]: error.reason for error in bad}
            now = time.perf_counter()
            done = min(start + CHUNK, len(waiting))
            if self.tell is not None and now - told_s >= TELL_EVERY_S and done < len(waiting):
                told_s = now
                rate = done / (now - began)
                left_s = (len(waiting) - done) / rate
                self.tell(f"encoded {done:,} of {len(waiting):,} files, {rate:,.0f} a second, {left_s:,.0f} s left")
            if now - saved_s >= SAVE_EVERY_S:
                saved_s = now
                self._write()

    def _content(self, file: Path) -> str:
        """Hash of a file; of one that is as it was, the hash that is known."""
        status = file.stat()
        place = str(file.resolve())
        known = self._known.get(place)
        if known is not None and known[:2] == (status.st_size, status.st_mtime_ns):
            return known[2]
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        self._known[place] = (status.st_size, status.st_mtime_ns, content)
        return content

    def _read(self) -> None:
        try:
            with safe_open(self.path, framework="pt") as stored:
                text, digest = stored.metadata()["record"], stored.metadata()["sha256"]
                vectors_CV = stored.get_tensor("vectors")
            record = json.loads(text)
            whole = _hash(vectors_CV, text) == digest and len(vectors_CV) == len(record["contents"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise IndexFault(f"{self.path} is no index that can be read: remove it, it is built again") from error
        if not whole:
            raise IndexFault(f"{self.path} is damaged: remove it, it is built again")
        if (record["format"], record["retriever"]) != (_FORMAT, self.retriever.name):
            raise IndexFault(f"{self.path} was made by another run, or by other weights: give another --index, or none")
        self._rows = {content: row for row, content in enumerate(record["contents"])}
        self._parts = [vectors_CV]
        self._bad = record["bad"]
        self._known = {place: (size, changed, content) for place, (size, changed, content) in record["known"].items()}

    def _write(self) -> None:
        """In one atomic step: a reader sees the whole file or none."""
        self._parts = [torch.cat(self._parts) if self._parts else torch.empty(0, 0)]
        record = {
            "format": _FORMAT,
            "retriever": self.retriever.name,
            "contents": list(self._rows),
            "bad": self._bad,
            "known": self._known,
        }
        text = json.dumps(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".part-", suffix=".safetensors", dir=self.path.parent)
        os.close(handle)
        try:
            metadata = {"record": text, "sha256": _hash(self._parts[0], text)}
            save_file({"vectors": self._parts[0]}, part, metadata=metadata)
            os.replace(part, self.path)
        finally:
            Path(part).unlink(missing_ok=True)


def best(found: Found, query_V: Tensor, top: int) -> list[tuple[float, Path]]:
    """The files whose vectors are closest to one, with their cosines; equal ones in the order of the files.

    Args:
        found: the files.
        query_V: of length 1.
        top: how many.
    """
    cosines_I = found.vectors_IV @ query_V
    order = cosines_I.argsort(descending=True, stable=True)[:top].tolist()
    return [(cosines_I[index].item(), found.files[index]) for index in order]


def _hash(vectors_CV: Tensor, record: str) -> str:
    digest = hashlib.sha256(f"{record} {tuple(vectors_CV.shape)}".encode())
    digest.update(vectors_CV.contiguous().numpy().data)
    return digest.hexdigest()
