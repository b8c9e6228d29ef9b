"""Packed batches straight from text files, without a copy on disk, that stop and go on anywhere."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from core.text.dataset import process
from core.text.packing import Document, PackedBatch, Packer
from core.text.readers import DataError, TextReader
from core.text.tokenizer import Tokenizer


class StreamedDocuments:
    """Endless packed batches over the documents of some files; a `BatchSource`.

    The state is the place in the files, the shuffle buffer and the rows in the making, all JSON. With several
    processes each reads everything and keeps its own rows of the global batch, so that the batches are those of a
    single process. Tokenising is then done once per process; for large corpora write token shards first.

    Attributes:
        epoch: passes over the files completed.
    """

    def __init__(
        self,
        reader: TextReader,
        tokenizer: Tokenizer,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle_buffer: int = 0,
        encode: Callable[[str], Document] | None = None,
        open_rows: int = 16,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """Describe the batches; nothing is opened yet.

        Args:
            reader: the files and how to read them.
            tokenizer: makes the ids and names the pad id.
            length: tokens T that a row predicts.
            batch_size: rows a step, over all processes.
            seed: seed of the shuffling.
            shuffle_buffer: give a random one of so many documents read ahead; 0 keeps the order of the files.
            encode: text to ids, or to (ids, mask); the default is a document between the tokenizer's
                beginning-of-sequence and end-of-sequence tokens, where it has them.
            open_rows: rows filled at the same time, see `Packer`.
            rank: number of this process; `None` asks `core.training.distributed`.
            world: number of processes; `None` asks `core.training.distributed`.

        Raises:
            ValueError: sizes below 1.
        """
        if batch_size < 1 or shuffle_buffer < 0:
            raise ValueError(f"batch_size must be >= 1 and shuffle_buffer >= 0, got {batch_size} and {shuffle_buffer}")
        self.reader, self.tokenizer = reader, tokenizer
        self.batch_size, self.seed, self.shuffle_buffer = batch_size, seed, shuffle_buffer
        self.epoch = 0
        self._encode = encode or self._frame
        self._packer = Packer(length, pad_id=tokenizer.pad_id or 0, open_rows=open_rows)
        self._buffer: list[str] = []
        self._draws = 0
        self._file, self._position = 0, [0, 0]
        self._rank, self._world = rank, world

    def __iter__(self) -> Iterator[PackedBatch]:
        rank, world = process(self._rank, self._world)
        if self.batch_size % world:
            raise ValueError(f"batch_size {self.batch_size} cannot be shared by {world} processes; make it a multiple")
        share = self.batch_size // world
        texts = self._texts()
        while True:
            while self._packer.num_ready < self.batch_size:
                self._packer.add(self._encode(next(texts)))
                self._refuse_empty_documents()
            yield self._packer.take(self.batch_size).rows(slice(rank * share, (rank + 1) * share))

    def state_dict(self) -> dict[str, Any]:
        """JSON values that fix the next batch."""
        return {
            "epoch": self.epoch,
            "file": self._file,
            "position": list(self._position),
            "paths": [path.name for path in self.reader.paths],
            "tokenizer": self.tokenizer.fingerprint,
            "draws": self._draws,
            "buffer": list(self._buffer),
            "packer": self._packer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; iterate anew afterwards.

        Raises:
            ValueError: other files or another tokenizer.
        """
        paths = [path.name for path in self.reader.paths]
        if list(state["paths"]) != paths:
            raise ValueError(f"the checkpoint read {state['paths']}, this run reads {paths}; give the same files")
        if state["tokenizer"] != self.tokenizer.fingerprint:
            raise ValueError("the checkpoint was made with another tokenizer; load the one saved beside it")
        self.epoch, self._file, self._position = state["epoch"], state["file"], list(state["position"])
        self._draws, self._buffer = state["draws"], list(state["buffer"])
        self._packer.load_state_dict(state["packer"])

    def _refuse_empty_documents(self) -> None:
        packer = self._packer
        if self.epoch and packer.num_too_short == packer.num_documents:
            raise DataError(
                f"none of the {packer.num_documents} documents has two tokens or more, so there is nothing to predict; "
                "check the field and the unit that the reader takes"
            )

    def _frame(self, text: str) -> Document:
        bos, eos = self.tokenizer.bos_id is not None, self.tokenizer.eos_id is not None
        return self.tokenizer.encode(text, add_bos=bos, add_eos=eos)

    def _texts(self) -> Iterator[str]:
        for text in self._read():
            if not self.shuffle_buffer:
                yield text
                continue
            self._buffer.append(text)
            if len(self._buffer) > self.shuffle_buffer:
                yield self._buffer.pop(self._draw(len(self._buffer)))

    def _draw(self, size: int) -> int:
        key = np.array([self.seed % 2**64, self._draws], dtype=np.uint64)
        self._draws += 1
        return int(np.random.Generator(np.random.Philox(key=key)).integers(0, size))

    def _read(self) -> Iterator[str]:
        """Texts over and over, keeping `_file` and `_position` at what comes next."""
        found = self._file > 0 or self._position != [0, 0] or bool(self._buffer)
        while True:
            while self._file < len(self.reader.paths):
                for text, position in self.reader.read(self._file, self._position):
                    self._position = position
                    found = True
                    yield text
                self._file, self._position = self._file + 1, [0, 0]
            if not found:
                names = ", ".join(str(path) for path in self.reader.paths)
                raise DataError(f"no text in {names}; every epoch would be empty")
            self.epoch += 1
            self._file, found = 0, False
