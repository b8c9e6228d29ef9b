"""Convolutions over words of several widths, each followed by its maximum over the positions.

Shape suffixes: B = sequences, T = positions, E = embedding width, F = filters, K = the widest filter.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
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
        widest = max(weight.shape[1] for weight in self.weights)
        maxima = _NarrowMaxima if widest <= _NARROW else _Maxima
        features_BF = maxima.apply(x_BTE, *self.weights)
        return features_BF + self.bias.to(features_BF.dtype)


class HighwayConvolutions(nn.Module):
    """Padding to one length, the maxima, and a highway layer: the features of SeqGAN's and RelGAN's discriminators.

    Args:
        width, filters, length: as in `MaxConvolution`.

    References:
        Srivastava et al. 2015, "Highway Networks", arXiv:1505.00387.
    """

    def __init__(self, width: int, filters: Sequence[tuple[int, int]], length: int) -> None:
        super().__init__()
        self.convolutions = MaxConvolution(width, filters, length)
        self.num_features = self.convolutions.num_features
        self.highway = nn.Linear(self.num_features, self.num_features)

    def padded(self, x_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """The embeddings with zeros at padding, as long as the longest sentence."""
        return F.pad(x_BTE * mask_BT.unsqueeze(-1), (0, 0, 0, self.convolutions.length - x_BTE.shape[1]))

    def forward(self, x_BTE: Tensor, *, twice: bool = False) -> Tensor:
        """features_BF of padded embeddings."""
        features_BF = torch.relu(self.convolutions(x_BTE, twice=twice))
        through_BF = self.highway(features_BF)
        return torch.lerp(features_BF, torch.relu(through_BF), torch.sigmoid(through_BF))


_NARROW = 16
"""Numbers in the widest window up to which the gradient is gathered, and not computed by matrix products."""
_ROWS = 32
"""Sentences whose responses stay in the processor's cache together."""


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
        return torch.cat(maxima, 1)

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


class _NarrowMaxima(torch.autograd.Function):
    """For windows of a few numbers, whose responses are far more than the inputs: none is kept.

    In the lowest bits of each response stands its position, which the maximum then carries along. The gradient needs
    the inputs at these positions alone. Those bits cost the maximum 2^-18 of its value for sentences of 32 tokens.
    """

    @staticmethod
    def forward(ctx: Any, x_BTE: Tensor, *weights: Tensor) -> Tensor:
        batch, length, width = x_BTE.shape
        x_BX = x_BTE.float().flatten(1).contiguous()
        places_mask = (1 << (length - 1).bit_length()) - 1
        tables = [weight.float().t().contiguous() for weight in weights]
        numbers_N1 = torch.arange(length, dtype=torch.int32, device=x_BX.device)[:, None]
        marked_BF = x_BX.new_empty(batch, sum(table.shape[1] for table in tables))
        rows = _ROWS if x_BX.device.type == "cpu" else batch
        with torch.autocast(x_BX.device.type, enabled=False):
            for start in range(0, batch, rows):
                part_RX = x_BX[start : start + rows]
                first = 0
                for table in tables:
                    size, number = table.shape
                    places = length - size // width + 1
                    windows = part_RX.as_strided(
                        (len(part_RX), places, size), (length * width, width, 1), part_RX.storage_offset()
                    )
                    response_RN = (windows.reshape(-1, size) @ table).view(len(part_RX), places, number)
                    bits = response_RN.view(torch.int32)
                    bits.bitwise_and_(~places_mask).bitwise_or_(numbers_N1[:places])
                    torch.amax(response_RN, 1, out=marked_BF[start : start + rows, first : first + number])
                    first += number
        ctx.save_for_backward(x_BX, marked_BF, *tables)
        ctx.width, ctx.places_mask = width, places_mask
        ctx.dtypes = x_BTE.dtype, [weight.dtype for weight in weights]
        ctx.shape = x_BTE.shape
        values_BF = marked_BF.view(torch.int32).bitwise_and(~places_mask).view(torch.float32)
        return values_BF.to(compute_dtype(x_BTE))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_BF: Tensor) -> tuple[Tensor, ...]:
        x_BX, marked_BF, *tables = ctx.saved_tensors
        to_x_BX = torch.zeros_like(x_BX)
        to_tables = [torch.zeros_like(table) for table in tables]
        rows = 4 * _ROWS if x_BX.device.type == "cpu" else len(x_BX)
        for start in range(0, len(x_BX), rows):
            part = slice(start, start + rows)
            first = 0
            for table, to_table in zip(tables, to_tables):
                size, number = table.shape
                group = slice(first, first + number)
                slope_RF = slope_BF[part, group].float()
                column_RF = marked_BF[part, group].view(torch.int32).bitwise_and(ctx.places_mask).long()
                column_RF.mul_(ctx.width)
                for column in range(size):
                    to_table[column] += (x_BX[part].gather(1, column_RF) * slope_RF).sum(0)
                    to_x_BX[part].scatter_add_(1, column_RF, slope_RF * table[column])
                    column_RF.add_(1)
                first += number
        grads = (to_table.t().to(dtype) for to_table, dtype in zip(to_tables, ctx.dtypes[1]))
        return (to_x_BX.view(ctx.shape).to(ctx.dtypes[0]), *grads)
