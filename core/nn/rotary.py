"""Rotary positions in the half-split layout of Llama and Qwen.

Shape suffixes: B = batch, T = positions, H = heads, K = head width.
"""

import torch
from torch import Tensor


def rotary_table(num_positions: int, head_width: int, theta: float, scaling: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos_TK and sin_TK in float32 on the CPU for positions 0 … num_positions - 1, as `rotate` takes them.

    The first half of the sines is negative, because that is how they enter the rotation.

    Args:
        num_positions: length of the table.
        head_width: K, even.
        theta: base of the frequencies theta^(-2i/K).
        scaling: positions are divided by this (linear interpolation for contexts longer than the trained one).

    References:
        Su et al. 2021, "RoFormer", arXiv:2104.09864; Chen et al. 2023, "Extending Context Window of Large Language
        Models via Positional Interpolation", arXiv:2306.15595.
    """
    # On the CPU whatever the default device: every device then sees the same bits, and `meta` keeps the values.
    inverse = 1.0 / theta ** (torch.arange(0, head_width, 2, device="cpu").float() / head_width)
    angles = torch.outer(torch.arange(num_positions, device="cpu").float(), inverse / scaling)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_i, x_{i + K/2}) by the angle of its position; cos and sin broadcast over heads."""
    # The halves exchanged by `flip`: the compiler reads it in whole vectors, and `cat` number by number.
    exchanged_BHTK = x_BHTK.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return x_BHTK * cos + exchanged_BHTK * sin
