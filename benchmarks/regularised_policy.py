"""How close policy optimisation with a price on divergence comes to the best policy there is, which is known.

    python benchmarks/regularised_policy.py [--algorithms ppo rloo …] [--seeds 0 1 2]

The policy says three letters of a, b, c, d and is rewarded with the share of a. With the price beta on a nat of
divergence from its uniform start, the best policy is proportional to exp(reward / beta), and the objective E[reward] -
beta KL is then beta log E_start[exp(reward / beta)]. Every algorithm trains with both ways to charge; the objective of
the trained policy is computed over all 64 answers. Printed are its shortfall in per cent, the mean over the seeds and
the worst, and seconds.

References:
    Korbak et al. 2022, "RL with KL Penalties Is Better Viewed as Bayesian Inference", arXiv:2205.11275.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch

from core.config import ModelConfig, OptimConfig
from rl.config import PolicyConfig
from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import tabulate
from rl.exact import TabularPolicy
from rl.trainers import PolicyTrainer

BETA = 0.1
ALGORITHMS = ("reinforce", "ppo", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo")
ANSWERS = ["".join(letters) for letters in itertools.product("abcd", repeat=3)]


class Letters(MarkovTextEnv):
    """Say three letters."""

    def __init__(self) -> None:
        answers = {answer: [(1.0, "over", answer.count("a") / 3, True)] for answer in ANSWERS}
        table = tabulate({"start": 1.0}, lambda state: answers, lambda state: ":", horizon=1)
        super().__init__(table, observations=":", actions="abcd")


gymnasium.register("benchmark/Letters-v0", entry_point=Letters)


def run(algorithm: str, kl: str, seed: int) -> tuple[float, float]:
    """Shortfall of the objective in per cent, and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        config = PolicyConfig(
            out=Path(folder) / "run", env="benchmark/Letters-v0", algorithm=algorithm, kl=kl, kl_coef=BETA, seed=seed,
            network="mlp", model=ModelConfig(width=32, num_layers=1), steps=200, batch_size=256, entropy_coef=0.0,
            optim=OptimConfig(lr=5e-3), critic_lr=5e-3, eval_episodes=2, sample_episodes=0, threads=1,
        )  # fmt: skip
        trainer = PolicyTrainer(config, quiet=True, report=False)
        started = time.process_time()
        trainer.train()
        seconds = time.process_time() - started
    player = trainer.task.player
    table = player.env.unwrapped.table()
    tabular = TabularPolicy(trainer.task.policy, player.interface, table)
    with torch.no_grad():
        probability_A = tabular.probabilities(tabular.logprobs())[0].numpy()
    reward_A = np.array([answer.count("a") / 3 for answer in table.actions])
    best = BETA * np.log(np.exp(reward_A / BETA).mean())
    divergence = np.log(np.maximum(probability_A, 1e-300) * len(table.actions))
    objective = (probability_A * (reward_A - BETA * divergence)).sum()
    return 100 * (1 - objective / best), seconds


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=ALGORITHMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print(f"shortfall in per cent, mean [worst] of seeds {options.seeds}; seconds of processor time")
    for algorithm, kl in itertools.product(options.algorithms, ("reward", "loss")):
        runs = np.array([run(algorithm, kl, seed) for seed in options.seeds])
        print(
            f"{algorithm:11}{kl:8}{runs[:, 0].mean():8.2f} [{runs[:, 0].max():.2f}]{runs[:, 1].mean():7.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
