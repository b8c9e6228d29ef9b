"""Argument parsing and tables that the commands share."""

import argparse
import sys
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(self, command: str, description: str, **settings: Any) -> None:
        super().__init__(prog=f"trillium {command}", description=description, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Print one line to stderr and exit with code 2."""
        sys.stderr.write(f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")
        raise SystemExit(2)


def positive(text: str) -> int:
    """A whole number above 0, as an argument type."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def print_table(columns: list[str], rows: list[list[str]], *, right: tuple[str, ...] = ()) -> None:
    """Print rows under headings, as wide as the terminal, or as wide as they are when the output is a file."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise  # the command line's business; rich would exit with code 1

    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=not terminal)
    for row in rows:
        table.add_row(*row)
    Output(width=None if terminal else 400, markup=False, highlight=False).print(table)
