"""Dropout whose random numbers cost little on a CPU."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16
"""Sixteen random bits decide about an element, so that the generator is asked once for four elements."""


def drop(x: Tensor, p: float, training: bool = True) -> Tensor:
    """`torch.nn.functional.dropout`, several times as fast on a CPU: there, p is rounded to a multiple of 2^-16.

    PyTorch draws a number for every element on one thread; a compiled program computes ten rounds of Philox for each.

    Args:
        x: any shape and float dtype.
        p: probability of a zero.
        training: False gives x itself.

    References:
        Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".
    """
    level = min(round(p * _LEVELS), _LEVELS - 1)
    if not training or level == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    # Of two operators with equal arguments the compiler keeps one, but it takes no two empty tensors for equal.
    kept = draw_kept(torch.empty(0), x.shape, level)
    return x * kept * (_LEVELS / (_LEVELS - level))


# An operator of our own, because the compiler would turn the draws into Philox again. (One that fills a given tensor
# looks simpler, and the compiler gives two of them the same memory.)
@torch.library.custom_op("trillium::draw_kept", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def draw_kept(fresh: Tensor, shape: Sequence[int], level: int) -> Tensor:
    """uint8: 0 with probability level / 65536 and else 1, from the default generator. Compiled programs read bools
    one by one, and whole vectors of these."""
    size = math.prod(shape)
    words = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
    first_kept = level - _LEVELS // 2
    # Clamping to two neighbours takes a fourth of the time of a comparison.
    halves = words.view(torch.int16).clamp_(first_kept - 1, first_kept).sub_(first_kept - 1)
    return halves[:size].to(torch.uint8).view(shape)


@draw_kept.register_fake
def _(fresh: Tensor, shape: Sequence[int], level: int) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8)
