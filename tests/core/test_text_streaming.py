"""Streaming from files: exact resume, several processes, shuffling, and data without content."""

import itertools
import json

import pytest
import torch

from core.text.chat import encode_chat
from core.text.readers import DataError, TextReader
from core.text.streaming import StreamedDocuments
from core.text.tokenizer import BPETokenizer, ByteTokenizer

TOKENIZER = ByteTokenizer()


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    paths[0].write_text("\n".join(f"line {n} 第{n}行" for n in range(9)), encoding="utf-8")
    paths[1].write_text("".join(json.dumps({"text": "row " * n}) + "\n" for n in range(8)), encoding="utf-8")
    return paths


def stream(files, **options):
    return StreamedDocuments(TextReader(files), TOKENIZER, 24, 4, **{"open_rows": 3, **options})


def take(source, count):
    return list(itertools.islice(iter(source), count))


def same(first, second):
    names = ("tokens_BT", "targets_BT", "documents_BT", "mask_BT")
    return len(first) == len(second) and all(
        torch.equal(getattr(a, name), getattr(b, name)) for a, b in zip(first, second, strict=True) for name in names
    )


@pytest.mark.parametrize("shuffle_buffer", [0, 5])
@pytest.mark.parametrize("cut", [0, 1, 3, 8, 13])
def test_resume_anywhere_is_exact(files, cut, shuffle_buffer):
    whole = take(stream(files, shuffle_buffer=shuffle_buffer), 16)
    source = stream(files, shuffle_buffer=shuffle_buffer)
    take(source, cut)
    state = json.loads(json.dumps(source.state_dict()))
    again = stream(files, shuffle_buffer=shuffle_buffer)
    again.load_state_dict(state)
    assert same(take(again, 16 - cut), whole[cut:])


def test_batches_hold_the_documents_of_the_files(files):
    source = stream(files)
    shown = []
    for batch in source:
        assert batch.tokens_BT.shape == (4, 24)
        shown += [TOKENIZER.decode(row) for row in batch.tokens_BT]
        if source.epoch == 3:  # rows in the making hold a few documents back
            break
    text = " ".join(shown)
    for n in range(9):
        assert f"line {n} 第{n}" in text


def test_shuffling_depends_on_the_seed(files):
    plain, first, again, other = (
        take(stream(files, shuffle_buffer=b, seed=s), 6) for b, s in ((0, 1), (6, 1), (6, 1), (6, 2))
    )
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, plain)


def test_processes_share_the_batch_of_one_process(files):
    single = take(stream(files), 6)
    parts = [take(stream(files, rank=rank, world=2), 6) for rank in range(2)]
    for whole, first, second in zip(single, *parts, strict=True):
        assert torch.equal(torch.cat([first.tokens_BT, second.tokens_BT]), whole.tokens_BT)


def test_conversations_with_a_loss_mask(tmp_path):
    tokenizer = BPETokenizer.train(["hi ho"], 261, special_tokens=["<|im_start|>", "<|im_end|>"])
    file = tmp_path / "chat.txt"
    file.write_text("hi|ho\n", encoding="utf-8")

    def encode(line):
        user, assistant = line.split("|")
        chat = encode_chat(tokenizer, [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}])
        return chat.ids, chat.mask

    source = StreamedDocuments(TextReader(file), tokenizer, 64, 1, encode=encode, open_rows=1)
    batch = take(source, 1)[0]
    learnt = tokenizer.decode(batch.targets_BT[batch.mask_BT], skip_special=False)
    assert set(learnt.split("<|im_end|>")) == {"ho", ""}


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_files_without_text_are_an_error_and_no_endless_loop(tmp_path, content):
    file = tmp_path / "a.txt"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"no text in .*a\.txt"):
        take(stream([file]), 1)


def test_documents_without_anything_to_predict_are_an_error(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("x\ny\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"none of the .* documents has two tokens or more"):
        take(stream([file], encode=TOKENIZER.encode), 1)


def test_other_files_or_another_tokenizer_are_noticed_on_resume(files):
    state = stream(files).state_dict()
    with pytest.raises(ValueError, match="give the same files"):
        stream(files[:1]).load_state_dict(state)
    other = StreamedDocuments(TextReader(files), BPETokenizer.train(["ab"], 260), 24, 4)
    with pytest.raises(ValueError, match="another tokenizer"):
        other.load_state_dict(state)


def test_bad_sizes_are_refused(files):
    with pytest.raises(ValueError, match="batch_size must be >= 1 and shuffle_buffer >= 0"):
        StreamedDocuments(TextReader(files), TOKENIZER, 8, 0)
    with pytest.raises(ValueError, match="cannot be shared by 3"):
        take(stream(files, rank=0, world=3), 1)
