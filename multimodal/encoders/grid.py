"""Pictures as a grid of cells, each with one feature vector: what the captioner's prefix is made of.

Shape suffixes: B = pictures, C = channels, H = height, W = width, G = cells a side, P = G * G cells, F = features of a
cell; 3 = RGB. Cells are ordered row by row.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal.encoders.efficientnet_lite import CHANNELS, EfficientNetLite0, normalise
from multimodal.encoders.encoder import fingerprint

PATCH = 8
"""Pixels a side of a cell's own small picture."""
HISTOGRAM_SIDE = 24
"""Pixels a side of a cell when its colours are counted."""
LEVELS = 4
"""Levels of each primary colour in the histogram."""
MIDDLE_BLOCK = 11
"""The finer feature map is taken after so many blocks of EfficientNet-Lite0: 16 pixels apart."""
MIDDLE_CHANNELS = 112


class PixelGrid(nn.Module):
    """Each cell as a small picture, and how much of it each colour covers. Needs no weights.

    The histogram says exactly which flat colours a cell has, where the average of a patch mixes them; the square root
    keeps small areas visible.

    Args:
        image_side: pixels a side of the pictures.
        grid: G.
    """

    def __init__(self, image_side: int, grid: int) -> None:
        super().__init__()
        _check(image_side, grid)
        self.image_side = image_side
        self.grid = grid
        self.num_positions = grid * grid
        self.num_features = 3 * PATCH**2 + LEVELS**3
        self.name = f"pixels-{image_side}-{grid}-v1"

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """features_BPF: the patch, in [-1, 1], then the square roots of the histogram's shares."""
        _check_images(images_B3HW, self.image_side)
        images = images_B3HW.float() / 255
        patches = cells(F.adaptive_avg_pool2d(images, self.grid * PATCH), self.grid)
        colours = colour_histogram(F.adaptive_avg_pool2d(images, self.grid * HISTOGRAM_SIDE), self.grid, LEVELS)
        return torch.cat((2 * patches - 1, colours.sqrt()), dim=-1)


class EfficientNetGrid(nn.Module):
    """ImageNet features of each cell at two scales, beside its `PixelGrid` features.

    The last feature map says what is in a cell. The finer one keeps where in the cell it is, and the pixels keep its
    exact colours, to which a network trained to name objects is nearly blind.

    Args:
        network: EfficientNet-Lite0.
        image_side: pixels a side of the pictures.
        grid: G.
    """

    def __init__(self, network: EfficientNetLite0, image_side: int, grid: int) -> None:
        super().__init__()
        self.pixels = PixelGrid(image_side, grid)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.image_side = image_side
        self.grid = grid
        self.middle_cells = max(1, image_side // 16 // grid)
        self.num_positions = grid * grid
        self.num_features = CHANNELS + MIDDLE_CHANNELS * self.middle_cells**2 + self.pixels.num_features
        self.name = f"efficientnet_lite0-{fingerprint(network)}-{image_side}-{grid}-v1"

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """features_BPF: last map, finer map, pixels."""
        _check_images(images_B3HW, self.image_side)
        x_BCHW = self.network.stem(normalise(images_B3HW).contiguous(memory_format=torch.channels_last))
        for index, block in enumerate(self.network.blocks, start=1):
            x_BCHW = block(x_BCHW)
            if index == MIDDLE_BLOCK:
                middle_BCHW = x_BCHW.float()
        last_BCHW = self.network.head(x_BCHW).float()
        last = cells(F.adaptive_avg_pool2d(last_BCHW, self.grid), self.grid)
        middle = cells(F.adaptive_avg_pool2d(middle_BCHW, self.grid * self.middle_cells), self.grid)
        return torch.cat((last, middle, self.pixels(images_B3HW)), dim=-1)


def cells(x_BCHW: Tensor, grid: int) -> Tensor:
    """Cut a map of G*k by G*k into cells: features_BPF with F = C * k * k."""
    batch, channels, height, _ = x_BCHW.shape
    inner = height // grid
    parts = x_BCHW.reshape(batch, channels, grid, inner, grid, inner)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, channels * inner * inner)


def colour_histogram(images_B3HW: Tensor, grid: int, levels: int) -> Tensor:
    """Share of each cell that each colour covers, with soft borders: (B, P, levels ** 3), rows sum to 1.

    A pixel counts for the (up to) eight nearest of the levels ** 3 colours, by its distance in each primary.

    Args:
        images_B3HW: pictures in [0, 1].
        grid: G.
        levels: equally spaced levels of each primary, 0 and 1 included.
    """
    level = torch.arange(levels, device=images_B3HW.device).view(1, 1, levels, 1, 1)
    near = (1 - (images_B3HW[:, :, None] * (levels - 1) - level).abs()).clamp(min=0)
    red, green, blue = near.unbind(1)
    shares = red[:, :, None, None] * green[:, None, :, None] * blue[:, None, None]
    return cells(F.adaptive_avg_pool2d(shares.flatten(1, 3), grid), grid)


def _check(image_side: int, grid: int) -> None:
    if grid < 1 or image_side % grid:
        raise ValueError(f"image_side {image_side} must be a multiple of grid {grid}, so that all cells are equal")


def _check_images(images_B3HW: Tensor, side: int) -> None:
    shape: Sequence[int] = images_B3HW.shape
    if images_B3HW.dtype != torch.uint8 or len(shape) != 4 or tuple(shape[1:]) != (3, side, side):
        raise ValueError(
            f"pictures must be uint8 of shape (B, 3, {side}, {side}), got {images_B3HW.dtype} {tuple(shape)}: "
            f"load them with multimodal.media.image and side={side}"
        )
