"""Word vectors from files in word2vec's or GloVe's text format."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.text.huggingface import HFTokenizer
from core.text.readers import DataError


@dataclass(frozen=True)
class WordVectors:
    """Vectors in the order of a tokenizer's ids. Shape suffixes: V = vocabulary, D = width of a vector."""

    matrix_VD: Tensor
    """float32; rows without a vector are zero."""
    found_V: Tensor
    """bool; True where the file had a vector."""
    num_read: int
    """Vectors in the file."""
    num_repeated: int
    """Vectors of words that came before in the file; the first one counts."""

    @property
    def coverage(self) -> float:
        """Share of the vocabulary that has a vector."""
        return float(self.found_V.double().mean())


def load_vectors(path: Path | str, tokenizer: HFTokenizer, *, lower: bool = False) -> WordVectors:
    """Read the vectors of a tokenizer's words, one line of the file in memory at a time.

    A first line of two integers is word2vec's header (number of words, width); GloVe files have none. A word may
    contain spaces, as a few of GloVe's do.

    Args:
        path: text file, UTF-8: a word and its numbers on each line.
        tokenizer: whose vocabulary gives the rows.
        lower: a word without a vector of its own takes that of its lower-case form.

    Raises:
        DataError: a damaged line (named), fewer words than the header says, or no vector at all.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no file {path}")
    rows: dict[str, list[int]] = {}
    for token, token_id in tokenizer.vocabulary().items():
        rows.setdefault(token, []).append(token_id)
    folded: dict[str, list[int]] = {}
    if lower:
        for token, ids in rows.items():
            folded.setdefault(token.lower(), []).extend(ids)
    matrix: np.ndarray | None = None
    found = np.zeros(tokenizer.vocab_size, bool)
    exact = np.zeros(tokenizer.vocab_size, bool)
    seen: set[str] = set()
    num_read = num_repeated = 0
    for word, vector in _vectors(path):
        num_read += 1
        matrix = np.zeros((tokenizer.vocab_size, len(vector)), np.float32) if matrix is None else matrix
        if word not in rows and word not in folded:
            continue
        if word in seen:
            num_repeated += 1
            continue
        seen.add(word)
        for token_id in folded.get(word, ()):
            if not exact[token_id]:
                matrix[token_id], found[token_id] = vector, True
        for token_id in rows.get(word, ()):
            matrix[token_id], found[token_id], exact[token_id] = vector, True, True
    if matrix is None:
        raise DataError(f"{path} has no vectors; each line must be a word followed by its numbers")
    return WordVectors(torch.from_numpy(matrix), torch.from_numpy(found), num_read, num_repeated)


def _vectors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    announced, width, count = None, None, 0
    with path.open("rb") as file:
        for number, content in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                line = content.decode("utf-8-sig" if number == 1 else "utf-8").rstrip()
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: byte {error.start} is not UTF-8") from None
            if not line:
                continue
            parts = line.split(" ")
            if number == 1 and len(parts) == 2 and all(part.isdecimal() for part in parts):
                announced, width = int(parts[0]), int(parts[1])
                continue
            width = len(parts) - 1 if width is None else width
            if width < 1 or len(parts) <= width:
                raise DataError(
                    f"{where}: {len(parts) - 1} numbers after the word, the lines before have {width}; the file is cut "
                    "or damaged, get it again"
                )
            try:
                vector = np.array([float(part) for part in parts[-width:]], np.float32)
            except ValueError as error:
                raise DataError(f"{where}: {error}; the file is damaged, get it again") from None
            if not np.isfinite(vector).all():
                raise DataError(f"{where}: a number is not finite; the file is damaged, get it again")
            count += 1
            yield " ".join(parts[:-width]), vector
    if announced is not None and count != announced:
        raise DataError(f"{path}: the first line says {announced} words, the file has {count}; get it again")
