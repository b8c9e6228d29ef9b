"""Named model sizes from 1M to 7B parameters, and the Llama and GPT-2 layouts.

A preset gives the shape; the vocabulary comes from the tokenizer.
"""

from dataclasses import replace
from typing import Any

from core.config import ModelConfig

# Widths are multiples of 64 with 64-wide heads, which the attention kernels of GPUs and of vLLM want.
PRESETS: dict[str, ModelConfig] = {
    "1m": ModelConfig(width=128, num_layers=4, num_heads=4, max_length=512),
    "3m": ModelConfig(width=192, num_layers=6, num_heads=3, max_length=512),
    "10m": ModelConfig(width=384, num_layers=6, num_heads=6, max_length=1024),
    "30m": ModelConfig(width=512, num_layers=8, num_heads=8, num_kv_heads=4, max_length=1024),
    "125m": ModelConfig(width=768, num_layers=12, num_heads=12, num_kv_heads=4, max_length=2048),
    "350m": ModelConfig(width=1024, num_layers=24, num_heads=16, num_kv_heads=8, max_length=2048),
    "1b": ModelConfig(width=2048, num_layers=20, num_heads=32, num_kv_heads=8, max_length=4096, rope_theta=1e6),
    "3b": ModelConfig(
        width=2560, num_layers=32, num_heads=40, num_kv_heads=8, mlp_width=8192, max_length=8192, rope_theta=1e6
    ),
    "7b": ModelConfig(
        width=4096, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128, mlp_width=11008, max_length=8192,
        rope_theta=1e6, tied=False,
    ),
    "gpt2": ModelConfig(
        width=768, num_layers=12, num_heads=12, max_length=1024, positions="learned", norm="layer", norm_eps=1e-5,
        qk_norm=False, activation="gelu_tanh", bias=True,
    ),
}  # fmt: skip


def preset(name: str, *, vocab_size: int, **overrides: Any) -> ModelConfig:
    """The model config of a named size.

    Args:
        name: a key of `PRESETS`; `llama-NAME` is the same size without query and key norms (Llama's layout).
        vocab_size: number of token ids.
        overrides: fields of `ModelConfig` to change.

    Raises:
        ValueError: if there is no such preset.
    """
    size = name.removeprefix("llama-")
    if size not in PRESETS:
        raise ValueError(f"no model preset {name!r}: choose one of {', '.join(PRESETS)}, or llama- before a size")
    if size != name:
        overrides = {"qk_norm": False, **overrides}
    return replace(PRESETS[size], vocab_size=vocab_size, **overrides)
