"""The one sink of metrics: `metrics.jsonl`, TensorBoard, the live display, and a run's `samples`."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.training import distributed
from core.training.progress import Display

METRICS_NAME = "metrics.jsonl"
TIME_FIELDS = ("time_s", "steps_per_s", "tokens_per_s")
"""Fields of a line of metrics that differ between two equal runs."""
EVAL_PREFIX = "eval/"


def json_number(value: float) -> float | int | str:
    """A number for strict JSON: NaN and the infinities become "nan", "inf" and "-inf"."""
    if isinstance(value, bool | int):
        return int(value)
    return float(value) if math.isfinite(value) else str(float(value))


def write_samples(folder: Path, step: int, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write what was sampled at a step as `step-….jsonl`, which the report shows; whole or not at all.

    Args:
        folder: the run's `samples`; made if absent.
        step: steps done.
        rows: JSON values, one mapping a sample; the report's page says which names it shows (`image`, a path relative
            to the run directory, `prompt`, `reference`, …).

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.jsonl"
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)
    return path


class RunLog:
    """Averages the scalars of the training steps over a window and writes them; counts what is not finite.

    A line of `metrics.jsonl` has `step`, `time_s` (seconds since the run began, earlier sessions included), the mean of
    every scalar over the steps since the last line, `steps_per_s`, `tokens_per_s` when the task reports `tokens`, and
    `nonfinite_total` once a scalar was NaN or infinite. Such a value is never averaged away: the mean is then "nan" or
    "inf". In processes other than the main one nothing is written.
    """

    def __init__(self, out: Path, *, quiet: bool = False, tensorboard: bool = True) -> None:
        """Args:
        out: the run directory.
        quiet: show no progress.
        tensorboard: also write TensorBoard events.
        """
        self.out = out
        self.main = distributed.is_main()
        self.display = Display("off" if quiet or not self.main else "auto")
        self.nonfinite_total = 0
        self.last_evaluation: int | None = None
        self.last_scores: dict[str, float] | None = None
        self.evaluation_s = 0.0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._window_from = (0, 0.0)
        self._tensorboard = tensorboard
        self._writer: Any = None
        self._file: Any = None

    def begin(self, step: int, total_steps: int | None) -> None:
        """Open the files at this step: what an earlier session wrote beyond it is cut off.

        Args:
            step: steps done in the state that training goes on from.
            total_steps: length of the run, when known.
        """
        if self.main:
            path = self.out / METRICS_NAME
            self._truncate(path, step)
            self._file = path.open("a", encoding="utf-8")
            if self._tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=step + 1)
        self.display.start(step, total_steps)

    def _truncate(self, path: Path, step: int) -> None:
        kept: list[str] = []
        self.last_evaluation = None
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:
                break  # the line that a killed process was writing
            if record["step"] > step:
                break
            kept.append(line + "\n")
            self.nonfinite_total = max(self.nonfinite_total, record.get("nonfinite_total", 0))
            if any(key.startswith(EVAL_PREFIX) for key in record):
                self.last_evaluation = record["step"]
        part = path.with_name(f".{path.name}.part")
        part.write_text("".join(kept), encoding="utf-8")
        part.replace(path)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the scalars of a training step into the window.

        Args:
            step: steps done, this one included.
            metrics: scalars; `tokens` counts the tokens of the step in this process.
        """
        for name, value in metrics.items():
            number = float(value)
            if not math.isfinite(number):
                self.nonfinite_total += 1
            self._sums[name] = self._sums.get(name, 0.0) + number
            self._counts[name] = self._counts.get(name, 0) + 1
        loss = next((value for name, value in metrics.items() if name.partition("/")[0] == "loss"), None)
        self.display.update(step, loss, metrics.get("tokens", 0.0) * distributed.world())

    def flush(self, step: int, elapsed_s: float) -> None:
        """Write the window as a line and begin a new one.

        Args:
            step: steps done.
            elapsed_s: seconds since the run began.
        """
        sums = dict(self._sums)
        tokens = sums.pop("tokens", None)
        from_step, from_s = self._window_from
        window_s = max(elapsed_s - from_s, 1e-9)
        record = {name: total / self._counts[name] for name, total in sums.items()}
        record["steps_per_s"] = (step - from_step) / window_s
        if tokens is not None:
            record["tokens_per_s"] = tokens * distributed.world() / window_s
        self._sums, self._counts, self._window_from = {}, {}, (step, elapsed_s)
        self._write(step, elapsed_s, record)

    def evaluation(self, step: int, elapsed_s: float, metrics: Mapping[str, float], evaluation_s: float) -> None:
        """Write the scores of an evaluation of this many seconds as a line of their own, prefixed `eval/`."""
        self.evaluation_s = evaluation_s
        self.nonfinite_total += sum(not math.isfinite(value) for value in metrics.values())
        self.last_evaluation, self.last_scores = step, dict(metrics)
        self._write(step, elapsed_s, {EVAL_PREFIX + name: value for name, value in metrics.items()})

    def _write(self, step: int, elapsed_s: float, scalars: Mapping[str, float]) -> None:
        if not self.main:
            return
        record: dict[str, Any] = {"step": step, "time_s": round(elapsed_s, 3)}
        record.update({name: json_number(value) for name, value in scalars.items()})
        if self.nonfinite_total:
            record["nonfinite_total"] = self.nonfinite_total
        if self._file is None:
            raise RuntimeError("RunLog.begin was not called")
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def sync(self) -> None:
        """Put the lines so far on the disk: a checkpoint that refers to them is about to be written."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self, step: int) -> None:
        """Close files and display."""
        self.display.stop(step)
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def state_dict(self) -> dict[str, Any]:
        """The open window and the counter."""
        return {
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "window_from": self._window_from,
            "nonfinite_total": self.nonfinite_total,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        self._window_from = tuple(state["window_from"])
        self.nonfinite_total = state["nonfinite_total"]
