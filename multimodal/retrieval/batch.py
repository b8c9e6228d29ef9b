"""Pairs of a medium and a text as batches.

Shape suffixes: N = pairs, T = tokens of the longest text, I = input steps of a medium.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.text.tokenizer import Tokenizer
from multimodal.batch import MediaBatch, Prompt, media_batches
from multimodal.examples import Kind, Medium
from multimodal.reading import TooLong
from multimodal.store import MediaStore

PAD_ID = 0
"""Fills a batch of texts; the tokenizers of a run are trained here and have it first."""
NUM_SPECIAL = 4
"""Padding, begin, end, unknown: ids below this are no words."""


@dataclass(frozen=True)
class RetrievalBatch:
    """Pairs, of media of any kinds."""

    ids_NT: Tensor
    """int64, each text with begin and end, padded with 0."""
    media: dict[Kind, MediaBatch]
    """`rows_N` says which pairs the media of a kind belong to."""
    numbers_2N: Tensor
    """int64; the number of the medium and of the text of each pair, by which those that are equal are known."""

    def to(self, device: torch.device) -> "RetrievalBatch":
        """The batch on a device."""
        return RetrievalBatch(
            self.ids_NT.to(device, non_blocking=True), media_to(self.media, device), self.numbers_2N.to(device)
        )


def media_to(media: dict[Kind, MediaBatch], device: torch.device) -> dict[Kind, MediaBatch]:
    """Media on a device; lengths stay where they are."""
    return {
        kind: replace(batch, inputs_NI=batch.inputs_NI.to(device, non_blocking=True), rows_N=batch.rows_N.to(device))
        for kind, batch in media.items()
    }


def batch_media(media: Sequence[Medium], store: MediaStore) -> dict[Kind, MediaBatch]:
    """Media that a store holds, by kind."""
    prompts = [Prompt([], ((medium.kind, store.index(medium)),)) for medium in media]
    return media_batches(prompts, store.inputs, lambda kind, index: 1)


class TextReader:
    """Turns texts into ids.

    Args:
        tokenizer: with begin, end and unknown tokens.
        max_tokens: longest text, begin and end counted.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        assert tokenizer.eos_id is not None
        assert tokenizer.unk_id is not None
        assert tokenizer.pad_id == PAD_ID
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.eos_id, self.unk_id = tokenizer.eos_id, tokenizer.unk_id

    def ids(self, text: str) -> list[int]:
        """Ids of a text, with begin and end. Raises `TooLong`."""
        ids = self.tokenizer.encode(text, add_bos=True, add_eos=True)
        if len(ids) > self.max_tokens:
            shown = text if len(text) <= 60 else f"{text[:60]}…"
            raise TooLong(
                f"the text {shown!r} has {len(ids)} tokens, begin and end counted, max_text_tokens allows "
                f"{self.max_tokens}: shorten it, or train with a larger max_text_tokens"
            )
        return ids

    def known(self, text: str) -> bool:
        """Whether any word of a text is in the vocabulary."""
        return any(number >= NUM_SPECIAL for number in self.tokenizer.encode(text))

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that are not in the vocabulary."""
        return [word for word in text.split() if self.unk_id in self.tokenizer.encode(word)]

    def padded(self, ids: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
        """ids_NT of texts; T is the longest, or `length`."""
        ids_NT = torch.full((len(ids), length or max(map(len, ids))), PAD_ID)
        for row_T, own in zip(ids_NT, ids):
            row_T[: len(own)] = torch.tensor(own)
        return ids_NT
