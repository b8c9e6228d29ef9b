"""An audio encoder that is trained from scratch: convolutions over a log-mel spectrogram, then a Transformer.

Shape suffixes: N = sounds, T = frames (10 ms at first, half as many after each convolution), M = mel bands,
C = channels, S = steps of the features, D = width, X = real frames of all sounds, Y = padding counted.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import ModelConfig
from core.nn.encoder import TransformerEncoder
from multimodal.encoders.encoder import Encoder, heads_of
from multimodal.examples import Medium
from multimodal.media.decode import waveform

RATE = 16_000
HOP = 160
WINDOW = 400
NUM_MELS = 64
_QUIET = 1e-5


def log_mel(num_mels: int = NUM_MELS) -> Callable[[Tensor], Tensor]:
    """A function from waveforms (…, samples) at 16 kHz to log-mel energies (…, T, M) of about -1 to 1."""
    from torchaudio.transforms import MelSpectrogram

    transform = MelSpectrogram(RATE, n_fft=512, win_length=WINDOW, hop_length=HOP, n_mels=num_mels, power=1.0)

    def apply(samples: Tensor) -> Tensor:
        if samples.shape[-1] <= 256:  # shorter than the reflected border of the transform
            samples = F.pad(samples, (0, 257 - samples.shape[-1]))
        return ((transform(samples) + _QUIET).log() + 5).transpose(-1, -2) / 4

    return apply


class SpectrogramEncoder(Encoder):
    """The log-mel spectrogram as a picture: convolutions of stride 2 with batch norm, then a Transformer over time.

    Args:
        width: D of the features.
        pool: steps of 20 ms that one feature vector spans, a power of two: 4 (80 ms) tells syllables apart, 8 does for
            sounds that go on for longer.
        num_layers: Transformer layers.
        max_seconds: longest sound.
        spec_augment: while training, cover random bands of time and frequency.

    Raises:
        ValueError: `pool` is not a power of two up to 16.

    References:
        Kong et al. 2020, "PANNs", arXiv:1912.10211: such convolutions (theirs are deeper and averaged over time).
        Park et al. 2019, "SpecAugment", arXiv:1904.08779: masking without the time warp.
    """

    kind = "audio"
    from_scratch = True

    def __init__(
        self,
        *,
        width: int = 256,
        pool: int = 4,
        num_layers: int = 2,
        max_seconds: float = 30.0,
        spec_augment: bool = True,
    ) -> None:
        super().__init__()
        if pool not in (1, 2, 4, 8, 16):
            raise ValueError(f"audio_pool must be 1, 2, 4, 8 or 16 before a spectrogram, got {pool}")
        self.max_seconds = max_seconds
        self.frames_per_step = 2 * pool
        self.max_steps = math.ceil((int(max_seconds * RATE) // HOP + 2) / self.frames_per_step)
        self.num_features = width
        self.name = f"log-mel-{NUM_MELS}-{max_seconds:g} s-v1"
        self.augments = spec_augment
        self.mel = log_mel()
        # The last has 128 channels, those before it half as many each: the early ones see many more places.
        num_convolutions = self.frames_per_step.bit_length() - 1
        channels = [1, *(128 >> index for index in reversed(range(num_convolutions)))]
        self.convolutions = nn.ModuleList(ConvNormRelu(before, after) for before, after in pairwise(channels))
        self.mix = nn.ModuleList(ConvNormRelu(channels[-1], channels[-1], stride=1) for _ in range(2))
        self.project = nn.Linear(channels[-1] * NUM_MELS // self.frames_per_step, width)
        shape = ModelConfig(
            width=width, num_layers=num_layers, num_heads=heads_of(width), max_length=self.max_steps, dropout=0.1
        )
        self.transformer = TransformerEncoder(shape)

    def load(self, medium: Medium) -> Tensor:
        """float16 input_TM."""
        return self.mel(waveform(medium, RATE, self.max_seconds)).half()

    def num_steps(self, num_inputs: int) -> int:
        """Every convolution halves the frames, rounding up."""
        return math.ceil(num_inputs / self.frames_per_step)

    def forward(self, inputs_NTM: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """features_NSD and mask_NS."""
        x_NTM = inputs_NTM.float()
        lengths_N = lengths_N.to(x_NTM.device)
        mask_NT = _mask(lengths_N, x_NTM.shape[1])
        x_NTM = x_NTM * mask_NT[..., None]
        if self.training and self.augments:
            x_NTM = spec_augment(x_NTM.transpose(1, 2)).transpose(1, 2)
        x_NCTM = x_NTM[:, None].contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            lengths_N = (lengths_N + 1) // 2
            mask_NT = _mask(lengths_N, (x_NCTM.shape[2] + 1) // 2)
            x_NCTM = convolution(x_NCTM, mask_NT)
        for convolution in self.mix:
            x_NCTM = x_NCTM + convolution(x_NCTM, mask_NT)
        x_NSD = self.project(x_NCTM.transpose(1, 2).flatten(2))
        return self.transformer(x_NSD, None if bool(mask_NT.all()) else mask_NT), mask_NT


class ConvNormRelu(nn.Module):
    """relu(batchnorm(conv(x))), 0 in padding, which stays out of the statistics of the batch."""

    def __init__(self, before: int, after: int, stride: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(after)

    def forward(self, x_NCTM: Tensor, mask_NT: Tensor) -> Tensor:
        """x_NCTM with half the frames and bands if the stride is 2; the mask is of the frames that come out."""
        x_NTMC = self.conv(x_NCTM).permute(0, 2, 3, 1)
        if bool(mask_NT.all()):
            return F.relu(self.norm(x_NTMC.flatten(0, 2))).view(x_NTMC.shape).permute(0, 3, 1, 2)
        rows_YMC = x_NTMC.flatten(0, 1)
        real_X = mask_NT.flatten().nonzero().squeeze(1)
        real_XMC = rows_YMC.index_select(0, real_X)
        real_XMC = F.relu(self.norm(real_XMC.flatten(0, 1))).view(real_XMC.shape)
        rows_YMC = torch.zeros_like(rows_YMC).index_copy(0, real_X, real_XMC.to(rows_YMC.dtype))
        return rows_YMC.view(x_NTMC.shape).permute(0, 3, 1, 2)


def spec_augment(
    x_NMT: Tensor, *, bands: int = 2, max_band: int = 12, spans: int = 2, max_span_share: float = 0.1
) -> Tensor:
    """Spectrograms with random bands of frequency and spans of time set to 0, their mean.

    Args:
        x_NMT: spectrograms.
        bands: bands of frequency, each of 0 to `max_band` mel bands.
        max_band: see `bands`.
        spans: spans of time.
        max_span_share: longest span as a share of T.
    """
    for axis, count, most in ((1, bands, max_band), (2, spans, max(1, int(max_span_share * x_NMT.shape[2])))):
        size = x_NMT.shape[axis]
        widths = torch.rand(len(x_NMT), count, device=x_NMT.device) * min(most, size)
        starts = torch.rand_like(widths) * (size - widths)
        place = torch.arange(size, device=x_NMT.device)[None, None]
        covered = ((place >= starts[..., None]) & (place < (starts + widths)[..., None])).any(1)
        x_NMT = x_NMT.masked_fill(covered[:, :, None] if axis == 1 else covered[:, None, :], 0.0)
    return x_NMT


def _mask(lengths_N: Tensor, num_frames: int) -> Tensor:
    """mask_NT, True = a real frame."""
    return torch.arange(num_frames, device=lengths_N.device) < lengths_N[:, None]
