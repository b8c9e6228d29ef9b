"""What the tests of the loop share: running the toy, stopping it, and comparing what two runs left."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from toyrun import ToyConfig, ToyTrainer

from core.training import checkpoint
from core.training.log import TIME_FIELDS
from core.training.resume import CHECKPOINTS_NAME


def config(out: Path, **options: Any) -> Any:
    return ToyConfig(out=out, **options)


def train(out: Path, hook: Callable[[Any], None] | None = None, **options: Any) -> Any:
    """Run the toy to its end or a stop; `hook` is called with the task before every step."""
    trainer = ToyTrainer(config(out, **options), quiet=True, report=False)
    if hook is not None:
        task, _ = trainer._build()
        plain = task.train_step

        def train_step(batch: Any) -> Any:
            hook(task)
            return plain(batch)

        task.train_step = train_step
    trainer.train()
    return trainer


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIME_FIELDS} for line in lines]


def final_state(out: Path) -> dict[str, Any]:
    found = checkpoint.latest(out / CHECKPOINTS_NAME)
    assert found is not None
    for name in ("elapsed_s",):
        del found.state["loop"][name]
    del found.state["config"], found.state["log"]["window_from"]
    return found.state


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    return bool(a == b)


def stop_at(step: int) -> Callable[[Any], None]:
    def hook(task: Any) -> None:
        if task.done == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    return hook
