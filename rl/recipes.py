"""Recipes of policy optimisation. `--algorithm ppo` or `--algorithm reinforce` changes the algorithm of each."""

from pathlib import Path

from core.config import OptimConfig
from rl.config import PolicyConfig


def copy() -> PolicyConfig:
    """A fresh policy learns to copy a word of four letters, rewarded for every letter in its place."""
    return PolicyConfig(
        out=Path("runs/rl-copy"),
        env="trillium/Copy-v0",
        algorithm="reinforce",
        steps=300,
        batch_size=128,
        entropy_coef=0.05,
        optim=OptimConfig(lr=2e-3),
        threads=1,  # networks this small only lose time when they are split over threads
    )


def frozen_lake() -> PolicyConfig:
    """A fresh policy learns to walk over the frozen lake, rewarded at the goal only."""
    return PolicyConfig(
        out=Path("runs/rl-frozen-lake"),
        env="trillium/FrozenLake-v0",
        env_kwargs={"slippery": False, "horizon": 20},
        algorithm="ppo",
        gamma=0.97,
        steps=150,
        batch_size=32,
        entropy_coef=0.02,
        optim=OptimConfig(lr=1e-3),
        critic_lr=1e-3,
        threads=1,  # networks this small only lose time when they are split over threads
    )
