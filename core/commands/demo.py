"""`trillium demo`: the three petals, small, and one report."""

from pathlib import Path

from core.commands.options import Parser, print_table


def demo(arguments: list[str]) -> int:
    """Train a captioner, a text GAN and a policy, small, and write one report."""
    parser = Parser("demo", "Train an image captioner, a text GAN and a policy, small; write one report of the three.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the runs (default runs/demo)")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of going on with an earlier demo")
    parser.add_argument("--quick", action="store_true", help="a few steps of each: shows that everything works")
    options = parser.parse_args(arguments)
    from core.demo import run_demo

    outcome = run_demo(options.out, fresh=options.fresh, quick=options.quick, say=print)
    print_table(["run", "score", "value", "seconds"], outcome.rows, right=("value", "seconds"))
    print(f"report: {outcome.report.resolve()}")
    for line in outcome.missing:
        print(f"left out: {line}")
    return 1 if outcome.missing else 0
