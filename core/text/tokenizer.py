"""What a tokenizer is, the kinds there are, and how to load one.

| kind | for | unknown text |
|---|---|---|
| `CharTokenizer` | small data, any script | `<unk>`, or an error without special tokens |
| `ByteTokenizer` | any data, no training | none |
| `WordTokenizer` | captions, text GANs, classic baselines | `<unk>` |
| `BPETokenizer` | language models | none |
| `HFTokenizer` | a Hugging Face folder | as its folder says |
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from core.text.bytelevel import BPETokenizer, ByteTokenizer
from core.text.characters import CharTokenizer
from core.text.huggingface import HFTokenizer
from core.text.words import WordTokenizer

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "HFTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "load_tokenizer",
]

_KINDS: dict[str, type[HFTokenizer]] = {
    tokenizer.kind: tokenizer for tokenizer in (CharTokenizer, ByteTokenizer, WordTokenizer, BPETokenizer)
}


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocab_size(self) -> int:
        """Number of rows an embedding needs: the largest id + 1."""
        ...

    @property
    def pad_id(self) -> int | None:
        """Id that fills a batch, `None` without one."""
        ...

    @property
    def bos_id(self) -> int | None:
        """Id that starts a sequence, `None` without one."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Id that ends a sequence, `None` without one."""
        ...

    @property
    def unk_id(self) -> int | None:
        """Id of what the vocabulary lacks, `None` where nothing can be unknown."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal ids for every text."""
        ...

    def encode(self, text: str, *, add_bos: bool = False, add_eos: bool = False) -> list[int]:
        """Ids of a text."""
        ...

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of ids."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write a folder for `load_tokenizer` and for transformers."""
        ...


def load_tokenizer(folder: Path | str) -> HFTokenizer:
    """Load what `save` wrote, or any Hugging Face folder with a tokenizer.json.

    Raises:
        ValueError: the folder has no readable tokenizer.
    """
    config = Path(folder) / "tokenizer_config.json"
    kind = "hf"
    if config.is_file():
        try:
            kind = json.loads(config.read_text(encoding="utf-8")).get("trillium_kind", "hf")
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
            raise ValueError(f"{config} is not a JSON object: {error}") from error
    return _KINDS.get(kind, HFTokenizer).from_folder(folder)
