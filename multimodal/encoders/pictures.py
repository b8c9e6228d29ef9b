"""Picture networks as encoders of pictures, and, frame by frame, of clips.

Shape suffixes: N = media, T = frames (1 for a picture), P = positions of a frame, F = features of a position; 3HW =
colour, height, width.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from multimodal.encoders.encoder import Encoder
from multimodal.examples import Kind, Medium
from multimodal.media.decode import frames, image_content
from multimodal.media.video import Sampling


class PictureNetwork(Protocol):
    """What turns square pictures into features; also an `nn.Module`."""

    name: str
    image_side: int
    """Pixels a side of the pictures it takes."""
    num_positions: int
    """P."""
    num_features: int
    """F."""

    def __call__(self, images_B3HW: Tensor) -> Tensor:
        """features_BPF, float32, of uint8 pictures."""
        ...


class PictureEncoder(Encoder):
    """A picture network on a picture, or on each of a clip's frames.

    Args:
        network: the network, an `nn.Module`.
        kind: `image` or `video`.
        frozen: never train it.
        from_scratch: the network has random weights; see `Encoder`.
        num_frames: frames taken of a clip.
        sampling: how they are chosen; see `multimodal.media.video.sample_frames`.
        stride: of the sampling `stride`.
        augment: while training, crop and recolour what a network that is trained sees.
    """

    def __init__(
        self,
        network: PictureNetwork,
        kind: Kind = "image",
        *,
        frozen: bool = True,
        from_scratch: bool = False,
        num_frames: int = 8,
        sampling: Sampling = "uniform",
        stride: int = 1,
        augment: bool = False,
    ) -> None:
        super().__init__()
        assert isinstance(network, nn.Module)
        self.network = network
        self.kind = kind
        self.frozen = frozen
        self.from_scratch = from_scratch
        self.sampling = sampling
        self.stride = stride
        self.num_features = network.num_features
        self.positions_per_step = network.num_positions
        self.max_steps = num_frames if kind == "video" else 1
        self.side = network.image_side
        how = f"-{num_frames} frames {sampling} {stride}" if kind == "video" else ""
        self.name = f"{network.name}{how}"
        self.augment = None
        self.augments = augment and not frozen
        if self.augments:
            from torchvision.transforms import v2

            self.augment = v2.Compose(
                [
                    v2.RandomResizedCrop(self.side, scale=(0.7, 1.0), ratio=(0.9, 1.1), antialias=True),
                    v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1),
                ]
            )
        self.requires_grad_(not frozen)  # a network that was loaded frozen may be trained here
        self.train(not frozen)

    def load(self, medium: Medium) -> Tensor:
        """uint8 input_T3HW."""
        if self.kind == "image":
            return image_content(medium, self.side)[None]
        return frames(medium, self.max_steps, self.sampling, self.stride, self.side)

    def forward(self, inputs_NT3HW: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """features of all frames, one after another; padded frames are encoded too and masked."""
        count, length = inputs_NT3HW.shape[:2]
        images = inputs_NT3HW.flatten(0, 1)
        if self.augment is not None and self.training:
            # One draw for the batch keeps the frames of a clip alike; the pictures of a batch share it.
            images = self.augment(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.network(images)
        mask_NP = self.position_mask(lengths_N, length * self.positions_per_step, features.device)
        return features.unflatten(0, (count, length)).flatten(1, 2), mask_NP
