"""Train a captioner on your own pictures, without the command line.

    python examples/train_captioner.py captions.jsonl runs/mine

The manifest has one JSON object a line, `{"image": "cat.jpg", "caption": "a cat on a chair"}`, with paths relative to
its folder; a CSV file with the columns `image` and `caption` does as well. Without a manifest it trains on Twemoji.
The same command goes on with a run that was stopped.
"""

import argparse
from pathlib import Path

from core.config import ModelConfig, OptimConfig
from multimodal.config import CaptioningConfig
from multimodal.pipeline import CaptioningPipeline
from multimodal.trainers import CaptioningTrainer


def main() -> None:
    """Train, score, and caption the first held-out pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", default="twemoji", help="JSON-lines or CSV file, or `twemoji`")
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/captioner"), help="run directory")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--encoder", default="efficientnet_lite0", choices=["efficientnet_lite0", "pixels"])
    options = parser.parse_args()

    config = CaptioningConfig(
        out=options.out,
        data=options.manifest,
        image_encoder=options.encoder,  # `pixels` needs no pretrained weights
        steps=options.steps,
        batch_size=64,
        model=ModelConfig(width=256, num_layers=4, num_heads=4, max_length=128, dropout=0.1),
        optim=OptimConfig(lr=2e-3, weight_decay=0.1, warmup_steps=50),
    )
    trainer = CaptioningTrainer(config)
    for name, value in trainer.train().items():
        print(f"{name:12} {value:.3f}")
    print(f"report: {config.out / 'report.html'}")

    pipeline = CaptioningPipeline.load(config.out)
    for example in trainer.test_examples[:3]:
        (caption,) = pipeline.answer([example.prompt], beams=3)
        print(f"{example.key}: {caption} (reference: {example.targets[0]})")


if __name__ == "__main__":
    main()
