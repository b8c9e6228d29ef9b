"""Losses by hand, in pieces, under masks, with gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.losses import (
    cross_entropy_sum,
    kl_divergence,
    linear_cross_entropy,
    lm_loss,
    masked_mean,
    mse,
    token_logprobs,
)

# Probabilities 1/2, 1/4, 1/4 and 1/8, 1/8, 3/4.
LOGITS = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]).log()
TARGETS = torch.tensor([0, 1])


def test_cross_entropy_by_hand():
    total, count = cross_entropy_sum(LOGITS, TARGETS)
    assert total.item() == pytest.approx(math.log(2) + math.log(8))
    assert count.item() == 2
    total, count = cross_entropy_sum(LOGITS, TARGETS, torch.tensor([False, True]))
    assert (total.item(), count.item()) == (pytest.approx(math.log(8)), 1)


def test_label_smoothing_by_hand():
    total, _ = cross_entropy_sum(LOGITS[:1], TARGETS[:1], label_smoothing=0.3)
    mean = (math.log(2) + 2 * math.log(4)) / 3
    assert total.item() == pytest.approx(0.7 * math.log(2) + 0.3 * mean)
    masked, count = cross_entropy_sum(LOGITS, TARGETS, torch.tensor([1, 0]), label_smoothing=0.3)
    assert (masked.item(), count.item()) == (pytest.approx(total.item()), 1)


def test_nothing_to_learn_is_zero_with_zero_gradient():
    logits = LOGITS.clone().requires_grad_()
    total, count = cross_entropy_sum(logits, TARGETS, torch.zeros(2, dtype=torch.bool), label_smoothing=0.1)
    assert (total.item(), count.item()) == (0, 0)
    total.backward()
    assert (logits.grad == 0).all()


def test_masked_targets_are_never_read():
    mask = torch.tensor([True, False])
    wild = cross_entropy_sum(LOGITS, torch.tensor([0, -7]), mask)[0]
    assert wild == cross_entropy_sum(LOGITS, TARGETS, mask)[0]


def test_losses_are_formed_in_float32():
    logits = torch.randn(2000, 50, generator=torch.Generator().manual_seed(0))
    half = logits.to(torch.bfloat16)
    targets = torch.zeros(2000, dtype=torch.long)
    total, count = cross_entropy_sum(half, targets)
    assert total.dtype == count.dtype == torch.float32
    assert total.item() == pytest.approx(cross_entropy_sum(half.float(), targets)[0].item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("max_logits", [1, 97, 97 * 7, 97 * 29, 97 * 30, 10**9])
def test_pieces_give_the_whole_loss_and_its_gradient(max_logits, masked, smoothing, random_model):
    model = random_model(num_layers=1)
    hidden = torch.randn(3, 10, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.randint(97, (3, 10), generator=torch.Generator().manual_seed(1))
    mask = torch.rand(3, 10, generator=torch.Generator().manual_seed(2)) > 0.3 if masked else None
    weight = model.lm_head.weight

    logits = model.logits(hidden).flatten(0, 1)
    keep = torch.ones(30, dtype=torch.bool) if mask is None else mask.flatten()
    expected = F.cross_entropy(logits[keep], targets.flatten()[keep], label_smoothing=smoothing, reduction="sum")
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))

    total, count = lm_loss(
        model.logits, hidden, targets, mask, vocab_size=97, label_smoothing=smoothing, max_logits=max_logits
    )
    torch.testing.assert_close(total, expected, atol=1e-3, rtol=1e-5)
    assert count.item() == keep.sum().item()
    for ours, theirs in zip(torch.autograd.grad(total, (hidden, weight)), expected_gradients):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_no_more_logits_than_allowed_are_ever_made(random_model):
    model, sizes = random_model(num_layers=1), []

    def project(hidden):
        sizes.append(hidden.shape[0] * 97)
        return model.logits(hidden)

    hidden = torch.randn(3, 10, 64, requires_grad=True)
    total, _ = lm_loss(project, hidden, torch.zeros(3, 10, dtype=torch.long), vocab_size=97, max_logits=97 * 7)
    total.backward()
    assert max(sizes) == 97 * 7
    assert len(sizes) == 10  # five pieces, each computed once more on the way back


def test_everything_masked_in_pieces_is_zero(random_model):
    model = random_model(num_layers=1)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    hidden = torch.randn(2, 5, 64, requires_grad=True)
    total, count = lm_loss(model.logits, hidden, mask.long(), mask, vocab_size=97, max_logits=97 * 3)
    assert (total.item(), count.item()) == (0, 0)
    total.backward()
    assert (hidden.grad == 0).all()


def test_token_logprobs_by_hand():
    found = token_logprobs(LOGITS[None].to(torch.float64), TARGETS[None])
    torch.testing.assert_close(found, torch.tensor([[-math.log(2), -math.log(8)]]))
    assert found.dtype == torch.float32


def test_masked_mean_reads_no_masked_value():
    values = torch.tensor([1.0, float("nan"), 4.0], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True]))
    assert mean.item() == 2.5
    mean.backward()
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)).item() == 0


def test_mse_by_hand():
    predicted, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 6.0])
    assert mse(predicted, target).item() == pytest.approx(13 / 3)
    assert mse(predicted, target, torch.tensor([True, True, False])).item() == 2.0


def test_kl_by_hand():
    p, q = LOGITS[:1], LOGITS[1:]
    # 1/2 ln 4 + 1/4 ln 2 + 1/4 ln 1/3
    assert kl_divergence(p, q).item() == pytest.approx(0.5 * math.log(4) + 0.25 * math.log(2) - 0.25 * math.log(3))
    assert kl_divergence(p, p).item() == pytest.approx(0, abs=1e-7)
    both = kl_divergence(torch.cat((p, q)), torch.cat((q, q)), torch.tensor([True, False]))
    assert both.item() == pytest.approx(kl_divergence(p, q).item())
    assert kl_divergence(p, q, torch.tensor([False])).item() == 0


def test_kl_allows_forbidden_tokens():
    p = torch.tensor([[0.0, 0.0, float("-inf")]], requires_grad=True)
    q = torch.tensor([[math.log(3), 0.0, float("-inf")]])
    kl = kl_divergence(p, q)
    assert kl.item() == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    kl.backward()
    assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_linear_cross_entropy_and_its_gradient_are_those_by_way_of_logits(weighted, bias, monkeypatch):
    monkeypatch.setattr("core.losses.CACHED", 1)  # pieces of 64 rows, of which the last is short
    torch.manual_seed(0)
    hidden = torch.randn(150, 8, requires_grad=True)
    head = torch.nn.Linear(8, 70, bias=bias)
    targets = torch.randint(70, (150,))
    weights = torch.randn(150) if weighted else None
    total, losses = linear_cross_entropy(hidden, head, targets, weights)
    (2.5 * total).backward()
    found = [hidden.grad, *(p.grad for p in head.parameters())]
    hidden.grad = None
    head.zero_grad()
    expected = F.cross_entropy(head(hidden), targets, reduction="none")
    (2.5 * (expected if weights is None else expected * weights).sum()).backward()
    torch.testing.assert_close(losses, expected.detach())
    assert not losses.requires_grad
    for one, other in zip(found, [hidden.grad, *(p.grad for p in head.parameters())]):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_linear_cross_entropy_under_autocast_is_close_and_keeps_the_weights_dtype():
    torch.manual_seed(0)
    hidden, head = torch.randn(20, 16, requires_grad=True), torch.nn.Linear(16, 50)
    targets = torch.randint(50, (20,))
    exact, _ = linear_cross_entropy(hidden, head, targets)
    with torch.autocast("cpu", torch.bfloat16):
        total, losses = linear_cross_entropy(hidden, head, targets)
    assert total.item() == pytest.approx(exact.item(), rel=0.01)
    assert losses.dtype == torch.float32
    total.backward()
    assert head.weight.grad.dtype == hidden.grad.dtype == torch.float32


def test_linear_cross_entropy_refuses_to_be_differentiated_twice():
    hidden, head = torch.randn(3, 4, requires_grad=True), torch.nn.Linear(4, 5)
    total, _ = linear_cross_entropy(hidden, head, torch.tensor([0, 1, 2]))
    (slope,) = torch.autograd.grad(total, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="require grad"):
        slope.square().sum().backward()
