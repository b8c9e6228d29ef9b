"""The recipes of policy optimisation with every algorithm: how close to the optimum, and how long it takes.

    python benchmarks/policy_algorithms.py [--recipes copy cliff …] [--algorithms ppo grpo …] [--seeds 0 1 2 3 4]

Each run is `trillium train rl:RECIPE --algorithm ALGORITHM --seed SEED`, whose settings are otherwise the same. Scores
are exact expected returns where the environment can be enumerated, else means over 10,000 episodes. Printed are means
over the seeds and the worst seed: the return of sampled play in per cent of the way from random play to the optimum,
its regret, that of greedy play, and seconds of processor time of the one thread, which other work leaves alone.
Finished runs are not done again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from rl import recipes
from rl.trainers import PolicyTrainer

RECIPES = ("frozen_lake", "guess_number", "cliff", "blackjack", "copy")
ALGORITHMS = ("reinforce", "ppo", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "cispo")


def run(out: Path, recipe: str, algorithm: str, seed: int) -> dict[str, float]:
    """Returns of a run, what can be reached, and seconds."""
    scores_file = out / "scores.json"
    if scores_file.exists():
        return json.loads(scores_file.read_text("utf-8"))
    config = getattr(recipes, recipe)(
        out=out, seed=seed, algorithm=algorithm, eval_episodes=16, sample_episodes=0, max_noop_steps=0
    )
    trainer = PolicyTrainer(config, quiet=True, report=False)
    started = time.process_time()
    trainer.train()
    found = {"seconds": time.process_time() - started} | trainer.known_returns()
    rows = {row["name"]: row["return"] for row in trainer.report_sections()["rows"]}
    for name, exact in (("sampled", "model (exact)"), ("greedy", "model, greedy (exact)")):
        if exact in rows:
            found[name] = rows[exact]
        else:
            found[name] = float(trainer.play(episodes=10_000, seed=1, greedy=name == "greedy").returns_E.mean())
    scores_file.write_text(json.dumps(found), "utf-8")
    return found


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--algorithms", nargs="+", default=ALGORITHMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    options = parser.parse_args()
    print(f"seeds {options.seeds}; mean [worst]")
    print(f"{'recipe':14}{'algorithm':11}{'% of optimum':>18}{'regret':>20}{'greedy regret':>20}{'seconds':>9}")
    for recipe in options.recipes:
        for algorithm in options.algorithms:
            runs = [
                run(options.out / f"{recipe}-{algorithm}-{seed}", recipe, algorithm, seed) for seed in options.seeds
            ]
            get = {name: np.array([found[name] for found in runs]) for name in runs[0]}
            share = 100 * (get["sampled"] - get["random"]) / (get["optimum"] - get["random"])
            sampled, greedy = get["optimum"] - get["sampled"], get["optimum"] - get["greedy"]
            print(
                f"{recipe:14}{algorithm:11}{share.mean():9.1f} [{share.min():6.1f}]"
                f"{sampled.mean():11.4f} [{sampled.max():6.3f}]{greedy.mean():11.4f} [{greedy.max():6.3f}]"
                f"{get['seconds'].mean():9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
