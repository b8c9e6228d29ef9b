"""Kill a training command at random moments, start it again each time, and compare it with an undisturbed run.

    python tests/faults/killrun.py --kills 10 --seed 0 -- trillium train rl:copy --out {out}

`{out}` in the command becomes the run directory. Exit code 0 means: the final parameters, and the metrics but for
their time fields, are the same to the bit, and nothing unfinished is left behind.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIME_FIELDS = {"time_s", "steps_per_s", "tokens_per_s"}


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIME_FIELDS} for line in lines]


def digest(out: Path) -> tuple[str, str]:
    """(name, SHA-256 of the tensors) of the newest checkpoint: parameters, optimiser, averages and generators."""
    newest = max((out / "checkpoints").glob("step-*"))
    return newest.name, hashlib.sha256((newest / "tensors.safetensors").read_bytes()).hexdigest()


def differences(first: Path, second: Path) -> list[str]:
    """What differs between two finished runs."""
    found = []
    if digest(first) != digest(second):
        found.append(f"final checkpoints differ: {digest(first)} {digest(second)}")
    pairs = [(a, b) for a, b in zip(metrics(first), metrics(second)) if a != b]
    if pairs:
        found.append(f"metrics differ, first at {pairs[0]}")
    if len(metrics(first)) != len(metrics(second)):
        found.append(f"{len(metrics(first))} and {len(metrics(second))} lines of metrics")
    found += [f"left behind: {path}" for path in second.rglob("*.part*")]
    return found


def wait_for_lock(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait until the process holds the run's lock, or has ended."""
    while process.poll() is None:
        lock = out / ".lock"
        if lock.exists() and lock.read_text() == str(process.pid):
            return
        time.sleep(0.01)


def run_with_kills(command: list[str], out: Path, kills: int, seed: int, span_s: float) -> int:
    """Run the command to its end through `kills` SIGKILLs; returns how many met a living process."""
    moments, met = random.Random(seed), 0
    for _ in range(kills):
        process = subprocess.Popen(command)
        wait_for_lock(process, out)
        try:
            process.wait(moments.uniform(0, span_s))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            met += 1
        process.wait()
    subprocess.run(command, check=True)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where the two run directories go")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="killrun-"))
    whole, killed = folder / "whole", folder / "killed"
    commands = {out: [part.replace("{out}", str(out)) for part in options.command] for out in (whole, killed)}
    process = subprocess.Popen(commands[whole])
    wait_for_lock(process, whole)
    began = time.monotonic()
    if process.wait():
        return process.returncode
    span_s = time.monotonic() - began
    met = run_with_kills(commands[killed], killed, options.kills, options.seed, span_s / 2)
    found = differences(whole, killed)
    print(f"{met} of {options.kills} kills met a running process; {'; '.join(found) or 'identical'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
