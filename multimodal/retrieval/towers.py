"""Two towers: media and texts to vectors of one space.

Shape suffixes: N = media or texts, T = tokens of a text, I = input steps of a medium, P = positions of a medium,
F = features of a position, S = positions of any sequence, D = width of a tower, V = numbers of a vector;
3HW = colour, height, width.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.config import ModelConfig
from core.nn.encoder import TransformerEncoder
from multimodal.adapters import Adapter
from multimodal.encoders.encoder import Encoder
from multimodal.examples import Kind, Medium
from multimodal.media.decode import image_content
from multimodal.retrieval.augment import moved
from multimodal.retrieval.config import HEAD_WIDTH, RetrievalConfig

MAX_LOGIT_SCALE = math.log(100)
"""The logarithmic scale is kept below this, as in CLIP: products of unit vectors are multiplied by 100 at most."""
INIT: Mapping[str, tuple[float, float | None]] = {"clip": (math.log(1 / 0.07), None), "siglip": (math.log(10), -10.0)}
"""Logarithm of the scale, and bias, with which open_clip begins each loss."""


class Towers(nn.Module):
    """What both kinds of towers offer. `encoders` says, by kind, how media are loaded or encoded."""

    encoders: dict[Kind, Encoder]

    def media(self, kind: Kind, inputs_NI: Tensor, lengths_N: Tensor) -> Tensor:
        """vectors_NV, float32 of length 1.

        Args:
            kind: of all of them.
            inputs_NI: what `encoders[kind]` loads, or for a frozen one its features; padded with 0 at the end.
            lengths_N: int64, steps (or positions of features) of each.
        """
        raise NotImplementedError

    def texts(self, ids_NT: Tensor) -> Tensor:
        """vectors_NV, float32 of length 1, of token ids padded with 0."""
        raise NotImplementedError

    @property
    def scale(self) -> tuple[nn.Parameter, nn.Parameter | None]:
        """Logarithm of the factor, and addend, that make a product of vectors a logit."""
        raise NotImplementedError

    def to_compile(self) -> list[nn.Module]:
        """The parts whose inputs have one shape in training."""
        raise NotImplementedError


class ClipTowers(Towers):
    """A CLIP model of open_clip, small and from scratch: pictures and texts.

    Args:
        config: sizes, loss and augmentation.
        vocab_size: of the tokenizer.
        eos_id: its end of a text, where the text tower is read.

    References:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
    """

    def __init__(self, config: RetrievalConfig, vocab_size: int, eos_id: int) -> None:
        super().__init__()
        import open_clip

        scale, bias = INIT[config.loss]
        vision: dict[str, Any] = {
            "image_size": config.clip_side,
            "patch_size": config.patch,
            "width": config.media_width,
            "layers": config.media_layers,
            "head_width": HEAD_WIDTH,
        }
        text: dict[str, Any] = {
            "context_length": config.max_text_tokens,
            "vocab_size": vocab_size,
            "width": config.text_width,
            "layers": config.text_layers,
            "heads": config.text_width // HEAD_WIDTH,
            "pool_type": "eos",
            "eos_id": eos_id,
        }
        self.clip = open_clip.CLIP(
            config.vector_width,
            open_clip.CLIPVisionCfg(**vision),
            open_clip.CLIPTextCfg(**text),
            init_logit_scale=scale,
            init_logit_bias=bias,
        )
        self.context = config.max_text_tokens
        self.augment = config.augment
        self.encoders = {"image": SquarePictures(config.clip_side)}

    def media(self, kind: Kind, inputs_NI: Tensor, lengths_N: Tensor) -> Tensor:
        """vectors_NV of uint8 pictures (N, 1, 3, H, W)."""
        if kind != "image":
            raise ValueError(f"the tower open_clip takes pictures only, not {kind}: set tower to features")
        # White is 0, so that what moves in from beyond the border is white.
        images_N3HW = inputs_NI[:, 0].float().sub(255).div(127.5)
        if self.augment and self.training:
            images_N3HW = moved(images_N3HW)
        with _attention(images_N3HW.device):
            return F.normalize(self.clip.visual(images_N3HW + 1).float(), dim=-1)

    def texts(self, ids_NT: Tensor) -> Tensor:
        """vectors_NV, read at the end of each text; attention is causal, so padding behind it changes nothing."""
        ids_NT = F.pad(ids_NT, (0, self.context - ids_NT.shape[1]))
        with _attention(ids_NT.device):
            return F.normalize(self.clip.encode_text(ids_NT).float(), dim=-1)

    @property
    def scale(self) -> tuple[nn.Parameter, nn.Parameter | None]:
        """Those of the CLIP model."""
        return self.clip.logit_scale, self.clip.logit_bias

    def to_compile(self) -> list[nn.Module]:
        """Both of open_clip's Transformers."""
        return [self.clip.visual, self.clip.transformer]


