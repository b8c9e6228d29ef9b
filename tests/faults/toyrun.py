"""A tiny run with every kind of state in use, for the fault tests: `python tests/faults/toyrun.py --out DIR`.

Dropout draws from torch, noise on the inputs from NumPy and Python; a batch norm has buffers; the weights are averaged.
"""

import argparse
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from core.config import OptimConfig, RunConfig
from core.training.batches import ShuffledBatches
from core.training.runtime import Runtime
from core.training.trainer import Trainer
from core.training.update import Updater


@dataclass(frozen=True, kw_only=True)
class ToyConfig(RunConfig):
    trainer: ClassVar[str] = "toyrun:ToyTrainer"
    steps: int = 24
    batch_size: int = 8
    device: str = "cpu"
    precision: str = "fp32"  # type: ignore[assignment]
    threads: int | None = 1
    log_every: int = 5
    eval_every: int = 10
    checkpoint_every: int = 7
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=0.01, warmup_steps=3, ema_decay=0.9))
    num_items: int = 27
    """Items in the data: 27 with batches of 8, so that epochs end within a batch."""
    hidden: int = 6
    """Hidden width."""
    pause_s: float = 0.0
    """Sleep this long in every step."""
    poison_step: int = -1
    """The step with this index has a non-finite loss."""
    poison: str = "nan"
    """The non-finite value."""


class ToyTask:
    def __init__(self, config: ToyConfig, runtime: Runtime) -> None:
        self.config = config
        self.model = nn.Sequential(
            nn.Linear(4, config.hidden), nn.BatchNorm1d(config.hidden), nn.Dropout(0.1), nn.Linear(config.hidden, 1)
        )
        self.updater = Updater(self.model, config.optim, runtime, config.steps)
        self.done = 0

    def train_step(self, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        x, y = batch
        x = x + 0.01 * random.random() + torch.from_numpy(0.01 * np.random.standard_normal(x.shape)).float()
        loss = (self.updater(x) - y).square().mean()
        if self.done == self.config.poison_step:
            loss = loss * float(self.config.poison)
        if self.config.pause_s:
            time.sleep(self.config.pause_s)
        report = self.updater.step(loss)
        self.done += 1
        return {"loss": report.loss, "grad_norm": report.grad_norm, "lr": report.lr, "skipped": report.skipped}

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        torch.rand(3)  # an evaluation may draw random numbers
        self.model.eval()
        return {"score": float(self.model(torch.ones(2, 4)).sum())}

    def state_dict(self) -> dict[str, Any]:
        return {"updater": self.updater.state_dict(), "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updater.load_state_dict(state["updater"])
        self.done = state["done"]


class ToyTrainer(Trainer):
    config: ToyConfig

    def build(self) -> tuple[ToyTask, ShuffledBatches[tuple[Tensor, Tensor]]]:
        x = torch.randn(self.config.num_items, 4, generator=torch.Generator().manual_seed(1))
        y = x.sum(1, keepdim=True)
        batches = ShuffledBatches(
            self.config.num_items, self.config.batch_size, self.config.seed, lambda items: (x[items], y[items])
        )
        return ToyTask(self.config, self.runtime), batches


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--checkpoint-every", type=int, default=7)
    options = parser.parse_args(argv)
    config = ToyConfig(
        out=options.out, steps=options.steps, pause_s=options.pause, checkpoint_every=options.checkpoint_every
    )
    ToyTrainer(config, quiet=True, report=False).train()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import toyrun  # under its own name, so that `config.json` can name its class

    toyrun.main()
