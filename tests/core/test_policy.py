"""A language model as a policy: the log-probabilities of sampling and of scoring are the same numbers."""

import pytest
import torch

from core.generate import generate
from core.interfaces import Samples
from core.nn.lstm import LSTM
from core.nn.window import WindowMLP
from core.policy import LanguageModelPolicy, ValueHead
from core.sampling import Sampling

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
EOS = 31


@pytest.fixture(params=["qwen3", "gpt2", "lstm", "mlp"])
def model(request, random_model):
    if request.param == "lstm":
        torch.manual_seed(0)
        return LSTM(97, 16, 24, num_layers=2).eval()
    if request.param == "mlp":
        torch.manual_seed(0)
        mlp = WindowMLP(97, 16, window=5)
        torch.nn.init.normal_(mlp.lm_head.weight)
        return mlp
    gpt2 = {"positions": "learned", "norm": "layer", "qk_norm": False, "activation": "gelu", "bias": True}
    return random_model(**gpt2) if request.param == "gpt2" else random_model(num_kv_heads=2)


def repeated(prompts, times):
    return [prompt for prompt in prompts for _ in range(times)]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("ending", [None, EOS])
def test_scoring_gives_the_logprobs_of_sampling(ending, temperature, model):
    policy = LanguageModelPolicy(model, max_new_tokens=25, eos_id=ending, temperature=temperature)
    samples = policy.sample(PROMPTS, num_samples=4, generator=torch.Generator().manual_seed(0))
    scored = policy.logprobs(repeated(PROMPTS, 4), samples)
    torch.testing.assert_close(scored, samples.logprobs_BT, atol=5e-5, rtol=1e-5)
    assert scored.requires_grad
    assert (scored[~samples.mask_BT] == 0).all()


def test_scoring_samples_that_are_all_shorter_than_their_tensor(model):
    tokens = torch.tensor([[3, 4, 0, 0], [3, 5, 0, 0]])
    samples = Samples(tokens, tokens > 0, torch.zeros(2, 4), torch.zeros(2, dtype=torch.bool))
    policy = LanguageModelPolicy(model, max_new_tokens=4)
    for contexts in ([[7, 8], [7, 8]], [[7, 8], [9, 8]], [[7, 8, 3], [7, 8]]):
        scored = policy.logprobs(contexts, samples)
        for row, context in enumerate(contexts):
            alone = Samples(
                tokens[row : row + 1, :2],
                *(value[row : row + 1, :2] for value in (samples.mask_BT, samples.logprobs_BT)),
                samples.finished_B[:1],
            )
            torch.testing.assert_close(
                scored[row : row + 1, :2], policy.logprobs([context], alone), atol=1e-5, rtol=1e-5
            )
        assert (scored[:, 2:] == 0).all()


def test_scoring_under_a_token_mask(model):
    policy = LanguageModelPolicy(model, max_new_tokens=6, eos_id=EOS, temperature=0.7)
    legal = torch.rand(6, 97, generator=torch.Generator().manual_seed(0)) > 0.8
    legal[:, EOS] = True

    def token_mask(rows, generated):
        return legal[len(generated[0])].expand(len(rows), -1)

    samples = policy.sample(PROMPTS, num_samples=2, token_mask=token_mask, generator=torch.Generator().manual_seed(0))
    length = samples.tokens_BT.shape[1]
    allowed = legal[:length].expand(6, -1, -1)
    scored = policy.logprobs(repeated(PROMPTS, 2), samples, allowed_BTV=allowed)
    torch.testing.assert_close(scored, samples.logprobs_BT, atol=5e-5, rtol=1e-5)
    scored.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_what_stands_behind_the_end_is_never_read(model):
    endless = generate(model, PROMPTS, max_new_tokens=25, num_samples=4, generator=torch.Generator().manual_seed(2))
    frequent = int(endless.tokens_BT.flatten().mode().values)
    policy = LanguageModelPolicy(model, max_new_tokens=25, eos_id=frequent)
    samples = policy.sample(PROMPTS, num_samples=4, generator=torch.Generator().manual_seed(2))
    assert not samples.mask_BT.all()
    expected = policy.logprobs(repeated(PROMPTS, 4), samples)
    samples.tokens_BT[~samples.mask_BT] = 96
    found = policy.logprobs(repeated(PROMPTS, 4), samples)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_gradients_are_those_of_rows_alone(model):
    policy = LanguageModelPolicy(model, max_new_tokens=12, eos_id=EOS)
    samples = policy.sample(PROMPTS, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([1.0, -2.0, 0.5])

    def gradient(loss):
        model.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    together = gradient((policy.logprobs(PROMPTS, samples).sum(1) * weights).sum())
    total = 0
    for prompt, tokens, weight in zip(PROMPTS, samples.lists(), weights):
        logits = model.logits(model(torch.tensor([prompt + tokens[:-1]])))[0, len(prompt) - 1 :]
        total = total + weight * logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)].sum()
    for ours, theirs in zip(together, gradient(total)):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_hidden_states_stand_where_each_token_is_predicted(model):
    policy = LanguageModelPolicy(model, max_new_tokens=5)
    samples = policy.sample(PROMPTS, generator=torch.Generator().manual_seed(0))
    hidden = policy.hidden(PROMPTS, samples)
    assert hidden.shape == (3, 5, model.width)
    row = torch.tensor([PROMPTS[1] + samples.lists()[1]])
    with torch.no_grad():
        torch.testing.assert_close(hidden[1], model(row)[0, 1:-1], atol=1e-5, rtol=1e-5)


