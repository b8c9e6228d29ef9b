"""How close policy optimisation with a price on divergence comes to the best policy there is, which is known.

    python benchmarks/regularised_policy.py [--seeds 0 1 2]

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
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Text

from core.config import ModelConfig, OptimConfig
from core.interfaces import Samples
from rl.config import PolicyConfig
from rl.trainers import PolicyTrainer

BETA = 0.1
ALGORITHMS = ("reinforce", "ppo", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo")
ANSWERS = ["".join(letters) for letters in itertools.product("abcd", repeat=3)]
REWARD = torch.tensor([answer.count("a") / 3 for answer in ANSWERS], dtype=torch.float64)
BEST = BETA * (torch.logsumexp(REWARD / BETA, 0) - np.log(len(ANSWERS)))


class Letters(gymnasium.Env[str, str]):
    """Say three letters."""

    def __init__(self) -> None:
        self.observation_space = Text(1, charset=":")
        self.action_space = Text(3, min_length=3, charset="abcd")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return ":", {"legal_actions": ANSWERS}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return ":", action.count("a") / 3, True, False, {"legal_actions": ANSWERS}


gymnasium.register("benchmark/Letters-v0", entry_point=Letters)


def run(algorithm: str, kl: str, seed: int) -> tuple[float, float]:
    """Shortfall of the objective in per cent, and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        config = PolicyConfig(
            out=Path(folder) / "run", env="benchmark/Letters-v0", algorithm=algorithm, kl=kl, kl_coef=BETA, seed=seed,
            network="mlp", model=ModelConfig(width=32, num_layers=1), steps=400, batch_size=256, entropy_coef=0.0,
            optim=OptimConfig(lr=5e-3), critic_lr=5e-3, eval_episodes=2, sample_episodes=0, threads=1,
        )  # fmt: skip
        trainer = PolicyTrainer(config, quiet=True, report=False)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        player, policy = trainer.task.player, trainer.task.policy
        tokens_BT = torch.tensor([player.tokenizer.encode(answer) for answer in ANSWERS])
        ones_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
        samples = Samples(tokens_BT, ones_BT, torch.zeros(tokens_BT.shape), torch.zeros(len(ANSWERS), dtype=torch.bool))
        start = player.interface.start(":")  # type: ignore[attr-defined]
        with torch.no_grad():
            hidden_BTD = policy.hidden([start] * len(ANSWERS), samples)
            letters = torch.tensor(player.tokenizer.encode("abcd"))
            logits_BTV = policy.distribution(hidden_BTD)
            forbidden_V = torch.ones(logits_BTV.shape[-1], dtype=torch.bool).index_fill(0, letters, value=False)
            logp_BTV = logits_BTV.masked_fill(forbidden_V, float("-inf")).double().log_softmax(-1)
            logp_B = logp_BTV.gather(-1, tokens_BT[..., None]).squeeze(-1).sum(1)
        objective = (logp_B.exp() * (REWARD - BETA * (logp_B + np.log(len(ANSWERS))))).sum()
    return float(100 * (1 - objective / BEST)), seconds


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print(f"best objective {BEST:.4f}; shortfall in per cent, mean [worst] of seeds {options.seeds}")
    for algorithm, kl in itertools.product(ALGORITHMS, ("reward", "loss")):
        runs = np.array([run(algorithm, kl, seed) for seed in options.seeds])
        print(
            f"{algorithm:11}{kl:8}{runs[:, 0].mean():8.2f} [{runs[:, 0].max():.2f}]{runs[:, 1].mean():7.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
