"""The demonstration: one small run of each petal, and a report that shows them together."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from core.config import RunConfig
from core.errors import UserError
from core.pretrained.sources import MissingData
from core.recipes import build_config, make_trainer
from core.report.curves import format_number
from core.report.page import write_report


@dataclass(frozen=True)
class Part:
    """One run of the demonstration."""

    recipe: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Fields of the recipe's config that the demonstration sets."""


PARTS = (
    Part("multimodal:twemoji", "captions for emoji pictures"),
    Part("adversarial:gan", "a text GAN"),
    Part("rl:copy", "a policy that learns to copy"),
)

QUICK_STEPS = 4


@dataclass(frozen=True)
class Outcome:
    """What the demonstration did."""

    report: Path
    rows: list[list[str]]
    """Run, score name, value, seconds of the run."""
    missing: list[str]
    """One sentence per part that could not run: what is missing and how to get it."""


class NothingRan(UserError):
    """Not one part of the demonstration could run."""


def run_demo(
    out: Path,
    *,
    say: Callable[[str], object],
    fresh: bool = False,
    quick: bool = False,
    parts: Sequence[Part] = PARTS,
) -> Outcome:
    """Run the parts one after the other, each in its own folder, and write `report.html` beside them.

    A part whose data are not on this machine is left out. A part that was finished earlier is only scored again.

    Args:
        out: folder for the runs and the report.
        say: told what happens, one line at a time.
        fresh: start anew.
        quick: a few steps of each.
        parts: what to run.

    Raises:
        NothingRan: every part lacks its data.
    """
    # All recipes first: a wrong one should stop the demonstration before its first minutes, not after.
    configs = [_config(part, out, fresh=fresh, quick=quick) for part in parts]
    rows: list[list[str]] = []
    missing: list[str] = []
    finished: list[Path] = []
    for number, (part, config) in enumerate(zip(parts, configs), start=1):
        say(f"{number}/{len(parts)}  {part.title}: trillium train {part.recipe}")
        started = time.perf_counter()
        try:
            scores = make_trainer(config, part.recipe).train()
        except MissingData as error:
            missing.append(f"{part.recipe}: {error}")
            say(f"left out: {error}")
            continue
        seconds = time.perf_counter() - started
        finished.append(config.out)
        for index, (score, value) in enumerate(scores.items()):
            first = index == 0
            rows.append(
                [part.recipe if first else "", score, format_number(float(value)), f"{seconds:.0f}" if first else ""]
            )
    if not finished:
        raise NothingRan("; ".join(missing))
    return Outcome(write_report(finished, out / "report.html"), rows, missing)


def _config(part: Part, out: Path, *, fresh: bool, quick: bool) -> RunConfig:
    name = part.recipe.replace(":", "-")
    changes: dict[str, Any] = {**part.settings, "out": out / name, "resume": not fresh}
    if quick:
        changes |= {"steps": QUICK_STEPS, "time_budget_s": None, "out": out / f"{name}-quick"}
    return dataclasses.replace(build_config(part.recipe), **changes)
