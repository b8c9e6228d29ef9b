"""Beam search: against greedy decoding, exhaustive search and transformers."""

import itertools

import pytest
import torch

from core.beam import beam_search
from core.generate import generate, pad_left
from core.nn.lstm import LSTM
from core.pretrained.huggingface import to_hf
from core.sampling import Sampling

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


@pytest.fixture
def sharp(random_model):
    """A factory of models whose distributions are far from flat, so that beams differ and end-of-sequence competes."""

    def make(scale=3.0, **fields):
        model = random_model(**{"tied": False, **fields})
        with torch.no_grad():
            model.lm_head.weight *= scale
        return model

    return make


def sequence_logprob(model, prompt, tokens):
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([list(prompt) + list(tokens)])))[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)]


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_one_beam_is_greedy_decoding(kind, sharp):
    torch.manual_seed(0)
    model = sharp() if kind == "transformer" else LSTM(97, 16, 24)
    for eos_id in (None, 31, 60):
        greedy = generate(model, PROMPTS, max_new_tokens=15, sampling=Sampling(temperature=0), eos_id=eos_id)
        for length_penalty in (0.0, 1.0):
            beam = beam_search(model, PROMPTS, beams=1, max_new_tokens=15, eos_id=eos_id, length_penalty=length_penalty)
            assert beam.lists() == greedy.lists()
            assert torch.equal(beam.finished_B, greedy.finished_B)
            for i, tokens in enumerate(greedy.lists()):
                torch.testing.assert_close(
                    beam.logprobs_BT[i, : len(tokens)], greedy.logprobs_BT[i, : len(tokens)], atol=2e-5, rtol=1e-5
                )


def test_a_wide_beam_finds_the_best_of_all_sequences(sharp):
    model = sharp(vocab_size=4, num_layers=2)
    eos_id, longest = 3, 4
    candidates = [
        list(body) + ending
        for length in range(longest + 1)
        for body in itertools.product(range(3), repeat=length)
        for ending in ([[3]] if length < longest else [[]])
    ]
    for prompt in ([0, 1], [2, 2, 1], [1]):
        scores = {tuple(tokens): float(sequence_logprob(model, prompt, tokens).sum()) for tokens in candidates}
        for length_penalty in (0.0, 1.0):
            best = max(scores, key=lambda tokens: scores[tokens] / len(tokens) ** length_penalty)
            found = beam_search(
                model, [prompt], beams=200, max_new_tokens=longest, eos_id=eos_id, length_penalty=length_penalty
            )
            assert tuple(found.lists()[0]) == best
            assert float(found.logprobs_BT.sum()) == pytest.approx(scores[best], abs=1e-4)


@pytest.mark.parametrize("beams", [2, 4, 7])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
def test_beams_equal_transformers(beams, length_penalty, sharp):
    pytest.importorskip("transformers")
    ended = 0
    for seed in range(2):
        model = sharp(
            0.7, seed=seed, qk_norm=False, num_kv_heads=2, vocab_size=18
        )  # few tokens, so that ends are frequent
        theirs = to_hf(model)
        for prompt in PROMPTS:
            for eos_id in (3, 9):
                inputs = torch.tensor([prompt])
                expected = theirs.generate(
                    inputs, attention_mask=torch.ones_like(inputs), num_beams=beams, max_new_tokens=12,
                    do_sample=False, length_penalty=length_penalty, eos_token_id=eos_id, pad_token_id=0,
                    early_stopping=False,
                )[0, len(prompt) :].tolist()  # fmt: skip
                found = beam_search(
                    model, [prompt], beams=beams, max_new_tokens=12, eos_id=eos_id, length_penalty=length_penalty
                )
                tokens = found.lists()[0]
                assert tokens == expected
                torch.testing.assert_close(
                    found.logprobs_BT[0], sequence_logprob(model, prompt, tokens), atol=5e-5, rtol=1e-5
                )
                ended += bool(found.finished_B[0])
    assert ended > 0 or length_penalty == 2.0  # which favours the longest; else ends must have been compared too


def test_a_batch_of_prompts_equals_transformers(sharp):
    pytest.importorskip("transformers")
    model = sharp()
    tokens_BT, mask_BT = pad_left(PROMPTS, torch.device("cpu"))
    expected = to_hf(model).generate(
        tokens_BT, attention_mask=mask_BT.long(), num_beams=3, max_new_tokens=10, do_sample=False, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip
    found = beam_search(model, PROMPTS, beams=3, max_new_tokens=10)
    assert found.tokens_BT.tolist() == expected[:, tokens_BT.shape[1] :].tolist()


def test_prompts_do_not_depend_on_one_another(sharp):
    model = sharp()
    together = beam_search(model, PROMPTS, beams=4, max_new_tokens=12, eos_id=31)
    for i, prompt in enumerate(PROMPTS):
        alone = beam_search(model, [prompt], beams=4, max_new_tokens=12, eos_id=31)
        assert together.lists()[i] == alone.lists()[0]


def test_more_beams_find_no_worse_sequences_on_average(sharp):
    model = sharp()
    prompts = torch.randint(97, (20, 5), generator=torch.Generator().manual_seed(0)).tolist()
    totals = [
        float(beam_search(model, prompts, beams=beams, max_new_tokens=6).logprobs_BT.sum()) for beams in (1, 2, 8)
    ]
    assert totals[0] < totals[1] < totals[2]


def test_forbidden_tokens_never_occur(sharp):
    model = sharp()
    allowed = torch.zeros(97, dtype=torch.bool)
    allowed[[3, 50]] = True
    found = beam_search(model, PROMPTS, beams=5, max_new_tokens=6, allowed_V=allowed)
    assert set(found.tokens_BT.flatten().tolist()) <= {3, 50}
    assert torch.isfinite(found.logprobs_BT).all()
    allowed[:] = False
    allowed[9] = True
    only = beam_search(model, PROMPTS, beams=5, max_new_tokens=6, eos_id=9, allowed_V=allowed)
    assert only.lists() == [[9], [9], [9]]
    assert only.finished_B.all()


def test_embedded_prompts_and_memory_reach_every_beam(sharp):
    model = sharp()

    def embed(tokens_BT):
        return model.embed(tokens_BT.abs())

    found = beam_search(model, [[-20, -21, *prompt] for prompt in PROMPTS], beams=3, max_new_tokens=8, embed=embed)
    expected = beam_search(model, [[20, 21, *prompt] for prompt in PROMPTS], beams=3, max_new_tokens=8)
    assert found.lists() == expected.lists()

    crossing = sharp(cross_attention_every=1)
    memory, mask = torch.randn(3, 5, 64), torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] * 4 + [False]])
    together = beam_search(crossing, PROMPTS, beams=3, max_new_tokens=8, memory_BMD=memory, memory_mask_BM=mask)
    for i, prompt in enumerate(PROMPTS):
        alone = beam_search(crossing, [prompt], beams=3, max_new_tokens=8, memory_BMD=memory[i : i + 1, mask[i]])
        assert together.lists()[i] == alone.lists()[0]


def test_bad_requests_are_named(sharp):
    for options in ({"beams": 0}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match="must be >= 1"):
            beam_search(sharp(), PROMPTS, **{"beams": 2, "max_new_tokens": 2, **options})
