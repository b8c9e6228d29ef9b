"""tinyshakespeare by characters: validation loss in a given wall time, beside a plain GPT-2-style baseline.

Usage: python benchmarks/shakespeare.py FILE [--recipe ours|baseline] [--budget-s 94] [--seeds 0 1 2]

Every run is a process of its own: the wall time is from its start to its final weights, imports and compilation
counted (the compiler's cache starts empty). Scored on the whole validation split with non-overlapping windows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import machine

CHILD = """
import json, sys, time
from pathlib import Path
from core.language.recipes import {recipe}
from core.language.trainers import LanguageTrainer
out = Path(sys.argv[1])
config = {recipe}(sys.argv[2], seed=int(sys.argv[3]), budget_s=float(sys.argv[4]), out=out)
trainer = LanguageTrainer(config, report=False, quiet=True)
scores = trainer.train()
print(json.dumps({{"loss": scores["loss"], "steps": trainer.step}}))
"""


def run(recipe: str, text: Path, budget_s: float, seed: int) -> tuple[float, float, int]:
    """(validation loss, seconds to the final weights, steps) of one run."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "cache")}
        out = Path(folder) / "run"
        command = [sys.executable, "-c", CHILD.format(recipe=recipe), str(out), str(text), str(seed), str(budget_s)]
        start = time.time()
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        # The last checkpoint is written when training ends, before the evaluation.
        finished = max(path.stat().st_mtime for path in (out / "checkpoints").glob("*/*"))
    result = json.loads(done.stdout.splitlines()[-1])
    return result["loss"], finished - start, result["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--recipe", default="text")
    parser.add_argument("--budget-s", type=float, default=90)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
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
