"""Byte level: the 256 bytes of UTF-8, and byte-pair encoding over them."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from core.text.huggingface import SPECIALS, TrainedTokenizer, as_texts

_SPECIALS = [SPECIALS[role] for role in ("pad", "bos", "eos")]


def byte_characters() -> list[str]:
    """The visible character that stands for each byte in a byte-level `tokenizer.json`, by byte value.

    Printable Latin-1 bytes stand for themselves; the others are shifted up from U+0100 in order.

    References:
        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2).
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


class ByteTokenizer(TrainedTokenizer):
    """`<pad> <bos> <eos>` at ids 0..2, then byte b at id 3 + b. Nothing is ever unknown; there is nothing to train."""

    kind: ClassVar[str] = "byte"
    first_byte_id: ClassVar[int] = len(_SPECIALS)

    def __init__(self, backend: Backend | None = None, **rest: Any) -> None:
        """Make the one byte tokenizer; `backend` is for loading it from a folder."""
        super().__init__(backend or _byte_backend(), **rest)

    def _encode(self, text: str, special: bool) -> list[int]:
        if special:
            return super()._encode(text, special)
        return [self.first_byte_id + byte for byte in text.encode()]

    def encode_batch(self, texts: Iterable[str], *, add_bos: bool = False, add_eos: bool = False) -> list[list[int]]:
        """`encode` for many texts."""
        return [self.encode(text, add_bos=add_bos, add_eos=add_eos) for text in texts]


class BPETokenizer(TrainedTokenizer):
    """Byte-level byte-pair encoding: `<pad> <bos> <eos>` at ids 0..2, the 256 bytes, then the merges.

    Every text round-trips, in every script, because what no merge covers falls back to its bytes.

    References:
        Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", arXiv:1508.07909.
    """

    kind: ClassVar[str] = "bpe"

    @classmethod
    def train(
        cls, texts: str | Iterable[str], vocab_size: int, *, min_count: int = 2, special_tokens: Sequence[str] = ()
    ) -> Self:
        """Learn merges.

        Args:
            texts: one text or many; taken one at a time, so a generator over a large corpus is fine.
            vocab_size: ids in all, special tokens and bytes included. A small corpus may give fewer.
            min_count: a pair must occur so often to be merged.
            special_tokens: more of them, at ids 3 and up, for instance `<|im_start|>` and `<|im_end|>` for chats.

        Raises:
            ValueError: `vocab_size` too small for the bytes and the special tokens.
        """
        specials = list(dict.fromkeys((*_SPECIALS, *special_tokens)))
        smallest = 256 + len(specials)
        if vocab_size < smallest:
            raise ValueError(
                f"vocab_size must be >= {smallest} (256 bytes and {len(specials)} special tokens), got {vocab_size}"
            )
        backend = Backend(BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_count,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(as_texts(texts), trainer)
        return cls(backend)


def _byte_backend() -> Backend:
    entries = [*_SPECIALS, *byte_characters()]
    backend = Backend(BPE({token: i for i, token in enumerate(entries)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend
