"""Rotary positions."""

import math

import torch

from core.nn.rotary import rotary_table, rotate

TOKENS_BT = torch.randint(97, (3, 14), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_rotary_positions_are_relative(random_model):
    shifted = torch.arange(14).expand(3, -1) + 50
    model = random_model()
    torch.testing.assert_close(model(TOKENS_BT, positions_BT=shifted), model(TOKENS_BT), atol=1e-4, rtol=1e-4)
    # learned positions are not
    model = random_model(positions="learned", norm="layer", qk_norm=False, activation="gelu_tanh", bias=True)
    assert (model(TOKENS_BT, positions_BT=shifted) - model(TOKENS_BT)).abs().max() > 0.1


def test_rotation_by_hand():
    cos, sin = rotary_table(3, 4, theta=100.0)
    # K = 4: frequencies 1 and 100^(-1/2) = 0.1; at position 2 the angles are 2 and 0.2, for pairs (0, 2) and (1, 3).
    x = torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = torch.tensor([math.cos(2.0), math.cos(0.2), math.sin(2.0), math.sin(0.2)])
    torch.testing.assert_close(rotate(x, cos[2], sin[2]), expected)
    scaled, _ = rotary_table(5, 4, theta=100.0, scaling=2.0)
    torch.testing.assert_close(scaled[4], cos[2])
