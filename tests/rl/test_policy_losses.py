"""Losses of policy optimisation: numbers worked out by hand, and identities."""

import math

import pytest
import torch

from core.losses import clipped_surrogate_loss
from rl.losses import (
    clipped_value_loss,
    clipped_weight_loss,
    kl_estimates,
    reinforce_loss,
    sequence_surrogate_loss,
    square_kl,
    token_entropy,
    token_kl,
    token_weights,
)


def test_reinforce_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    loss = reinforce_loss(logprobs, torch.tensor([[0.5, -3.0]], requires_grad=True))
    assert loss.tolist() == [[0.5, -6.0]]
    loss.sum().backward()
    assert logprobs.grad.tolist() == [[-0.5, 3.0]]  # the probable becomes more so where the advantage is positive


# ratio 1.5 with clip .2: A = 1 gives -min(1.5, 1.2), no gradient; A = -1 gives -min(-1.5, -1.2) = 1.5, gradient.
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.5, 1.0, -1.2, False),
        (1.5, -1.0, 1.5, True),
        (0.5, 1.0, -0.5, True),
        (0.5, -1.0, 0.8, False),
        (1.1, 2.0, -2.2, True),
    ],
)
def test_the_clipped_surrogate_by_hand(ratio, advantage, loss, moves):
    behaviour = torch.tensor([[-1.0]])
    logprobs = (behaviour + math.log(ratio)).requires_grad_()
    found = clipped_surrogate_loss(logprobs, behaviour, torch.tensor([[advantage]]), clip=0.2)
    assert found.item() == pytest.approx(loss)
    found.sum().backward()
    assert (logprobs.grad.item() != 0) == moves
    if moves:
        assert logprobs.grad.item() == pytest.approx(-ratio * advantage)


def test_without_clipping_and_on_its_own_samples_ppo_has_the_gradient_of_reinforce():
    logprobs = torch.randn(3, 4, requires_grad=True)
    advantage = torch.randn(3, 4)
    (ours,) = torch.autograd.grad(
        clipped_surrogate_loss(logprobs, logprobs.detach(), advantage, clip=0).sum(), logprobs
    )
    (theirs,) = torch.autograd.grad(reinforce_loss(logprobs, advantage).sum(), logprobs)
    torch.testing.assert_close(ours, theirs)


# V_old = 0, R = 1, clip .2. V = .5: max(.25, (.2 - 1)^2 = .64) / 2 = .32 without gradient; V = -.5: 2.25 / 2.
def test_the_clipped_value_loss_by_hand():
    value = torch.tensor([[0.5, -0.5, 0.1]], requires_grad=True)
    old, target = torch.zeros(1, 3), torch.ones(1, 3)
    loss = clipped_value_loss(value, old, target, clip=0.2)
    torch.testing.assert_close(loss, torch.tensor([[0.32, 1.125, 0.405]]))
    loss.sum().backward()
    torch.testing.assert_close(value.grad, torch.tensor([[0.0, -1.5, -0.9]]))
    torch.testing.assert_close(clipped_value_loss(value, old, target, clip=0), 0.5 * (value - 1) ** 2)


def test_entropy_counts_only_what_can_be_drawn_and_keeps_its_gradient_finite():
    logits = torch.tensor([[[0.0, 0.0, float("-inf"), 0.0, 0.0], [5.0, float("-inf")] + [float("-inf")] * 3]])
    logits.requires_grad_()
    entropy = token_entropy(logits)
    torch.testing.assert_close(entropy, torch.tensor([[math.log(4), 0.0]]))
    entropy.sum().backward()
    assert torch.isfinite(logits.grad).all()
    free = torch.randn(2, 3, 7)
    torch.testing.assert_close(token_entropy(free), torch.distributions.Categorical(logits=free).entropy())


def test_the_divergence_of_masked_distributions():
    ours, theirs = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    allowed = torch.tensor([True, True, False, True, False, True])
    found = token_kl(ours.masked_fill(~allowed, float("-inf")), theirs.masked_fill(~allowed, float("-inf")))
    p, q = (torch.distributions.Categorical(logits=x[..., allowed]) for x in (ours, theirs))
    torch.testing.assert_close(found, torch.distributions.kl_divergence(p, q))
    assert (token_kl(ours, ours) == 0).all()


def test_both_estimates_have_the_divergence_as_their_mean():
    behaviour, policy = (
        torch.randn(5, dtype=torch.float64).log_softmax(0),
        torch.randn(5, dtype=torch.float64).log_softmax(0),
    )
    exact = (behaviour.exp() * (behaviour - policy)).sum()
    k1, k3 = kl_estimates(policy, behaviour)
    torch.testing.assert_close((behaviour.exp() * k1).sum(), exact)
    torch.testing.assert_close((behaviour.exp() * k3).sum(), exact)
    assert (k3 >= 0).all()


@pytest.mark.parametrize(("ratio", "moves"), [(1.25, True), (1.35, False), (0.75, False), (0.85, True)])
def test_two_limits_by_hand(ratio, moves):
    """clip .2 below and .28 above: 1.25 is still within with a positive advantage, .75 beyond with a negative one."""
    behaviour = torch.tensor([[-1.0]])
    logprobs = (behaviour + math.log(ratio)).requires_grad_()
    advantage = torch.tensor([[1.0 if ratio > 1 else -1.0]])
    clipped_surrogate_loss(logprobs, behaviour, advantage, clip=0.2, clip_high=0.28).sum().backward()
    assert (logprobs.grad.item() != 0) == moves


