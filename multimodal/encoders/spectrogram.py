"""An audio encoder that is trained from scratch: log-mel spectrogram, two convolutions, Transformer.

Shape suffixes: N = sounds, T = frames of 10 ms, M = mel bands, S = steps of 40 ms, D = width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import ModelConfig
from core.nn.encoder import TransformerEncoder
from multimodal.encoders.encoder import Encoder
from multimodal.examples import Medium
from multimodal.media.decode import waveform

RATE = 16_000
HOP = 160
WINDOW = 400
NUM_MELS = 64
STEP = 4
"""Frames that a step of the features spans."""
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
    """Log-mel frames to one feature vector per 40 ms.

    Args:
        width: D of the features.
        num_layers: Transformer layers.
        max_seconds: longest sound.
        spec_augment: while training, cover random bands of time and frequency.

    References:
        Park et al. 2019, "SpecAugment", arXiv:1904.08779: masking without the time warp.
    """

    kind = "audio"

    def __init__(
        self, *, width: int = 256, num_layers: int = 4, max_seconds: float = 30.0, spec_augment: bool = True
    ) -> None:
        super().__init__()
        self.max_seconds = max_seconds
        self.max_steps = int(max_seconds * RATE) // (HOP * STEP) + 2
        self.num_features = width
        self.name = f"log-mel-{NUM_MELS}-{max_seconds:g} s-v1"
        self.spec_augment = spec_augment
        self.mel = log_mel()
        self.conv1 = nn.Conv1d(NUM_MELS, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        shape = ModelConfig(
            width=width, num_layers=num_layers, num_heads=max(1, width // 64), max_length=self.max_steps, dropout=0.1
        )
        self.transformer = TransformerEncoder(shape)

    def load(self, medium: Medium) -> Tensor:
        """float16 input_TM."""
        return self.mel(waveform(medium, RATE, self.max_seconds)).half()

    def num_steps(self, num_inputs: int) -> int:
        """Two convolutions of stride 2."""
        return (num_inputs + STEP - 1) // STEP

    def forward(self, inputs_NTM: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """features_NSD and mask_NS."""
        x_NMT = inputs_NTM.float().transpose(1, 2)
        lengths = lengths_N.to(x_NMT.device)
        x_NMT = _cut(x_NMT, lengths)
        if self.training and self.spec_augment:
            x_NMT = spec_augment(x_NMT)
        lengths = (lengths + 1) // 2
        x_NDT = _cut(F.gelu(self.conv1(x_NMT)), lengths)
        lengths = (lengths + 1) // 2
        x_NSD = F.gelu(self.conv2(x_NDT)).transpose(1, 2)
        mask_NS = torch.arange(x_NSD.shape[1], device=x_NSD.device) < lengths[:, None]
        return self.transformer(x_NSD, None if bool(mask_NS.all()) else mask_NS), mask_NS


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


def _cut(x_NCT: Tensor, lengths_N: Tensor) -> Tensor:
    """0 beyond each row's own length, so that padding changes nothing."""
    return x_NCT * (torch.arange(x_NCT.shape[2], device=x_NCT.device) < lengths_N[:, None])[:, None]
