"""The captioner generates and scores: cache, ragged prompts, beams, the policy surface, and what media change."""

from typing import Any, get_args

import pytest
import torch

from core.generate import generate
from core.interfaces import Samples
from core.sampling import Sampling
from multimodal.batch import Contexts, Prompt
from multimodal.captioner import Captioner
from multimodal.config import Fusion

FUSIONS = get_args(Fusion)


def greedy_without_cache(bench: Any, index: int, num_new: int) -> list[int]:
    """The definition of greedy decoding: the whole example is read again, alone, for every token."""
    prompt: Prompt = bench.prompts[index]
    tokens: list[int] = []
    while len(tokens) < num_new:
        batch = bench.reader.batch([prompt], [[*tokens, 0]], bench.store)
        tokens.append(int(bench.captioner.logits(bench.captioner(batch))[0, -1].argmax()))
        if tokens[-1] == bench.reader.eos_id:
            break
    return tokens


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_cached_ragged_generation_is_the_full_recomputation_one_by_one(
    make_bench: Any, fusion: Fusion, bidirectional: bool
) -> None:
    bench = make_bench(fusion, bidirectional=bidirectional, seed=1)
    with torch.no_grad():
        expected = [greedy_without_cache(bench, index, 6) for index in range(5)]
    assert bench.captioner.sample(bench.contexts(), greedy=True).lists() == expected
    assert bench.captioner.beam(bench.contexts(), beams=1).lists() == expected
    assert bench.captioner.sample(bench.contexts([1]), greedy=True).lists() == [expected[1]]  # text alone
    assert len({tuple(row) for row in expected}) > 1


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_beam_is_the_same_alone_and_at_least_as_likely_as_greedy(make_bench: Any, fusion: Fusion) -> None:
    bench = make_bench(fusion, seed=3)
    greedy = bench.captioner.sample(bench.contexts(), greedy=True)
    beam = bench.captioner.beam(bench.contexts(), beams=4, length_penalty=0)
    assert (beam.logprobs_BT.sum(1) >= greedy.logprobs_BT.sum(1) - 1e-4).all()
    alone = [bench.captioner.beam(bench.contexts([i]), beams=4, length_penalty=0).lists()[0] for i in (0, 1, 2)]
    assert beam.lists()[:3] == alone
    scored = bench.captioner.logprobs(bench.contexts(), beam)
    torch.testing.assert_close(scored, beam.logprobs_BT, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", ["prefix", "concat"])
def test_prompt_and_media_do_not_count_towards_max_new_tokens(make_bench: Any, fusion: Fusion) -> None:
    bench = make_bench(fusion)
    bench.captioner.eos_id = 99  # never drawn, so every text has full length
    assert bench.captioner.sample(bench.contexts(), greedy=True).mask_BT.sum(1).tolist() == [6] * 5
    assert bench.captioner.beam(bench.contexts(), beams=2).mask_BT.sum(1).tolist() == [6] * 5


def repeated(bench: Any, times: int) -> Contexts:
    return bench.reader.contexts([prompt for prompt in bench.prompts for _ in range(times)], bench.store)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_scored_log_probabilities_are_those_sampled_from(make_bench: Any, fusion: Fusion, temperature: float) -> None:
    bench = make_bench(fusion, temperature=temperature, dropout=0.2, media_dropout=0.2)
    samples = bench.captioner.sample(bench.contexts(), num_samples=3, generator=torch.Generator().manual_seed(0))
    scored = bench.captioner.logprobs(repeated(bench, 3), samples)
    torch.testing.assert_close(scored, samples.logprobs_BT, atol=5e-5, rtol=1e-4)
    assert (scored[~samples.mask_BT] == 0).all()
    scored.sum().backward()
    for adapter in bench.captioner.adapters.values():
        assert adapter.project.weight.grad.abs().sum() > 0


def test_scoring_under_a_token_mask(make_bench: Any) -> None:
    bench = make_bench("prefix", temperature=0.7)
    legal_V = torch.arange(bench.captioner.model.vocab_size) % 2 == bench.reader.eos_id % 2
    samples = bench.captioner.sample(bench.contexts(), token_mask=legal_V, generator=torch.Generator().manual_seed(1))
    assert legal_V[samples.tokens_BT[samples.mask_BT]].all()
    allowed_BTV = legal_V.expand(*samples.tokens_BT.shape, -1)
    scored = bench.captioner.logprobs(bench.contexts(), samples, allowed_BTV=allowed_BTV)
    torch.testing.assert_close(scored, samples.logprobs_BT, atol=5e-5, rtol=1e-4)


def test_tokens_after_the_end_change_nothing(make_bench: Any) -> None:
    bench = make_bench("prefix")
    bench.captioner.eos_id = int(bench.captioner.sample(bench.contexts(), greedy=True).tokens_BT[0, 1])
    samples = bench.captioner.sample(bench.contexts(), greedy=True)
    assert not samples.mask_BT.all()
    noise = torch.where(samples.mask_BT, samples.tokens_BT, 7)
    noisy = Samples(noise, samples.mask_BT, samples.logprobs_BT, samples.finished_B)
    expected = bench.captioner.logprobs(bench.contexts(), samples)
    assert torch.equal(bench.captioner.logprobs(bench.contexts(), noisy), expected)


def test_sampling_leaves_modes_alone_and_is_without_dropout(make_bench: Any) -> None:
    bench = make_bench("qformer", dropout=0.5, media_dropout=0.5, blank_probability=0.5)
    bench.captioner.train()
    bench.captioner.adapters["audio"].eval()
    first, second = (bench.captioner.sample(bench.contexts(), greedy=True) for _ in range(2))
    assert torch.equal(first.logprobs_BT, second.logprobs_BT)
    assert bench.captioner.model.training
    assert bench.captioner.adapters["image"].training
    assert not bench.captioner.adapters["audio"].training


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_target_never_sees_the_ones_after_it(make_bench: Any, fusion: Fusion) -> None:
    bench = make_bench(fusion)
    before = bench.captioner(bench.batch([2]))
    bench.targets[2] = [*bench.targets[2][:2], 5, 5, bench.reader.eos_id]
    after = bench.captioner(bench.batch([2]))
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_medium_changes_the_text_of_its_own_example_only(make_bench: Any, fusion: Fusion) -> None:
    bench = make_bench(fusion)
    batch = bench.batch()
    before = bench.captioner.logits(bench.captioner(batch))
    for kind, media in batch.media.items():
        for number, row in enumerate(media.rows_N.tolist()):
            kept = media.inputs_NI.clone()
            media.inputs_NI[number, : media.lengths_N[number]] += 1
            after = bench.captioner.logits(bench.captioner(batch))
            changed = (after - before).abs().amax((1, 2)) > 1e-4
            assert changed.tolist() == [own == row for own in range(5)], f"{kind} {number}"
            media.inputs_NI.copy_(kept)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_exchanged_media_of_a_prompt_change_the_text(make_bench: Any, fusion: Fusion) -> None:
    """Two sounds of one prompt count in their order where they stand in the sequence, and only there."""
    bench = make_bench(fusion)
    ids, media = bench.prompts[2].ids, list(bench.prompts[2].media)
    sounds = [place for place, (kind, _) in enumerate(media) if kind == "audio"]
    media[sounds[0]], media[sounds[1]] = media[sounds[1]], media[sounds[0]]
    if fusion == "prefix":  # the sounds have 2 and 7 positions
        other = [i for i in ids if i != -2]
        place = ids.index(-2)
        ids = other[:place] + [-2] * 7 + other[place : place + 1] + [-2] * 2 + other[place + 1 :]
    exchanged = bench.reader.batch([Prompt(ids, tuple(media))], [bench.targets[2]], bench.store)
    before, after = bench.captioner(bench.batch([2])), bench.captioner(exchanged)
    assert torch.allclose(before, after, atol=1e-4) is (bench.captioner.placement != "sequence")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_blanked_is_the_same_whatever_the_media(make_bench: Any, fusion: Fusion) -> None:
    bench = make_bench(fusion)
    batch = bench.batch()
    seeing = bench.captioner(batch)
    with bench.captioner.blanked():
        first = bench.captioner(batch)
        for media in batch.media.values():
            media.inputs_NI.add_(3)
        second = bench.captioner(batch)
        blind = bench.captioner.sample(bench.contexts(), greedy=True)
    assert torch.equal(first, second)
    assert not torch.allclose(first[0], seeing[0], atol=1e-3)
    assert not any(adapter.blanked for adapter in bench.captioner.adapters.values())
    assert blind.logprobs_BT.isfinite().all()


def test_closed_gates_leave_the_language_model_as_it_was_to_the_bit(make_bench: Any) -> None:
    bench = make_bench("gated_cross_attention", bidirectional=False)
    for name, parameter in bench.captioner.named_parameters():
        if name.endswith("cross_attn.gate"):
            torch.nn.init.zeros_(parameter)
    batch = bench.batch()
    expected = bench.captioner.model(batch.tokens_BT).flatten(0, 1)[batch.reads_EL]
    assert torch.equal(bench.captioner(batch), expected)
    texts = generate(
        bench.captioner.model, [prompt.ids for prompt in bench.prompts], max_new_tokens=6,
        eos_id=bench.reader.eos_id, sampling=Sampling(temperature=0),
    )  # fmt: skip
    assert torch.equal(bench.captioner.sample(bench.contexts(), greedy=True).logprobs_BT, texts.logprobs_BT)


def test_tokens_are_told_as_they_come(make_bench: Any) -> None:
    bench = make_bench("prefix")
    heard: dict[int, list[int]] = {row: [] for row in range(5)}

    def on_token(rows: list[int], tokens: list[int]) -> None:
        for row, token in zip(rows, tokens):
            heard[row].append(token)

    samples = bench.captioner.sample(bench.contexts(), greedy=True, on_token=on_token)
    assert list(heard.values()) == samples.lists()


def test_misuse_is_explained(make_bench: Any, made_medium: Any) -> None:
    bench = make_bench("prefix")
    samples = bench.captioner.sample(bench.contexts([0]), greedy=True)
    with pytest.raises(ValueError, match="5 prompts for 1 samples"):
        bench.captioner.logprobs(bench.contexts(), samples)
    cut = Contexts([bench.prompts[0].ids[1:]], bench.contexts([0]).media)
    with pytest.raises(ValueError, match="1 positions for images, the images give 2"):
        bench.captioner.sample(cut, greedy=True)
    encoders = {"image": bench.captioner.adapters["image"]}
    text_and_pictures = Captioner(bench.captioner.model, encoders, eos_id=2).eval()
    with pytest.raises(ValueError, match=r"not made for media of kind audio: it reads \['image'\]"):
        text_and_pictures.sample(bench.contexts([0]), greedy=True)
    with pytest.raises(ValueError, match="need a model with cross-attention"):
        Captioner(bench.captioner.model, encoders, placement="memory", eos_id=2)
    wide = make_bench("prefix", width=64)
    with pytest.raises(ValueError, match="image adapter is 64 wide, the model 32"):
        Captioner(bench.captioner.model, {"image": wide.captioner.adapters["image"]}, eos_id=2)
