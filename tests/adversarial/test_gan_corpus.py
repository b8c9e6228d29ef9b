"""Reading and dividing a user's text; what is wrong with it is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from adversarial.config import GANConfig
from adversarial.corpus import load_corpus
from adversarial.oracle import OracleTokens
from core.errors import UserError
from core.pretrained.sources import MissingData


def written(folder: Path, content: str) -> Path:
    path = folder / "text.txt"
    path.write_text(content, "utf-8")
    return path


def test_no_held_out_line_is_trained_on(tmp_path: Path) -> None:
    lines = [f"number {n} of the list" for n in range(50)]
    path = written(tmp_path, "\n".join(lines * 2) + "\n\n   \n")
    corpus = load_corpus(GANConfig(text=path))
    assert len(corpus.held_out) == 5
    assert len(corpus.train) == 90  # every line twice, the held-out ones not at all
    assert not set(corpus.train) & set(corpus.held_out)
    assert set(corpus.train) | set(corpus.held_out) == set(lines)
    assert corpus == load_corpus(GANConfig(text=path)) or corpus.train == load_corpus(GANConfig(text=path)).train
    assert corpus.held_out != load_corpus(GANConfig(text=path, seed=1)).held_out
    # numbers that only held-out lines have: one unknown word in five
    assert "20.0% of the held-out words are unknown" in corpus.notes[0]


def test_a_few_long_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join(["a b", "a b c", "b c", "c"] * 10 + ["a " * 30]))
    corpus = load_corpus(GANConfig(text=path, max_tokens=6))
    assert "1 lines longer than 6 tokens left out" in corpus.notes[0]
    assert max(len(line.split()) for line in corpus.train) == 3


def test_chinese_is_read_like_english(tmp_path: Path) -> None:
    corpus = load_corpus(GANConfig(text=written(tmp_path, "我爱北京。\n你爱上海。\n他爱北京。\n")))
    assert corpus.tokenizer.decode(corpus.tokenizer.encode(corpus.train[0])).replace(" ", "") == corpus.train[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no text"),
        ("\n \n\t\n", "has no text"),
        ("only this line\n", "only one line of its own .*only this line"),
        ("word\nword\nword\n", "only one line of its own"),
        (
            "a b c d e f g h\n" * 3 + "a\nb\n",
            r"3 of the 5 lines .* longer than max_tokens 6 \(the longest has 9 tokens",
        ),
        ("a\n" + "b " * 9, "1 of the 2 lines"),
    ],
)
def test_text_that_cannot_be_used_is_explained(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_corpus(GANConfig(text=written(tmp_path, content), max_tokens=6))


def test_a_missing_file_and_too_rare_words_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*gone\.txt"):
        load_corpus(GANConfig(text=tmp_path / "gone.txt"))
    with pytest.raises(UserError, match="lower min_count"):
        load_corpus(GANConfig(text=written(tmp_path, "a b\nc d\ne f"), min_count=9))
    (tmp_path / "text.txt").write_bytes(b"caf\xe9\nx\n")
    with pytest.raises(UserError, match="not UTF-8"):
        load_corpus(GANConfig(text=tmp_path / "text.txt"))


def test_the_grammar_s_sentences_are_right_and_known() -> None:
    corpus = load_corpus(GANConfig(train_lines=50, held_out_lines=20))
    assert corpus.grammar is not None
    assert all(map(corpus.grammar.accepts, (*corpus.train, *corpus.held_out)))
    assert corpus.tokenizer.vocab_size == 4 + len(corpus.grammar.words)
    assert (len(corpus.train), len(corpus.held_out)) == (50, 20)
    with pytest.raises(UserError, match="raise max_tokens to at least"):
        load_corpus(GANConfig(train_lines=500, max_tokens=5))


def test_sequences_of_an_oracle_are_texts_of_numbers_apart_from_one_another() -> None:
    config = GANConfig(source="oracle", train_lines=30, held_out_lines=20, select_every=1)
    corpus = load_corpus(config)
    assert corpus.oracle is not None
    assert corpus.max_tokens == corpus.oracle.length == 20
    assert (len(corpus.train), len(corpus.validation), len(corpus.held_out)) == (30, 10, 20)
    assert not set(corpus.train) & set(corpus.held_out) | set(corpus.train) & set(corpus.validation)
    (row,) = corpus.encode(corpus.train[:1])
    assert len(row) == 20  # nothing ends a sequence
    assert corpus.tokenizer.decode(row) == corpus.train[0]
    assert corpus.tokenizer.encode(corpus.train[0], add_bos=True) == [0, *row]
    assert load_corpus(config).train == corpus.train
    other = load_corpus(replace(config, seed=1))
    assert other.train != corpus.train
    assert other.oracle is not None
    assert other.oracle.name == corpus.oracle.name  # another draw from the same oracle
    assert load_corpus(replace(config, oracle_seed=1)).train != corpus.train


@pytest.mark.parametrize("text", ["3 x 4", "3 5000", "-1", "3.5"])
def test_words_that_an_oracle_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no number from 0 to 4999"):
        OracleTokens(5000).encode(text)
    with pytest.raises(ValueError, match="no end"):
        OracleTokens(5000).encode("3", add_eos=True)


def test_validation_lines_are_neither_trained_on_nor_scored_with(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join(f"number {n} of the list" for n in range(60)))
    corpus = load_corpus(GANConfig(text=path, select_every=5))
    assert (len(corpus.train), len(corpus.validation), len(corpus.held_out)) == (49, 5, 6)
    assert len({*corpus.train, *corpus.validation, *corpus.held_out}) == 60
    assert not load_corpus(GANConfig(text=path)).validation
    with pytest.raises(UserError, match="too few lines to choose weights"):
        load_corpus(GANConfig(text=written(tmp_path, "a b\nc d\ne f"), select_every=5))


def test_scores_can_be_taken_on_a_file_of_their_own(tmp_path: Path) -> None:
    path, held_out = written(tmp_path, "a b\nb c\nc d\nb c"), tmp_path / "test.txt"
    held_out.write_text("a  b\nx y\n", "utf-8")
    corpus = load_corpus(GANConfig(text=path, held_out_text=held_out))
    assert corpus.held_out == ["a b", "x y"]
    assert corpus.train == ["a b", "b c", "c d", "b c"]  # every line is trained on, as published splits are
    with pytest.raises(ValueError, match="held_out_text goes with text"):
        GANConfig(held_out_text=held_out)


def test_names_of_emoji_are_a_text() -> None:
    try:
        corpus = load_corpus(GANConfig(source="emoji", held_out_lines=300))
    except MissingData as missing:
        pytest.skip(str(missing))
    assert len(corpus.held_out) == 300
    assert len(corpus.train) > 3000
    assert not set(corpus.train) & set(corpus.held_out)
    assert "woman running with medium skin tone" in {*corpus.train, *corpus.held_out}
    assert "the names of emoji" in corpus.notes[0]
