"""Pictures moved about a little, in their own colours.

Shape suffixes: N = pictures, H = height, W = width; 3 = red, green, blue.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 0.1
"""Most of a picture's side that it is shifted."""
ZOOM = 0.15
"""Most that it grows or shrinks."""
TURN_RAD = math.radians(10)
"""Most that it is turned."""


def moved(images_N3HW: Tensor) -> Tensor:
    """Each picture shifted, zoomed and turned by chances of its own; 0 comes in from beyond the border.

    It is not mirrored, which would change what flags, arrows and letters say.

    Args:
        images_N3HW: float.
    """
    draw_4N = torch.rand(4, len(images_N3HW), device=images_N3HW.device) * 2 - 1
    scale_N, angle_N = 1 + ZOOM * draw_4N[0], TURN_RAD * draw_4N[1]
    cos_N, sin_N, shift_2N = scale_N * angle_N.cos(), scale_N * angle_N.sin(), 2 * SHIFT * draw_4N[2:]
    rows = (torch.stack((cos_N, -sin_N, shift_2N[0]), 1), torch.stack((sin_N, cos_N, shift_2N[1]), 1))
    size: list[int] = list(images_N3HW.shape)
    grid_NHW2 = F.affine_grid(torch.stack(rows, 1), size, align_corners=False)
    return F.grid_sample(images_N3HW, grid_NHW2.to(images_N3HW.dtype), align_corners=False)
