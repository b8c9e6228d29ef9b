"""A tiny run for one or several processes: `torchrun --nproc-per-node 2 tests/core/ddprun.py OUT MODE`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config import OptimConfig, RunConfig
from core.training import distributed
from core.training.batches import ShuffledBatches
from core.training.runtime import Runtime
from core.training.trainer import Trainer
from core.training.update import Updater


@dataclass(frozen=True, kw_only=True)
class PairConfig(RunConfig):
    trainer: ClassVar[str] = "ddprun:PairTrainer"
    mode: str = "mean"
    """`mean`: one loss a step. `micro`: two masked micro-batches. `raw`: around the wrapper. `accumulate` twice."""


class PairTask:
    def __init__(self, config: PairConfig, runtime: Runtime) -> None:
        self.mode = config.mode
        model = nn.Sequential(nn.Embedding(7, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 7))
        self.updater = Updater(model, config.optim, runtime, config.steps)

    def train_step(self, batch: Tensor) -> Mapping[str, float]:
        """Args: batch: tokens_BT; 0 is padding, so the processes have different numbers of targets."""
        model = self.updater.module if self.mode == "raw" else self.updater

        def loss_fn(tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(tokens_BT[:, :-1]).flatten(0, 1)
            targets = tokens_BT[:, 1:].flatten()
            return F.cross_entropy(logits, targets, ignore_index=0, reduction="sum"), (targets != 0).sum()

        if self.mode == "mean":
            logits = model(batch[:, :-1]).flatten(0, 1)
            report = self.updater.step(F.cross_entropy(logits, batch[:, 1:].flatten()))
        else:
            report = self.updater.step_micro(batch.chunk(2), loss_fn)
        return {"loss": report.loss, "grad_norm": report.grad_norm}

    def evaluate(self) -> Mapping[str, float]:
        own = torch.cat([p.detach().flatten() for p in self.updater.module.parameters()]).double()
        mean = distributed.all_reduce_sum(own.clone()) / distributed.world()
        return {"spread": float((own - mean).abs().max())}

    def state_dict(self) -> dict[str, Any]:
        return {"updater": self.updater.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updater.load_state_dict(state["updater"])


class PairTrainer(Trainer):
    config: PairConfig

    def build(self) -> tuple[PairTask, ShuffledBatches[Tensor]]:
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(1, 7, (50, 9), generator=generator)
        for row, length in enumerate(torch.randint(3, 9, (50,), generator=generator).tolist()):
            tokens[row, length:] = 0
        return PairTask(self.config, self.runtime), ShuffledBatches(50, 8, self.config.seed, lambda i: tokens[i])


def run(out: Path, mode: str, **options: Any) -> PairTrainer:
    """Train 20 steps in this process, or in its process group."""
    settings = {"steps": 20, "device": "cpu", "precision": "fp32", "threads": 1, "log_every": 1, **options}
    config = PairConfig(out=out, mode=mode, optim=OptimConfig(lr=0.02, ema_decay=0.5), **settings)
    trainer = PairTrainer(config, quiet=True, report=False)
    trainer.train()
    return trainer


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import ddprun

    for mode in sys.argv[2:]:
        ddprun.run(Path(sys.argv[1]) / mode, mode)
    distributed.shutdown()
