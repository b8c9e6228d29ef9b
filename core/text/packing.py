"""Documents of any length in rows of one length, without losing a token and without attention across documents.

Shape suffixes: B = rows, T = tokens that a row predicts (a row holds T + 1).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Document = Sequence[int] | tuple[Sequence[int], Sequence[bool]]
"""Token ids, or (ids, mask) where True marks a token that is to be learnt."""


@dataclass(frozen=True)
class PackedBatch:
    """Rows of packed documents, split into inputs and next-token targets."""

    tokens_BT: Tensor
    """int64 inputs; padding holds the pad id."""
    targets_BT: Tensor
    """int64: the token after each input."""
    documents_BT: Tensor
    """int64 document number of each input within its row, from 1; 0 is padding. For block-diagonal attention."""
    mask_BT: Tensor
    """bool; True where the target belongs to the input's document and is to be learnt."""

    def __len__(self) -> int:
        return len(self.tokens_BT)

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The batch on a device."""
        return PackedBatch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def rows(self, rows: slice) -> "PackedBatch":
        """Some of the rows."""
        return PackedBatch(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass
class _Row:
    """A row being filled: pieces one after the other."""

    pieces: list[tuple[list[int], list[bool]]] = field(default_factory=list)
    size: int = 0


class Packer:
    """Best-fit packing of a stream of documents, with a state for exact resume.

    A document goes into the fullest of a few open rows that still has room; one longer than a row is cut into pieces
    that overlap by one token, so that every token with a predecessor is a target exactly once.

    Attributes:
        num_documents: documents taken.
        num_too_short: documents of fewer than two tokens, which hold nothing to predict and were left out.
    """

    def __init__(self, length: int, *, pad_id: int = 0, open_rows: int = 16) -> None:
        """Set up empty rows.

        Args:
            length: tokens T that a row predicts.
            pad_id: id in the padding; never a target.
            open_rows: rows filled at the same time; more of them waste less and hold documents back longer.
        """
        if length < 1 or open_rows < 1:
            raise ValueError(f"length and open_rows must be >= 1, got {length} and {open_rows}")
        self.length, self.pad_id, self.open_rows = length, pad_id, open_rows
        self.num_documents = self.num_too_short = 0
        self._open: list[_Row] = []
        self._done: list[_Row] = []

    @property
    def num_ready(self) -> int:
        """Rows that `take` can give."""
        return len(self._done)

    def add(self, document: Document) -> None:
        """Take one document.

        Raises:
            ValueError: a mask of another length than its ids.
        """
        ids, mask = document if isinstance(document, tuple) else (document, [True] * len(document))
        if len(ids) != len(mask):
            raise ValueError(f"a document of {len(ids)} ids has a mask of {len(mask)}; they must be equally long")
        self.num_documents += 1
        if len(ids) < 2:
            self.num_too_short += 1
            return
        for start in range(0, len(ids) - 1, self.length):
            stop = start + self.length + 1
            self._place(list(ids[start:stop]), list(mask[start:stop]))

    def flush(self) -> None:
        """Close the open rows; for the end of the data."""
        self._done += self._open
        self._open = []

    def take(self, count: int) -> PackedBatch:
        """The oldest finished rows.

        Args:
            count: rows B, at most `num_ready`.
        """
        rows, self._done = self._done[:count], self._done[count:]
        width = self.length + 1
        tokens = torch.full((len(rows), width), self.pad_id, dtype=torch.int64)
        documents = torch.zeros((len(rows), width), dtype=torch.int64)
        mask = torch.zeros((len(rows), width), dtype=torch.bool)
        for number, row in enumerate(rows):
            start = 0
            for document, (ids, learn) in enumerate(row.pieces, 1):
                stop = start + len(ids)
                tokens[number, start:stop] = torch.tensor(ids)
                documents[number, start:stop] = document
                # The first token of a piece has no predecessor in the row; of a later piece it was scored already.
                mask[number, start + 1 : stop] = torch.tensor(learn[1:], dtype=torch.bool)
                start = stop
        parts = (tokens[:, :-1], tokens[:, 1:], documents[:, :-1], mask[:, 1:])
        return PackedBatch(*(part.contiguous() for part in parts))

    def state_dict(self) -> dict[str, Any]:
        """The rows that are not yet given, and the counts, as JSON values."""
        return {
            "open": [_dump(row) for row in self._open],
            "done": [_dump(row) for row in self._done],
            "num_documents": self.num_documents,
            "num_too_short": self.num_too_short,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._open = [_load(row) for row in state["open"]]
        self._done = [_load(row) for row in state["done"]]
        self.num_documents, self.num_too_short = state["num_documents"], state["num_too_short"]

    def _place(self, ids: list[int], mask: list[bool]) -> None:
        room = self.length + 1
        fitting = [row for row in self._open if row.size + len(ids) <= room]
        row = max(fitting, key=lambda r: r.size, default=None)
        if row is None:
            row = _Row()
            self._open.append(row)
        row.pieces.append((ids, mask))
        row.size += len(ids)
        if row.size >= room - 1:  # one free place holds no document
            self._finish(row)
        elif len(self._open) > self.open_rows:
            self._finish(max(self._open, key=lambda r: r.size))

    def _finish(self, row: _Row) -> None:
        self._open = [other for other in self._open if other is not row]
        self._done.append(row)


def pack(documents: Iterable[Document], length: int, *, pad_id: int = 0, open_rows: int = 16) -> PackedBatch:
    """Pack documents that fit in memory; see `Packer`.

    Returns:
        All rows: `tokens_BT`, `targets_BT`, `documents_BT`, `mask_BT`.
    """
    packer = Packer(length, pad_id=pad_id, open_rows=open_rows)
    for document in documents:
        packer.add(document)
    packer.flush()
    return packer.take(packer.num_ready)


def _dump(row: _Row) -> list[list[Any]]:
    return [[list(map(int, ids)), list(map(int, mask))] for ids, mask in row.pieces]


def _load(pieces: list[list[Any]]) -> _Row:
    loaded = [(list(ids), [bool(m) for m in mask]) for ids, mask in pieces]
    return _Row(loaded, sum(len(ids) for ids, _ in loaded))
