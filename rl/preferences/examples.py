"""Demonstrations, preference pairs and labelled completions: from lines of a file to token ids.

| kind | fields of a line |
|---|---|
| demonstration | `prompt`, `completion` |
| pair | `prompt`, `chosen`, `rejected`, and as you like `margin` and `probability` (that chosen is preferred) |
| labelled | `prompt`, `completion`, `label` (true = good) |

Each text is a string or a list of chat messages. Lines that a policy's own episodes became (`rl.preferences.pairs`)
also have the sampled ids, `prompt_ids`, `chosen_ids` and so on, which are taken where the tokenizer is the same.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.text.huggingface import HFTokenizer
from core.text.readers import DataError, Record, read_records
from rl.preferences.encoding import Completion, Text, encode_completion, readable

SUFFIXES = (".jsonl", ".ndjson", ".parquet")
COMPLETIONS = ("completion", "chosen", "rejected")


@dataclass(frozen=True)
class Demonstration:
    """What to write."""

    text: str
    """The prompt, for people."""
    completion: Completion


@dataclass(frozen=True)
class Pair:
    """Two completions of a prompt, of which the first was preferred."""

    text: str
    """The prompt, for people."""
    chosen: Completion
    rejected: Completion
    margin: float | None = None
    """By how much the chosen one should win."""
    probability: float | None = None
    """How likely the preference was to come out this way, where that is known."""


@dataclass(frozen=True)
class Labelled:
    """A completion that someone liked or did not."""

    text: str
    """The prompt, for people."""
    completion: Completion
    good: bool


Example = Demonstration | Pair | Labelled


def read_examples(path: Path) -> list[Record]:
    """The lines of a file.

    Raises:
        DataError: no such file, another format, or a bad line; the message has the line's number.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} must be a file of JSON lines ({', '.join(SUFFIXES)}), one example a line")
    records = list(read_records(path))
    if not records:
        raise DataError(f"{path} has no example: give a file with at least one line")
    return records


def texts_of(records: Sequence[Record]) -> list[str]:
    """All plain texts in some lines, from which a fresh model's characters are taken."""
    found = (record.fields.get(name) for record in records for name in ("prompt", *COMPLETIONS))
    return [text for text in found if isinstance(text, str)]


def completions_of(record: Record) -> tuple[Text, dict[str, Text]]:
    """The prompt of a line and its completions by name.

    Raises:
        DataError: a field that is missing or is no text.
    """
    names = [name for name in COMPLETIONS if name in record.fields] or ["completion"]
    return _text(record, "prompt"), {name: _text(record, name) for name in names}


