"""A small Vision Transformer that is trained from scratch.

Shape suffixes: B = pictures, P = patches, F = features of a patch; 3HW = colour, height, width.
"""

import torch
from torch import Tensor, nn

from core.config import ModelConfig
from core.nn.encoder import TransformerEncoder
from multimodal.encoders.encoder import heads_of


class SmallViT(nn.Module):
    """Patches, learned positions in the plane, Transformer.

    Args:
        image_side: pixels a side of the pictures.
        grid: patches a side.
        width: F.
        num_layers: Transformer layers.

    References:
        Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv:2010.11929.
    """

    def __init__(self, image_side: int, grid: int, *, width: int = 192, num_layers: int = 4) -> None:
        super().__init__()
        if grid < 1 or image_side % grid:
            raise ValueError(
                f"image_side {image_side} must be a multiple of grid {grid}, so that all patches are equal"
            )
        self.image_side = image_side
        self.num_positions = grid * grid
        self.num_features = width
        self.name = f"vit-{image_side}-{grid}-v1"
        self.patches = nn.Conv2d(3, width, image_side // grid, stride=image_side // grid)
        self.positions = nn.Parameter(torch.randn(grid * grid, width) * 0.02)
        shape = ModelConfig(
            width=width, num_layers=num_layers, num_heads=heads_of(width), max_length=grid * grid, dropout=0.1
        )
        self.transformer = TransformerEncoder(shape)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """features_BPF of uint8 pictures, row by row."""
        x_BPF = self.patches(images_B3HW.float().div(127.5).sub(1)).flatten(2).transpose(1, 2)
        return self.transformer(x_BPF + self.positions)
