"""What every encoder is: media in, a sequence of feature vectors out.

Shape suffixes: N = media, I = input steps, S = steps of time, P = positions (S times the positions of a step),
F = features of a position.
"""

import hashlib
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from multimodal.examples import Kind, Medium


class Encoder(nn.Module):
    """Turns media of one kind into features. A subclass sets the attributes and implements the methods.

    An input's first dimension is its time: the frames of a clip or of a spectrogram; a picture has one step. A step
    may have several positions: the cells of a picture.
    """

    kind: Kind
    name: str
    """Names architecture, weights and preprocessing: it differs whenever the features would."""
    num_features: int
    """F."""
    positions_per_step: int = 1
    """Positions of one step of time."""
    max_steps: int = 1
    """Most steps of time that a medium can have."""
    frozen: bool = False
    """Its weights are never trained, so features can be computed once and kept."""
    from_scratch: bool = False
    """It starts from random weights: while it is trained its batch norms take mean and scale from the batch."""

    augments: bool = False
    """While it is trained it varies what it sees."""

    def load(self, medium: Medium) -> Tensor:
        """input_I… of one medium, decoded and resized or resampled. Raises `MediaError` for a damaged file."""
        raise NotImplementedError

    def num_steps(self, num_inputs: int) -> int:
        """Steps of time that an input of so many steps gives."""
        return num_inputs

    def num_positions(self, num_inputs: int) -> int:
        """Positions that an input of so many steps gives."""
        return self.num_steps(num_inputs) * self.positions_per_step

    def forward(self, inputs_NI: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """features_NPF and mask_NP (True = a real position) of media padded with 0.

        Args:
            inputs_NI: the inputs of several media, padded at their end to the longest; further dimensions follow.
            lengths_N: int64, steps of each, on any device.
        """
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """A frozen encoder stays in evaluation mode, and so do the batch norms of a pretrained one."""
        super().train(mode and not self.frozen)
        if not self.from_scratch:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def position_mask(self, lengths_N: Tensor, num_positions: int, device: torch.device) -> Tensor:
        """mask_NP, on a device, of inputs of these lengths."""
        real = torch.tensor([self.num_positions(length) for length in lengths_N.tolist()], device=device)
        return torch.arange(num_positions, device=device) < real[:, None]


def heads_of(width: int) -> int:
    """Attention heads of 64 features, or of a few more where 64 does not divide the width."""
    return next((heads for heads in range(width // 64, 1, -1) if width % (2 * heads) == 0), 1)


def fingerprint(module: nn.Module) -> str:
    """Twelve hex digits of a hash over all weights and buffers: part of the name of features kept on disk."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def pad_inputs(inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """inputs_NI… padded with 0 at their end, and lengths_N."""
    lengths_N = torch.tensor([len(one) for one in inputs])
    longest = int(lengths_N.max())
    if all(len(one) == longest for one in inputs):
        return torch.stack(list(inputs)), lengths_N
    padded = inputs[0].new_zeros(len(inputs), longest, *inputs[0].shape[1:])
    for row, one in zip(padded, inputs):
        row[: len(one)] = one
    return padded, lengths_N
