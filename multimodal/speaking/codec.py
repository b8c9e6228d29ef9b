"""Sounds as short sequences of codes, and back.

    waveform -> log-mel frames -> chunks of neighbouring frames -> number of the nearest centre in a codebook
    code -> centre -> log-mel frames -> magnitudes of the spectrum -> Griffin-Lim -> waveform

Shape suffixes: S = samples, T = frames, M = mel bands, C = codes of a sound, K = codes there are, F = features of a
chunk (frames x mel bands), Q = frequencies.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import RunError
from core.text.atomic import write_json
from multimodal.speaking.kmeans import kmeans, nearest

RATE = 16_000
_QUIET = 1e-3
"""Amplitude below which a band counts as silent, so that no codes are spent on kinds of silence."""
_MOST_VECTORS = 20_000
"""A codebook is learnt from so many chunks, drawn at random: more cost time and change nothing that is heard."""
_SPREAD = 3
"""They are drawn from sounds with so many times as many."""
_WEIGHTS_NAME, _SETTINGS_NAME = FILES = "codec.safetensors", "codec.json"


@dataclass(frozen=True, kw_only=True)
class CodecSettings:
    """How sounds become codes."""

    hop: int = 200
    """Samples between two frames: 12.5 ms."""
    window: int = 1024
    """Samples of a frame."""
    num_mels: int = 80
    """Mel bands of a frame."""
    chunk: int = 2
    """Neighbouring frames that one code stands for."""
    num_codes: int = 512
    """Size of the codebook."""
    rounds: int = 60
    """Iterations of Griffin-Lim."""


class SpeechCodec:
    """Turns waveforms at 16 kHz into codes of a learnt codebook, and codes into waveforms.

    Args:
        centres_KF: the codebook: log-mel chunks.
        settings: of the frames.

    References:
        Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform", IEEE Trans. ASSP.
        Perraudin, Balazs and Søndergaard 2013, "A fast Griffin-Lim algorithm", WASPAA: its momentum.
    """

    def __init__(self, centres_KF: Tensor, settings: CodecSettings) -> None:
        self.centres_KF = centres_KF
        self.settings = settings
        self._frames = _Frames(settings)

    @classmethod
    def fit(cls, sounds: Sequence[Tensor], settings: CodecSettings | None = None, *, seed: int = 0) -> Self:
        """Learn the codebook by k-means on the chunks of some sounds.

        Args:
            sounds: each a waveform_S at 16 kHz.
            settings: of the frames; by default those of `CodecSettings`.
            seed: of everything drawn at random.

        Raises:
            ValueError: the sounds have fewer chunks than the codebook has codes.
        """
        settings = settings or CodecSettings()
        frames = _Frames(settings)
        generator = torch.Generator().manual_seed(seed)
        parts: list[Tensor] = []
        wanted = _SPREAD * _MOST_VECTORS
        for index in torch.randperm(len(sounds), generator=generator).tolist():
            parts.append(frames.chunks(sounds[index]))
            wanted -= len(parts[-1])
            if wanted <= 0:
                break
        vectors_NF = torch.cat(parts)
        if len(vectors_NF) < settings.num_codes:
            raise ValueError(
                f"the sounds have {len(vectors_NF)} chunks of {settings.chunk} frames, fewer than the "
                f"{settings.num_codes} codes that are to be learnt: lower num_codes or give more sounds"
            )
        drawn = torch.randperm(len(vectors_NF), generator=generator)[:_MOST_VECTORS]
        return cls(kmeans(vectors_NF[drawn], settings.num_codes, generator=generator), settings)

    @property
    def codes_per_second(self) -> float:
        """Codes that a second of sound takes."""
        return RATE / (self.settings.hop * self.settings.chunk)

    def encode(self, waveform_S: Tensor) -> list[int]:
        """The codes of a sound at 16 kHz; its last chunk is filled up with silence."""
        return nearest(self._frames.chunks(waveform_S), self.centres_KF)[0].tolist()

    def decode(self, codes: Sequence[int]) -> Tensor:
        """waveform_S, float32 in [-1, 1]; the same codes give the same samples. No codes give no samples.

        Raises:
            ValueError: a number that is no code.
        """
        if not codes:
            return torch.zeros(0)
        if not 0 <= min(codes) <= max(codes) < len(self.centres_KF):
            raise ValueError(f"codes must be in [0, {len(self.centres_KF)}), got {min(codes)} to {max(codes)}")
        mel_TM = self.centres_KF[torch.tensor(codes)].view(-1, self.settings.num_mels)
        return self._frames.waveform(mel_TM)

    def save(self, folder: Path) -> None:
        """Write the codebook and the settings into a folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"centres": self.centres_KF.contiguous()}, folder / _WEIGHTS_NAME)
        write_json(folder / _SETTINGS_NAME, asdict(self.settings))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote.

        Raises:
            RunError: there is no codec in the folder.
        """
        from safetensors.torch import load_file

        if not (folder / _WEIGHTS_NAME).is_file() or not (folder / _SETTINGS_NAME).is_file():
            raise RunError(f"{folder} holds no codec: train the run first")
        settings = CodecSettings(**json.loads((folder / _SETTINGS_NAME).read_text(encoding="utf-8")))
        return cls(load_file(folder / _WEIGHTS_NAME)["centres"], settings)


class _Frames:
    """Log-mel frames of waveforms, and waveforms of log-mel frames."""

    def __init__(self, settings: CodecSettings) -> None:
        from torchaudio.functional import melscale_fbanks
        from torchaudio.transforms import GriffinLim, Spectrogram

        self.settings = settings
        self._spectrum = Spectrogram(settings.window, hop_length=settings.hop, power=1.0)
        # Slaney's filters have equal area: the bands of a flat spectrum come out equal.
        self._filters_QM = melscale_fbanks(
            settings.window // 2 + 1, 0.0, RATE / 2, settings.num_mels, RATE, norm="slaney", mel_scale="slaney"
        )
        self._inverse_MQ = torch.linalg.pinv(self._filters_QM)
        self._griffin_lim = GriffinLim(
            settings.window, n_iter=settings.rounds, hop_length=settings.hop, power=1.0, rand_init=False
        )

    def chunks(self, waveform_S: Tensor) -> Tensor:
        """vectors_CF of log amplitudes."""
        size = self.settings.hop * self.settings.chunk
        count = max(1, -(-len(waveform_S) // size))
        # One window more on either side, so that the transform has something to reflect.
        padded_S = F.pad(waveform_S, (0, count * size - len(waveform_S) + self.settings.window))
        mel_TM = self._spectrum(padded_S).T @ self._filters_QM
        return (mel_TM[: count * self.settings.chunk] + _QUIET).log().view(count, -1)

    def waveform(self, mel_TM: Tensor) -> Tensor:
        """waveform_S of hop x T samples."""
        length = len(mel_TM) * self.settings.hop
        amplitude_TM = (mel_TM.exp() - _QUIET).clamp(min=0)
        magnitude_QT = (amplitude_TM @ self._inverse_MQ).clamp(min=0).T
        # Frames of silence behind the end, so that the last ones are whole.
        magnitude_QT = F.pad(magnitude_QT, (0, self.settings.window // self.settings.hop + 1))
        return self._griffin_lim(magnitude_QT)[:length].clamp(-1, 1)
