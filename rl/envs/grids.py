"""What walks over Gymnasium's grids share: their tables, the names of places, and pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from rl.envs.tabular import Outcome, Table, tabulate

PLACES = "0123456789cr:"
"""Characters of `place`."""


def read_transitions(
    transitions: Mapping[Any, Mapping[int, Sequence[tuple[float, Any, float, bool]]]],
    start_S: NDArray[Any],
    letters: str,
    observe: Callable[[int], str],
    horizon: int,
    legal: Callable[[int], Sequence[int]] | None = None,
) -> Table:
    """The table of one of Gymnasium's toy texts.

    Args:
        transitions: its `P`.
        start_S: its `initial_state_distrib`.
        letters: what its actions 0, 1, … are called here.
        observe: state number to text.
        horizon: turns after which an episode is cut.
        legal: state number to 1 for every legal action and 0 for the others; all are legal without it.
    """

    def moves(state: int) -> dict[str, list[Outcome]]:
        return {
            letter: [
                (float(p), int(following), float(r), bool(over)) for p, following, r, over in transitions[state][a]
            ]
            for a, letter in enumerate(letters)
            if legal is None or legal(state)[a]
        }

    return tabulate(dict(enumerate(start_S.tolist())), moves, observe, horizon)


def place(row: int, column: int) -> str:
    """The name of a place: `r2c3:` is row 2, column 3, from 0."""
    return f"r{row}c{column}:"


def picture(rows: Sequence[str], row: int, column: int) -> str:
    """A map with the agent's place in brackets."""
    lines = [f" {' '.join(line)} " for line in rows]
    line = lines[row]
    lines[row] = f"{line[: 2 * column]}[{line[2 * column + 1]}]{line[2 * column + 3 :]}"
    return "\n".join(lines)
