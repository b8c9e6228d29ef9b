"""Recipes of policy optimisation. `--algorithm ppo` or `--algorithm reinforce` changes the algorithm of each."""

import dataclasses
from pathlib import Path
from typing import Any

from core.config import OptimConfig
from rl.config import PolicyConfig


def copy(**changes: Any) -> PolicyConfig:
    """A fresh policy learns to copy a word of four letters, rewarded for every letter in its place.

    Command: trillium train rl:copy
    Runtime: 20 seconds on one CPU core, start-up included
    Expected: words copied exactly: greedy 1.00, sampled 0.99 to 1.00 (optimum 1, random 0.004); seeds 0 to 2
    """
    config = PolicyConfig(
        out=Path("runs/rl-copy"),
        env="trillium/Copy-v0",
        algorithm="reinforce",
        steps=300,
        batch_size=128,
        normalize_advantages=True,
        entropy_coef=0.05,
        optim=OptimConfig(lr=2e-3),
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)


def frozen_lake(**changes: Any) -> PolicyConfig:
    """A fresh policy learns to walk over the frozen lake, rewarded at the goal only.

    Command: trillium train rl:frozen_lake
    Runtime: 20 seconds on one CPU core, start-up included
    Expected: return: greedy 1.00, sampled 0.99 to 1.00 (optimum 1, random 0.012), in 6 turns; seeds 0 to 5. With
        `--algorithm reinforce`: greedy 1.00, sampled 0.93 to 0.95
    """
    config = PolicyConfig(
        out=Path("runs/rl-frozen-lake"),
        env="trillium/FrozenLake-v0",
        env_kwargs={"slippery": False, "horizon": 20},
        algorithm="ppo",
        gamma=0.95,
        steps=150,
        batch_size=32,
        entropy_coef=0.005,
        optim=OptimConfig(lr=5e-4),
        critic_lr=1e-3,
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)
