"""Recipes for plain language models."""

import dataclasses
from pathlib import Path
from typing import Any

from core.config import ModelConfig, OptimConfig
from core.language.config import LanguageConfig


def text(text_file: str | Path | None = None, **changes: Any) -> LanguageConfig:
    """A character language model of any text file, in a minute and a half.

    Command: trillium train core:text --text FILE
    Runtime: 90 seconds on two CPU cores
    Expected: tinyshakespeare validation loss 1.53 nats per character
    """
    config = LanguageConfig(
        out=Path("runs/text"),
        text=None if text_file is None else Path(text_file),
        time_budget_s=90,
        length=128,
        batch_size=16,
        model=ModelConfig(width=128, num_layers=4, num_heads=2),
        optim=OptimConfig(optimizer="muon", lr=3e-3, muon_lr=0.02, schedule="linear", warmup_steps=40),
        log_every=50,
    )
    return dataclasses.replace(config, **changes)


def text_large(text_file: str | Path | None = None, **changes: Any) -> LanguageConfig:
    """As `text`, with a wider model that sees 256 characters: better from three minutes on.

    Command: trillium train core:text_large --text FILE
    Runtime: 3 minutes on two CPU cores
    Expected: tinyshakespeare validation loss 1.46 nats per character
    """
    config = dataclasses.replace(
        text(text_file),
        out=Path("runs/text-large"),
        time_budget_s=178,
        length=256,
        batch_size=8,
        model=ModelConfig(width=192, num_layers=4, num_heads=3),
    )
    return dataclasses.replace(config, **changes)


def finetune(text_file: str | Path | None = None, **changes: Any) -> LanguageConfig:
    """Go on training a published model, or one of yours, on a text file (`--init-from SOURCE`).

    SOURCE is a Hugging Face folder, a .gguf file or a run.

    Command: trillium train core:finetune --init-from SOURCE --text FILE
    Runtime: 4 minutes for SmolLM2-135M on two CPU cores
    Expected: SmolLM2-135M on tinyshakespeare: 1.54 bits a byte
    """
    config = LanguageConfig(
        out=Path("runs/finetune"),
        text=None if text_file is None else Path(text_file),
        init_from=Path("model"),
        steps=100,
        length=256,
        batch_size=4,
        optim=OptimConfig(lr=1e-4, warmup_steps=10),
        checkpoint_every=100,
    )
    return dataclasses.replace(config, **changes)
