"""Losses of preference learning: numbers worked out by hand, identities, and optima that are known in closed form."""

import itertools
import math

import pytest
import torch

from core.config import ModelConfig
from core.nn.transformer import Transformer
from core.policy import LanguageModelPolicy
from rl.preferences.encoding import Completion
from rl.preferences.losses import (
    bradley_terry_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kl_reference_point,
    kto_loss,
    orpo_loss,
    simpo_loss,
)
from rl.preferences.scoring import completion_logprobs

LN2 = math.log(2)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_by_hand():
    # sigma(ln 3) = 3/4; with a margin of ln 3 nothing is left of the lead.
    chosen, rejected = tensor(math.log(3)), tensor(0.0)
    assert bradley_terry_loss(chosen, rejected).item() == pytest.approx(math.log(4 / 3))
    assert bradley_terry_loss(rejected, chosen).item() == pytest.approx(math.log(4))
    assert bradley_terry_loss(chosen, rejected, tensor(math.log(3))).item() == pytest.approx(LN2)
    # c (r_w + r_l)^2 = .1 * (2 + 1)^2
    centred = bradley_terry_loss(tensor(2.0), tensor(1.0), centring=0.1) - bradley_terry_loss(tensor(2.0), tensor(1.0))
    assert centred.item() == pytest.approx(0.9)
    assert bradley_terry_loss(tensor(0.0), tensor(0.0)).item() == pytest.approx(LN2)


def test_dpo_by_hand():
    # beta (l_w - l_l) = .5 * 2 ln 3 = ln 3
    chosen, rejected = tensor(math.log(3)), tensor(-math.log(3))
    assert dpo_loss(chosen, rejected, beta=0.5).item() == pytest.approx(math.log(4 / 3))
    assert dpo_loss(rejected, chosen, beta=0.5).item() == pytest.approx(math.log(4))
    smoothed = dpo_loss(chosen, rejected, beta=0.5, label_smoothing=0.1).item()
    assert smoothed == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))
    assert dpo_loss(tensor(0.0), tensor(0.0), beta=0.1, label_smoothing=0.3).item() == pytest.approx(LN2)


def test_smoothing_puts_the_optimum_at_the_odds_of_a_right_label():
    lead = tensor(math.log(0.9 / 0.1)).requires_grad_()
    dpo_loss(lead, tensor(0.0), beta=1.0, label_smoothing=0.1).sum().backward()
    assert lead.grad.item() == pytest.approx(0, abs=1e-12)


def test_the_gradient_of_dpo_weighs_pairs_by_how_wrong_they_are():
    chosen, rejected = tensor(0.0, 3.0).requires_grad_(), tensor(0.0, 0.0).requires_grad_()
    dpo_loss(chosen, rejected, beta=2.0).sum().backward()
    wanted = -2.0 * torch.sigmoid(-2.0 * tensor(0.0, 3.0))
    torch.testing.assert_close(chosen.grad, wanted)
    torch.testing.assert_close(rejected.grad, -wanted)


def test_hinge_and_ipo_in_closed_form():
    lead = tensor(-1.0, 0.0, 1.0, 2.0, 5.0)
    assert hinge_loss(lead, torch.zeros_like(lead), beta=0.5).tolist() == [1.5, 1.0, 0.5, 0.0, 0.0]
    # (h - 1 / (2 beta))^2 with beta = .25: (h - 2)^2
    assert ipo_loss(lead, torch.zeros_like(lead), beta=0.25).tolist() == [9.0, 4.0, 1.0, 0.0, 9.0]


def test_simpo_by_hand():
    # beta (p_w - p_l) - gamma = 2 * 1 - 2 = 0
    assert simpo_loss(tensor(-1.0), tensor(-2.0), beta=2.0, margin=2.0).item() == pytest.approx(LN2)
    assert simpo_loss(tensor(-1.0), tensor(-1.0), beta=2.0, margin=math.log(3)).item() == pytest.approx(math.log(4))


