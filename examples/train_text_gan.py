"""Train a text GAN on your own text, without the command line.

    python examples/train_text_gan.py sentences.txt runs/mine

The file has one sentence a line. Without a file it trains on the sentences of a small grammar, for which it can be
decided exactly whether a generated sentence is right. The same command goes on with a run that was stopped.
"""

import argparse
import json
from pathlib import Path

from adversarial.config import GANConfig
from adversarial.trainers import GANTrainer
from core.config import ModelConfig


def main() -> None:
    """Train, compare the generator before and after adversarial training, and show some sentences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", type=Path, help="text file, one sentence a line")
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/text-gan"), help="run directory")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--max-tokens", type=int, default=24, help="longest sentence in words")
    options = parser.parse_args()

    config = GANConfig(
        out=options.out,
        text=options.text,
        steps=options.steps,
        max_tokens=options.max_tokens,
        model=ModelConfig(width=64, num_layers=2, num_heads=2, max_length=max(128, options.max_tokens)),
        threads=1,
    )
    trainer = GANTrainer(config)
    trainer.train()
    for row in json.loads((config.out / "eval.json").read_text())["rows"]:
        scores = {name: row[name]["value"] if isinstance(row[name], dict) else row[name] for name in row}
        shown = [f"{name} {scores[name]:.3f}" for name in ("valid", "nll", "bleu_4", "self_bleu_4") if name in scores]
        print(f"{row['name']:24}", *shown)
    print(f"report: {config.out / 'report.html'}")
    for sample in trainer.sample(5):
        print(sample["text"])


if __name__ == "__main__":
    main()
