"""Recipes of policy optimisation. `--algorithm ppo` or `--algorithm reinforce` changes the algorithm of each."""

import dataclasses
from pathlib import Path
from typing import Any

from core.config import OptimConfig
from rl.config import PolicyConfig
from rl.preferences.config import PreferenceConfig, RewardModelConfig, SftConfig


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


def sft(**changes: Any) -> SftConfig:
    """A fresh model learns to write short words after prompts, or with `--data FILE` the completions of your prompts.

    Command: trillium train rl:sft
    Runtime: 15 seconds on one CPU core, start-up included
    Expected: held-out loss 1.41 nats a token (entropy of the words 1.36), mean score of words 1.88; seed 0
    """
    config = SftConfig(
        out=Path("runs/rl-sft"),
        words=8000,
        steps=600,
        batch_size=64,
        max_new_tokens=8,
        optim=OptimConfig(lr=1e-3),
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)


def dpo(**changes: Any) -> PreferenceConfig:
    """A model learns to write short words, then from preferences between words what makes a good one.

    The preferences are drawn at random from a known rule, so the best possible scores can be computed. `--loss ipo`,
    `kto`, `simpo` and so on change the loss; `--data FILE --init-from MODEL --sft-steps 0` takes your own pairs and
    model.

    Command: trillium train rl:dpo
    Runtime: 35 seconds on one CPU core, start-up included
    Expected: held-out pairs told apart 0.77 (best possible 0.78, chance 0.5); mean score of words from 1.99 to 4.21
        (optimum at this beta 4.74 of 6); seed 0
    """
    config = PreferenceConfig(
        out=Path("runs/rl-dpo"),
        words=8000,
        beta=1.0,
        sft_steps=600,
        steps=1600,
        batch_size=64,
        max_new_tokens=8,
        eval_every=400,
        optim=OptimConfig(lr=1e-3),
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)


def reward_model(**changes: Any) -> RewardModelConfig:
    """A fresh reward model learns from preferences between short words what makes a good one.

    The preferences are drawn at random from a known rule, so the best possible accuracy can be computed. `--data FILE
    --init-from MODEL` takes your own pairs and model.

    Command: trillium train rl:reward_model
    Runtime: 25 seconds on one CPU core, start-up included
    Expected: held-out pairs told apart 0.776 (best possible 0.778, chance 0.5); seed 0
    """
    config = RewardModelConfig(
        out=Path("runs/rl-reward-model"),
        words=8000,
        steps=1000,
        batch_size=64,
        eval_every=250,
        optim=OptimConfig(lr=1e-3),
        threads=1,  # networks this small only lose time when they are split over threads
    )
    return dataclasses.replace(config, **changes)