@dataclass
class Encoder:
    """Turns lines into examples, and counts what it had to cut, leave out or could not read.

    Args:
        tokenizer: of the model.
        max_length: most tokens of a prompt with its completion.
        too_long: what to do with more; see `ExamplesConfig.too_long`.
    """

    tokenizer: HFTokenizer
    max_length: int
    too_long: str = "refuse"
    num_cut: int = 0
    num_dropped: int = 0
    num_equal: int = 0
    num_unknown: int = 0

    def demonstrations(self, records: Sequence[Record]) -> list[Demonstration]:
        """Lines with `prompt` and `completion`, or pairs, of which the chosen completion is taken."""
        found = []
        for record in records:
            pair = "chosen" in record.fields and "completion" not in record.fields
            kept = self._fitted(record, [self._completion(record, "chosen" if pair else "completion")])
            found += [Demonstration(_prompt(record), one) for one in kept]
        return found

    def pairs(self, records: Sequence[Record]) -> list[Pair]:
        """Lines with `prompt`, `chosen` and `rejected`; pairs of equal completions teach nothing and are left out."""
        found = []
        for record in records:
            sides = [self._completion(record, name) for name in ("chosen", "rejected")]
            margin, probability = (_number(record, name) for name in ("margin", "probability"))
            if probability is not None and not 0 <= probability <= 1:
                raise DataError(f"{record.where}: probability must be in [0, 1], got {probability}")
            if sides[0] == sides[1]:
                self.num_equal += 1
            elif kept := self._fitted(record, sides):
                found.append(Pair(_prompt(record), kept[0], kept[1], margin, probability))
        return found

    def labelled(self, records: Sequence[Record]) -> list[Labelled]:
        """Lines with `prompt`, `completion` and `label`."""
        found = []
        for record in records:
            label = _field(record, "label")
            if not isinstance(label, bool):
                raise DataError(f"{record.where}: label must be true or false, found {label!r}")
            kept = self._fitted(record, [self._completion(record, "completion")])
            found += [Labelled(_prompt(record), one, label) for one in kept]
        return found

    def notes(self) -> list[str]:
        """What was done to the data, a sentence each."""
        counts = {
            f"examples longer than {self.max_length} tokens were cut": self.num_cut,
            f"examples longer than {self.max_length} tokens were left out": self.num_dropped,
            "pairs of equal completions were left out": self.num_equal,
            "completions have characters or words that the tokenizer does not know": self.num_unknown,
        }
        return [f"{count} {what}." for what, count in counts.items() if count]

    def _completion(self, record: Record, name: str) -> Completion:
        ids = self._ids(record, name)
        if ids is not None:
            return ids
        prompt, completion = (_text(record, field) for field in ("prompt", name))
        try:
            made = encode_completion(self.tokenizer, prompt, completion)
        except ValueError as error:
            raise DataError(f"{record.where}: {error}") from error
        unknown = self.tokenizer.unk_id
        self.num_unknown += unknown is not None and unknown in (*made.prompt, *made.tokens)
        return made

    def _ids(self, record: Record, name: str) -> Completion | None:
        """The ids that a policy sampled, where the line has them and they are this tokenizer's."""
        fields = record.fields
        if f"{name}_ids" not in fields:
            return None
        if fields.get("tokenizer") != self.tokenizer.fingerprint:
            if f"{name}_mask" in fields:
                raise DataError(
                    f"{record.where}: episodes of several turns can be told apart only with the tokenizer that they "
                    "were played with: start from that run with init_from"
                )
            return None
        prompt, tokens = (self._id_list(record, field) for field in ("prompt_ids", f"{name}_ids"))
        mask = fields.get(f"{name}_mask", [True] * len(tokens))
        if len(mask) != len(tokens) or not any(mask):
            raise DataError(
                f"{record.where}: {name}_mask must have an entry per token of {name}_ids, one true at least"
            )
        return Completion(prompt, tokens, [bool(own) for own in mask])

    def _id_list(self, record: Record, name: str) -> list[int]:
        ids = _field(record, name)
        whole = isinstance(ids, list) and ids and all(isinstance(token, int) for token in ids)
        if not whole or min(ids) < 0 or max(ids) >= self.tokenizer.vocab_size:
            raise DataError(f"{record.where}: {name} must be a list of ids of the tokenizer, found {ids!r:.80}")
        return list(ids)

    def _fitted(self, record: Record, sides: Sequence[Completion]) -> list[Completion]:
        """The completions of one example within `max_length`, with equal prompts; empty where it is left out."""
        longest = max(len(side) for side in sides)
        if longest <= self.max_length:
            return list(sides)
        if self.too_long == "refuse":
            raise DataError(
                f"{record.where}: {longest} tokens, more than {self.max_length}: raise max_length as far as the model "
                "reads, or set too_long to drop or cut"
            )
        if self.too_long == "drop":
            self.num_dropped += 1
            return []
        self.num_cut += 1
        room = self.max_length - max(len(side.tokens) for side in sides)
        prompt = sides[0].prompt[-max(1, room) :]
        return [Completion(prompt, side.tokens, side.mask).cut(self.max_length) for side in sides]


def labelled_from_pairs(pairs: Sequence[Pair]) -> list[Labelled]:
    """The chosen completions as good ones, then the rejected as bad ones."""
    good = [Labelled(pair.text, pair.chosen, True) for pair in pairs]
    return good + [Labelled(pair.text, pair.rejected, False) for pair in pairs]


def liked(example: Pair | Labelled) -> list[Completion]:
    """What an example says is good to write: one completion or none."""
    if isinstance(example, Pair):
        return [example.chosen]
    return [example.completion] if example.good else []


def both_sides(examples: Sequence[Pair] | Sequence[Labelled]) -> list[tuple[Completion, Completion]]:
    """Two completions per example: chosen and rejected, or the labelled one and one that belongs to another prompt.

    KTO measures how far the policy is from the reference on the latter: the completion of the example before, cut where
    it would be longer than any example is.
    """
    sides = [(one.chosen, one.rejected) for one in examples if isinstance(one, Pair)]
    labelled = [one.completion for one in examples if isinstance(one, Labelled)]
    longest = max(map(len, labelled), default=0)
    for before, own in zip([*labelled[-1:], *labelled], labelled):
        sides.append((own, replace(before, prompt=own.prompt).cut(longest)))
    return sides


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of some examples, to tell whether they are still the same."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr(example).encode())
    return digest.hexdigest()


def _field(record: Record, name: str) -> Any:
    if name not in record.fields:
        names = ", ".join(map(str, record.fields)) or "none"
        raise DataError(f"{record.where}: no field {name!r}; the line has {names}")
    return record.fields[name]


def _text(record: Record, name: str) -> Text:
    value = _field(record, name)
    messages = isinstance(value, list) and value and all(isinstance(message, Mapping) for message in value)
    if not (isinstance(value, str) or messages):
        raise DataError(f"{record.where}: {name} must be a string or a list of chat messages, found {value!r:.80}")
    return value


def _prompt(record: Record) -> str:
    return readable(_text(record, "prompt"))


def _number(record: Record, name: str) -> float | None:
    value = record.fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{record.where}: {name} must be a finite number, found {value!r}")
    return float(value)
