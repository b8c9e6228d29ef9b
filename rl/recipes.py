"""Recipes of policy optimisation. `--algorithm ppo` or `--algorithm reinforce` changes the algorithm of each."""

from pathlib import Path

from core.config import ModelConfig, OptimConfig
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
        optim=OptimConfig(lr=2e-3, betas=(0.9, 0.99)),
        threads=1,  # networks this small only lose time when they are split over threads
    )


def frozen_lake() -> PolicyConfig:
    """A fresh policy learns to walk over the frozen lake, rewarded at the goal only."""
    return PolicyConfig(
        out=Path("runs/rl-frozen-lake"),
        env="trillium/FrozenLake-v0",
        env_kwargs={"slippery": False, "horizon": 20},
        algorithm="ppo",
        model=ModelConfig(width=32, num_layers=1, num_heads=1, max_length=64),
        gamma=0.97,
        steps=80,
        batch_size=32,
        optim=OptimConfig(lr=3e-3, betas=(0.9, 0.99)),
        critic_lr=3e-3,
        threads=1,  # networks this small only lose time when they are split over threads
    )
