"""The decoding loop by its invariants, and its parts against transformers' logits processors."""

import pytest
import torch

from core.generate import generate, pad_left
from core.nn.lora import apply_lora, lora_layers
from core.nn.lstm import LSTM
from core.sampling import Sampling, choice_logits

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
GREEDY = Sampling(temperature=0)
VOCAB = 97


@pytest.fixture
def lstm():
    torch.manual_seed(0)
    return LSTM(VOCAB, 16, 24, num_layers=2).eval()


@pytest.fixture(params=["qwen3", "gpt2", "lstm"])
def model(request, random_model):
    if request.param == "lstm":
        return request.getfixturevalue("lstm")
    gpt2 = {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu", "bias": True}
    return random_model(**gpt2) if request.param == "gpt2" else random_model(num_kv_heads=2)


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def teacher_forced(model, prompt, tokens, sampling=None, allowed=None):
    """Log-probabilities of a continuation from one pass over the unpadded row: no cache, no batch."""
    row = torch.tensor([prompt + tokens])
    with torch.no_grad():
        logits = model.logits(model(row))[0, len(prompt) - 1 : -1]
    if sampling is not None:
        logits = choice_logits(logits, sampling, allowed=allowed)
    return logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)]


def greedy_by_hand(model, prompt, count):
    """Greedy decoding that reads the whole row anew for every token."""
    row = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            row.append(int(model.logits(model(torch.tensor([row])))[0, -1].argmax()))
    return row[len(prompt) :]


# What is generated


