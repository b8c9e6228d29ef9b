"""From examples to ids and batches: what a prompt becomes, and what does not fit."""

from typing import Any

import pytest
import torch

from core.text.bytelevel import BPETokenizer
from core.text.characters import CharTokenizer
from multimodal.batch import MediaBatch, Prompt, caption_batch, media_batches
from multimodal.examples import Example, Medium
from multimodal.reading import Reader, TooLong

IMAGE, AUDIO, VIDEO = -1, -2, -3


def test_a_prompt_is_its_parts_in_order_and_the_begin_token(make_bench: Any) -> None:
    bench = make_bench("prefix")
    one, two, three = bench.reader.tokenizer.encode("one two three")
    bos = bench.reader.bos_id
    assert bench.prompts[0].ids == [IMAGE] * 2 + [one, two] + [AUDIO] * 5 + [three, bos]
    assert bench.prompts[0].media == (("image", 0), ("audio", 0))
    assert bench.prompts[2].ids == [one] + [VIDEO] * 6 + [AUDIO] * 2 + [two] + [AUDIO] * 7 + [IMAGE] * 2 + [bos]
    assert bench.prompts[2].media == (("video", 0), ("audio", 1), ("audio", 2), ("image", 1))
    queried = make_bench("perceiver")
    assert queried.prompts[0].ids == [IMAGE] * 3 + [one, two] + [AUDIO] * 3 + [three, bos]
    beside = make_bench("concat")
    assert beside.prompts[0].ids == [one, two, three, bos]
    assert beside.prompts[3].ids == [bos]
    assert beside.prompts[3].media == (("video", 1), ("video", 2))


def test_a_batch_by_hand() -> None:
    media = {"image": MediaBatch(torch.zeros(1, 2, 5), torch.tensor([2]), torch.tensor([0]), torch.tensor([0, 1]))}
    batch = caption_batch([[-1, -1, 7, 1], [8, 1]], [[3, 4, 2], [2]], media)
    assert batch.tokens_BT.tolist() == [[-1, -1, 7, 1, 3, 4], [8, 1, 0, 0, 0, 0]]
    assert batch.prefix_BT.int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert batch.targets_EL.tolist() == [[3, 4, 2], [2, 0, 0]]
    assert batch.mask_EL.tolist() == [[True] * 3, [True, False, False]]
    assert batch.reads_EL.tolist() == [[3, 4, 5], [7, 7, 7]]
    assert {kind: place.tolist() for kind, place in batch.places.items()} == {"image": [0, 1]}
    assert batch.documents_BT is None
    packed = caption_batch([[-1, -1, 7, 1], [8, 1]], [[3, 4, 2], [2]], media, pack_to=9, bidirectional=False)
    assert packed.tokens_BT.tolist() == [[-1, -1, 7, 1, 3, 4, 8, 1]]
    assert packed.documents_BT.tolist() == [[0] * 6 + [1] * 2]
    assert packed.reads_EL.tolist() == [[3, 4, 5], [7, 7, 7]]
    assert packed.prefix_BT is None
    with pytest.raises(ValueError, match="example of 6 positions does not fit into rows of 5"):
        caption_batch([[-1, -1, 7, 1]], [[3, 4, 2]], media, pack_to=5)
    with pytest.raises(ValueError, match="row of 6 positions does not fit into 5"):
        caption_batch([[-1, -1, 7, 1]], [[3, 4, 2]], media, length=5)


def test_packed_media_go_with_their_own_example() -> None:
    """The longest example comes first in a packed row, whatever its number."""
    packed = caption_batch([[-1, 1], [9, 9, -1, 1], [-1, 9, 1]], [[2], [2], [2]], {}, pack_to=20)
    assert packed.tokens_BT.tolist() == [[9, 9, -1, 1, -1, 9, 1, -1, 1]]
    assert packed.places["image"].tolist() == [7, 2, 4]


