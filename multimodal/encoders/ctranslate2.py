"""Whisper weights in CTranslate2's file format, under the names that transformers gives them.

A `model.bin` of format 6 is little-endian: u32 format, text (u16 length, zero-ended), u32 revision, u32 number of
variables; per variable its name (a text), u8 number of dimensions, u32 each, u8 dtype, u32 bytes, and the data.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from core.pretrained.sources import DamagedData

_DTYPES = {0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16, 5: torch.bfloat16}
_FORMAT = 6

# CTranslate2's name of a layer's part, and transformers'. Projections that it joins are listed in their order.
_ATTENTION = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_NORMS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}
_WHOLE = {
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
}


def read_variables(path: Path) -> dict[str, Tensor]:
    """All variables of a `model.bin` by CTranslate2's names.

    Raises:
        DamagedData: not such a file, or one that ends too early.
    """
    try:
        with path.open("rb") as stream:
            (version,) = _unpack(stream, "I")
            if version != _FORMAT:
                raise DamagedData(f"{path} has CTranslate2's format {version}; only {_FORMAT} is read")
            _text(stream)
            _, count = _unpack(stream, "II")
            return dict(_variable(stream) for _ in range(count))
    except (struct.error, KeyError, ValueError, RuntimeError) as error:
        raise DamagedData(f"{path} is no CTranslate2 model, or is damaged ({error}): get it again") from error


def read_whisper(path: Path) -> dict[str, Tensor]:
    """A Whisper `model.bin` in float32 by transformers' names, encoder and decoder.

    Raises:
        DamagedData: not such a file.
    """
    state: dict[str, Tensor] = {}
    for name, value in read_variables(path).items():
        if not value.is_floating_point() or value.dim() == 0:
            continue  # settings that CTranslate2 keeps among the weights
        side, _, rest = name.partition("/")
        leaf = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}.get(name.rpartition("/")[2], "")
        if name in _WHOLE:
            state[_WHOLE[name]] = value.float()
        elif rest.startswith("layer_norm"):
            state[f"model.{side}.layer_norm.{leaf}"] = value.float()
        elif rest.startswith("conv"):
            state[f"model.{side}.{rest.partition('/')[0]}.{leaf}"] = value.float()
        elif rest.startswith("layer_"):
            layer, _, part = rest.partition("/")
            part = part.rpartition("/")[0]
            prefix = f"model.{side}.layers.{layer.removeprefix('layer_')}"
            if part in _NORMS:
                state[f"{prefix}.{_NORMS[part]}.{leaf}"] = value.float()
                continue
            if part not in _ATTENTION:
                raise DamagedData(f"{path} is a CTranslate2 model, but not of Whisper: it has {name}")
            names = _ATTENTION[part]
            for target, piece in zip(names, value.float().chunk(len(names))):
                # Whisper's key projections have no bias; CTranslate2 stores zeros for it.
                if not (target.endswith("k_proj") and leaf == "bias"):
                    state[f"{prefix}.{target}.{leaf}"] = piece.contiguous()
    if "model.encoder.conv1.weight" not in state:
        raise DamagedData(f"{path} is a CTranslate2 model, but not of Whisper")
    return state


def _unpack(stream: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(f"<{layout}", stream.read(struct.calcsize(f"<{layout}")))


def _text(stream: BinaryIO) -> str:
    (length,) = _unpack(stream, "H")
    return stream.read(length).rstrip(b"\0").decode()


def _variable(stream: BinaryIO) -> tuple[str, Tensor]:
    name = _text(stream)
    (rank,) = _unpack(stream, "B")
    shape = _unpack(stream, "I" * rank)
    kind, num_bytes = _unpack(stream, "BI")
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise ValueError("the file ends within a variable")
    return name, torch.frombuffer(bytearray(data), dtype=_DTYPES[kind]).reshape(shape)
