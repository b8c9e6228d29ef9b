"""Recipes of policy optimisation. `--algorithm ppo` or `--algorithm reinforce` changes the algorithm of each."""

import dataclasses
from pathlib import Path
from typing import Any

from core.config import OptimConfig
from rl.config import PolicyConfig


def copy(**changes: Any) -> PolicyConfig:
    """A fresh policy learns to copy a word of four letters, rewarded for every letter in its place.

    Command: trillium train rl:copy
    Runtime: 15 seconds on one CPU core
    Expected: 99 % of the words copied exactly (optimum 1.0, random 0.004)
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
    Runtime: 20 seconds on one CPU core
    Expected: the goal in every episode, in 6 steps (return 1.0 of 1.0)
    """
    config = PolicyConfig(
        out=Path("runs/rl-frozen-lake"),
        env="trillium/FrozenLake-v0",
        env_kwargs={"slippery": False, "horizon": 20},
        algorithm="ppo",
        gamma=0.97,
        steps=150,
        batch_size=32,
        entropy_coef=0.005,
        optim=OptimConfig(lr=1e-3),
        critic_lr=1e-3,
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)
