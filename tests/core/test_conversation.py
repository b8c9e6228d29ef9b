"""Turns of a conversation: what is kept in the cache must be what reading everything anew would give."""

import pytest
import torch

from core.conversation import Conversation
from core.nn.lstm import LSTM
from core.nn.window import WindowMLP
from core.policy import LanguageModelPolicy

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


def generators(count, first=0):
    return [torch.Generator().manual_seed(first + row) for row in range(count)]


def play(policy, turns=4, rows=5):
    """Answers of several turns; rows leave as they go on. Gives (context, answer, log-probabilities) of each."""
    conversation, found = Conversation(policy.model), []
    draws, active = generators(rows), list(range(rows))
    contexts = [[40 + row] * (1 + row % 3) for row in range(rows)]
    said = contexts
    for turn in range(turns):
        samples = policy.answer(conversation, said, generator=[draws[row] for row in active])
        answers = samples.lists()
        found += [(list(c), a, p[: len(a)]) for c, a, p in zip(contexts, answers, samples.logprobs_BT)]
        keep = [place for place, row in enumerate(active) if row != turn]
        conversation.keep(keep)
        said = [[60 + turn] * (1 + (active[place] + turn) % 4) for place in keep]
        contexts = [contexts[place] + answers[place] + new for place, new in zip(keep, said)]
        active = [active[place] for place in keep]
    return found


@pytest.mark.parametrize("ending", [None, EOS])
def test_answers_have_the_probabilities_of_reading_everything_anew(model, ending):
    policy = LanguageModelPolicy(model, max_new_tokens=4, eos_id=ending, temperature=0.8)
    if ending is not None:  # make it frequent, so that rows end at different lengths
        with torch.no_grad():
            model.lm_head.weight[EOS] = model.lm_head.weight.mean(0) * 3 + model.lm_head.weight[EOS]
    found = play(policy)
    assert len(found) == 5 + 4 + 3 + 2
    for context, answer, logprobs in found:
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([context + answer])))[0, len(context) - 1 : -1]
        expected = (logits / 0.8).log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)
        torch.testing.assert_close(logprobs, expected, atol=5e-5, rtol=1e-4)


def test_answers_are_those_of_sampling_from_the_whole_context(model):
    policy = LanguageModelPolicy(model, max_new_tokens=3, eos_id=EOS)
    conversation = Conversation(model)
    first = policy.answer(conversation, [[5, 6], [7]], generator=generators(2))
    second = policy.answer(conversation, [[8], [9, 10, 11]], generator=generators(2, first=7))
    contexts = [[5, 6] + first.lists()[0] + [8], [7] + first.lists()[1] + [9, 10, 11]]
    assert policy.sample(contexts, generator=generators(2, first=7)).lists() == second.lists()


def test_nothing_is_read_twice(model):
    policy = LanguageModelPolicy(model, max_new_tokens=2)
    read = []
    hook = model.embed_tokens if isinstance(model, LSTM | WindowMLP) else model.model.embed_tokens
    hook.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].numel()))
    conversation = Conversation(model)
    policy.answer(conversation, [[5] * 10], generator=generators(1))
    policy.answer(conversation, [[6] * 3], generator=generators(1))
    # The prompt, its answer but the last token; that token and what was said, the second answer but its last token.
    assert read == [10, 1, 4, 1]


def test_a_cache_that_has_to_grow_gets_room_for_several_turns(random_model):
    model = random_model()
    policy = LanguageModelPolicy(model, max_new_tokens=2)
    conversation = Conversation(model)
    capacities = []
    for _ in range(6):
        policy.answer(conversation, [[5, 6, 7], [8]], generator=generators(2))
        capacities.append(conversation._cache.capacity)
    assert len(set(capacities)) == 2


def test_padding_takes_no_position_of_the_model(random_model):
    """Rows of very different lengths in turn: the cache is longer than any row, which may fill the model to its end."""
    model = random_model(max_length=32)
    policy = LanguageModelPolicy(model, max_new_tokens=1)
    conversation = Conversation(model)
    policy.answer(conversation, [[5] * 14, [6]], generator=generators(2))
    policy.answer(conversation, [[5], [6] * 14], generator=generators(2))
    policy.answer(conversation, [[5] * 14, [6] * 14], generator=generators(2))
    with pytest.raises(ValueError, match=r"longer than model\.max_length 32"):
        policy.answer(conversation, [[5], [6]], generator=generators(2))


@pytest.mark.gpu
def test_answers_on_a_gpu_are_those_of_reading_everything_anew(random_model):
    model = random_model(num_kv_heads=2).cuda()
    policy = LanguageModelPolicy(model, max_new_tokens=4, temperature=0.8)
    for context, answer, logprobs in play(policy):
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([context + answer], device="cuda")))[0, len(context) - 1 : -1]
        expected = (logits / 0.8).log_softmax(-1).cpu().gather(-1, torch.tensor(answer)[:, None]).squeeze(-1)
        torch.testing.assert_close(logprobs.cpu(), expected, atol=1e-3, rtol=1e-3)
