"""Three classic tricks of GANs, on and off: gradient penalty, clipping of gradients, feature matching.

    python benchmarks/text_gan_tricks.py [--seeds 0 1 2 3 4] [--mle-weight 1] [--out runs/tricks]

The recipe `adversarial:gan` on its grammar, all eight combinations with every seed. `--mle-weight 0` takes the
likelihood term away, so that the tricks alone have to keep the language. Printed are means over the seeds at
temperature 1 and how far single seeds lie apart; a run that stopped as collapsed counts with the scores of its last
checkpoint. Finished runs are not done again.
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np

from adversarial.recipes import gan
from adversarial.task import Collapsed
from adversarial.trainers import GANTrainer

SCORES = ("valid", "nll", "unique", "distinct_2", "self_bleu_4")


def run(out: Path, seed: int, mle_weight: float, penalty: bool, clipping: bool, matching: bool) -> dict[str, float]:
    """Scores of the MLE start and of the finished generator, and whether it was stopped."""
    scores_file = out / "scores.json"
    if scores_file.exists():
        return json.loads(scores_file.read_text("utf-8"))
    config = gan(out=out, seed=seed, mle_weight=mle_weight)
    if not penalty:
        config = dataclasses.replace(config, penalty=0.0)
    if not matching:
        config = dataclasses.replace(config, feature_weight=0.0)
    if not clipping:
        config = dataclasses.replace(
            config,
            optim=dataclasses.replace(config.optim, max_grad_norm=0.0),
            discriminator=dataclasses.replace(config.discriminator, max_grad_norm=0.0),
        )
    # The scores of a stopped run are those of the last checkpoint before.
    config = dataclasses.replace(config, checkpoint_every=40)
    trainer = GANTrainer(config, quiet=True, report=False)
    stopped = 0.0
    try:
        trainer.train()
    except Collapsed as fault:
        print(f"{out.name}: {fault}", flush=True)
        trainer, stopped = GANTrainer.load(out), 1.0  # type: ignore[assignment]
    rows = {row["name"]: row for row in trainer.report_sections()["rows"]}
    scores = {name: _value(rows["model"][name]) for name in SCORES}
    scores |= {f"start/{name}": _value(rows["MLE start"][name]) for name in SCORES}
    scores["stopped"] = stopped
    scores_file.write_text(json.dumps(scores), "utf-8")
    return scores


def _value(score: object) -> float:
    return score["value"] if isinstance(score, dict) else score  # type: ignore[return-value]


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--mle-weight", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("runs/tricks"))
    options = parser.parse_args()
    print(f"likelihood term {options.mle_weight:g}, seeds {options.seeds}")
    print(f"{'penalty clipping matching':28}" + "".join(f"{name:>20}" for name in SCORES) + "   stopped")
    for number, cell in enumerate(itertools.product((True, False), repeat=3)):
        marks = "".join("x" if on else "-" for on in cell)
        runs = [
            run(options.out / f"mle{options.mle_weight:g}-{marks}-{seed}", seed, options.mle_weight, *cell)
            for seed in options.seeds
        ]
        if number == 0:
            print(f"{'MLE start':28}" + "".join(_spread([r[f"start/{name}"] for r in runs]) for name in SCORES))
        columns = "".join(_spread([r[name] for r in runs]) for name in SCORES)
        stopped = int(sum(r["stopped"] for r in runs))
        print(f"{'        '.join(marks):28}{columns}   {stopped} of {len(runs)}", flush=True)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):8.3f} [{min(values):.3f},{max(values):.3f}]".rjust(20)


if __name__ == "__main__":
    main()
