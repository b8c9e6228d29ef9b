"""With a price on divergence the best policy is known in closed form, and training finds it."""

import dataclasses
import itertools

import gymnasium
import numpy as np
import pytest
import torch

from core.config import ModelConfig, OptimConfig
from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import tabulate
from rl.exact import TabularPolicy
from rl.trainers import PolicyTrainer

BETA = 0.1
ANSWERS = ["".join(letters) for letters in itertools.product("abcd", repeat=3)]


class Letters(MarkovTextEnv):
    """Three letters, rewarded with the share of a."""

    def __init__(self):
        answers = {answer: [(1.0, "over", answer.count("a") / 3, True)] for answer in ANSWERS}
        table = tabulate({"start": 1.0}, lambda state: answers, lambda state: ":", horizon=1)
        super().__init__(table, observations=":", actions="abcd")


@pytest.fixture
def letters():
    gymnasium.register("tests/Letters-v0", entry_point=Letters)
    yield "tests/Letters-v0"
    gymnasium.registry.pop("tests/Letters-v0")


@pytest.mark.parametrize(("algorithm", "kl"), [("rloo", "reward"), ("ppo", "loss")])
def test_training_comes_within_a_hundredth_of_the_best_policy(config, letters, algorithm, kl):
    config = dataclasses.replace(
        config, env=letters, env_kwargs={}, algorithm=algorithm, kl=kl, kl_coef=BETA, network="mlp",
        model=ModelConfig(width=32, num_layers=1), steps=100, batch_size=256, entropy_coef=0.0, epochs=4,
        optim=OptimConfig(lr=1e-2), critic_lr=1e-2,
    )  # fmt: skip
    trainer = PolicyTrainer(config, quiet=True, report=False)
    trainer.train()
    player = trainer.task.player
    tabular = TabularPolicy(trainer.task.policy, player.interface, player.env.unwrapped.table())
    with torch.no_grad():
        found_A = tabular.probabilities(tabular.logprobs())[0].numpy()
    reward_A = np.array([answer.count("a") / 3 for answer in tabular.table.actions])
    weight_A = np.exp(reward_A / BETA)
    best = BETA * np.log(weight_A.mean())
    assert best == pytest.approx(0.6146, abs=5e-5)
    objective = (found_A * (reward_A - BETA * np.log(np.maximum(found_A, 1e-300) * len(ANSWERS)))).sum()
    assert 0.99 * best < objective < best + 1e-6
    assert np.abs(found_A - weight_A / weight_A.sum()).sum() < 0.2
