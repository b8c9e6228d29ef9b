"""Recipes for plain language models."""

import dataclasses
from pathlib import Path
from typing import Any

from core.config import ModelConfig, OptimConfig
from core.language.config import LanguageConfig


def text(text: str | Path | None = None, *, budget_s: float = 90, **changes: Any) -> LanguageConfig:
    """A character language model of any text file, in a minute and a half.

    Command: trillium train core:text --text FILE
    Runtime: 90 seconds on two CPU cores
    Expected: tinyshakespeare validation loss 1.53 nats per character
    """
    config = LanguageConfig(
        out=Path("runs/text"),
        text=None if text is None else Path(text),
        time_budget_s=budget_s,
        length=128,
        batch_size=16,
        model=ModelConfig(width=128, num_layers=4, num_heads=2),
        optim=OptimConfig(optimizer="muon", lr=3e-3, muon_lr=0.02, schedule="linear", warmup_steps=40),
        log_every=50,
    )
    return dataclasses.replace(config, **changes)
