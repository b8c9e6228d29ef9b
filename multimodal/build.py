"""From a config to a captioner: language model, adapters, placement of media."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.config import ModelConfig
from core.errors import UserError
from core.nn.block import Block, SelfAttention
from core.nn.lora import apply_lora
from core.nn.transformer import Transformer
from core.text.tokenizer import Tokenizer
from multimodal.adapters import Adapter, PerceiverAdapter, PooledAdapter
from multimodal.captioner import Captioner, Placement
from multimodal.config import CaptioningConfig
from multimodal.encoders.encoder import Encoder
from multimodal.examples import Kind
from multimodal.qformer import QFormerAdapter

CROSS_ATTENTION_EVERY = 2
"""Blocks between two that attend to media, where the model's config does not say."""


def load_language_model(init_from: Path, num_layers: int | None = None) -> tuple[Transformer, Tokenizer]:
    """A pretrained language model and its tokenizer.

    Args:
        init_from: see `core.pretrained.interchange.load_model`.
        num_layers: keep its first so many layers; all by default.

    Raises:
        UserError: it is not there, has no tokenizer or has fewer layers.
    """
    from core.pretrained.interchange import load_model

    model, tokenizer = load_model(init_from)
    if tokenizer is None:
        raise UserError(f"{init_from} has no tokenizer.json: save its tokenizer there too")
    if num_layers is not None:
        if num_layers > len(model.model.layers):
            raise UserError(f"init_layers is {num_layers}, and {init_from} has {len(model.model.layers)} layers")
        model.model.layers = model.model.layers[:num_layers]
        model.config = dataclasses.replace(model.config, num_layers=num_layers)
    return model, tokenizer


def build_language_model(
    config: CaptioningConfig, shape: ModelConfig, loaded: Transformer | None = None
) -> Transformer:
    """The language model with the adapters and cross-attention that the config asks for.

    Args:
        config: fusion, LoRA and dropout.
        shape: of a fresh model, from `language_model_shape`.
        loaded: a pretrained model to take instead.
    """
    if loaded is None:
        bare = dataclasses.replace(shape, cross_attention_every=0) if config.lora_rank else shape
        loaded = Transformer(bare)
    set_dropout(loaded, config.model.dropout)
    if config.lora_rank:
        apply_lora(loaded, rank=config.lora_rank)
    if shape.cross_attention_every != loaded.config.cross_attention_every:
        loaded.add_cross_attention(shape.cross_attention_every)
    return loaded


def set_dropout(model: Transformer, dropout: float) -> None:
    """Train a model with other dropout than it was made with."""
    model.config = dataclasses.replace(model.config, dropout=dropout)
    for module in model.modules():
        if isinstance(module, Block | SelfAttention):
            module.dropout = dropout


def language_model_shape(config: CaptioningConfig, base: ModelConfig) -> ModelConfig:
    """`base` with cross-attention where the fusion needs it and it has none."""
    crosses = config.fusion == "gated_cross_attention"
    every = (base.cross_attention_every or CROSS_ATTENTION_EVERY) if crosses else 0
    return dataclasses.replace(base, cross_attention_every=min(every, base.num_layers))


def build_captioner(
    config: CaptioningConfig, encoders: Mapping[Kind, Encoder], model: Transformer, *, bos_id: int, eos_id: int
) -> Captioner:
    """The captioner around a language model, whose begin token is the blank of CTC."""
    options: dict[str, Any] = {"dropout": config.media_dropout, "blank_probability": config.blank_probability}
    resampler: dict[str, Any] = {"num_queries": config.num_queries, "num_layers": config.fusion_layers}
    adapters: dict[Kind, Adapter] = {}
    for kind, encoder in encoders.items():
        if config.fusion == "perceiver":
            adapters[kind] = PerceiverAdapter(encoder, model.width, **resampler, **options)
        elif config.fusion == "qformer":
            adapters[kind] = QFormerAdapter(encoder, model.width, **resampler, **options)
        elif config.fusion == "concat":
            adapters[kind] = PooledAdapter(encoder, model.width, **options)
        else:
            adapters[kind] = Adapter(encoder, model.width, **options)
    if config.init_from is not None:
        # Media as large as words: many times larger, they would drown what the model's blocks add to them.
        size = model.model.embed_tokens.weight.detach().square().mean().sqrt().item()
        for adapter in adapters.values():
            adapter.gain.fill_(size)
    placements: dict[str, Placement] = {"concat": "shift", "gated_cross_attention": "memory"}
    return Captioner(
        model,
        adapters,
        {kind: encoder for kind, encoder in encoders.items() if not encoder.frozen},
        placement=placements.get(config.fusion, "sequence"),
        eos_id=eos_id,
        max_new_tokens=config.max_target_tokens,
        bidirectional=config.is_bidirectional,
        ctc_weight=config.ctc_weight,
        blank_id=bos_id,
    )
