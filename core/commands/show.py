"""`trillium list`, `report` and `doctor`."""

from pathlib import Path

from core.commands.options import Parser, print_table


def list_command(arguments: list[str]) -> int:
    """List recipes with their runtime and the score to expect."""
    Parser("list", "List the recipes of all installed packages, with runtime and expected score.").parse_args(arguments)
    from core.recipes import list_recipes

    recipes = list_recipes()
    print_table(
        ["recipe", "what it does", "runtime", "expected"],
        [[recipe.name, recipe.summary, recipe.runtime, recipe.expected] for recipe in recipes],
    )
    if not recipes:
        print("no recipes: is the package installed? `make setup`, or `pip install -e .` in the checkout")
    return 0


def report(arguments: list[str]) -> int:
    """Write an HTML report of one or several runs, side by side."""
    parser = Parser("report", "Write one self-contained HTML file that shows one or several runs side by side.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory, finished or still going")
    parser.add_argument(
        "--out", type=Path, help="file to write (default: report.html in the run, or in the working directory)"
    )
    options = parser.parse_args(arguments)
    from core.report.page import write_report

    default = options.runs[0] / "report.html" if len(options.runs) == 1 else Path("report.html")
    print(write_report(options.runs, options.out or default))
    return 0


def doctor(arguments: list[str]) -> int:
    """Check versions, devices, threads, disk and data; say how to mend what is wrong."""
    Parser("doctor", "Check this machine and installation. Exit code 1 when something does not work.").parse_args(
        arguments
    )
    from core.doctor import run_checks

    worst = 0
    for check in run_checks():
        print(f"{check.status:<4}  {check.name}: {check.detail}")
        if check.fix:
            print(f"      → {check.fix}")
        worst = max(worst, check.status == "fail")
    print("something does not work: see the lines marked fail" if worst else "everything that is needed works")
    return int(worst)