SHARED = {
    "samples of one prompt": [([5, 6, 7], [20, 21, 22]), ([5, 6, 7], [20, 23, 24]), ([8], [20, 21, 22])] * 2,
    "prompts of one length": [([5, 6], [20, 21]), ([5, 6], [22, 21]), ([7, 8], [20]), ([7, 8], [21, 25, 26])],
    "turns of one conversation": [
        ([5, 6], [20, 21]),
        ([5, 6, 20, 21, 9], [22]),
        ([5, 6, 20, 21, 9, 22, 9, 9], [23, 24]),
    ],
    "equal situations": [([5], [20]), ([5], [21]), ([6], [20]), ([5], [20])],
    "nothing in common": [([5], [20]), ([6, 7], [21, 22]), ([8, 9, 10], [23])],
    "a prompt within another": [([5, 6], [7, 8]), ([5, 6], [9]), ([5, 6, 7], [30, 31])],
}


@pytest.mark.parametrize("kind", list(SHARED))
def test_what_rows_have_in_common_is_read_once_without_a_difference(model, kind):
    """Values and gradients against a forward pass of every row alone."""
    contexts, sampled = map(list, zip(*SHARED[kind]))
    width = max(map(len, sampled))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in sampled])
    mask = torch.arange(width) < torch.tensor([[len(row)] for row in sampled])
    samples = Samples(tokens, mask, torch.zeros(len(sampled), width), mask[:, -1])
    slope = torch.randn(len(sampled), width, model.width, generator=torch.Generator().manual_seed(0))
    read = []
    hook = model.embed_tokens if isinstance(model, LSTM | WindowMLP) else model.model.embed_tokens
    handle = hook.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].numel()))
    hidden = LanguageModelPolicy(model, max_new_tokens=width).hidden(contexts, samples)
    handle.remove()
    together = torch.autograd.grad(
        (hidden * slope * mask[..., None]).sum(), list(model.parameters()), allow_unused=True
    )
    loss = 0.0
    for row, (context, tokens_of_row) in enumerate(SHARED[kind]):
        alone = model(torch.tensor([context + tokens_of_row]))[0, len(context) - 1 : -1]
        torch.testing.assert_close(hidden[row, : len(tokens_of_row)], alone, atol=1e-5, rtol=1e-5)
        loss = loss + (alone * slope[row, : len(tokens_of_row)]).sum()
    apart = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    for ours, theirs in zip(together, apart):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)
    longest = max(len(context) + len(row) - 1 for context, row in SHARED[kind])
    assert sum(read) < len(contexts) * longest or kind == "nothing in common"


def test_a_distribution_has_entropy_and_mass_one(model):
    policy = LanguageModelPolicy(model, max_new_tokens=5, temperature=0.5)
    samples = policy.sample(PROMPTS, generator=torch.Generator().manual_seed(0))
    logits = policy.distribution(policy.hidden(PROMPTS, samples))
    assert logits.dtype == torch.float32
    found = logits.log_softmax(-1).gather(-1, samples.tokens_BT[..., None]).squeeze(-1)
    torch.testing.assert_close(found, samples.logprobs_BT, atol=5e-5, rtol=1e-5)


def test_greedy_samples_are_greedy(model):
    policy = LanguageModelPolicy(model, max_new_tokens=7, temperature=3.0)
    expected = generate(model, PROMPTS, max_new_tokens=7, sampling=Sampling(temperature=0))
    assert policy.sample(PROMPTS, greedy=True).lists() == expected.lists()


def test_samples_of_length_one(model):
    policy = LanguageModelPolicy(model, max_new_tokens=1)
    samples = policy.sample(PROMPTS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(policy.logprobs(PROMPTS, samples), samples.logprobs_BT, atol=5e-5, rtol=1e-5)


def test_misuse_is_named(model):
    with pytest.raises(ValueError, match="temperature must be > 0"):
        LanguageModelPolicy(model, max_new_tokens=1, temperature=0)
    policy = LanguageModelPolicy(model, max_new_tokens=1)
    samples = policy.sample(PROMPTS, num_samples=2)
    with pytest.raises(ValueError, match="3 contexts for 6 samples: repeat each prompt"):
        policy.logprobs(PROMPTS, samples)


def test_a_value_head_starts_at_zero_and_learns():
    head = ValueHead(8)
    hidden = torch.randn(2, 3, 8).to(torch.bfloat16).float()
    assert (head(hidden) == 0).all()
    assert head(hidden).shape == (2, 3)
    (head(hidden) - 1).square().mean().backward()
    assert head.linear.bias.grad.item() == pytest.approx(-2.0)
