"""Losses of policy optimisation: numbers worked out by hand, and identities."""

import math

import pytest
import torch

from core.losses import clipped_surrogate_loss
from rl.losses import (
    clipped_value_loss,
    kl_estimates,
    reinforce_loss,
    token_entropy,
    token_kl,
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
