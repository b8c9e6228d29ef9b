"""Encoders that see several frames at once: a small one to train from scratch, and torchvision's video networks.

Shape suffixes: N = clips, T = frames, X = frames of all clips, S = steps of time, C = channels, F = features;
3HW = colour, height, width.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from core.config import ModelConfig
from core.nn.encoder import TransformerEncoder
from multimodal.encoders.backbones import Weights, torchvision_network
from multimodal.encoders.encoder import Encoder, fingerprint, heads_of
from multimodal.examples import Medium
from multimodal.media.decode import frames
from multimodal.media.video import Sampling


class ConvClipEncoder(Encoder):
    """Convolutions on every frame and its change, one vector a frame, then a Transformer over the frames.

    Trained from scratch.

    Args:
        side: pixels a side of the frames.
        num_frames: frames taken of a clip.
        width: F.
        num_layers: Transformer layers.
        sampling: how frames are chosen; see `multimodal.media.video.sample_frames`.
        stride: of the sampling `stride`.
    """

    kind = "video"
    from_scratch = True

    def __init__(
        self,
        *,
        side: int = 32,
        num_frames: int = 16,
        width: int = 192,
        num_layers: int = 2,
        sampling: Sampling = "uniform",
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.side, self.sampling, self.stride = side, sampling, stride
        self.max_steps = num_frames
        self.num_features = width
        self.name = f"frames-{side}-{num_frames} {sampling} {stride}-v1"
        channels = (6, 32, 64, 128)
        self.down = nn.Sequential(*(ConvNormRelu(before, after, stride=2) for before, after in pairwise(channels)))
        self.mix = nn.ModuleList(ConvNormRelu(channels[-1], channels[-1]) for _ in range(2))
        self.norm = nn.BatchNorm1d(2 * channels[-1])
        self.project = nn.Linear(2 * channels[-1], width)
        shape = ModelConfig(
            width=width, num_layers=num_layers, num_heads=heads_of(width), max_length=num_frames, dropout=0.1
        )
        self.transformer = TransformerEncoder(shape)

    def load(self, medium: Medium) -> Tensor:
        """uint8 input_T3HW."""
        return frames(medium, self.max_steps, self.sampling, self.stride, self.side)

    def forward(self, inputs_NT3HW: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """features_NTF and mask_NT."""
        mask_NT = self.position_mask(lengths_N, inputs_NT3HW.shape[1], inputs_NT3HW.device)
        x_NT3HW = inputs_NT3HW.float() / 255
        change_NT3HW = torch.diff(x_NT3HW, dim=1, prepend=x_NT3HW[:, :1])
        x_NT6HW = torch.cat((x_NT3HW, change_NT3HW), dim=2)
        if bool(mask_NT.all()):
            return self.transformer(self._vectors(x_NT6HW.flatten(0, 1)).unflatten(0, mask_NT.shape)), mask_NT
        # Padding stays out of the statistics of the batch.
        x_NTF = x_NT3HW.new_zeros(*mask_NT.shape, self.num_features)
        x_NTF = x_NTF.masked_scatter(mask_NT[..., None], self._vectors(x_NT6HW[mask_NT]))
        return self.transformer(x_NTF, mask_NT), mask_NT

    def _vectors(self, x_X6HW: Tensor) -> Tensor:
        """x_XF, one vector a frame: how much of each thing there is in it, and whether it is there at all."""
        x_XCHW = self.down(x_X6HW.contiguous(memory_format=torch.channels_last))
        for convolution in self.mix:
            x_XCHW = x_XCHW + convolution(x_XCHW)
        return self.project(self.norm(torch.cat((x_XCHW.mean((2, 3)), x_XCHW.amax((2, 3))), dim=1)))


class ConvNormRelu(nn.Sequential):
    """relu(batchnorm(conv(x)))."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
        )


