"""Linear layers in float32 by the faster of the two libraries that PyTorch brings for matrix products on a CPU.

Shape suffixes: B = rows, D = input width, N = output width.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.machine import has_amd_avx512

FEWEST_PRODUCTS = 2**20
"""Multiplications from which oneDNN's product takes less time than MKL's, its call included."""


class Linear(nn.Linear):
    """`nn.Linear`, faster in float32 on CPUs for which MKL has no kernel of their width."""

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + b."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight_ND: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x W^T + b, of any number of leading dimensions; it can be differentiated any number of times."""
    if not takes_onednn(x, weight_ND):
        return F.linear(x, weight_ND, bias_N)
    if torch.is_grad_enabled() and (x.requires_grad or weight_ND.requires_grad):
        found: Tensor = _Product.apply(x, weight_ND, bias_N)
        return found
    return _product(x, weight_ND, bias_N)


def takes_onednn(x: Tensor, weight_ND: Tensor) -> bool:
    """Whether `linear` goes to oneDNN: which depends on the machine, dtypes and sizes alone."""
    return (
        x.dtype == weight_ND.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * len(weight_ND) >= FEWEST_PRODUCTS
        and prefers_onednn()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN's float32 products are the faster ones: on AMD's processors with AVX-512, 2.4 times (RESULTS.md).

    There MKL runs its AVX2 kernels.
    """
    return has_amd_avx512() and torch.backends.mkldnn.is_available()


class _Product(torch.autograd.Function):
    """oneDNN's product with its gradients, which are such products again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_ND: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_ND)
        ctx.biased = bias_N is not None
        return _product(x, weight_ND, bias_N)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight_ND = ctx.saved_tensors
        slope_BN = slope.flatten(0, -2)
        to_x = linear(slope, weight_ND.t()) if ctx.needs_input_grad[0] else None
        to_weight_ND = linear(slope_BN.t(), x.flatten(0, -2).t()) if ctx.needs_input_grad[1] else None
        to_bias_N = slope_BN.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None
        return to_x, to_weight_ND, to_bias_N


def _product(x: Tensor, weight_ND: Tensor, bias_N: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_ND, bias_N, "none", [], "")
    return found
