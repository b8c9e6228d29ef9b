"""Log-probabilities of completions: padding, gradient, ends."""

import pytest
import torch

from core.config import ModelConfig
from core.nn.lstm import LSTM
from core.nn.transformer import Transformer
from core.policy import LanguageModelPolicy
from core.training.runtime import Runtime
from rl.preferences.encoding import Completion
from rl.preferences.scoring import completion_logprobs, completion_loss, frozen_logprobs

RUNTIME = Runtime(torch.device("cpu"))


def completion(prompt, tokens, mask=None):
    return Completion(list(prompt), list(tokens), list(mask or [True] * len(tokens)))


# Ragged on both sides; id 0, which fills batches, also stands inside prompts and completions, and ends some.
RAGGED = [
    completion([3], [1, 2, 0]),
    completion([0, 0, 5, 6, 7], [4]),
    completion([1, 2, 3], [0, 0, 0, 0, 2]),
    completion([1, 2, 3], [5, 5]),
    completion([9, 8], [7, 6, 5, 4], [True, False, False, True]),
]


@pytest.fixture(params=["transformer", "lstm"])
def policy(request):
    torch.manual_seed(0)
    shape = ModelConfig(vocab_size=10, width=16, num_layers=2, num_heads=2, max_length=16)
    model = Transformer(shape) if request.param == "transformer" else LSTM(10, 16, 16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return LanguageModelPolicy(model, max_new_tokens=4)


def by_hand(model, one):
    """One completion, without padding: the sum of the log-probabilities of its own tokens."""
    ids = torch.tensor([one.prompt + one.tokens])
    logp = model.logits(model(ids[:, :-1])).log_softmax(-1)[0, len(one.prompt) - 1 :]
    chosen = logp.gather(1, torch.tensor(one.tokens)[:, None]).squeeze(1)
    return chosen[torch.tensor(one.mask)].sum()


def test_padding_makes_no_difference(policy):
    logprob, length = completion_logprobs(policy, RAGGED)
    alone = torch.stack([by_hand(policy.model, one) for one in RAGGED])
    torch.testing.assert_close(logprob, alone, atol=1e-5, rtol=1e-5)
    assert length.tolist() == [3, 1, 5, 2, 2]
    torch.testing.assert_close(completion_logprobs(policy, RAGGED[::-1])[0].flip(0), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(frozen_logprobs(policy, RAGGED, RUNTIME), alone.detach(), atol=1e-5, rtol=1e-5)
    loss, count = completion_loss(policy, RAGGED)
    assert loss.item() == pytest.approx(-alone.sum().item(), rel=1e-5)
    assert count.item() == 13


def test_gradients_do_not_depend_on_padding(policy):
    def gradient(completions):
        policy.model.zero_grad()
        completion_logprobs(policy, completions)[0].sum().backward()
        return [parameter.grad.clone() for parameter in policy.model.parameters()]

    together = gradient(RAGGED)
    alone = [sum(parts) for parts in zip(*[gradient([one]) for one in RAGGED])]
    for ours, theirs in zip(together, alone):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_only_the_completions_own_tokens_are_trained(policy):
    """Of all positions, only those that predict a token of the completion get a gradient of the logits."""
    seen = []
    logits = policy.model.logits

    def watched(hidden):
        found = logits(hidden)
        found.retain_grad()
        seen.append(found)
        return found

    policy.model.logits = watched
    one = completion([1, 2, 3, 4, 5], [6, 7, 8, 2], [True, False, True, True])
    logprob, _ = completion_logprobs(policy, [one])
    logprob.sum().backward()
    (found,) = seen
    assert found.shape[1] == len(one.tokens)  # none of the prompt's logits were even formed
    moved = found.grad[0].abs().sum(1) > 0
    assert moved.tolist() == one.mask
    # The end is trained: its logit rises.
    assert found.grad[0, 3, 2] > 0
