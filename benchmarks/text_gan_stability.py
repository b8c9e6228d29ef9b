"""Whether training depends on luck: one recipe with many seeds, and each finished run loaded again.

    python benchmarks/text_gan_stability.py [--seeds 20] [--out runs/stability]

The recipe `adversarial:cooperative` on its oracle, a third as long: 1,000 steps of MLE and 200 with the mediator.
Printed are, for every seed, whether the run finished, the share of different sequences, both NLLs, and whether the
loaded run scores the same to the last bit; then how far the seeds lie apart. Finished runs are not done again.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from adversarial.recipes import cooperative
from adversarial.task import Collapsed
from adversarial.trainers import GANTrainer
from core.config import ModelConfig

SCORES = ("unique", "nll", "nll_oracle")


def run(out: Path, seed: int) -> dict[str, float]:
    """Scores of a run, whether it finished, and whether it scores the same when it is loaded."""
    scores_file = out / "stability.json"
    if scores_file.exists():
        return json.loads(scores_file.read_text("utf-8"))
    config = dataclasses.replace(
        cooperative(), out=out, seed=seed, steps=1200, mle_fraction=1000 / 1200, held_out_lines=2000, eval_samples=2000,
        model=ModelConfig(width=64, num_layers=1, max_length=128, dropout=0.5),
    )  # fmt: skip
    trainer = GANTrainer(config, quiet=True, report=False)
    try:
        scores = dict(trainer.train())
    except Collapsed as fault:
        print(f"seed {seed}: {fault}", flush=True)
        return {"finished": 0.0}
    again = GANTrainer.load(out).task.evaluate()
    found = {name: scores[name] for name in SCORES}
    found |= {"finished": 1.0, "equal": float(all(again[name] == scores[name] for name in SCORES))}
    scores_file.write_text(json.dumps(found), "utf-8")
    return found


def main() -> None:
    """Train, load, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/stability"))
    options = parser.parse_args()
    runs = []
    for seed in range(options.seeds):
        runs.append(run(options.out / str(seed), seed))
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in runs[-1].items()), flush=True)
    finished = [found for found in runs if found["finished"]]
    print(
        f"{len(finished)} of {len(runs)} finished; {sum(found['equal'] for found in finished):.0f} score the same again"
    )
    for name in SCORES:
        values = np.array([found[name] for found in finished])
        apart = np.abs(values - values.mean()).max()
        print(f"{name}: mean {values.mean():.4f}, least {values.min():.4f}, farthest from the mean {apart:.4f}")


if __name__ == "__main__":
    main()
