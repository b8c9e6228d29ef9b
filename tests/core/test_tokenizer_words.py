"""Word-level tokenizer: the cut-off, the ways to split, Chinese, and word-vector files."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.text.readers import DataError
from core.text.tokenizer import WordTokenizer, load_tokenizer
from core.text.treebank import word_tokenize
from core.text.vectors import load_vectors

CORPUS = ["the cat sat on the mat.", "the cat can't sit.", "a dog"]


def test_words_are_ranked_by_count_then_alphabet():
    tokenizer = WordTokenizer.train(CORPUS)
    # the 3; . and cat 2; then once each: a, ca, dog, mat, n't, on, sat, sit
    words = sorted(tokenizer.vocabulary(), key=tokenizer.vocabulary().get)
    assert words == [
        "<pad>", "<bos>", "<eos>", "<unk>", "the", ".", "cat", "a", "ca", "dog", "mat", "n't", "on", "sat", "sit",
    ]  # fmt: skip
    assert tokenizer.encode("the dog sat.") == [4, 9, 13, 5]


def test_cut_off_by_count_and_by_size():
    assert WordTokenizer.train(CORPUS, min_count=2).vocab_size == 4 + 3
    assert set(WordTokenizer.train(CORPUS, max_size=6).vocabulary()) == {"<pad>", "<bos>", "<eos>", "<unk>", "the", "."}
    tokenizer = WordTokenizer.train(CORPUS, min_count=2)
    assert tokenizer.encode("the dog") == [4, tokenizer.unk_id]
    assert tokenizer.decode([4, 3]) == "the <unk>"


def test_splitting_modes_and_case():
    treebank = WordTokenizer.train("He can't.")
    assert treebank.split("He can't.") == ["He", "ca", "n't", "."]
    spaces = WordTokenizer.train("He can't.", split="whitespace")
    assert spaces.split("He  can't.\n") == ["He", "can't."]
    lower = WordTokenizer.train("He he HE", lower=True)
    assert lower.vocab_size == 5
    assert lower.encode("hE") == [4]


def test_case_does_not_change_where_a_word_is_split():
    text = "They'LL say WE'Ll go"
    cased, lower = WordTokenizer.train(text), WordTokenizer.train(text, lower=True)
    assert [word.lower() for word in cased.split(text)] == lower.split(text)


def test_decode_writes_text_as_people_do(tmp_path):
    text = 'They can\'t pay ($3.88), said "Bob".'
    tokenizer = WordTokenizer.train(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).decode(tokenizer.encode(text)) == text
    spaces = WordTokenizer.train("a b , c", split="whitespace")
    assert spaces.decode(spaces.encode("a b , c")) == "a b , c"


def test_chinese_characters_are_words_and_come_back_without_spaces():
    text = "我们去公园，玩 3D 游戏。"
    tokenizer = WordTokenizer.train(text)
    assert tokenizer.split(text) == [*"我们去公园，玩", "3D", *"游戏。"]
    assert tokenizer.decode(tokenizer.encode("我们去公园。")) == "我们去公园。"
    segmented = WordTokenizer.train("我们 去 公园", split="whitespace")
    assert segmented.split("我们 去 公园") == ["我们", "去", "公园"]


def test_empty_and_blank_texts_have_no_words():
    tokenizer = WordTokenizer.train([""])
    assert tokenizer.vocab_size == 4
    assert tokenizer.encode("") == tokenizer.encode(" \n") == []
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "punkt"}, "split must be one of treebank, whitespace, got 'punkt'"),
        ({"min_count": 0}, "min_count must be >= 1, got 0"),
        ({"max_size": 4}, "max_size must be > 4"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WordTokenizer.train(CORPUS, **options)


GLOVE = "the 1 2\ncat 3 4.5\nzebra 9 9\n"
WORD2VEC = "3 2\nthe 1 2 \ncat 3 4.5 \nzebra 9 9 \n"


@pytest.mark.parametrize("content", [GLOVE, WORD2VEC, "\ufeff" + GLOVE, GLOVE.replace("\n", "\r\n"), GLOVE.rstrip()])
def test_word_vectors_stand_at_the_ids_of_their_words(tmp_path, content):
    file = tmp_path / "vectors.txt"
    file.write_bytes(content.encode())
    tokenizer = WordTokenizer.train("the the cat dog")  # the 4, cat 5, dog 6
    vectors = load_vectors(file, tokenizer)
    assert vectors.matrix_VD.dtype == torch.float32
    assert vectors.matrix_VD.tolist() == [[0, 0]] * 4 + [[1, 2], [3, 4.5], [0, 0]]
    assert vectors.found_V.tolist() == [False] * 4 + [True, True, False]
    assert vectors.coverage == pytest.approx(2 / 7)
    assert vectors.num_read == 3


def test_word_vectors_with_case_folding_repetition_and_spaces(tmp_path):
    file = tmp_path / "vectors.txt"
    file.write_text("cat 1 1\nCat 2 2\ncat 8 8\n. . . 5 5\n", encoding="utf-8")
    tokenizer = WordTokenizer.train("Cat CAT cat", split="whitespace")
    vectors = load_vectors(file, tokenizer, lower=True)
    rows = {word: vectors.matrix_VD[i].tolist() for word, i in tokenizer.vocabulary().items()}
    assert (rows["cat"], rows["Cat"], rows["CAT"]) == ([1, 1], [2, 2], [1, 1])
    assert vectors.num_repeated == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 1 2\ncat 3\n", r"vectors\.txt:2: 1 numbers after the word, the lines before have 2"),
        (b"the 1 2\ncat 3 x4\n", r"vectors\.txt:2: could not convert"),
        (b"the 1 2\ncat 3 nan\n", r"vectors\.txt:2: a number is not finite"),
        (b"the 1 2\nc\xff 3 4\n", r"vectors\.txt:2: byte 1 is not UTF-8"),
        (b"5 2\nthe 1 2\n", "the first line says 5 words, the file has 1"),
        (b"", "has no vectors"),
        (b"word\n", r"vectors\.txt:1"),
    ],
)
def test_damaged_word_vectors_are_named(tmp_path, content, message):
    file = tmp_path / "vectors.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_vectors(file, WordTokenizer.train("the cat"))


@given(
    st.lists(st.sampled_from([*"'\"`.,:;-!?()&aS中。Σİ \n", "n't", "cannot", "'tis", "<eos>"]), max_size=8).map("".join)
)
@settings(max_examples=400, deadline=None)
def test_lower_casing_and_chinese_go_with_the_treebank_rules(text):
    tokenizer = ANY_WORDS
    words = tokenizer.split(text)
    assert [word for word in words if not word.strip()] == []
    assert "".join(words) == "".join(word_tokenize(text)).translate(LOWER)
    assert len(tokenizer.encode(text)) == len(words)


ANY_WORDS = WordTokenizer.train("x", lower=True)
LOWER = {ord(c): c.lower() for c in "SΣİ"}
