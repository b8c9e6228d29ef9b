"""The sentences of a run: a user's own text, or a grammar's; some are held out."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from adversarial.config import GANConfig
from adversarial.grammar import Grammar, english
from core.text.readers import DataError, TextReader
from core.text.tokenizer import WordTokenizer

MOST_HELD_OUT = 2000
"""More held-out lines would cost time and hardly narrow the intervals."""


@dataclass(frozen=True)
class Corpus:
    """Sentences to train on and sentences to score with."""

    train: list[str]
    held_out: list[str]
    tokenizer: WordTokenizer
    """Trained on `train` alone."""
    grammar: Grammar | None = None
    """Decides which sentences are right, where the text is a grammar's."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and how the text was divided; for the report."""


def load_corpus(config: GANConfig) -> Corpus:
    """Read the text, or draw it from the grammar, and divide it.

    Raises:
        DataError: a missing or empty file, fewer than two different lines, or too many lines that are too long.
    """
    return _from_grammar(config) if config.text is None else _from_file(config, config.text)


def _from_grammar(config: GANConfig) -> Corpus:
    grammar = english()
    rng = random.Random(config.seed)
    train = [grammar.sample(rng) for _ in range(config.grammar_lines)]
    held_out = [grammar.sample(rng) for _ in range(min(MOST_HELD_OUT, config.eval_samples))]
    longest = max(len(line.split()) for line in (*train, *held_out))
    if longest + 1 > config.max_tokens:
        raise DataError(f"the grammar has sentences of {longest} words: raise max_tokens to at least {longest + 1}")
    notes = [
        f"{len(train):,} training and {len(held_out):,} held-out sentences, drawn from a grammar of "
        f"{len(grammar.words)} words; nll cannot be below {grammar.entropy / (grammar.mean_length + 1):.3f}, its "
        "entropy per token"
    ]
    # All words of the grammar, so that a small sample has no unknown ones.
    return Corpus(train, held_out, WordTokenizer.train([*train, *grammar.words], split="whitespace"), grammar, notes)


def _from_file(config: GANConfig, path: Path) -> Corpus:
    lines = [line for text in TextReader(path) if (line := " ".join(text.split()))]
    if not lines:
        raise DataError(f"{path} has no text: give a file with one sentence a line")
    if len(set(lines)) < 2:
        raise DataError(
            f"{path} has only one line of its own ({lines[0][:60]!r}): a GAN needs at least 2 different lines"
        )
    splitter = WordTokenizer.train([])
    lengths = [len(splitter.split(line)) + 1 for line in lines]
    long = [number for number, length in enumerate(lengths) if length > config.max_tokens]
    if len(long) > config.max_long_fraction * len(lines):
        raise DataError(
            f"{len(long):,} of the {len(lines):,} lines of {path} are longer than max_tokens {config.max_tokens} "
            f"(the longest has {max(lengths)} tokens, end-of-sequence counted): raise max_tokens, or put one sentence "
            "on a line"
        )
    kept = [line for line, length in zip(lines, lengths) if length <= config.max_tokens]
    if len(set(kept)) < 2:
        raise DataError(f"{path} has fewer than 2 different lines of at most {config.max_tokens} tokens")
    # Whole groups of equal lines are held out, or a score would see the training text.
    different = sorted(set(kept))
    random.Random(config.seed).shuffle(different)
    count = min(MOST_HELD_OUT, max(1, round(len(different) * config.held_out_fraction)))
    held_out = different[:count]
    hidden = set(held_out)
    train = [line for line in kept if line not in hidden]
    tokenizer = WordTokenizer.train(train, min_count=config.min_count, max_size=config.max_vocabulary)
    if tokenizer.vocab_size <= 4:
        raise DataError(f"no word of {path} occurs {config.min_count} times in the training lines: lower min_count")
    words = [word for line in held_out for word in tokenizer.split(line)]
    unknown = sum(tokenizer.token_to_id(word) is None for word in words) / max(1, len(words))
    notes = [
        f"{len(train):,} training and {len(held_out):,} held-out lines of {path.name}, {tokenizer.vocab_size:,} words; "
        f"{unknown:.1%} of the held-out words are unknown; {len(long):,} lines longer than {config.max_tokens} tokens "
        "left out"
    ]
    return Corpus(train, held_out, tokenizer, None, notes)
