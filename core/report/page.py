"""The report of one or several runs: one HTML file that needs nothing else, neither scripts nor the network."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.report.curves import Line, draw_chart, format_number
from core.report.media import DRAWING_PX, Embedded, embed
from core.report.rundata import Evaluation, RunData, Score, Snapshot, read_run

_MOST_OPEN_CHARTS = 6
_MOST_CARDS = 24
_MOST_CARDS_EARLIER = 8
_MOST_SNAPSHOTS = 6
_MEDIA = ("image", "audio", "video")
_LATE_CHARTS = ("lr", "grad_norm", "tokens_per_s", "steps_per_s", "seconds", "skipped", "nonfinite_total")


def write_report(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write a self-contained HTML report of one or several runs, side by side where they can be compared.

    Runs with the same kind of config share charts, a score table and sample cards; different kinds follow one another.
    A run that is still going, or that has not been evaluated, is shown as far as it has come.

    Args:
        run_dirs: run directories, each with at least a `config.json`.
        out: the file to write; an existing one is replaced in one move.

    Returns:
        `out`.

    Raises:
        RunError: one of `run_dirs` is no run directory or is damaged.
        ValueError: there is no run directory at all.
    """
    if not run_dirs:
        raise ValueError("a report needs at least one run directory")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    runs = [read_run(Path(path)) for path in run_dirs]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = _shown
    environment.filters["bound"] = lambda value: _shown(value, digits=3)
    groups = _groups(runs)
    page = environment.get_template("report.html.j2").render(
        title=", ".join(dict.fromkeys(run.recipe for run in runs)),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        groups=groups,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    part.write_text(page, encoding="utf-8")
    os.replace(part, out)
    return out


@dataclass
class _RunView:
    """One run as the template sees it."""

    data: RunData
    label: str
    colour: int

    @property
    def progress(self) -> str:
        wanted = self.data.config.get("steps")
        limited = isinstance(wanted, int) and not self.data.config.get("time_budget_s")
        return f"step {self.data.last_step:,}" + (f" of {wanted:,}" if limited else "")


@dataclass
class _Output:
    """What one run said on a card."""

    run: _RunView
    text: str = ""
    score: float | None = None
    reward: float | None = None
    ok: bool | None = None
    transcript: Sequence[Mapping[str, str]] = ()


@dataclass
class _Card:
    """One input (media, prompt, reference) with the output of every run."""

    title: str = ""
    media: Sequence[Embedded] = ()
    prompt: str = ""
    reference: Sequence[str] = ()
    outputs: list[_Output] = field(default_factory=list)


@dataclass
class _Group:
    """Runs of the same kind, with what they share."""

    name: str
    runs: list[_RunView]
    scores: list[dict[str, Any]]
    metrics: list[str]
    charts: list[dict[str, Any]]
    late_charts: list[dict[str, Any]]
    drawings: list[tuple[str, Embedded]]
    samples: list[dict[str, Any]]


def _groups(runs: Sequence[RunData]) -> list[_Group]:
    kinds: dict[str, list[RunData]] = {}
    for run in runs:
        kinds.setdefault(run.group, []).append(run)
    return [_group(members) for members in kinds.values()]


def _group(members: Sequence[RunData]) -> _Group:
    labels = [run.path.resolve().name for run in members]
    if len(set(labels)) < len(labels):
        labels = [str(run.path) for run in members]
    views = [_RunView(run, label, index) for index, (run, label) in enumerate(zip(members, labels))]
    charts = _charts(views)
    early = [chart for chart in charts if chart["name"] not in _LATE_CHARTS]
    return _Group(
        name=", ".join(dict.fromkeys(run.recipe for run in members)),
        runs=views,
        scores=_score_rows(views),
        metrics=list(dict.fromkeys(m for run in members if run.evaluation for m in run.evaluation.metrics)),
        charts=early[:_MOST_OPEN_CHARTS],
        late_charts=[*early[_MOST_OPEN_CHARTS:], *(chart for chart in charts if chart["name"] in _LATE_CHARTS)],
        drawings=[
            (f"{view.label}: {file.stem}", embed(file, "image", size=DRAWING_PX))
            for view in views
            for file in view.data.drawings
        ],
        samples=_samples(views),
    )


# Scores


def _score_rows(views: Sequence[_RunView]) -> list[dict[str, Any]]:
    """Table rows with, per metric, the score and the share of the column's largest value for the bar behind it."""
    tops: dict[str, float] = {}
    rows = [row for view in views for row in _rows(view.data.evaluation)]
    # A single row has nothing to be compared with, so it gets no bars.
    for row in rows if len(rows) > 1 else ():
        for name, score in row.scores.items():
            if isinstance(score.value, float) and math.isfinite(score.value):
                tops[name] = max(tops.get(name, 0.0), score.high or score.value)
    return [
        {
            "run": view,
            "name": row.name,
            "model": row.name == "model",
            "scores": {name: {"score": s, "bar": _bar(s, tops.get(name, 0.0))} for name, s in row.scores.items()},
        }
        for view in views
        for row in _rows(view.data.evaluation)
    ]


def _rows(evaluation: Evaluation | None) -> Sequence[Any]:
    return evaluation.rows if evaluation else ()


def _bar(score: Score, top: float) -> float | None:
    """Length of the bar in percent; no bar for text and non-finite values, and none in a column that has no top."""
    if isinstance(score.value, str) or not math.isfinite(score.value) or top <= 0:
        return None
    return round(100 * max(0.0, score.value) / top, 1)


def _shown(value: Any, digits: int = 4) -> str:
    """How a score or a setting is printed. What only the smoothing of a score keeps from 0 is printed as 0."""
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    return format_number(0.0 if abs(value) < 1e-9 else value, digits)


# Curves


def _charts(views: Sequence[_RunView]) -> list[dict[str, Any]]:
    """One chart per family of metrics: `loss` and `eval/loss` share one, as do `loss/generator` and `loss/critic`."""
    families: dict[str, dict[str, None]] = {}
    for view in views:
        for name, curve in view.data.curves.items():
            if curve.nonfinite or any(curve.values):
                families.setdefault(_family(name), {})[name] = None
    charts = []
    for family, names in families.items():
        lines = [
            Line(
                name if len(views) == 1 else f"{view.label} · {name}",
                view.data.curves[name],
                colour=index if len(views) == 1 else view.colour,
                dash=0 if len(views) == 1 else index,
            )
            for view in views
            for index, name in enumerate(names)
            if name in view.data.curves
        ]
        if not any(line.curve.nonfinite or len(line.curve.values) > 1 for line in lines):
            continue  # a single value stands in the table of scores
        charts.append(
            {
                "name": family,
                "svg": draw_chart(lines, family),
                "lines": lines,
                "nonfinite": sum(line.curve.nonfinite for line in lines),
                "flat": len({value for line in lines for value in line.curve.values}) == 1,
            }
        )
    # Losses first: that is where one looks. What never changed comes last.
    return sorted(charts, key=lambda chart: (chart["name"] != "loss", "loss" not in str(chart["name"]), chart["flat"]))


def _family(name: str) -> str:
    head, _, rest = name.partition("/")
    return rest.partition("/")[0] if rest and head in ("train", "eval", "valid", "val", "test") else head


# Samples


def _samples(views: Sequence[_RunView]) -> list[dict[str, Any]]:
    """Sample sections, newest first: the last samples of every run together, then earlier steps, fewer of each."""
    newest = [(view, view.data.snapshots[-1]) for view in views if view.data.snapshots]
    if not newest:
        return []
    media: dict[Path, Embedded] = {}
    steps = " · ".join(dict.fromkeys(f"step {snapshot.step:,}" for _, snapshot in newest))
    sections = [_section(steps, newest, _MOST_CARDS, media)]
    for view, _ in newest:
        for snapshot in _spread(view.data.snapshots[:-1], _MOST_SNAPSHOTS)[::-1]:
            name = f"step {snapshot.step:,}" if len(views) == 1 else f"{view.label}, step {snapshot.step:,}"
            sections.append(_section(name, [(view, snapshot)], _MOST_CARDS_EARLIER, media))
    return sections


def _section(
    name: str, chosen: Sequence[tuple[_RunView, Snapshot]], most: int, media: dict[Path, Embedded]
) -> dict[str, Any]:
    cards: dict[Any, _Card] = {}
    total = 0
    for view, snapshot in chosen:
        total = max(total, len(snapshot.rows))
        for index, row in enumerate(snapshot.rows[:most]):
            shown = str([row.get(kind) for kind in _MEDIA])
            shared = (shown, row.get("prompt"), str(row.get("reference")), row.get("title"))
            # Outputs of several runs meet on one card when their input is the same; free samples have none.
            key = (*shared, index) if any(row.get(name) for name in (*_MEDIA, "prompt")) else (view.colour, index)
            if key not in cards:
                cards[key] = _card(row, view.data.path, media)
            cards[key].outputs.append(_output(row, view))
    kind = "pictures" if any(card.media for card in cards.values()) else "texts"
    if any(output.transcript for card in cards.values() for output in card.outputs):
        kind = "transcripts"
    return {"name": name, "cards": list(cards.values()), "kind": kind, "total": total, "most": most}


def _card(row: Mapping[str, Any], run_dir: Path, media: dict[Path, Embedded]) -> _Card:
    reference = row.get("reference")
    references = [str(r) for r in reference] if isinstance(reference, list) else [str(reference)] if reference else []
    shown: list[Embedded] = []
    for kind in _MEDIA:
        given = row.get(kind) or []
        for name in given if isinstance(given, list) else [given]:
            path = run_dir / str(name)
            if path not in media:
                media[path] = embed(path, kind)
            shown.append(media[path])
    return _Card(
        title=str(row.get("title") or row.get("label") or ""),
        prompt=str(row.get("prompt") or ""),
        reference=references,
        media=shown,
    )


def _output(row: Mapping[str, Any], view: _RunView) -> _Output:
    return _Output(
        run=view,
        text=str(row.get("text") or ""),
        score=_float(row.get("score")),
        reward=_float(row.get("reward")),
        ok=row["ok"] if isinstance(row.get("ok"), bool) else None,
        transcript=[_turn(turn) for turn in row.get("transcript") or []],
    )


def _turn(turn: Any) -> dict[str, str]:
    """A transcript entry: plain text, or an object such as {"role": "agent", "text": "left"}."""
    if isinstance(turn, dict):
        return {"role": str(turn.get("role", "")), "text": str(turn.get("text", ""))}
    role, separator, rest = str(turn).partition(": ")
    named = separator and role.isidentifier() and len(role) <= 12
    return {"role": role if named else "", "text": rest if named else str(turn)}


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _spread(snapshots: Sequence[Snapshot], most: int) -> list[Snapshot]:
    """At most `most` of them, evenly spread, the first included."""
    if len(snapshots) <= most:
        return list(snapshots)
    return [snapshots[index * len(snapshots) // most] for index in range(most)]
