"""Token shards: what is written is what is read, and damage is named."""

import json

import numpy as np
import pytest

from core.text.dataset import TokenWindows, sequential_windows
from core.text.shards import BrokenShards, TokenShards, write_shards
from core.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer

TEXTS = ["hello world", "", "今天天气很好", "x", "NUL \x00 and 👩‍👩‍👧"]
TOKENIZER = ByteTokenizer()


@pytest.fixture
def shards(tmp_path):
    return write_shards(tmp_path / "tokens", TEXTS, TOKENIZER, shard_tokens=7)


def all_ids(add_bos=False, add_eos=True):
    return [i for text in TEXTS for i in TOKENIZER.encode(text, add_bos=add_bos, add_eos=add_eos)]


def test_ids_and_documents_come_back(shards):
    assert shards.slice(0, len(shards)).tolist() == all_ids()
    assert shards.num_tokens == len(all_ids())
    assert [TOKENIZER.decode(ids) for ids in shards.documents()] == TEXTS
    assert shards.document(3) == TOKENIZER.encode("x", add_eos=True)
    assert len(list(shards.folder.glob("tokens-*.bin"))) == -(-len(all_ids()) // 7)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_windows_do_not_depend_on_the_file_size(tmp_path, size):
    shards = write_shards(tmp_path / "tokens", TEXTS, TOKENIZER, shard_tokens=size)
    ids = np.array(all_ids())
    starts = np.array([0, 5, 6, 7, len(ids) - 9])
    assert (shards.windows(starts, 9) == ids[starts[:, None] + np.arange(9)]).all()
    ours, plain = (next(iter(TokenWindows(tokens, 8, 4, seed=3))) for tokens in (shards, ids))
    assert all((a == b).all() for a, b in zip(ours, plain, strict=True))
    assert sum(y.numel() for _, y in sequential_windows(shards, 8)) == len(ids) - 1


def test_two_bytes_an_id_until_the_vocabulary_needs_four(tmp_path):
    class Wide(ByteTokenizer):
        def encode(self, text, **options):
            return [i + 70_000 for i in super().encode(text, **options)]

    wide = Wide()
    wide.vocab_size = 70_300
    small, large = (write_shards(tmp_path / str(t.vocab_size), ["abc"], t) for t in (TOKENIZER, wide))
    assert (small.dtype, large.dtype) == (np.dtype("<u2"), np.dtype("<u4"))
    assert large.document(0)[0] == 70_000 + TOKENIZER.encode("a")[0]


def test_sequence_ends_are_optional_and_skipped_where_the_tokenizer_has_none(tmp_path):
    framed = write_shards(tmp_path / "a", TEXTS, TOKENIZER, add_bos=True, add_eos=False)
    assert framed.slice(0, len(framed)).tolist() == all_ids(add_bos=True, add_eos=False)
    plain = CharTokenizer.train(TEXTS, special=False)
    assert TokenShards(write_shards(tmp_path / "b", TEXTS, plain).folder).num_documents == 4  # the empty one is nothing


def test_reopening_checks_the_tokenizer(shards):
    TokenShards(shards.folder, tokenizer=ByteTokenizer(), verify=True)
    other = BPETokenizer.train(["abc"], 260)
    with pytest.raises(BrokenShards, match="made with another tokenizer"):
        TokenShards(shards.folder, tokenizer=other)


def test_damage_is_named(shards):
    folder = shards.folder
    file = folder / "tokens-00001.bin"
    good = file.read_bytes()
    file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    TokenShards(folder)  # sizes alone do not tell
    with pytest.raises(BrokenShards, match=r"tokens-00001\.bin is damaged: its SHA-256"):
        TokenShards(folder, verify=True)
    file.write_bytes(good[:-2])
    with pytest.raises(BrokenShards, match=rf"tokens-00001\.bin has {len(good) - 2} bytes"):
        TokenShards(folder)
    file.unlink()
    with pytest.raises(BrokenShards, match=r"tokens-00001\.bin is missing"):
        TokenShards(folder)


def test_missing_or_foreign_index_is_named(tmp_path, shards):
    with pytest.raises(BrokenShards, match=r"no index\.json"):
        TokenShards(tmp_path)
    index = shards.folder / "index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    for broken, message in [("{", "not JSON"), ("[]", "not an index"), ('{"format": "other"}', "not an index")]:
        index.write_text(broken, encoding="utf-8")
        with pytest.raises(BrokenShards, match=message):
            TokenShards(shards.folder)
    del content["dtype"]
    index.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BrokenShards, match="lacks dtype"):
        TokenShards(shards.folder)


def test_interrupted_writing_leaves_nothing_behind(tmp_path):
    def texts():
        yield "fine"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_shards(tmp_path / "tokens", texts(), TOKENIZER)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_replaced_only_on_request(tmp_path, shards):
    with pytest.raises(ValueError, match="exists"):
        write_shards(shards.folder, ["new"], TOKENIZER)
    again = write_shards(shards.folder, ["new"], TOKENIZER, overwrite=True)
    assert again.num_documents == 1
    (tmp_path / "precious").mkdir()
    with pytest.raises(ValueError, match="exists"):
        write_shards(tmp_path / "precious", ["new"], TOKENIZER, overwrite=True)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_tokens_is_an_error_that_writes_nothing(tmp_path, texts):
    with pytest.raises(ValueError, match="the texts are empty"):
        write_shards(tmp_path / "tokens", texts, CharTokenizer.train("a", special=False))
    assert list(tmp_path.iterdir()) == []


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
    class Wrong(ByteTokenizer):
        def encode(self, text, **options):
            return [5, 999]

    with pytest.raises(ValueError, match="document 0 has ids 5 … 999, outside the vocabulary of 259"):
        write_shards(tmp_path / "tokens", ["a"], Wrong())


def test_outside_the_data_is_an_error(shards):
    with pytest.raises(IndexError, match="outside"):
        shards.slice(0, len(shards) + 1)
    with pytest.raises(IndexError, match="document 9"):
        shards.document(9)
