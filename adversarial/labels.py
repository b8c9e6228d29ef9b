"""Sentences with a class, for generators that write what a class asks for.

A line is `label<TAB>sentence`. The label is the first token: so the generator learns how frequent the classes are, a
class is asked for by giving that token, and every discriminator sees which class a sentence claims to be of.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from core.errors import RunError
from core.text.atomic import write_json
from core.text.tokenizer import WordTokenizer

LABELS_FILE = "labels.json"


class UnknownLabel(RunError, ValueError):
    """A label that a run does not have."""


def split_label(line: str) -> tuple[str, str]:
    """(label, sentence); the label of a line without one is empty."""
    label, _, text = line.rpartition("\t")
    return label, text


def join_label(label: str, text: str) -> str:
    """The line of a label, which may be empty, and a sentence."""
    return f"{label}\t{text}" if label else text


class LabelledTokens:
    """A word tokenizer for lines with labels: these are tokens after all words.

    Args:
        words: trained on the sentences alone.
        labels: all that there are.
    """

    def __init__(self, words: WordTokenizer, labels: Sequence[str]) -> None:
        self.words, self.labels = words, tuple(labels)
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = words.pad_id, words.bos_id, words.eos_id, words.unk_id
        assert words.unk_id is not None
        self._no_label = words.unk_id
        """What a line is given that a generator began with a word."""
        self._ids = {label: words.vocab_size + index for index, label in enumerate(self.labels)}

    @property
    def vocab_size(self) -> int:
        """Words and labels."""
        return self.words.vocab_size + len(self.labels)

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal ids for every line."""
        return f"{self.words.fingerprint}, labels {json.dumps(self.labels)}"

    def label_id(self, label: str) -> int:
        """Id of a label.

        Raises:
            UnknownLabel: no such label.
        """
        if label not in self._ids:
            raise UnknownLabel(f"no label {label!r}: the run has {', '.join(self.labels)}")
        return self._ids[label]

    def encode(self, text: str, *, add_bos: bool = False, add_eos: bool = False) -> list[int]:
        """Ids of a line: its label and its words."""
        return self.encode_batch([text], add_bos=add_bos, add_eos=add_eos)[0]

    def encode_batch(self, texts: Sequence[str], *, add_bos: bool = False, add_eos: bool = False) -> list[list[int]]:
        """Ids of several lines."""
        pairs = [split_label(text) for text in texts]
        rows = self.words.encode_batch([text for _, text in pairs], add_eos=add_eos)
        begin = [self.bos_id] if add_bos and self.bos_id is not None else []
        return [[*begin, self._ids.get(label, self._no_label), *row] for (label, _), row in zip(pairs, rows)]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The line of ids; `?` stands for a label that is missing. A label among the words is left out."""
        ids = [int(number) for number in ids]
        first = self.words.vocab_size
        label = self.labels[ids[0] - first] if ids and ids[0] >= first else "?"
        text = self.words.decode([number for number in ids if number < first], skip_special=skip_special)
        return join_label(label, text)

    def split(self, text: str) -> list[str]:
        """The words of a line, without its label."""
        return self.words.split(split_label(text)[1])

    def token_to_id(self, token: str) -> int | None:
        """Id of a word, `None` where it is none."""
        return self.words.token_to_id(token)

    def save(self, folder: Path | str) -> None:
        """Write the words' tokenizer and the labels."""
        self.words.save(folder)
        write_json(Path(folder) / LABELS_FILE, list(self.labels))