def test_greedy_equals_reading_everything_anew(model):
    samples = generate(model, PROMPTS, max_new_tokens=12, sampling=GREEDY)
    assert samples.lists() == [greedy_by_hand(model, prompt, 12) for prompt in PROMPTS]
    assert not samples.finished_B.any()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(), Sampling(temperature=0.5), Sampling(temperature=2.0), Sampling(top_k=5),
        Sampling(temperature=0.7, top_p=0.8), Sampling(min_p=0.1), Sampling(top_k=20, top_p=0.9, min_p=0.05),
    ],
)  # fmt: skip
def test_logprobs_equal_teacher_forcing_under_the_same_truncation(sampling, model):
    samples = generate(
        model, PROMPTS, max_new_tokens=9, num_samples=2, sampling=sampling, generator=torch.Generator().manual_seed(3)
    )
    for i, tokens in enumerate(samples.lists()):
        expected = teacher_forced(model, PROMPTS[i // 2], tokens, sampling)
        assert torch.isfinite(expected).all()
        torch.testing.assert_close(samples.logprobs_BT[i], expected, atol=2e-5, rtol=1e-5)


def test_greedy_logprobs_are_the_models_own(model):
    samples = generate(model, PROMPTS, max_new_tokens=9, sampling=GREEDY)
    for i, tokens in enumerate(samples.lists()):
        torch.testing.assert_close(
            samples.logprobs_BT[i], teacher_forced(model, PROMPTS[i], tokens), atol=2e-5, rtol=1e-5
        )


def test_token_masks_forbid_and_renormalise(model):
    allowed_V = torch.zeros(VOCAB, dtype=torch.bool)
    allowed_V[[3, 50, 96]] = True
    sampling = Sampling(temperature=1.5)
    samples = generate(model, PROMPTS, max_new_tokens=20, sampling=sampling, token_mask=allowed_V)
    assert set(samples.tokens_BT.flatten().tolist()) == {3, 50, 96}
    for i, tokens in enumerate(samples.lists()):
        expected = teacher_forced(model, PROMPTS[i], tokens, sampling, allowed_V)
        torch.testing.assert_close(samples.logprobs_BT[i], expected, atol=2e-5, rtol=1e-5)
    only = torch.zeros(VOCAB, dtype=torch.bool)
    only[7] = True
    forced = generate(model, PROMPTS, max_new_tokens=3, token_mask=only)
    assert (forced.tokens_BT == 7).all()
    assert (forced.logprobs_BT == 0).all()


def test_a_token_mask_may_depend_on_row_and_history(model):
    calls = []

    def only_the_next(rows, generated):
        calls.append((rows, generated))
        allowed_BV = torch.zeros(len(rows), VOCAB, dtype=torch.bool)
        for i, (row, tokens) in enumerate(zip(rows, generated)):
            allowed_BV[i, 10 * row + len(tokens)] = True
        return allowed_BV

    samples = generate(model, PROMPTS, max_new_tokens=4, token_mask=only_the_next, eos_id=12)
    assert samples.lists() == [[0, 1, 2, 3], [10, 11, 12], [20, 21, 22, 23]]
    # Row 1 ended at the third step and is not asked about again.
    assert calls[3] == ([0, 2], [[0, 1, 2], [20, 21, 22]])
    assert samples.finished_B.tolist() == [False, True, False]


def test_a_mask_that_forbids_everything_is_refused(model):
    with pytest.raises(ValueError, match="forbids every token"):
        generate(model, PROMPTS, max_new_tokens=2, token_mask=torch.zeros(VOCAB, dtype=torch.bool))


# Rows and their randomness


def test_a_rows_draws_do_not_depend_on_the_batch(model):
    options = {"max_new_tokens": 10, "sampling": Sampling(temperature=1.3)}
    together = generate(model, PROMPTS, num_samples=2, generator=generators(6), **options).lists()
    for i in range(6):
        alone = generate(model, [PROMPTS[i // 2]], generator=generators(1, seed=i), **options)
        assert together[i] == alone.lists()[0]


def test_samples_of_one_prompt_equal_that_prompt_given_often(model):
    options = {"max_new_tokens": 10, "sampling": Sampling(temperature=1.3)}
    shared = generate(model, PROMPTS[:2], num_samples=3, generator=generators(6), **options)
    repeated = generate(model, [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3, generator=generators(6), **options)
    assert torch.equal(shared.tokens_BT, repeated.tokens_BT)


def test_one_generator_makes_a_run_repeatable(model):
    runs = [
        generate(model, PROMPTS, max_new_tokens=8, generator=torch.Generator().manual_seed(seed)).tokens_BT
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_rows_that_finish_do_not_change_the_others(model):
    options = {"max_new_tokens": 30, "num_samples": 4, "sampling": Sampling(temperature=1.5)}
    endless = generate(model, PROMPTS, generator=generators(12), **options)
    # The token that occurs in most rows ends some of them early.
    eos_id = max(range(VOCAB), key=lambda token: int((endless.tokens_BT == token).any(1).sum()))
    samples = generate(model, PROMPTS, generator=generators(12), eos_id=eos_id, **options)
    assert 2 <= samples.finished_B.sum() < 12
    for i, tokens in enumerate(samples.lists()):
        whole = endless.tokens_BT[i].tolist()
        end = whole.index(eos_id) + 1 if eos_id in whole else 30
        assert tokens == whole[:end]
        assert bool(samples.finished_B[i]) == (eos_id in whole)
        assert samples.mask_BT[i].tolist() == [True] * end + [False] * (30 - end)
        assert (samples.logprobs_BT[i, end:] == 0).all()
        torch.testing.assert_close(samples.logprobs_BT[i, :end], endless.logprobs_BT[i, :end], atol=2e-5, rtol=1e-5)


def test_end_of_sequence_at_once_and_at_the_limit(model):
    only = torch.zeros(VOCAB, dtype=torch.bool)
    only[9] = True
    at_once = generate(model, PROMPTS, max_new_tokens=5, eos_id=9, token_mask=only)
    assert at_once.lists() == [[9], [9], [9]]
    assert at_once.finished_B.all()
    at_the_limit = generate(model, PROMPTS, max_new_tokens=1, eos_id=9, token_mask=only)
    assert at_the_limit.finished_B.all()
    other = generate(model, PROMPTS, max_new_tokens=1, eos_id=8, token_mask=only)
    assert not other.finished_B.any()


def test_streaming_sees_every_token_once(model):
    seen = {row: [] for row in range(6)}

    def on_token(rows, tokens):
        for row, token in zip(rows, tokens):
            seen[row].append(token)

    only = torch.zeros(VOCAB, dtype=torch.bool)
    only[:4] = True
    samples = generate(model, PROMPTS, max_new_tokens=12, num_samples=2, eos_id=2, token_mask=only, on_token=on_token)
    assert list(seen.values()) == samples.lists()


def test_the_mode_of_the_model_is_put_back(model):
    model.train()
    generate(model, PROMPTS, max_new_tokens=1)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_while_generating(random_model):
    model = random_model(dropout=0.5)
    expected = generate(model, PROMPTS, max_new_tokens=5, sampling=GREEDY).tokens_BT
    assert torch.equal(generate(model.train(), PROMPTS, max_new_tokens=5, sampling=GREEDY).tokens_BT, expected)


def test_weights_that_change_between_generations_count(random_model):
    # Decoding works on joined copies of the projections, which must not outlive it, nor hide an adapter.
    model = random_model()
    first = generate(model, PROMPTS, max_new_tokens=8, sampling=GREEDY)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(-2)
            layer.mlp.gate_proj.weight.mul_(-2)
    second = generate(model, PROMPTS, max_new_tokens=8, sampling=GREEDY)
    assert second.lists() == [greedy_by_hand(model, prompt, 8) for prompt in PROMPTS] != first.lists()
    apply_lora(model, rank=4, targets=("k_proj", "up_proj"))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.normal_(generator=torch.Generator().manual_seed(1))
    third = generate(model, PROMPTS, max_new_tokens=8, sampling=GREEDY)
    assert third.lists() == [greedy_by_hand(model, prompt, 8) for prompt in PROMPTS] != second.lists()


def test_an_interrupted_generation_leaves_the_model_as_it_was(model):
    def stop(rows, tokens):
        raise KeyboardInterrupt

    names = set(dict(model.named_parameters()))
    model.train()
    with pytest.raises(KeyboardInterrupt):
        generate(model, PROMPTS, max_new_tokens=4, on_token=stop)
    assert model.training
    assert set(dict(model.named_parameters())) == names
    model(torch.tensor(PROMPTS[:1])).sum().backward()  # plain projections again, with gradient
    assert all(p.grad is not None for name, p in model.named_parameters() if "q_proj" in name)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_bfloat16_decoding_stays_near_float32(kv_heads, random_model):
    model = random_model(num_kv_heads=kv_heads)
    hidden = []
    for dtype in (torch.float32, torch.bfloat16):
        cache = model.to(dtype).new_cache(3, 12)
        with torch.no_grad(), model.decoding():
            parts = [model(torch.full((3, size), 5), cache=cache) for size in (6, 1, 1, 1)]
        hidden.append(torch.cat(parts, dim=1).float())
    assert (hidden[1] - hidden[0]).abs().mean() < 0.03


# Embedded prompts and memory


@pytest.mark.parametrize("bidirectional", [False, True])
def test_ids_that_stand_for_embeddings_equal_those_embeddings(bidirectional, random_model):
    model = random_model()
    options = {"max_new_tokens": 10, "sampling": GREEDY, "bidirectional": bidirectional}
    media = [[-20, -21, -22], [-23], [-26, -27]]  # the embeddings of 20, 21, ... stand at these ids
    found = generate(
        model, [a + b for a, b in zip(media, PROMPTS)], embed=lambda tokens_BT: model.embed(tokens_BT.abs()), **options
    )
    expected = generate(model, [[-id for id in a] + b for a, b in zip(media, PROMPTS)], **options)
    assert found.lists() == expected.lists()
    torch.testing.assert_close(found.logprobs_BT, expected.logprobs_BT, atol=2e-5, rtol=1e-5)


def test_ids_of_media_are_no_repetition(random_model):
    model = random_model()
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    prompts = [[-1, 3, 4]]
    found = generate(model, prompts, max_new_tokens=4, sampling=sampling, embed=lambda t: model.embed(t.clamp(min=0)))
    expected = generate(model, [[0, 3, 4]], max_new_tokens=4, sampling=Sampling(temperature=0))
    assert len(found.lists()[0]) == len(expected.lists()[0]) == 4


def test_a_shift_is_added_to_every_embedding_generated_ones_included(random_model):
    model = random_model()
    shift = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    together = generate(model, PROMPTS, max_new_tokens=6, sampling=GREEDY, num_samples=2, shift_BD=shift)
    for i, prompt in enumerate(PROMPTS):
        ids = together.lists()[2 * i]
        with torch.no_grad():
            embedded = model.embed(torch.tensor([[*prompt, *ids]])) + shift[i]
            logits = model.logits(model(embeddings_BTD=embedded))[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == ids == together.lists()[2 * i + 1]
    assert together.lists() != generate(model, PROMPTS, max_new_tokens=6, sampling=GREEDY, num_samples=2).lists()


def test_bidirectional_prompts_are_prefix_language_model_prompts(random_model):
    model = random_model()
    prompt = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        logits = model.logits(model(prompt, prefix_BT=torch.ones(1, 7, dtype=torch.bool)))[:, -1]
    samples = generate(model, PROMPTS, max_new_tokens=2, sampling=GREEDY, bidirectional=True)
    assert samples.tokens_BT[0, 0] == logits.argmax()


def test_memory_is_given_per_prompt(random_model):
    model = random_model(cross_attention_every=1)
    memory, mask = torch.randn(3, 5, 64), torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] * 4 + [False]])
    options = {"max_new_tokens": 8, "sampling": GREEDY}
    together = generate(model, PROMPTS, num_samples=2, memory_BMD=memory, memory_mask_BM=mask, **options).lists()
    for i, prompt in enumerate(PROMPTS):
        alone = generate(model, [prompt], memory_BMD=memory[i : i + 1, mask[i]], **options).lists()[0]
        assert together[2 * i] == together[2 * i + 1] == alone


# Bad input


def test_bad_requests_are_named(random_model):
    model = random_model()
    for prompts, options, message in (
        ([], {}, "no prompts"),
        ([[1], []], {}, "prompt is empty"),
        ([[1]], {"max_new_tokens": 0}, "must be >= 1"),
        ([[1]], {"num_samples": 0}, "must be >= 1"),
        ([[1]], {"generator": generators(2)}, "one generator per row"),
        ([[1] * 100], {"max_new_tokens": 30}, "129 positions"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(model, prompts, **{"max_new_tokens": 2, **options})
    assert generate(model, [[1] * 100], max_new_tokens=29).tokens_BT.shape == (1, 29)


def test_pad_left_by_hand():
    tokens, mask = pad_left([[1, 2, 3], [4]], torch.device("cpu"))
    assert tokens.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]
    assert pad_left([[1], [2]], torch.device("cpu"))[1] is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_generates_what_the_cpu_does(random_model):
    model = random_model(num_kv_heads=2)
    options = {"max_new_tokens": 20, "num_samples": 2, "sampling": Sampling(temperature=1.2)}
    expected = generate(model, PROMPTS, generator=generators(6), **options)
    found = generate(model.to("cuda"), PROMPTS, generator=generators(6), **options)
    assert torch.equal(found.tokens_BT.cpu(), expected.tokens_BT)
    torch.testing.assert_close(found.logprobs_BT.cpu(), expected.logprobs_BT, atol=1e-4, rtol=1e-4)
