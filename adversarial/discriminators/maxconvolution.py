"""Convolutions over words of several widths, each followed by its maximum over the positions.

Shape suffixes: B = sequences, T = positions, E = embedding width, F = filters, K = the widest filter.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.nn.attention import compute_dtype


class MaxConvolution(nn.Module):
    """For each filter the largest response over all places where it fits: features_BF.

    Args:
        width: E.
        filters: (width in words, number) of each group; groups that are wider than the sentences are left out.
        length: T, the same for all sentences.

    References:
        Kim 2014, "Convolutional Neural Networks for Sentence Classification", arXiv:1408.5882.
    """

    def __init__(self, width: int, filters: Sequence[tuple[int, int]], length: int) -> None:
        super().__init__()
        fitting = [(size, number) for size, number in filters if size <= length]
        if not fitting:
            raise ValueError(f"every filter is wider than the sentences of {length} tokens: give a narrower one")
        self.length = length
        self.num_features = sum(number for _, number in fitting)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(number, size * width) / math.sqrt(size * width)) for size, number in fitting
        )
        self.bias = nn.Parameter(torch.zeros(self.num_features))

    def forward(self, x_BTE: Tensor, *, twice: bool = False) -> Tensor:
        """features_BF.

        Args:
            x_BTE: embeddings, zero at padding.
            twice: whether the result must be differentiable a second time, which is slower.
        """
        if twice:
            responses = [_windows(x_BTE, weight.shape[1] // x_BTE.shape[2]) @ weight.t() for weight in self.weights]
            return torch.cat([response_BNF.amax(1) for response_BNF in responses], 1) + self.bias
        return _Maxima.apply(x_BTE, *self.weights) + self.bias


def _windows(x_BTE: Tensor, size: int) -> Tensor:
    """The embeddings of `size` words in a row, at every place."""
    places = x_BTE.shape[1] - size + 1
    return torch.cat([x_BTE[:, shift : shift + places] for shift in range(size)], 2)


class _Maxima(torch.autograd.Function):
    """All groups from one set of windows, as long as the widest filter, of which the others read a first part.

    The windows are ordered by position and then by sequence, so that those in which a filter fits come first: every
    group is one matrix product, forward as well as backward, and nothing is copied for it.
    """

    @staticmethod
    def forward(ctx: Any, x_BTE: Tensor, *weights: Tensor) -> Tensor:
        batch, length, width = x_BTE.shape
        dtype = compute_dtype(x_BTE)
        tables = [weight.to(dtype) for weight in weights]
        widest = max(table.shape[1] for table in tables) // width
        padded = x_BTE.new_zeros(length + widest - 1, batch, width, dtype=dtype)
        padded[:length] = x_BTE.transpose(0, 1)
        step = batch * width
        windows = padded.as_strided((length, batch, widest, width), (step, width, step, 1)).reshape(length * batch, -1)
        wanted = any(ctx.needs_input_grad)
        maxima, responses = [], []
        for table in tables:
            places = length - table.shape[1] // width + 1
            response = (windows[: places * batch, : table.shape[1]] @ table.t()).view(places, batch, -1)
            maxima.append(response.amax(0))
            if wanted:
                responses.append(response)
        if wanted:
            ctx.save_for_backward(windows, *tables, *responses, *maxima)
            ctx.shape = x_BTE.shape
            ctx.dtypes = x_BTE.dtype, [weight.dtype for weight in weights]
        return torch.cat(maxima, 1).to(x_BTE.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_BF: Tensor) -> tuple[Tensor, ...]:
        windows, *rest = ctx.saved_tensors
        groups = len(rest) // 3
        tables, responses, maxima = rest[:groups], rest[groups : 2 * groups], rest[2 * groups :]
        batch, length, width = ctx.shape
        slopes = slope_BF.to(windows.dtype).split([table.shape[0] for table in tables], 1)
        to_windows = torch.zeros_like(windows)
        to_weights = []
        for table, response, top, slope, dtype in zip(tables, responses, maxima, slopes, ctx.dtypes[1]):
            hit = (response == top).to(windows.dtype)
            # Rounded responses can be equal: then they share.
            gradient = hit.mul_(slope / hit.sum(0)).flatten(0, 1)
            part = (slice(len(gradient)), slice(table.shape[1]))
            to_weights.append((gradient.t() @ windows[part]).to(dtype))
            to_windows[part].addmm_(gradient, table)
        places = to_windows.view(length, batch, -1, width)
        widest = places.shape[2]
        to_x = slope_BF.new_zeros(length + widest - 1, batch, width, dtype=torch.float32)
        for shift in range(widest):
            to_x[shift : shift + length] += places[:, :, shift]
        return (to_x[:length].transpose(0, 1).to(ctx.dtypes[0]), *to_weights)
