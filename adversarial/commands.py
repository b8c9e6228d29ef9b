"""`trillium frontier`, `trillium augment` and `trillium repair`."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.commands.options import Parser, positive, print_table
from core.errors import RunError

if TYPE_CHECKING:
    from adversarial.frontier import Frontier
    from adversarial.trainers import GANTrainer


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
    from core.report.page import write_report
    from core.text.atomic import write_json

    for run in options.runs:
        trainer = _load(run, options.device)
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


def repair(arguments: list[str]) -> int:
    """Fill gaps in sentences and mend wrong words with a text GAN, or measure how well it does so."""
    parser = Parser(
        "repair",
        "Fill the gaps of sentences, written ___, and mend wrong words (--noise) with a run's generator and "
        "discriminator. With --held-out the damage is done to held-out sentences and the repair is scored.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of a text GAN")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help='such as "a man ___ a horse"')
    parser.add_argument("--noise", type=float, default=0.0, help="probability that a word is wrong (default 0)")
    parser.add_argument("--best", type=positive, default=3, help="repaired texts shown of each (default 3)")
    parser.add_argument("--width", type=positive, default=64, help="candidates kept in the search (default 64)")
    parser.add_argument("--plain", action="store_true", help="without the discriminator")
    parser.add_argument(
        "--held-out", type=positive, metavar="N", help="damage N held-out sentences and score the repair"
    )
    parser.add_argument("--gaps", type=int, default=1, help="words taken out of each held-out sentence (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage (default 0)")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args(arguments)
    if bool(options.texts) == bool(options.held_out):
        parser.error("give either texts to repair or --held-out N")
    if not 0 <= options.noise < 1:
        parser.error(f"--noise must be at least 0 and below 1, got {options.noise}")
    if options.gaps < 0 or not (options.gaps or options.noise):
        parser.error("--gaps must be at least 1 where there is no --noise")
    trainer = _load(options.run, options.device)
    if options.held_out:
        rows = trainer.repair_rows(
            sentences=options.held_out, gaps=options.gaps, noise=options.noise, width=options.width, seed=options.seed
        )
        _print_rows(rows, as_json=options.json)
        return 0
    repairer = trainer.repairer(judged=not options.plain, width=options.width)
    for text in options.texts:
        found = repairer.candidates(text, noise=options.noise)[: options.best]
        if options.json:
            print(
                json.dumps({"text": text, "repaired": [{"text": t, "share": p} for t, p in found]}, ensure_ascii=False)
            )
        else:
            print("\n".join([text, *(f"  {share:6.1%}  {repaired}" for repaired, share in found)]))
    return 0


def augment(arguments: list[str]) -> int:
    """Write new sentences of each class, for a training set that is too small."""
    parser = Parser(
        "augment",
        "Write new sentences, as many for each class of a run that was trained with --label, as JSON lines with `text` "
        "and `label`: no two alike and none a training line.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory of a text GAN")
    parser.add_argument("file", type=Path, metavar="FILE", help="where to, such as more.jsonl; must not exist")
    parser.add_argument("-n", "--per-class", type=positive, default=100, help="sentences of each class (default 100)")
    parser.add_argument("--label", action="append", default=[], help="only this class; may be given several times")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    options = parser.parse_args(arguments)
    if options.file.exists():
        raise RunError(f"{options.file} exists already: name another file")
    from core.text.atomic import replace_file

    trainer = _load(options.run, options.device)
    items = trainer.augment(options.per_class, labels=options.label, seed=options.seed)
    with replace_file(options.file) as file:
        file.writelines(f"{json.dumps(item, ensure_ascii=False)}\n".encode() for item in items)
    print(f"{len(items):,} sentences in {options.file}")
    return 0


def _load(run: Path, device: str) -> "GANTrainer":
    from adversarial.trainers import GANTrainer
    from core.commands.training import load_run

    trainer = load_run(run, device)
    if not isinstance(trainer, GANTrainer):
        raise RunError(f"{run} holds no text GAN: it was trained by {type(trainer).__name__}")
    return trainer


def _print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Rows with scores as one table, intervals in brackets, or as one JSON object a line."""
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    from core.report.curves import format_number

    def shown(score: Any) -> str:
        if isinstance(score, Mapping):
            value, low, high = (format_number(score[part]) for part in ("value", "low", "high"))
            return f"{value} [{low}, {high}]"
        return format_number(score) if isinstance(score, float) else str(score)

    columns = list(dict.fromkeys(column for row in rows for column in row))
    print_table(columns, [[shown(row.get(column, "")) for column in columns] for row in rows])


COMMANDS: dict[str, Callable[[list[str]], int]] = {"frontier": frontier, "augment": augment, "repair": repair}
