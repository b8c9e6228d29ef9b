"""What sentences of a class-conditional generator are worth to a classifier that has few labelled lines.

    python benchmarks/text_gan_augmentation.py [--file reviews.jsonl --label stars] [--sizes 100 300] [--seeds 0 1 2]

Without a file: instructions of eight levels of BabyAI, from the package `minigrid`; the level is the class. So many of
these are drawn to learn from, the others are held out. Each run is the recipe `adversarial:conditional` on the few.
Printed is the accuracy on the held-out lines of classifiers that learned from the few lines alone and from ten times as
many sentences besides, and the paired gains over seeds with 95 % intervals of Student's t.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
from student import interval

from adversarial.augmentation import AugmentationGain, simple_augmentation
from adversarial.missions import missions
from adversarial.recipes import conditional
from adversarial.trainers import GANTrainer

SOURCES = ("alone", "simple", "MLE start", "model")


def labelled_missions() -> list[dict[str, str]]:
    """Instructions of eight levels, and the level of each; most instructions could be of several levels."""
    levels = conditional().level.split(",")
    return [
        {"text": mission, "level": level} for level in levels for mission in dict.fromkeys(missions(level, 900, seed=5))
    ]


def accuracies(lines: list[dict[str, str]], label: str, size: int, seed: int, out: Path) -> dict[str, float]:
    """Accuracy of a classifier by what it learned from."""
    scores_file = out / "scores.json"
    if scores_file.exists():
        return json.loads(scores_file.read_text("utf-8"))
    drawn = random.Random(seed).sample(lines, len(lines))
    known = {item[label] for item in drawn[:size]}
    parts = {"train": drawn[:size], "test": [item for item in drawn[size:] if item[label] in known]}
    out.mkdir(parents=True, exist_ok=True)
    for name, items in parts.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    config = conditional(
        out=out / "run", text=out / "train.jsonl", held_out_text=out / "test.jsonl", label=label, source="grammar",
        held_out_lines=5000, eval_samples=size, max_tokens=48, seed=seed,
    )  # fmt: skip
    trainer = GANTrainer(config, quiet=True, report=False)
    trainer.train()
    gain = AugmentationGain(trainer.corpus)
    start = trainer.mle_start()
    assert start is not None
    texts = {
        "alone": [],
        "simple": simple_augmentation(trainer.corpus.train, gain.count, random.Random(seed)),
        "MLE start": trainer.evaluation.generate(start, gain.count),
        "model": trainer.evaluation.generate(trainer.task.model, gain.count),
    }
    scores = {name: float(gain.correct(texts[name]).mean()) for name in SOURCES}
    scores_file.write_text(json.dumps(scores), "utf-8")
    return scores


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="JSON lines with `text` and the label's field")
    parser.add_argument("--label", default="level")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/augmentation"))
    options = parser.parse_args()
    if options.file is None:
        lines = labelled_missions()
    else:
        lines = [json.loads(line) for line in options.file.read_text("utf-8").splitlines()]
    print(f"{len(lines):,} lines, {len({item[options.label] for item in lines})} classes, seeds {options.seeds}")
    for size in options.sizes:
        runs = [accuracies(lines, options.label, size, seed, options.out / f"{size}-{seed}") for seed in options.seeds]
        print(f"{size} lines: " + ", ".join(f"{name} {np.mean([r[name] for r in runs]):.4f}" for name in SOURCES))
        for name in SOURCES[:-1]:
            gains = np.array([r["model"] - r[name] for r in runs])
            print(f"    model over {name}: {gains.mean():+.4f} {interval(gains)}")


if __name__ == "__main__":
    main()
