"""The divergence of two models by hand and against the plain computation, values and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.distillation import linear_kl


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_by_way_of_logits(weighted, bias, reverse, monkeypatch):
    monkeypatch.setattr("core.distillation.CACHED", 1)  # pieces of 64, the last short
    torch.manual_seed(0)
    hidden, head = torch.randn(150, 8, requires_grad=True), torch.nn.Linear(8, 30, bias=bias)
    other, other_head = torch.randn(150, 5, requires_grad=True), torch.nn.Linear(5, 30, bias=not bias)
    weights = torch.rand(150) if weighted else None
    found = linear_kl(hidden, head, other, other_head, weights, reverse=reverse)
    (3 * found).backward()
    gradients = [hidden.grad, *(p.grad for p in head.parameters())]
    assert other.grad is None
    assert other_head.weight.grad is None
    hidden.grad = None
    head.zero_grad()
    own, goal = F.log_softmax(head(hidden), -1), F.log_softmax(other_head(other), -1).detach()
    p, q = (own, goal) if reverse else (goal, own)
    divergence = (p.exp() * (p - q)).sum(-1)
    expected = (divergence if weights is None else divergence * weights).sum()
    (3 * expected).backward()
    torch.testing.assert_close(found, expected)
    for one, two in zip(gradients, [hidden.grad, *(p.grad for p in head.parameters())]):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_by_hand():
    # logits are the hidden states themselves: (1/2, 1/4, 1/4) and (1/8, 1/8, 3/4)
    head = torch.nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3))
    model = torch.tensor([[0.5, 0.25, 0.25]]).log()
    other = torch.tensor([[0.125, 0.125, 0.75]]).log()
    forward = (math.log(1 / 4) + math.log(1 / 2)) / 8 + 3 / 4 * math.log(3)
    backward = math.log(4) / 2 + math.log(2) / 4 + math.log(1 / 3) / 4
    assert linear_kl(model, head, other, head).item() == pytest.approx(forward)
    assert linear_kl(model, head, other, head, reverse=True).item() == pytest.approx(backward)
    assert linear_kl(model, head, model, head).item() == pytest.approx(0, abs=1e-6)


def test_under_autocast_it_is_close_and_the_gradients_keep_their_dtype():
    torch.manual_seed(0)
    hidden, head = torch.randn(20, 16, requires_grad=True), torch.nn.Linear(16, 50)
    other = torch.randn(20, 16)
    exact = linear_kl(hidden, head, other, head).item()
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_kl(hidden, head, other, head)
    found.backward()
    assert found.item() == pytest.approx(exact, rel=0.02)
    assert hidden.grad.dtype == head.weight.grad.dtype == torch.float32
