"""The program `trillium`: makes sure that the four packages are ours, then hands over to `core.cli`.

It stands outside the packages, because a foreign `core` earlier on the path would answer in the place of ours.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("core", "multimodal", "adversarial", "rl")
ROOT = Path(__file__).resolve().parent


def foreign_packages() -> list[str]:
    """One sentence per package that would be imported from elsewhere than this file's folder."""
    complaints = []
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != ROOT / name:
            complaints.append(f"`{name}` is imported from {found or 'nowhere'}, but Trillium's is {ROOT / name}")
    return complaints


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; by default those of the process.

    Returns:
        The exit code.
    """
    complaints = foreign_packages()
    if complaints:
        advice = "another distribution has a package of this name: use a virtual environment of its own (`make setup`)"
        sys.stderr.write(f"trillium: error: {'; '.join(complaints)}; {advice}\n")
        return 2
    from core.cli import main as run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
