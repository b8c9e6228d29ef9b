"""Fine-tune a language model in a Gymnasium environment of your own, without the command line.

    python examples/finetune_policy.py trillium/FrozenLake-v0 runs/mine --algorithm ppo
    python examples/finetune_policy.py my_module:my/Environment-v0 runs/mine --init-from runs/exported

The environment reads and gives text: both spaces are `gymnasium.spaces.Text`; `rl/envs/copying.py` is a small one to
start from. The policy starts fresh, with one token per character, or from a Hugging Face folder. The same command goes
on with a run that was stopped.
"""

import argparse
import sys
from pathlib import Path

from core.config import ModelConfig, OptimConfig
from rl.config import PolicyConfig
from rl.trainers import PolicyTrainer


def main() -> None:
    """Train, score, and show two episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", help="Gymnasium id; `module:id` imports the module first")
    parser.add_argument("out", type=Path, help="run directory")
    parser.add_argument("--algorithm", default="ppo", choices=["ppo", "reinforce"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--init-from", type=Path, help="Hugging Face folder, for example of `trillium export`")
    options = parser.parse_args()
    sys.path.append(".")  # so that an environment's module may be a file here

    config = PolicyConfig(
        out=options.out,
        env=options.env,
        algorithm=options.algorithm,
        init_from=options.init_from,
        steps=options.steps,
        batch_size=64,
        gamma=0.97,
        model=ModelConfig(width=64, num_layers=2, num_heads=2, max_length=128),
        optim=OptimConfig(lr=1e-3 if options.init_from is None else 1e-5),
        threads=1 if options.init_from is None else None,
    )
    trainer = PolicyTrainer(config)
    for name, value in trainer.train().items():
        print(f"{name:14} {value:.3f}")
    print(f"report: {config.out / 'report.html'}")

    for episode in trainer.sample(2):
        print(*(f"{line['role']}: {line['text']}" for line in episode["transcript"]), sep="\n")
        print(f"reward: {episode['reward']}")


if __name__ == "__main__":
    main()
