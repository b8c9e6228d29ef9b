"""Losses against numbers worked out by hand."""

import math
from typing import Any, get_args

import pytest
import torch

from adversarial.config import LogitLoss
from adversarial.losses import (
    discriminator_loss,
    feature_matching,
    generator_loss,
    gradient_penalty,
    interpolated_penalty,
    mean_discrepancy,
)

LN2 = math.log(2)


def test_losses_at_logit_0_are_multiples_of_ln_2() -> None:
    zero = torch.zeros(3)
    torch.testing.assert_close(generator_loss("bce", zero, zero), torch.tensor(LN2))
    torch.testing.assert_close(discriminator_loss("bce", zero, torch.zeros(5)), torch.tensor(2 * LN2))


def test_losses_are_the_cross_entropies_of_their_labels() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5])
    sigmoid = [1 / (1 + math.exp(-x)) for x in (2.0, -1.0, 0.5)]
    expected = -(math.log(sigmoid[0]) + math.log(sigmoid[1])) / 2 - math.log(1 - sigmoid[2])
    torch.testing.assert_close(discriminator_loss("bce", real, fake), torch.tensor(expected))
    torch.testing.assert_close(generator_loss("bce", real, fake), torch.tensor(-math.log(sigmoid[2])))


def test_the_generator_loss_does_not_saturate_where_the_discriminator_is_sure() -> None:
    sure = torch.tensor([-20.0], requires_grad=True)
    generator_loss("bce", sure, sure).backward()
    assert sure.grad is not None
    # d/dx softplus(-x) = -sigmoid(-x), which is -1 here; that of log(1 - sigmoid(x)) would be -2e-9
    torch.testing.assert_close(sure.grad, torch.tensor([-1.0]))
    assert torch.isfinite(discriminator_loss("bce", torch.tensor([-200.0]), torch.tensor([200.0])))


def test_feature_matching_by_hand() -> None:
    real = torch.tensor([[1.0, 4.0], [3.0, 0.0]], requires_grad=True)
    fake = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss = feature_matching(real, fake)
    # means (2, 2) and (1, 2): ((2 - 1)^2 + 0) / 2
    torch.testing.assert_close(loss, torch.tensor(0.5))
    loss.backward()
    assert real.grad is None
    assert fake.grad is not None
    torch.testing.assert_close(fake.grad, torch.tensor([[-1.0, 0.0]]))


def test_the_penalty_of_a_linear_judge_is_its_squared_weight_and_can_be_differentiated_again() -> None:
    weight_TD = torch.tensor([[1.0, 2.0], [0.0, -3.0]], requires_grad=True)
    inputs = torch.randn(2, 2, 2, requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    logits = (inputs * weight_TD * mask.unsqueeze(-1)).sum((1, 2))
    penalty = gradient_penalty(logits, inputs)
    # first row: 1 + 4 + 9; second: its last position is padding, so 1 + 4
    torch.testing.assert_close(penalty, torch.tensor((14.0 + 5.0) / 2))
    penalty.backward()
    # 2 w for both rows at the first position, for one row at the second, over two rows
    torch.testing.assert_close(weight_TD.grad, torch.tensor([[2.0, 4.0], [0.0, -3.0]]))


def test_the_penalty_of_a_quadratic_judge_needs_the_second_derivative() -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    inputs = torch.tensor([[[3.0]], [[1.0]]], requires_grad=True)
    penalty = gradient_penalty(scale * inputs.square().sum((1, 2)), inputs)
    # slope 2 s x: (3^2 + 1^2) / 2 at s = 1/2
    torch.testing.assert_close(penalty, torch.tensor(5.0))
    penalty.backward()
    # d/ds mean (2 s x)^2 = mean 8 s x^2 = (36 + 4) / 2
    torch.testing.assert_close(scale.grad, torch.tensor(20.0))


REAL, FAKE = torch.tensor([2.0, -0.5]), torch.tensor([1.0, -3.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        # max(0, 1 - r): 0 and 1.5; max(0, 1 + f): 2 and 0
        ("hinge", 0.75 + 1.0, 1.0),
        # (r - 1)^2: 1 and 2.25; f^2: 1 and 9; (f - 1)^2: 0 and 16
        ("least_squares", (1.625 + 5.0) / 2, 4.0),
        # means: real 0.75, fake -1
        ("wasserstein", -1.75, 1.0),
        # r - f: 1 and 2.5
        ("relativistic", (softplus(-1.0) + softplus(-2.5)) / 2, (softplus(1.0) + softplus(2.5)) / 2),
        # r - mean f: 3 and 0.5; f - mean r: 0.25 and -3.75
        (
            "relativistic_average",
            (softplus(-3.0) + softplus(-0.5) + softplus(0.25) + softplus(-3.75)) / 2,
            (softplus(-0.25) + softplus(3.75) + softplus(3.0) + softplus(0.5)) / 2,
        ),
    ],
)
def test_every_loss_by_hand(kind: Any, discriminator: float, generator: float) -> None:
    torch.testing.assert_close(discriminator_loss(kind, REAL, FAKE), torch.tensor(discriminator))
    torch.testing.assert_close(generator_loss(kind, REAL, FAKE), torch.tensor(generator))


@pytest.mark.parametrize("kind", get_args(LogitLoss))
def test_a_generator_gains_where_its_sentences_are_judged_better_and_real_ones_get_no_gradient(kind: Any) -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    generator_loss(kind, real, fake).backward()
    assert real.grad is None
    assert fake.grad is not None
    assert (fake.grad[1] < 0).all()
    real.grad = fake.grad = None
    discriminator_loss(kind, real, fake).backward()
    assert real.grad is not None
    assert real.grad[1] < 0
    assert fake.grad[0] > 0


def test_pairs_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"in pairs, got \(2,\) and \(3,\)"):
        discriminator_loss("relativistic", REAL, torch.zeros(3))


def test_mean_discrepancy_by_hand_and_zero_for_equal_sets() -> None:
    real, fake = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]], requires_grad=True)
    # kernel of width w: exp(-d^2 / 2w). within real: 1, 1 and twice e^-1 over 4; across: e^(-1/4); within fake: 1
    expected = (2 + 2 * math.exp(-1)) / 4 - 2 * math.exp(-0.25) + 1
    torch.testing.assert_close(mean_discrepancy(real, fake, widths=[2.0]), torch.tensor(expected))
    torch.testing.assert_close(mean_discrepancy(real, real.flip(0)), torch.tensor(0.0))
    far = torch.tensor([[1.5]], requires_grad=True)
    mean_discrepancy(torch.tensor([[0.0]]), far).backward()
    assert far.grad is not None
    assert far.grad.item() > 0  # towards the real one


def test_the_interpolated_penalty_wants_a_slope_of_1_and_can_be_differentiated_again() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    inputs = torch.randn(2, 1, 2, requires_grad=True)
    penalty = interpolated_penalty((inputs * weight).sum((1, 2)), inputs)
    torch.testing.assert_close(penalty, torch.tensor(16.0))  # (5 - 1)^2
    penalty.backward()
    # d/dw (|w| - 1)^2 = 2 (|w| - 1) w / |w|
    torch.testing.assert_close(weight.grad, torch.tensor([4.8, 6.4]))
    flat = torch.zeros(2, requires_grad=True)
    interpolated_penalty((inputs * flat).sum((1, 2)), inputs).backward()
    assert torch.isfinite(flat.grad).all()
