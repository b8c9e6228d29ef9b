"""A captioning recipe trained once for each part that is held out, all held-out items scored together.

Usage: python benchmarks/folds.py RECIPE DATA VALUE… [--budget-s S] [--out FOLDER]
DATA names the data set with {} where each VALUE goes:
    python benchmarks/folds.py fluent 'fluent:fold={}' 0 1 2 3 4
    python benchmarks/folds.py fsdd 'fsdd:folder=FOLDER,hold_out={}' george jackson lucas nicolas
Prints the scores of every part and of all items, those of the floor and of the controls, and for captions the paired
ratio of CIDEr-D to the nearest neighbour's.
"""

import argparse
import dataclasses
from pathlib import Path

from core.metrics.bootstrap import paired_ratio
from multimodal import recipes
from multimodal.evaluation import SHOWN, Evaluation
from multimodal.examples import Example
from multimodal.trainers import CaptioningTrainer

NEAREST = "nearest example's text"


def main() -> None:
    """Train every part, then score all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("data")
    parser.add_argument("values", nargs="+")
    parser.add_argument("--budget-s", type=float, default=300.0)
    parser.add_argument("--out", type=Path, default=Path("runs/folds"))
    options = parser.parse_args()
    tests: list[Example] = []
    said: dict[str, list[str]] = {}
    for value in options.values:
        config = getattr(recipes, options.recipe)(
            data=options.data.format(value),
            out=options.out / value,
            # Features that an earlier run left would be free.
            cache=options.out / value / "features",
            time_budget_s=options.budget_s,
        )
        trainer = CaptioningTrainer(dataclasses.replace(config, resume=False))
        scores = trainer.train()
        print(value, {name: round(scores[name], 4) for name in SHOWN[trainer.evaluation.scoring][:4]}, flush=True)
        tests += trainer.test_examples
        texts = {"model": trainer.evaluation.texts, **trainer.evaluation.controls(), NEAREST: trainer.nearest()}
        for name, own in texts.items():
            said.setdefault(name, []).extend(own)
    pooled = Evaluation(lambda examples, blank: [], tests, trainer.evaluation.scoring)
    scored = {name: pooled.scores_of(texts) for name, texts in said.items()}
    print(f"{len(tests)} items")
    for name, scores_of_all in scored.items():
        shown = {key: scores_of_all.intervals[key] for key in SHOWN[pooled.scoring][:4]}
        print(f"{name:24}", *(f"{key} {own.value:.3f} [{own.low:.3f}, {own.high:.3f}]" for key, own in shown.items()))
    if pooled.scoring == "captions":
        model, floor = (scored[name].per_item["cider_d"] for name in ("model", NEAREST))
        ratio = paired_ratio(model, floor).ratio
        print(f"CIDEr-D, model / nearest: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")


if __name__ == "__main__":
    main()