def test_orpo_by_hand():
    # p = 3/4 has odds 3, p = 1/4 odds 1/3: the log odds ratio is ln 9, sigma(ln 9) = .9.
    chosen, rejected = tensor(math.log(0.75)), tensor(math.log(0.25))
    assert orpo_loss(chosen, rejected, weight=0.5).item() == pytest.approx(-math.log(0.75) - 0.5 * math.log(0.9))
    certain = torch.zeros(1, requires_grad=True)
    loss = orpo_loss(certain, torch.full((1,), -1.0), weight=1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(certain.grad).all()


def test_kto_by_hand():
    # beta (l - z) = ln 3 for the first and for the second: 1 - 3/4 where it is good, 1 - 1/4 where it is bad.
    ratio, good = tensor(math.log(3) + 1, math.log(3) + 1), torch.tensor([True, False])
    loss = kto_loss(ratio, good, tensor(1.0), beta=1.0, desirable_weight=2.0, undesirable_weight=4.0)
    torch.testing.assert_close(loss, tensor(2 * 0.25, 4 * 0.75))
    start = kto_loss(tensor(0.0, 0.0), good, tensor(0.0), beta=0.1)
    assert start.tolist() == [0.5, 0.5]


def test_the_reference_point_of_kto_is_not_negative_and_has_no_gradient():
    ratio = tensor(1.0, 3.0).requires_grad_()
    point = kl_reference_point(ratio)
    assert point.item() == 2.0
    assert not point.requires_grad
    assert kl_reference_point(-ratio).item() == 0.0


@pytest.mark.parametrize("loss", [
    lambda w, l: bradley_terry_loss(w, l), lambda w, l: dpo_loss(w, l, beta=0.7),  # noqa: E741
    lambda w, l: hinge_loss(w, l, beta=0.7), lambda w, l: simpo_loss(w, l, beta=0.7, margin=0.0),  # noqa: E741
])  # fmt: skip
def test_swapping_the_completions_flips_the_margin(loss):
    lead = torch.randn(50, dtype=torch.float64)
    zero = torch.zeros_like(lead)
    right, wrong = loss(lead, zero), loss(zero, lead)
    assert ((right < wrong) == (lead > 0)).all()
    torch.testing.assert_close(right, loss(zero, -lead))


# The task of which everything is known: sequences of 3 tokens out of 4, uniform reference, reward = share of token 0.
SEQUENCES = list(itertools.product(range(4), repeat=3))
REWARD = torch.tensor([sequence.count(0) / 3 for sequence in SEQUENCES], dtype=torch.float64)
KNOWN = {1.0: 0.2829, 0.3: 0.3706, 0.1: 0.6146, 0.05: 0.7926}
"""beta → J* = beta log E_ref[e^(r / beta)]."""


def optimum(beta):
    return (REWARD / beta).log_softmax(0)


def value(logp, beta):
    """J = E[r] - beta KL(pi || ref)."""
    p = logp.exp()
    return float((p * (REWARD - beta * (logp + math.log(64)))).sum())


def expected_dpo(logp, beta, scale=1.0):
    """DPO's loss over all pairs, preferred as Bradley and Terry have it with scale * reward."""
    ratio = logp + math.log(64)
    first, second = torch.combinations(torch.arange(64)).T
    likely = torch.sigmoid(scale * (REWARD[first] - REWARD[second])).to(logp)
    right = dpo_loss(ratio[first], ratio[second], beta=beta)
    return (likely * right + (1 - likely) * dpo_loss(ratio[second], ratio[first], beta=beta)).mean()


@pytest.mark.parametrize("beta", KNOWN)
def test_dpo_on_all_pairs_converges_to_the_reference_tilted_by_the_reward(beta):
    assert value(optimum(beta), beta) == pytest.approx(KNOWN[beta], abs=5e-5)
    theta = torch.zeros(64, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = expected_dpo(theta.log_softmax(0), beta)
        loss.backward()
        return loss

    solver.step(closure)
    found = theta.detach().log_softmax(0)
    torch.testing.assert_close(found, optimum(beta), atol=1e-3, rtol=0)
    assert value(found, beta) == pytest.approx(KNOWN[beta], rel=1e-3)


def test_dpo_trains_a_language_model_to_the_optimum_of_the_regularised_task():
    beta = 0.3
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocab_size=5, width=32, num_layers=2, num_heads=2, max_length=8))
    policy = LanguageModelPolicy(model, max_new_tokens=3)
    completions = [Completion([4], list(sequence), [True] * 3) for sequence in SEQUENCES]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(250):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / 250)
        optimizer.zero_grad()
        logp, _ = completion_logprobs(policy, completions)
        expected_dpo(logp, beta).backward()
        optimizer.step()
    # Differences of log-probabilities are what preferences fix; token 4 takes what they leave open.
    found = completion_logprobs(policy, completions)[0].detach().double().log_softmax(0)
    assert value(found, beta) == pytest.approx(KNOWN[beta], rel=0.01)
    assert float((found.exp() * (found - optimum(beta))).sum()) < 0.01
