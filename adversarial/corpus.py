"""The sentences of a run: a user's own text, a grammar's or an oracle's; some are held out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from adversarial.config import GANConfig
from adversarial.grammar import Grammar, english
from adversarial.labels import LabelledTokens, join_label, split_label
from adversarial.missions import mission_grammar, missions
from adversarial.oracle import Oracle, OracleTokens
from core.emoji_names import emoji_captions
from core.text.readers import DataError, Record, TextReader, read_records, text_of
from core.text.tokenizer import WordTokenizer


@dataclass(frozen=True)
class Corpus:
    """Sentences to train on and sentences to score with."""

    train: list[str]
    validation: list[str]
    """To choose weights by; neither trained on nor scored with. Empty where nothing is chosen."""
    held_out: list[str]
    tokenizer: WordTokenizer | LabelledTokens | OracleTokens
    """Trained on `train` alone."""
    max_tokens: int
    """Longest sentence, end-of-sequence counted."""
    grammar: Grammar | None = None
    """Decides which sentences are right, where the text is a grammar's."""
    entropy: float | None = None
    """Of the grammar's sentences in nats a token, end-of-sequence counted, where they were drawn from it."""
    oracle: Oracle | None = None
    """Scores any sequence, where the text is its own."""
    unscored_id: int = -1
    """The unknown word where no training line has one: its likelihood would be a matter of chance."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and how the text was divided; for the report."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes of the lines, each `label<TAB>sentence` then; empty without any."""
        return self.tokenizer.labels if isinstance(self.tokenizer, LabelledTokens) else ()

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Token ids of lines, each with end-of-sequence where there is one."""
        return self.tokenizer.encode_batch(list(lines), add_eos=self.tokenizer.eos_id is not None)


def load_corpus(config: GANConfig) -> Corpus:
    """Read the text, or draw it from the grammar or the oracle, and divide it.

    Raises:
        DataError: a missing or empty file, fewer than two different lines, or too many lines that are too long.
        OracleFault: the oracle's file holds none.
    """
    if config.text is not None:
        return _from_lines(config, _read(config.text, config.label), str(config.text))
    sources = {"oracle": _from_oracle, "grammar": _from_grammar, "babyai": _from_babyai, "emoji": _from_emoji}
    return sources[config.source](config)


def _validation_lines(config: GANConfig) -> int:
    return max(1, config.held_out_lines // 2) if config.select_every else 0


def _from_grammar(config: GANConfig) -> Corpus:
    grammar = english()
    rng = random.Random(config.seed)
    train, held_out, validation = (
        [grammar.sample(rng) for _ in range(count)]
        for count in (config.train_lines, config.held_out_lines, _validation_lines(config))
    )
    longest = max(len(line.split()) for line in (*train, *held_out, *validation))
    if longest + 1 > config.max_tokens:
        raise DataError(f"the grammar has sentences of {longest} words: raise max_tokens to at least {longest + 1}")
    entropy = grammar.entropy / (grammar.mean_length + 1)
    notes = [
        f"{len(train):,} training and {len(held_out):,} held-out sentences, drawn from a grammar of "
        f"{len(grammar.words)} words; nll cannot be below {entropy:.3f}, its entropy per token"
    ]
    # All words of the grammar, so that a small sample has no unknown ones.
    tokenizer = WordTokenizer.train([*train, *grammar.words], split="whitespace")
    return Corpus(train, validation, held_out, tokenizer, config.max_tokens, grammar, entropy, notes=notes)


def _from_babyai(config: GANConfig) -> Corpus:
    levels = [level.strip() for level in config.level.split(",")]
    labels = levels if len(levels) > 1 else [""]

    def drawn(count: int, part: int) -> list[str]:
        # Seeds apart from one another, and those of held-out missions apart from every run's training seed.
        seed = 3 * config.seed + part
        shares = [count // len(levels) + (index < count % len(levels)) for index in range(len(levels))]
        parts = zip(labels, levels, shares)
        return [join_label(label, line) for label, level, share in parts for line in missions(level, share, seed=seed)]

    train, held_out, validation = (
        drawn(count, part)
        for part, count in enumerate((config.train_lines, config.held_out_lines, _validation_lines(config)))
    )
    longest = max(len(line.split()) for line in (*train, *held_out, *validation))
    if longest + 1 > config.max_tokens:
        raise DataError(f"{config.level} has missions of {longest} words: raise max_tokens to at least {longest + 1}")
    grammar = mission_grammar()
    new = set(held_out) - set(train)
    notes = [
        f"BabyAI {config.level}: {len(train):,} training and {len(held_out):,} held-out episodes, with "
        f"{len(set(train)):,} and {len(set(held_out)):,} different missions; {len(new):,} of the held-out ones are no "
        "training mission, and coverage is the share of these that are among the generated sentences"
    ]
    words = WordTokenizer.train([*(split_label(line)[1] for line in train), *grammar.words], split="whitespace")
    tokenizer = LabelledTokens(words, levels) if len(levels) > 1 else words
    return Corpus(train, validation, held_out, tokenizer, config.max_tokens, grammar, notes=notes)


def _from_oracle(config: GANConfig) -> Corpus:
    if config.oracle is None:
        oracle = Oracle.random(config.oracle_seed)
    else:
        oracle = Oracle.load(config.oracle, transposed=config.oracle_transposed)
    tokenizer = OracleTokens(oracle.vocab_size)
    # Seeds apart from one another, and those of held-out sequences apart from every run's training seed.
    train, held_out, validation = (
        _lines(oracle.sample(count, seed=3 * config.seed + part))
        for part, count in enumerate((config.train_lines, config.held_out_lines, _validation_lines(config)))
    )
    notes = [
        f"oracle: {oracle.name}; {len(train):,} training and {len(held_out):,} held-out sequences, all different "
        f"draws; no end and no padding, so every score is a mean over {oracle.length} tokens"
    ]
    return Corpus(train, validation, held_out, tokenizer, oracle.length, oracle=oracle, notes=notes)


def _lines(tokens_NL: Tensor) -> list[str]:
    return [" ".join(map(str, row)) for row in tokens_NL.tolist()]


def _from_emoji(config: GANConfig) -> Corpus:
    return _from_lines(config, sorted(set(emoji_captions().values())), "the names of emoji")


def _from_lines(config: GANConfig, lines: Sequence[str], where: str) -> Corpus:
    if len(set(lines)) < 2:
        raise DataError(
            f"{where} has only one line of its own ({lines[0][:60]!r}): a GAN needs at least 2 different lines"
        )
    splitter = WordTokenizer.train([])
    extra = 1 + (config.label is not None)
    lengths = [len(splitter.split(split_label(line)[1])) + extra for line in lines]
    long = [number for number, length in enumerate(lengths) if length > config.max_tokens]
    if len(long) > config.max_long_fraction * len(lines):
        raise DataError(
            f"{len(long):,} of the {len(lines):,} lines of {where} are longer than max_tokens {config.max_tokens} "
            f"(the longest has {max(lengths)} tokens, end-of-sequence counted): raise max_tokens, or put one sentence "
            "on a line"
        )
    kept = [line for line, length in zip(lines, lengths) if length <= config.max_tokens]
    if len(set(kept)) < 2:
        raise DataError(f"{where} has fewer than 2 different lines of at most {config.max_tokens} tokens")
    # Whole groups of equal lines are held out, or a score would see the training text.
    different = sorted(set(kept))
    random.Random(config.seed).shuffle(different)
    if config.held_out_text is None:
        count = min(config.held_out_lines, max(1, round(len(different) * config.held_out_fraction)))
        held_out, different = different[:count], different[count:]
    else:
        held_out = _read(config.held_out_text, config.label)[: config.held_out_lines]
    validation = different[: min(_validation_lines(config), len(different) // 10)]
    if config.select_every and not validation:
        raise DataError(f"{where} has too few lines to choose weights by validation lines: set select_every to 0")
    hidden = {*held_out, *validation} if config.held_out_text is None else set(validation)
    train = [line for line in kept if line not in hidden]
    tokenizer = _tokenizer(config, where, train, held_out)
    words = [word for line in held_out for word in tokenizer.split(line)]
    unknown = sum(tokenizer.token_to_id(word) is None for word in words) / max(1, len(words))
    learned = any(tokenizer.token_to_id(word) is None for line in train for word in tokenizer.split(line))
    scored = "nll counts them" if learned else "nll leaves them out, since no training line has any"
    notes = [
        f"{len(train):,} training and {len(held_out):,} held-out lines of {Path(where).name}, "
        f"{tokenizer.vocab_size:,} words; {unknown:.1%} of the held-out words are unknown ({scored}); "
        f"{len(long):,} lines longer than {config.max_tokens} tokens left out"
    ]
    unscored_id = -1 if learned or tokenizer.unk_id is None else tokenizer.unk_id
    return Corpus(train, validation, held_out, tokenizer, config.max_tokens, unscored_id=unscored_id, notes=notes)


def _tokenizer(
    config: GANConfig, where: str, train: Sequence[str], held_out: Sequence[str]
) -> WordTokenizer | LabelledTokens:
    """Of the words of the training lines, and of all labels.

    Raises:
        DataError: no frequent word, or a label with no training line.
    """
    pairs = [split_label(line) for line in train]
    words = WordTokenizer.train([text for _, text in pairs], min_count=config.min_count, max_size=config.max_vocabulary)
    if words.vocab_size <= 4:
        raise DataError(f"no word of {where} occurs {config.min_count} times in the training lines: lower min_count")
    if config.label is None:
        return words
    labels = sorted({label for label, _ in pairs})
    if len(labels) < 2:
        raise DataError(f"the training lines of {where} are all of the class {labels[0]!r}: leave label out")
    if strange := sorted({label for line in held_out if (label := split_label(line)[0]) not in labels}):
        raise DataError(
            f"{where}: {len(strange)} classes have no training line, such as {strange[0]!r}: give more examples of "
            "them, or lower held_out_fraction"
        )
    return LabelledTokens(words, labels)


def _read(path: Path, label: str | None) -> list[str]:
    """The lines of a file that are not empty, with single spaces, each after its label if there is one."""
    if label is None:
        lines = [line for text in TextReader(path) if (line := " ".join(text.split()))]
    else:
        lines = [line for record in read_records(path) if (line := _labelled(record, label))]
    if not lines:
        raise DataError(f"{path} has no text: give a file with one sentence a line")
    return lines


def _labelled(record: Record, field: str) -> str:
    """`label<TAB>sentence`, or nothing where there is no sentence.

    Raises:
        DataError: no label.
    """
    text = " ".join(text_of(record).split())
    value = record.fields.get(field)
    label = "" if value is None else " ".join(str(value).split())
    if not label:
        names = ", ".join(map(str, record.fields))
        raise DataError(f"{record.where}: no class in the field {field!r}; the record has {names}")
    return join_label(label, text) if text else ""