class FeatureTowers(Towers):
    """Any encoders, each with a small Transformer behind it, and a Transformer for texts.

    Args:
        config: sizes and loss.
        vocab_size: of the tokenizer.
        encoders: by kind; frozen ones are no part of the module, which then takes their features.
    """

    def __init__(self, config: RetrievalConfig, vocab_size: int, encoders: Mapping[Kind, Encoder]) -> None:
        super().__init__()
        scale, bias = INIT[config.loss]
        self.encoders = dict(encoders)
        self.trained = nn.ModuleDict({kind: encoder for kind, encoder in encoders.items() if not encoder.frozen})
        self.adapters = nn.ModuleDict(
            {kind: Adapter(one, config.media_width, dropout=config.dropout) for kind, one in encoders.items()}
        )
        self.heads = nn.ModuleDict()
        for kind, encoder in encoders.items():
            longest = encoder.max_steps * encoder.positions_per_step
            self.heads[kind] = PooledTransformer(
                config.media_width, config.media_layers, longest, config.vector_width, config.dropout
            )
        self.words = nn.Embedding(vocab_size, config.text_width)
        nn.init.normal_(self.words.weight, std=0.5)
        self.text = PooledTransformer(
            config.text_width, config.text_layers, config.max_text_tokens, config.vector_width, config.dropout
        )
        self.logit_scale = nn.Parameter(torch.tensor(scale))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    def media(self, kind: Kind, inputs_NI: Tensor, lengths_N: Tensor) -> Tensor:
        """vectors_NV of features, or of what an encoder that is trained takes."""
        if kind in self.trained:
            features_NPF, mask_NP = self.trained[kind](inputs_NI, lengths_N)
        else:
            features_NPF = inputs_NI
            positions_P = torch.arange(inputs_NI.shape[1], device=inputs_NI.device)
            mask_NP = positions_P < lengths_N.to(inputs_NI.device)[:, None]
        x_NPD, mask_NP = self.adapters[kind](features_NPF, mask_NP)
        return self.heads[kind](x_NPD, mask_NP)

    def texts(self, ids_NT: Tensor) -> Tensor:
        """vectors_NV, the mean over all positions but the padding (id 0)."""
        return self.text(self.words(ids_NT), ids_NT != 0)

    @property
    def scale(self) -> tuple[nn.Parameter, nn.Parameter | None]:
        """Its own parameters."""
        return self.logit_scale, self.logit_bias

    def to_compile(self) -> list[nn.Module]:
        """All blocks."""
        return [self]


class PooledTransformer(nn.Module):
    """A Transformer over a sequence, the mean of its positions, a projection, length 1.

    Args:
        width: D.
        num_layers: of the Transformer.
        longest: S, most positions.
        vector_width: V.
        dropout: while training.
    """

    def __init__(self, width: int, num_layers: int, longest: int, vector_width: int, dropout: float) -> None:
        super().__init__()
        self.transformer = TransformerEncoder(
            ModelConfig(
                width=width,
                num_layers=num_layers,
                num_heads=width // HEAD_WIDTH,
                max_length=longest,
                dropout=dropout,
            )
        )
        self.project = nn.Linear(width, vector_width, bias=False)

    def forward(self, x_NSD: Tensor, mask_NS: Tensor) -> Tensor:
        """vectors_NV, float32; mask_NS is True for real positions, of which every row needs one."""
        hidden_NSD = self.transformer(x_NSD, mask_NS).float()
        weight_NS1 = mask_NS[..., None].to(hidden_NSD.dtype)
        mean_ND = (hidden_NSD * weight_NS1).sum(1) / weight_NS1.sum(1).clamp(min=1)
        return F.normalize(self.project(mean_ND).float(), dim=-1)


class SquarePictures(Encoder):
    """Loads pictures as they are: the network is part of the towers."""

    kind: Kind = "image"

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.name = f"squares of {side} pixels"

    def load(self, medium: Medium) -> Tensor:
        """uint8 input_13HW."""
        return image_content(medium, self.side)[None]


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU plain matrix products: in bfloat16 the backward pass of torch's fused kernel takes ten times as long."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def build_towers(
    config: RetrievalConfig, vocab_size: int, eos_id: int, encoders: Mapping[Kind, Encoder] | None
) -> Towers:
    """The towers that a config names.

    Args:
        config: of the run.
        vocab_size: of the tokenizer.
        eos_id: its end of a text.
        encoders: of `features`, by kind.
    """
    if config.tower == "open_clip":
        return ClipTowers(config, vocab_size, eos_id)
    assert encoders is not None
    return FeatureTowers(config, vocab_size, encoders)
