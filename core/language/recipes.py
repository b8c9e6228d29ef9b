"""Recipes for plain language models."""

import dataclasses
from pathlib import Path
from typing import Any

from core.config import ModelConfig, OptimConfig
from core.language.config import LanguageConfig


def text(text: str | Path | None = None, *, budget_s: float = 180, **changes: Any) -> LanguageConfig:
    """A character language model of any text file, in three minutes.

    Command: trillium train core:text --text FILE
    Runtime: 3 minutes on two CPU cores
    Expected: tinyshakespeare validation loss 1.50 nats per character
    """
    config = LanguageConfig(
        out=Path("runs/text"),
        text=None if text is None else Path(text),
        time_budget_s=budget_s,
        length=256,
        batch_size=16,
        model=ModelConfig(width=192, num_layers=6, num_heads=3),
        optim=OptimConfig(lr=3e-3, schedule="linear", warmup_steps=50, weight_decay=0.1, betas=(0.9, 0.95)),
    )
    return dataclasses.replace(config, **changes)