class TorchvisionClipEncoder(Encoder):
    """A torchvision video network (R(2+1)D, MViT, Swin3D, S3D) up to its last feature map, averaged over space.

    Args:
        architecture: a name in `torchvision.models.video`, such as `r2plus1d_18` or `mvit_v1_b`.
        weights: `pretrained` (Kinetics-400, by download), `random`, or a file of its state dict.
        num_frames: frames taken of a clip; MViT takes 16.
        frozen: never train it.
        sampling: how frames are chosen.
        stride: of the sampling `stride`.

    Raises:
        ValueError: no such network, or one that takes another number of frames.
        ModelUnavailable: the weights cannot be loaded.

    References:
        Tran et al. 2018, "A Closer Look at Spatiotemporal Convolutions", arXiv:1711.11248.
        Fan et al. 2021, "Multiscale Vision Transformers", arXiv:2104.11227.
    """

    kind = "video"

    def __init__(
        self,
        architecture: str,
        weights: Weights = "pretrained",
        *,
        num_frames: int = 16,
        frozen: bool = True,
        sampling: Sampling = "uniform",
        stride: int = 1,
    ) -> None:
        super().__init__()
        from torchvision.models import get_model_weights, list_models, video

        known = list_models(module=video)
        if architecture not in known:
            raise ValueError(f"torchvision has no video network {architecture!r}; it has: {', '.join(known)}")
        preset = get_model_weights(architecture).DEFAULT.transforms()
        self.side = preset.crop_size[0]
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(preset.mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(preset.std).view(3, 1, 1, 1), persistent=False)
        self.sampling, self.stride = sampling, stride
        self.frozen, self.from_scratch = frozen, weights == "random"
        self.num_inputs = num_frames
        network: Any = torchvision_network(architecture, weights).eval()
        if architecture.startswith("mvit"):
            wanted = network.pos_encoding.temporal_size * network.conv_proj.stride[0]
            if num_frames != wanted:
                raise ValueError(f"{architecture} takes {wanted} frames, not {num_frames}: set num_frames={wanted}")
        self.network: Any = network
        with torch.no_grad():
            probe = self._features(torch.zeros(1, num_frames, 3, self.side, self.side, dtype=torch.uint8))
        self.max_steps, self.num_features = probe.shape[1:]
        how = f"{num_frames} {sampling} {stride}"
        self.name = f"torchvision-{architecture}-{fingerprint(network)}-{self.side}-{how}-v1"
        if frozen:
            self.requires_grad_(False).eval()

    def load(self, medium: Medium) -> Tensor:
        """uint8 input_T3HW, always of `num_frames` frames."""
        return frames(medium, self.num_inputs, self.sampling, self.stride, self.side)

    def num_steps(self, num_inputs: int) -> int:
        """Always the same: these networks take a fixed number of frames."""
        return self.max_steps

    def forward(self, inputs_NT3HW: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """features_NSF, and a mask that is True everywhere."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features_NSF = self._features(inputs_NT3HW).float()
        return features_NSF, torch.ones(features_NSF.shape[:2], dtype=torch.bool, device=features_NSF.device)

    def _features(self, inputs_NT3HW: Tensor) -> Tensor:
        """features_NSF: the feature map averaged over space."""
        x = (inputs_NT3HW.float().div(255).transpose(1, 2) - self.mean) / self.scale
        network = self.network
        if hasattr(network, "pos_encoding"):  # MViT: tokens of time and space behind a class token
            x = network.pos_encoding(network.conv_proj(x).flatten(2).transpose(1, 2))
            size = (network.pos_encoding.temporal_size, *network.pos_encoding.spatial_size)
            for block in network.blocks:
                x, size = block(x, size)
            return network.norm(x)[:, 1:].unflatten(1, size).mean((2, 3))
        if hasattr(network, "patch_embed"):  # Swin3D: channels last
            return network.norm(network.features(network.pos_drop(network.patch_embed(x)))).mean((2, 3))
        if hasattr(network, "features"):  # S3D
            return network.features(x).mean((3, 4)).transpose(1, 2)
        for part in (network.stem, network.layer1, network.layer2, network.layer3, network.layer4):
            x = part(x)
        return x.mean((3, 4)).transpose(1, 2)
