"""Memory and speed of a captioner on a 135M language model: SmolLM2 with LoRA behind EfficientNet-Lite0, on a CPU.

Usage: python benchmarks/captioner_memory.py [--steps N] [--batch-size N] [--threads N]
Trains on Twemoji for some steps, captions 64 held-out pictures, and prints the process's peak memory and its captions
per second, which benchmarks/RESULTS.md records.
"""

import argparse
import itertools
import resource
import tempfile
import time
from pathlib import Path

from timing import machine

from core.config import OptimConfig
from multimodal.config import CaptioningConfig
from multimodal.trainers import CaptioningTrainer


def main() -> None:
    """Train, caption, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = CaptioningConfig(
            out=Path(folder) / "run", data="twemoji", init_from=Path("smollm2"), lora_rank=8, threads=options.threads,
            batch_size=options.batch_size, steps=options.steps, optim=OptimConfig(lr=5e-4, warmup_steps=5),
        )  # fmt: skip
        trainer = CaptioningTrainer(config)
        task = trainer.task
        losses, seconds = [], []
        for batch in itertools.islice(trainer.batches, options.steps):
            began = time.perf_counter()
            losses.append(task.train_step(batch)["loss"])
            seconds.append(time.perf_counter() - began)
        trainer.sample(64)
    print(machine())
    parameters = list(task.captioner.parameters())
    total, trained = (sum(p.numel() for p in parameters if p.requires_grad or every) for every in (True, False))
    print(f"{total / 1e6:.1f}M parameters, {trained / 1e6:.2f}M of them trained")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    median = sorted(seconds)[len(seconds) // 2]
    print(f"{options.batch_size / median:.1f} captions/s; loss {losses[0]:.2f} to {losses[-1]:.2f}")


if __name__ == "__main__":
    main()
