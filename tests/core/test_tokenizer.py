"""Every kind of tokenizer: round trips, special tokens, files, and input that a user can get wrong."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.text.bytelevel import byte_characters
from core.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, HFTokenizer, WordTokenizer, load_tokenizer

ENGLISH = "The cat sat on the mat. The dog didn't sit; it ran to the cat, and the cat ran away from the mat!\n"
CHINESE = "今天天气很好，我们去公园玩。\n他说：“你好，世界！”"
EDGE_TEXTS = [
    "",
    "a",
    "\n",
    " ",
    "no newline at the end",
    "tab\tand\r\nCRLF",
    "NUL \x00 inside",
    "family 👩‍👩‍👧 and flag 🇨🇳",
    "שלום עולם مرحبا",
    "e\u0301 é",
    CHINESE,
]


def any_tokenizer(kind: str):
    everything = [ENGLISH, *EDGE_TEXTS]
    return {
        "char": lambda: CharTokenizer.train(everything),
        "byte": ByteTokenizer,
        "word": lambda: WordTokenizer.train(everything),
        "bpe": lambda: BPETokenizer.train(everything, 400),
    }[kind]()


KINDS = ["char", "byte", "word", "bpe"]


@pytest.mark.parametrize("text", EDGE_TEXTS)
@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_every_text_comes_back_exactly(kind, text):
    tokenizer = any_tokenizer(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_bytes_and_bpe_round_trip_text_they_never_saw(text):
    for tokenizer in (BYTES, BPE):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= i < tokenizer.vocab_size for i in ids)


BYTES = ByteTokenizer()
BPE = BPETokenizer.train([ENGLISH] * 3, 300)


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_are_fixed_and_added_only_on_request(kind):
    tokenizer = any_tokenizer(kind)
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)
    assert tokenizer.unk_id == (3 if kind in ("char", "word") else None)
    plain = tokenizer.encode("The cat")
    assert not {0, 1, 2, 3} & set(plain) or kind in ("byte", "bpe")
    assert tokenizer.encode("The cat", add_bos=True, add_eos=True) == [1, *plain, 2]
    assert tokenizer.stop_ids == (2,)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_leaves_special_tokens_out(kind):
    tokenizer = any_tokenizer(kind)
    ids = tokenizer.encode("The cat", add_bos=True, add_eos=True)
    assert tokenizer.decode([*ids, 0, 0]) == "The cat"
    shown = tokenizer.decode(ids, skip_special=False)
    assert "<bos>" in shown
    assert "<eos>" in shown


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelled", ["<eos>", "<pad>", "<bos>"])
def test_ordinary_text_cannot_spell_a_special_token(kind, spelled):
    tokenizer = any_tokenizer(kind)
    text = f"The {spelled} cat{spelled}"
    special_id = tokenizer.token_to_id(spelled)
    assert special_id not in tokenizer.encode(text)
    assert tokenizer.encode(text, special=True).count(special_id) == 2
    assert special_id not in tokenizer.encode_batch([text])[0]


def test_whitespace_words_cannot_spell_a_special_token_but_may_spell_the_unknown_word():
    tokenizer = WordTokenizer.train("a b <unk> a <eos>", split="whitespace")
    assert 2 not in tokenizer.encode("a <eos> b")
    assert tokenizer.encode("a <unk> b")[1] == tokenizer.unk_id


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizer_loads_as_the_same_kind_with_equal_ids(kind, tmp_path):
    tokenizer = any_tokenizer(kind)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    for text in [ENGLISH, *EDGE_TEXTS, "never <eos> seen ж"]:
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert again.encode_batch([ENGLISH, CHINESE], add_eos=True) == [
        tokenizer.encode(text, add_eos=True) for text in (ENGLISH, CHINESE)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_saving_twice_gives_equal_files(kind, tmp_path):
    tokenizer = any_tokenizer(kind)
    tokenizer.save(tmp_path / "first")
    load_tokenizer(tmp_path / "first").save(tmp_path / "second")
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes(), file.name


def test_fast_paths_give_the_ids_of_the_pipeline():
    characters = CharTokenizer.train([ENGLISH, CHINESE])
    for tokenizer in (characters, ByteTokenizer()):
        for text in [ENGLISH, *EDGE_TEXTS]:
            assert tokenizer.encode(text) == HFTokenizer._encode(tokenizer, text, False)
            assert tokenizer.decode(tokenizer.encode(text)) == HFTokenizer._decode(tokenizer, tokenizer.encode(text))


def test_characters_alone_are_numbered_in_code_point_order():
    tokenizer = CharTokenizer.train("hello 世", special=False)
    assert tokenizer.vocabulary() == {" ": 0, "e": 1, "h": 2, "l": 3, "o": 4, "世": 5}
    assert tokenizer.encode("hello") == [2, 1, 3, 3, 4]
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (None, None, None)


def test_character_outside_a_plain_vocabulary_is_named():
    tokenizer = CharTokenizer.train("abc", special=False)
    with pytest.raises(ValueError, match=r"character 2 of the text, 'ж' \(U\+0436\)"):
        tokenizer.encode("abж")
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        tokenizer.encode("ab", add_eos=True)
    with pytest.raises(ValueError, match="no beginning-of-sequence token"):
        tokenizer.encode("ab", add_bos=True)


def test_unknown_character_gets_the_unknown_id_and_stays_visible():
    tokenizer = CharTokenizer.train("abc")
    assert tokenizer.encode("axc") == [4, 3, 6]
    assert tokenizer.decode([4, 3, 6]) == "a<unk>c"


def test_training_characters_on_nothing():
    assert CharTokenizer.train("").vocab_size == 4
    with pytest.raises(ValueError, match="empty text"):
        CharTokenizer.train("", special=False)


def test_bytes_are_shifted_by_the_special_tokens():
    tokenizer = ByteTokenizer()
    assert tokenizer.vocab_size == 259
    assert tokenizer.encode("A世") == [3 + 0x41, 3 + 0xE4, 3 + 0xB8, 3 + 0x96]


def test_bytes_that_are_no_utf8_decode_to_replacement_characters():
    assert ByteTokenizer().decode([3 + 0xE4, 3 + 0x41, 3 + 0xFF]) == "�A�"


def test_byte_characters_are_those_of_the_library():
    from tokenizers import pre_tokenizers

    assert len(set(byte_characters())) == 256
    assert set(byte_characters()) == set(pre_tokenizers.ByteLevel.alphabet())


def test_bpe_merges_what_is_frequent_and_is_deterministic():
    corpus = ["low lower lowest newer newest widest 低低低地"] * 20
    first, second = (BPETokenizer.train(corpus, 300) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert len(first.encode("lowest")) < 6
    assert len(first.encode("低低低")) < len("低低低".encode())
    assert first.vocab_size <= 300


def test_bpe_takes_more_special_tokens():
    tokenizer = BPETokenizer.train([ENGLISH], 300, special_tokens=["<|im_start|>", "<|im_end|>"])
    assert tokenizer.encode("<|im_end|>", special=True) == [4]
    assert len(tokenizer.encode("<|im_end|>")) > 1
    assert tokenizer.decode([3, *tokenizer.encode("cat"), 4]) == "cat"


@pytest.mark.parametrize("size", [0, 258])
def test_bpe_needs_room_for_the_bytes(size):
    with pytest.raises(ValueError, match="vocab_size must be >= 259"):
        BPETokenizer.train([ENGLISH], size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [-1, 10**6])
def test_decoding_an_id_outside_the_vocabulary_is_an_error(kind, bad):
    with pytest.raises(ValueError, match=f"id {bad} is not in the vocabulary"):
        any_tokenizer(kind).decode([4, bad])


@pytest.mark.parametrize("kind", KINDS)
def test_lone_surrogate_is_an_error_that_says_what_to_do(kind):
    with pytest.raises(ValueError, match="lone surrogate"):
        any_tokenizer(kind).encode("a\ud800b")


def test_different_vocabularies_have_different_fingerprints():
    prints = {any_tokenizer(kind).fingerprint for kind in KINDS} | {CharTokenizer.train("ab").fingerprint}
    assert len(prints) == 5
    assert all(len(p) == len(hashlib.sha256().hexdigest()) for p in prints)


def test_folder_without_a_tokenizer_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_damaged_tokenizer_files_are_named(tmp_path):
    ByteTokenizer().save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"', encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        load_tokenizer(tmp_path)


def foreign_folder(tmp_path, **files):
    """A folder as another project would have written it: no mark of ours, specials in various places."""
    backend = BPETokenizer.train([ENGLISH], 300, special_tokens=["<|end|>"])._backend
    backend.enable_truncation(3)
    backend.enable_padding(length=10)
    (tmp_path / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return load_tokenizer(tmp_path)


def test_foreign_folder_takes_special_tokens_from_its_config(tmp_path):
    tokenizer = foreign_folder(
        tmp_path,
        tokenizer_config={"eos_token": {"content": "<|end|>"}, "bos_token": "<bos>", "model_max_length": 7},
        special_tokens_map={"pad_token": "<pad>", "eos_token": "<eos>"},
        config={"bos_token_id": 2},
    )
    assert type(tokenizer) is HFTokenizer
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 3, None)


def test_foreign_folder_takes_special_ids_from_the_model_config(tmp_path):
    tokenizer = foreign_folder(
        tmp_path,
        config={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None},
        generation_config={"eos_token_id": [3, 2, 99999]},
    )
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (None, 1, 3)
    assert tokenizer.stop_ids == (3, 2)


def test_foreign_folder_neither_truncates_nor_pads_and_parses_special_tokens(tmp_path):
    tokenizer = foreign_folder(tmp_path)
    assert tokenizer.decode(tokenizer.encode(ENGLISH)) == ENGLISH
    assert tokenizer.encode("<|end|>") == [3]
    assert tokenizer.encode("<|end|>", special=False) != [3]


def test_foreign_settings_survive_saving(tmp_path):
    (tmp_path / "a").mkdir()
    tokenizer = foreign_folder(
        tmp_path / "a",
        tokenizer_config={"model_max_length": 7, "eos_token": "<|end|>", "chat_template": "{{ messages }}"},
    )
    tokenizer.save(tmp_path / "b")
    again = load_tokenizer(tmp_path / "b")
    assert again.chat_template == "{{ messages }}"
    assert again.eos_id == 3
    config = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["model_max_length"] == 7
