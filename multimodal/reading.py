"""From examples to token ids, and to batches.

Shape suffix: P = positions of a medium.
"""

from collections.abc import Callable, Sequence
from typing import Self

from core.errors import UserError
from core.text.tokenizer import Tokenizer
from multimodal.batch import PLACEHOLDERS, CaptionBatch, Contexts, MediaBatch, Prompt, caption_batch, media_batches
from multimodal.captioner import Captioner
from multimodal.examples import Example, Kind
from multimodal.store import MediaStore


class TooLong(UserError, ValueError):
    """An example does not fit into the model. It is named, not cut: a cut could go through a medium."""


def begin_and_end(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens that stand before and after an answer. Raises `ValueError` where there are none."""
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise ValueError("a captioner's tokenizer needs a begin and an end-of-sequence token")
    return tokenizer.bos_id, tokenizer.eos_id


class Reader:
    """Turns examples into prompts, targets and batches.

    Args:
        tokenizer: with a begin and an end-of-sequence token.
        num_embeddings: kind and encoded positions of a medium to the embeddings that it becomes.
        in_sequence: media take positions of the sequence; otherwise only text does.
        max_target_tokens: longest target, end-of-sequence counted.
        max_length: longest row, prompt and target.
        bidirectional: the positions of a prompt see one another in both directions.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        num_embeddings: Callable[[Kind, int], int],
        *,
        in_sequence: bool,
        max_target_tokens: int,
        max_length: int,
        bidirectional: bool,
    ) -> None:
        self.tokenizer = tokenizer
        self.bos_id, self.eos_id = begin_and_end(tokenizer)
        # Where the space before a word is part of its token, texts begin with one too: otherwise their first word would
        # be spelt in pieces that a pretrained model knows from the inside of words only.
        spaced = tokenizer.encode(" a")
        self.space = " " if len(spaced) == 1 and spaced != tokenizer.encode("a") else ""
        self.num_embeddings = num_embeddings
        self.in_sequence = in_sequence
        self.max_target_tokens = max_target_tokens
        self.max_length = max_length
        self.bidirectional = bidirectional

    @classmethod
    def of(cls, captioner: Captioner, tokenizer: Tokenizer) -> Self:
        """The reader that goes with a captioner."""
        return cls(
            tokenizer,
            captioner.num_embeddings,
            in_sequence=captioner.placement == "sequence",
            max_target_tokens=captioner.max_new_tokens,
            max_length=captioner.model.config.max_length,
            bidirectional=captioner.bidirectional,
        )

    def prompt(self, example: Example, store: MediaStore) -> Prompt:
        """What is read before the target. Raises `TooLong` where the longest target would not fit behind it."""
        ids: list[int] = []
        media: list[tuple[Kind, int]] = []
        for part in example.prompt:
            if isinstance(part, str):
                ids += self.tokenizer.encode(self.space + part)
                continue
            index = store.index(part)
            media.append((part.kind, index))
            if self.in_sequence:
                count = self.num_embeddings(part.kind, store.num_positions[part.kind][index])
                ids += [PLACEHOLDERS[part.kind]] * count
        ids.append(self.bos_id)
        needed = len(ids) + self.max_target_tokens - 1  # the last token is never read
        if needed > self.max_length:
            raise TooLong(
                f"{_name(example)}: {len(ids)} positions of prompt, its media and begin token counted, and "
                f"max_target_tokens={self.max_target_tokens} need model.max_length={needed}, and it is "
                f"{self.max_length}: raise it (that of a pretrained model cannot be), give media fewer positions, or "
                "shorten the prompt"
            )
        return Prompt(ids, tuple(media))

    def target(self, example: Example, text: str) -> list[int]:
        """Ids of one target with its end-of-sequence. Raises `TooLong`."""
        ids = [*self.tokenizer.encode(self.space + text), self.eos_id]
        if len(ids) > self.max_target_tokens:
            raise TooLong(
                f"{_name(example)}: the text {text[:60]!r} has {len(ids)} tokens, end-of-sequence counted, more than "
                f"max_target_tokens={self.max_target_tokens}: raise it, or shorten the text"
            )
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The text that a target's ids stand for."""
        return self.tokenizer.decode(ids).removeprefix(self.space)

    def batch(
        self,
        prompts: Sequence[Prompt],
        targets: Sequence[Sequence[int]],
        store: MediaStore,
        *,
        pack_to: int | None = None,
        length: int | None = None,
        target_length: int | None = None,
    ) -> CaptionBatch:
        """Prompts with their targets, padded; see `multimodal.batch.caption_batch`."""
        return caption_batch(
            [prompt.ids for prompt in prompts], targets, self._media(prompts, store),
            bidirectional=self.bidirectional, pack_to=pack_to, length=length, target_length=target_length,
        )  # fmt: skip

    def contexts(self, prompts: Sequence[Prompt], store: MediaStore) -> Contexts:
        """Prompts to answer."""
        return Contexts([prompt.ids for prompt in prompts], self._media(prompts, store))

    def _media(self, prompts: Sequence[Prompt], store: MediaStore) -> dict[Kind, MediaBatch]:
        def embeddings(kind: Kind, index: int) -> int:
            return self.num_embeddings(kind, store.num_positions[kind][index])

        return media_batches(prompts, store.inputs, embeddings)


def _name(example: Example) -> str:
    media = ", ".join(medium.name for medium in example.media)
    return " ".join(filter(None, (example.key, f"({media})" if media else ""))) or "an example"
