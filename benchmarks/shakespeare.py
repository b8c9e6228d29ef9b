"""tinyshakespeare by characters: validation loss in a given wall time, beside a plain GPT-2-style baseline.

Usage: python benchmarks/shakespeare.py FILE [--recipe text|text_large|baseline] [--budget-s 90] [--seeds 0 1 2]

Every run is a process of its own: the wall time is from its start to its final weights, imports and compilation
counted (the compiler's cache starts empty). Scored on the whole validation split with non-overlapping windows.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import machine

from core.config import ModelConfig, OptimConfig
from core.language.config import LanguageConfig
from core.language.recipes import text, text_large


def baseline(path: Path) -> LanguageConfig:
    """A plain GPT-2-style model with nanoGPT's settings for a CPU: what one would write first."""
    return LanguageConfig(
        text=path,
        length=64,
        batch_size=12,
        precision="fp32",
        compile="off",
        model=ModelConfig(
            width=128, num_layers=4, num_heads=4, positions="learned", norm="layer", qk_norm=False, activation="gelu",
            bias=False, max_length=64,
        ),
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, warmup_steps=100, final_lr_ratio=0.1),
    )  # fmt: skip


RECIPES = {"text": text, "text_large": text_large, "baseline": baseline}


def train(recipe: str, path: Path, out: Path, seed: int, budget_s: float) -> None:
    """Train in this process and print the result as JSON."""
    from core.language.trainers import LanguageTrainer

    config = dataclasses.replace(RECIPES[recipe](path), out=out, seed=seed, time_budget_s=budget_s)
    trainer = LanguageTrainer(config, report=False, quiet=True)
    print(json.dumps({"loss": trainer.train()["loss"], "steps": trainer.step}))


def run(recipe: str, path: Path, budget_s: float, seed: int) -> tuple[float, float, int]:
    """(validation loss, seconds to the final weights, steps) of one run."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "cache")}
        out = Path(folder) / "run"
        command = [sys.executable, __file__, str(path), "--recipe", recipe, "--seeds", str(seed), "--child", str(out)]
        command += ["--budget-s", str(budget_s)]
        start = time.time()
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        # The last checkpoint is written when training ends, before the evaluation.
        finished = max(file.stat().st_mtime for file in (out / "checkpoints").glob("*/*"))
    result = json.loads(done.stdout.splitlines()[-1])
    return result["loss"], finished - start, result["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, default="text")
    parser.add_argument("--budget-s", type=float, default=90)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train(options.recipe, options.text, options.child, options.seeds[0], options.budget_s)
        return
    print(machine())
    losses = []
    for seed in options.seeds:
        loss, seconds, steps = run(options.recipe, options.text, options.budget_s, seed)
        losses.append(loss)
        print(
            f"{options.recipe} seed {seed}: validation loss {loss:.4f} after {seconds:.1f} s, {steps} steps", flush=True
        )
    spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
    print(f"{options.recipe}: mean validation loss {statistics.mean(losses):.4f}, standard deviation {spread:.4f}")


if __name__ == "__main__":
    main()