def test_ragged_media_are_padded_and_their_real_embeddings_known() -> None:
    inputs = {"audio": [torch.full((length, 3), float(length)) for length in (4, 1, 2)]}
    prompts = [Prompt([1], (("audio", 1),)), Prompt([1]), Prompt([1], (("audio", 0), ("audio", 2)))]
    batch = media_batches(prompts, inputs, lambda kind, index: len(inputs[kind][index]))["audio"]
    assert batch.inputs_NI[:, :, 0].tolist() == [[1, 0, 0, 0], [4, 4, 4, 4], [2, 2, 0, 0]]
    assert batch.lengths_N.tolist() == [1, 4, 2]
    assert batch.rows_N.tolist() == [0, 2, 2]
    assert batch.sources_M.tolist() == [0, 4, 5, 6, 7, 8, 9]


def test_what_does_not_fit_is_named_and_never_cut(make_bench: Any, made_medium: Any) -> None:
    bench = make_bench("prefix")
    reader, store = bench.reader, bench.store
    clip = made_medium("video", 3, 1)
    example = Example((clip,) * 5 + ("one two three",), ("four",), "long clip")
    store.add([example])
    with pytest.raises(TooLong, match=r"^long clip \(video without a file, .*: 34 positions .*model.max_length=39"):
        Reader(
            reader.tokenizer, reader.num_embeddings, in_sequence=True, max_target_tokens=6, max_length=38,
            bidirectional=True,
        ).prompt(example, store)  # fmt: skip
    prompt = reader.prompt(example, store)  # 40 positions are enough for it, and for any answer to it
    assert prompt.ids.count(VIDEO) == 30
    assert len(prompt.ids) == 34
    bench.captioner.eos_id = 99
    samples = bench.captioner.sample(reader.contexts([prompt], store), greedy=True)
    assert samples.mask_BT.sum() == 6
    assert len(reader.target(example, "one two three four five")) == 6
    with pytest.raises(TooLong, match=r"'one two three four five six' has 7 tokens.*max_target_tokens=6"):
        reader.target(example, "one two three four five six")
    with pytest.raises(TooLong, match=r"^an example: "):
        reader.target(Example((), ("",)), "one two three four five six")


def test_text_cannot_smuggle_in_a_medium(make_bench: Any) -> None:
    bench = make_bench("prefix")
    prompt = bench.reader.prompt(Example(("<image> one -1 <bos>",), ("",)), bench.store)
    assert min(prompt.ids) >= 0
    assert prompt.ids.count(bench.reader.bos_id) == 1


def test_the_first_word_is_spelt_as_within_a_text() -> None:
    options: Any = {"in_sequence": True, "max_target_tokens": 30, "max_length": 60, "bidirectional": True}
    texts = ["red kite", "a red kite and a red hat"] * 3
    for tokenizer in (BPETokenizer.train(texts, vocab_size=300), CharTokenizer.train(texts)):
        reader = Reader(tokenizer, lambda kind, count: count, **options)
        first, second = (reader.target(Example((), (text,)), text) for text in texts[:2])
        assert [reader.text(ids[:-1]) for ids in (first, second)] == texts[:2]
        assert str(first[:-1])[1:-1] in str(second)  # "red kite" as it stands in the other text


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = CharTokenizer.train("one", special=False)
    with pytest.raises(ValueError, match="begin and an end-of-sequence token"):
        Reader(
            tokenizer, lambda kind, count: count, in_sequence=True, max_target_tokens=4, max_length=8,
            bidirectional=True,
        )  # fmt: skip


def test_a_medium_of_a_kind_without_encoder_is_refused(make_bench: Any) -> None:
    bench = make_bench("prefix")
    bench.store.encoders.pop("video")
    with pytest.raises(ValueError, match="clip has a medium of kind video, and this run reads image, audio only"):
        bench.store.beside().add([Example((Medium("video", torch.zeros(1, 2, 4)),), ("one",), "clip")])
