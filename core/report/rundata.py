"""Reads a run directory for the report: config, metrics, scores and samples, each of which may still be missing."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import RunError

_NOT_A_CURVE = {"step", "time", "time_s", "elapsed_s", "epoch", "wall_time"}
_NONFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "infinity": math.inf, "-infinity": -math.inf}


@dataclass
class Curve:
    """One logged scalar over the steps of a run. Non-finite values are counted, not drawn."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    nonfinite: int = 0

    def add(self, step: int, value: float) -> None:
        """Append a value. When a resumed run repeats a step, what was logged from there on goes."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
        if math.isfinite(value):
            self.steps.append(step)
            self.values.append(value)
        else:
            self.nonfinite += 1


@dataclass(frozen=True)
class Score:
    """One cell of the score table; `low` and `high` bound the confidence interval when there is one."""

    value: float | str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """A model, floor, baseline or control with its scores by metric name."""

    name: str
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Evaluation:
    """What `eval.json` holds."""

    rows: Sequence[ScoreRow]
    further: Mapping[str, Score]
    """Scores of the model that no other row has."""
    seconds: float | None
    notes: Sequence[str]

    @property
    def metrics(self) -> list[str]:
        """All metric names, in the order in which they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row.scores))


@dataclass(frozen=True)
class Snapshot:
    """The samples written at one step."""

    step: int
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RunData:
    """Everything the report shows of one run."""

    path: Path
    recipe: str
    group: str
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    machine: Mapping[str, Any]
    curves: Mapping[str, Curve]
    evaluation: Evaluation | None
    snapshots: Sequence[Snapshot]
    drawings: Sequence[Path]
    """Pictures that commands have left in the run directory, such as a frontier."""
    problems: Sequence[str]

    @property
    def last_step(self) -> int:
        """The last step that anything was logged for."""
        return max((curve.steps[-1] for curve in self.curves.values() if curve.steps), default=0)


def read_run(path: Path) -> RunData:
    """Read a run directory, whether the run is finished or still going.

    Args:
        path: the run directory; only its `config.json` has to be there.

    Raises:
        RunError: `path` is no run directory, or one of its JSON files is damaged.
    """
    if not (path / "config.json").is_file():
        raise RunError(f"{path} is not a run directory: it has no config.json")
    stored = _read_json(path / "config.json")
    problems: list[str] = []
    return RunData(
        path=path,
        recipe=str(stored.get("recipe") or path.name),
        group=str(stored.get("config_class") or "run"),
        config=_flat(stored.get("config") or {}),
        versions=_flat(stored.get("versions") or {}),
        machine=_flat(stored.get("machine") or {}) | _flat(stored.get("runtime") or {}),
        curves=_read_metrics(path / "metrics.jsonl", problems),
        evaluation=_read_evaluation(path / "eval.json"),
        snapshots=_read_snapshots(path / "samples", problems),
        drawings=sorted(path.glob("*.png")),
        problems=problems,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it should hold one JSON object")
    return value


def _read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file. A running program may be in the middle of its last line, so that one may be cut."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError:
            if number < len(lines):
                problems.append(f"{path.name} line {number} is not JSON and was left out")
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _read_metrics(path: Path, problems: list[str]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    if not path.is_file():
        return curves
    for record in _read_lines(path, problems):
        step = record.get("step")
        if not isinstance(step, int):
            continue
        for name, value in record.items():
            number = _number(value)
            if number is not None and name not in _NOT_A_CURVE:
                curves.setdefault(name, Curve()).add(step, number)
    return curves


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return _NONFINITE.get(value.lower())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _read_evaluation(path: Path) -> Evaluation | None:
    if not path.is_file():
        return None
    stored = _read_json(path)
    rows = [
        ScoreRow(str(row.get("name", "model")), _scores({k: v for k, v in row.items() if k != "name"}))
        for row in stored.get("rows") or []
        if isinstance(row, dict)
    ]
    metrics = stored.get("metrics")
    scores = _scores(metrics) if isinstance(metrics, dict) else {}
    own = next((row for row in rows if row.name == "model"), None)
    if own is not None:
        # Written by the trainer with intervals; what else was measured does not widen the table.
        rows = [own, *(row for row in rows if row is not own)]
        further = {name: score for name, score in scores.items() if name not in own.scores}
    else:
        rows = [ScoreRow("model", scores), *rows] if scores else rows
        further = {}
    seconds = _number(stored.get("seconds"))
    return Evaluation(rows, further, seconds, [str(note) for note in stored.get("notes") or []])


def _scores(values: Mapping[str, Any]) -> dict[str, Score]:
    scores = {}
    for name, value in values.items():
        if isinstance(value, dict):
            centre = _number(value.get("value"))
            if centre is not None:
                scores[name] = Score(centre, _number(value.get("low")), _number(value.get("high")))
            continue
        number = _number(value)
        if number is not None:
            scores[name] = Score(number)
        elif isinstance(value, str):
            scores[name] = Score(value)
    return scores


def _read_snapshots(folder: Path, problems: list[str]) -> list[Snapshot]:
    snapshots = []
    for file in sorted(folder.glob("step-*.jsonl")):
        digits = file.stem.removeprefix("step-")
        if digits.isdigit():
            snapshots.append(Snapshot(int(digits), _read_lines(file, problems)))
    return sorted(snapshots, key=lambda snapshot: snapshot.step)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under names such as `optim.lr`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
