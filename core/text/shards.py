"""Token ids on disk: flat little-endian files to be memory-mapped, and an index that describes them.

A folder holds `index.json` (written last), `tokens-00000.bin`, … with the ids, and `documents.bin` with the position of
each document's first token. The folder appears under its name only when it is complete.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from core.text.atomic import write_json
from core.text.dataset import Ids
from core.text.tokenizer import Tokenizer

FORMAT = "trillium-tokens-1"


class BrokenShards(UserError, ValueError):
    """Token shards that are incomplete, damaged or were made with another tokenizer."""


class TokenShards:
    """A folder of token ids, memory-mapped; a `TokenStream`.

    Attributes:
        num_tokens: ids in all.
        num_documents: documents in all.
        tokenizer: fingerprint of the tokenizer that made the ids.
        vocab_size: its vocabulary size.
    """

    def __init__(self, folder: Path | str, *, tokenizer: Tokenizer | None = None, verify: bool = False) -> None:
        """Open a folder that `write_shards` made.

        Args:
            folder: the folder.
            tokenizer: the tokenizer the ids are meant for; its fingerprint is compared.
            verify: read everything and compare the SHA-256 as well; the sizes are always compared.

        Raises:
            BrokenShards: no index, a missing, cut or changed file, or another tokenizer.
        """
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.num_tokens: int = index["num_tokens"]
        self.num_documents: int = index["num_documents"]
        self.tokenizer: str = index["tokenizer"]
        self.vocab_size: int = index["vocab_size"]
        self.dtype = np.dtype(index["dtype"])
        if tokenizer is not None and tokenizer.fingerprint != self.tokenizer:
            raise BrokenShards(
                f"the ids in {self.folder} were made with another tokenizer (fingerprint {self.tokenizer[:12]}…, "
                f"this one has {tokenizer.fingerprint[:12]}…); write the shards again with this tokenizer"
            )
        self._index = index
        self._shards: list[Ids] = []
        for entry in index["shards"]:
            self._check_size(entry)
            self._shards.append(np.memmap(self.folder / entry["file"], self.dtype, "r"))
        self._check_size(index["documents"])
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        if verify:
            self.verify()

    def __len__(self) -> int:
        return self.num_tokens

    def windows(self, starts_B: Ids, length: int) -> Ids:
        """ids_BT: `length` tokens from each start, across file boundaries."""
        if len(self._shards) == 1:
            return self._shards[0][starts_B[:, None] + np.arange(length)]
        return np.stack([self.slice(int(start), int(start) + length) for start in starts_B])

    def slice(self, start: int, stop: int) -> Ids:
        """Tokens start … stop - 1.

        Raises:
            IndexError: outside the data.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start}:{stop} are outside the {self.num_tokens} tokens of {self.folder}")
        parts, shard = [], int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            first = int(self._ends[shard]) - len(self._shards[shard])
            end = min(stop, int(self._ends[shard]))
            parts.append(self._shards[shard][start - first : end - first])
            start, shard = end, shard + 1
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    @cached_property
    def _document_starts(self) -> npt.NDArray[np.int64]:
        starts = np.fromfile(self.folder / self._index["documents"]["file"], "<u8").astype(np.int64)
        return np.append(starts, self.num_tokens)

    def document(self, number: int) -> list[int]:
        """Ids of one document.

        Raises:
            IndexError: no such document.
        """
        if not 0 <= number < self.num_documents:
            raise IndexError(f"document {number} is outside the {self.num_documents} documents of {self.folder}")
        start, stop = self._document_starts[number : number + 2]
        return self.slice(int(start), int(stop)).tolist()

    def documents(self) -> Iterator[list[int]]:
        """Ids of each document in order."""
        return (self.document(number) for number in range(self.num_documents))

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the index.

        Raises:
            BrokenShards: a file differs.
        """
        for entry in [*self._index["shards"], self._index["documents"]]:
            with (self.folder / entry["file"]).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != entry["sha256"]:
                raise BrokenShards(
                    f"{self.folder / entry['file']} is damaged: its SHA-256 is {found[:12]}…, the index says "
                    f"{entry['sha256'][:12]}…; write the shards again"
                )

    def _check_size(self, entry: dict[str, Any]) -> None:
        file = self.folder / entry["file"]
        size = file.stat().st_size if file.is_file() else None
        if size != entry["num_bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise BrokenShards(f"{file} {found}, the index says {entry['num_bytes']}; write the shards again")


def write_shards(
    folder: Path | str,
    texts: Iterable[str],
    tokenizer: Tokenizer,
    *,
    add_bos: bool = False,
    add_eos: bool = True,
    shard_tokens: int = 100_000_000,
    overwrite: bool = False,
) -> TokenShards:
    """Tokenise texts into a folder of shards, one text in memory at a time.

    Args:
        folder: the folder to make.
        texts: documents, from a reader or a list.
        tokenizer: makes the ids; ids fit 16 bits where its vocabulary does.
        add_bos: start each document with the beginning-of-sequence token.
        add_eos: end each document with the end-of-sequence token, when the tokenizer has one.
        shard_tokens: begin a new file after so many tokens; a document may straddle two.
        overwrite: replace a folder of shards that is there.

    Returns:
        The shards, open.

    Raises:
        ValueError: no text at all, the folder exists already, or an id outside the vocabulary.
    """
    folder = Path(folder)
    if shard_tokens < 1:
        raise ValueError(f"shard_tokens must be >= 1, got {shard_tokens}")
    if folder.exists() and not (overwrite and (folder / "index.json").is_file()):
        raise ValueError(f"{folder} exists; give another folder, or overwrite=True to replace token shards")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        writer = _Writer(partial, tokenizer, shard_tokens)
        for text in texts:
            writer.add(tokenizer.encode(text, add_bos=add_bos, add_eos=add_eos and tokenizer.eos_id is not None))
        index = writer.finish()
        if not index["num_tokens"]:
            raise ValueError(f"no tokens for {folder}: the texts are empty")
        write_json(partial / "index.json", index)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return TokenShards(folder)


class _Writer:
    """Appends documents to files of at most `shard_tokens` ids."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, shard_tokens: int) -> None:
        self.folder, self.tokenizer, self.shard_tokens = folder, tokenizer, shard_tokens
        self.dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
        self.shards: list[_HashedFile] = []
        self.documents = _HashedFile(folder / "documents.bin")
        self.num_tokens = self.num_documents = self.room = 0

    def add(self, ids: list[int]) -> None:
        if not ids:
            return
        array = np.asarray(ids, np.int64)
        if array.min() < 0 or array.max() >= self.tokenizer.vocab_size:
            raise ValueError(
                f"document {self.num_documents} has ids {array.min()} … {array.max()}, outside the vocabulary of "
                f"{self.tokenizer.vocab_size}"
            )
        self.documents.write(np.array([self.num_tokens], "<u8"))
        self.num_documents += 1
        self.num_tokens += len(array)
        while len(array):
            if not self.room:
                self._close_last()
                self.shards.append(_HashedFile(self.folder / f"tokens-{len(self.shards):05d}.bin"))
                self.room = self.shard_tokens
            self.shards[-1].write(array[: self.room].astype(self.dtype))
            written = min(self.room, len(array))
            array, self.room = array[written:], self.room - written

    def finish(self) -> dict[str, Any]:
        self._close_last()
        self.documents.close()
        return {
            "format": FORMAT,
            "dtype": self.dtype.str,
            "vocab_size": self.tokenizer.vocab_size,
            "tokenizer": self.tokenizer.fingerprint,
            "num_tokens": self.num_tokens,
            "num_documents": self.num_documents,
            "shards": [shard.entry() for shard in self.shards],
            "documents": self.documents.entry(),
        }

    def _close_last(self) -> None:
        if self.shards:
            self.shards[-1].close()


class _HashedFile:
    """A new file that knows its hash and is on the disk when closed."""

    def __init__(self, path: Path) -> None:
        self.path, self.num_bytes, self.hash = path, 0, hashlib.sha256()
        self.file: BinaryIO = path.open("wb")

    def write(self, array: Ids) -> None:
        content = array.tobytes()
        self.file.write(content)
        self.hash.update(content)
        self.num_bytes += len(content)

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def entry(self) -> dict[str, Any]:
        return {"file": self.path.name, "num_bytes": self.num_bytes, "sha256": self.hash.hexdigest()}


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / "index.json"
    if not file.is_file():
        raise BrokenShards(f"no token shards in {folder} (no index.json); make them with core.text.shards.write_shards")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenShards(f"{file} is not JSON ({error}); write the shards again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise BrokenShards(f"{file} is not an index of {FORMAT}; write the shards again")
    keys = {"dtype", "vocab_size", "tokenizer", "num_tokens", "num_documents", "shards", "documents"}
    if missing := keys - index.keys():
        raise BrokenShards(f"{file} lacks {', '.join(sorted(missing))}; write the shards again")
    return index