MASK = torch.tensor([[True, True, False], [True, True, True]])


def test_a_response_has_one_ratio_by_hand():
    """Log-ratios .1, .3 and -.2, 0, .1: sums .4 and -.1, means .2 and -1/30."""
    behaviour = torch.full((2, 3), -1.0)
    change = torch.tensor([[0.1, 0.3, 9.0], [-0.2, 0.0, 0.1]])
    logprobs = (behaviour + change).requires_grad_()
    advantage = torch.tensor([[2.0, 5.0, 5.0], [-1.0, 5.0, 5.0]])
    whole = sequence_surrogate_loss(logprobs, behaviour, advantage, MASK, clip=0, geometric=False)
    torch.testing.assert_close(
        whole, torch.tensor([[-2 * math.exp(0.4), 0.0, 0.0], [math.exp(-0.1), 0.0, 0.0]]), atol=1e-6, rtol=0
    )
    mean = sequence_surrogate_loss(logprobs, behaviour, advantage, MASK, clip=0, geometric=True)
    torch.testing.assert_close(mean[0], torch.full((3,), -2 * math.exp(0.2)))
    torch.testing.assert_close(mean[1], torch.full((3,), math.exp(-1 / 30)))
    clipped = sequence_surrogate_loss(logprobs, behaviour, advantage, MASK, clip=0.1, geometric=True)
    assert clipped[0, 0].item() == pytest.approx(-2 * 1.1)
    (gradient,) = torch.autograd.grad(mean[1, 0], logprobs)
    torch.testing.assert_close(gradient[1], torch.full((3,), math.exp(-1 / 30) / 3))
    assert (gradient[0] == 0).all()


def test_with_one_token_gspo_and_rloo_are_the_token_loss():
    behaviour, advantage, mask = torch.randn(6, 1), torch.randn(6, 1), torch.ones(6, 1, dtype=torch.bool)
    logprobs = behaviour + 0.3 * torch.randn(6, 1)
    expected = clipped_surrogate_loss(logprobs, behaviour, advantage, clip=0.2)
    for geometric in (True, False):
        found = sequence_surrogate_loss(logprobs, behaviour, advantage, mask, clip=0.2, geometric=geometric)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("ratio", "weight"), [(0.1, 0.1), (1.0, 1.0), (7.0, 5.0)])
def test_weights_are_clipped_and_gradients_are_not(ratio, weight):
    behaviour = torch.tensor([[-2.0]])
    logprobs = (behaviour + math.log(ratio)).requires_grad_()
    loss = clipped_weight_loss(logprobs, behaviour, torch.tensor([[3.0]]), clip_high=4.0)
    loss.sum().backward()
    assert logprobs.grad.item() == pytest.approx(-3 * weight)
    assert loss.item() == pytest.approx(-3 * weight * logprobs.item())


# Two episodes of one turn, with 2 and 10 tokens: how much a token of each counts.
@pytest.mark.parametrize(
    ("aggregate", "short", "long"),
    [("episode", 0.25, 0.05), ("sequence", 0.25, 0.05), ("token", 1 / 12, 1 / 12), ("constant", 1 / 32, 1 / 32)],
)
def test_what_a_token_counts_by_hand(aggregate, short, long):
    mask = torch.arange(10) < torch.tensor([[2], [10]])
    weight, count = token_weights(mask, torch.tensor([0, 1]), aggregate, length=16)
    share = weight / count.sum()
    assert share[0, 0].item() == pytest.approx(short)
    assert share[1, 9].item() == pytest.approx(long)
    assert (share[0, 2:] == 0).all()


def test_what_a_token_of_several_turns_counts():
    """One episode of two turns with 1 and 3 tokens, one of one turn with 4."""
    mask = torch.arange(4) < torch.tensor([[1], [3], [4]])
    episodes = torch.tensor([0, 0, 1])
    weight, count = token_weights(mask, episodes, "episode", length=1)
    assert weight[:, 0].tolist() == [0.25, 0.25, 0.25]
    assert count.sum().item() == pytest.approx(2)
    weight, count = token_weights(mask, episodes, "sequence", length=1)
    assert weight[:, 0].tolist() == pytest.approx([1, 1 / 3, 0.25])
    assert count.sum().item() == pytest.approx(3)


def test_which_gradient_each_estimate_of_the_divergence_has():
    """Enumerated over five tokens: as a loss k1 has none, k2 that of KL(p || q), k3 that of KL(q || p)."""
    theta = torch.randn(5, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(5, dtype=torch.float64).log_softmax(0)

    def gradient(value):
        return torch.autograd.grad(value, theta, retain_graph=True)[0]

    logp = theta.log_softmax(0)
    chance = logp.detach().exp()
    reverse = gradient((logp.exp() * (logp - reference)).sum())
    forward = gradient((reference.exp() * (reference - logp)).sum())
    k1, k3 = (gradient((chance * estimate).sum()) for estimate in ((logp - reference), kl_of_loss(logp, reference)))
    k2 = gradient((chance * square_kl(logp, reference)).sum())
    torch.testing.assert_close(k1, torch.zeros_like(k1), atol=1e-12, rtol=0)
    torch.testing.assert_close(k2, reverse)
    torch.testing.assert_close(k3, forward)


def kl_of_loss(logp, reference):
    """k3 as GRPO adds it: of samples of the policy, against the reference."""
    return torch.expm1(reference - logp) - (reference - logp)
