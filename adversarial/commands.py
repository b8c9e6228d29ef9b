"""`trillium frontier`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.options import Parser, positive
from core.errors import RunError

if TYPE_CHECKING:
    from adversarial.frontier import Frontier


MEANING = {
    "nll_oracle": "quality: lower is better",
    "nll_test": "diversity: lower is better",
    "self_bleu_5": "sameness: lower is better",
    "bleu_5": "quality: higher is better",
    "coverage": "diversity: higher is better",
    "valid": "quality: higher is better",
}
"""What an axis of a frontier says."""


def frontier(arguments: list[str]) -> int:
    """Draw the quality and diversity of text GANs over temperatures, beside their MLE start."""
    parser = Parser(
        "frontier",
        "Quality against diversity of a run's generator over temperatures (and rejection, with an oracle), beside its "
        "MLE start. Prints a table, writes frontier.json and frontier.png into the run directory, and puts the picture "
        "into its report.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory of a text GAN")
    parser.add_argument("-n", "--samples", type=positive, help="sentences a point; by default as in the run's scores")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    options = parser.parse_args(arguments)
    from adversarial.trainers import GANTrainer
    from core.commands.training import load_run
    from core.report.page import write_report
    from core.text.atomic import write_json

    for run in options.runs:
        trainer = load_run(run, options.device)
        if not isinstance(trainer, GANTrainer):
            raise RunError(f"{run} holds no text GAN: it was trained by {type(trainer).__name__}")
        print(f"{run}: drawing sentences at every temperature", file=sys.stderr)
        found = trainer.frontier(samples=options.samples)
        for line in _table(found):
            print(line)
        write_json(run / "frontier.json", found.as_dict())
        draw(found, run / "frontier.png")
        print(write_report([run], run / "report.html"))
    return 0


def _table(found: "Frontier") -> list[str]:
    lines = [f"{'generator':22} {'setting':18} {found.axes[0]:>12} {found.axes[1]:>12}"]
    for name, points in found.curves.items():
        lines += [f"{name:22} {point.setting:18} {point.x:12.4f} {point.y:12.4f}" for point in points]
    return [*lines, found.signature]


def draw(found: "Frontier", path: Path) -> None:
    """Write the curves as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    colours: dict[str, str] = {}
    for name, points in found.curves.items():
        base, _, rejected = name.partition(", ")
        colour = colours.setdefault(base, f"C{len(colours)}")
        order = sorted(points, key=lambda point: point.x)
        axes.plot(
            [p.x for p in order], [p.y for p in order], "--" if rejected else "-", marker="o", markersize=3,
            color=colour, label=name,
        )  # fmt: skip
    axes.set_xlabel(f"{found.axes[0]} ({MEANING[found.axes[0]]})")
    axes.set_ylabel(f"{found.axes[1]} ({MEANING[found.axes[1]]})")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(found.signature, fontsize=7)
    figure.savefig(path, dpi=130)


COMMANDS: dict[str, Callable[[list[str]], int]] = {"frontier": frontier}
