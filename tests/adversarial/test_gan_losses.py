"""Losses against numbers worked out by hand."""

import math

import torch

from adversarial.losses import discriminator_loss, feature_matching, generator_loss, gradient_penalty

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
