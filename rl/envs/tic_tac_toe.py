"""Tic-tac-toe against a random opponent."""

from functools import cache
from typing import Unpack

from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import Outcome, Table, tabulate
from rl.envs.text import Limits

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
SQUARES = "123456789"
"""Names of the squares, row by row."""


class TicTacToeEnv(MarkovTextEnv):
    """Three in a row, with X, against an opponent who takes any free square with equal probability.

    The observation is the board, row by row, as in `X.O.X....:`; the action is the number of a free square, 1 to 9.
    Reward 1 for winning, -1 for losing, 0 for a draw.

    Args:
        first: the agent opens; else the opponent does.
        limits: `max_invalid`; `invalid_penalty`, by default 0.5, so that giving up is dearer than losing;
            `render_mode`.
    """

    def __init__(self, *, first: bool = True, **limits: Unpack[Limits]) -> None:
        limits.setdefault("invalid_penalty", 0.5)
        super().__init__(_table(first), observations=".OX:", actions=SQUARES, **limits)

    def render(self) -> str:
        """The board, with the numbers of the free squares."""
        board = [SQUARES[i] if mark == "." else mark for i, mark in enumerate(self._observe()[:9])]
        return "\n".join(" ".join(board[i : i + 3]) for i in (0, 3, 6))


@cache
def _table(first: bool) -> Table:
    empty = "." * 9
    starts = {empty: 1.0} if first else {_play(empty, square, "O"): 1 / 9 for square in range(9)}
    return tabulate(starts, _moves, lambda board: board + ":", 5)


def _moves(board: str) -> dict[str, list[Outcome]]:
    return {SQUARES[square]: _replies(_play(board, square, "X")) for square in _free(board)}


def _replies(board: str) -> list[Outcome]:
    """What can come of a board on which X has just played."""
    free = _free(board)
    if _wins(board, "X") or not free:
        return [(1.0, board, float(_wins(board, "X")), True)]
    outcomes: list[Outcome] = []
    for square in free:
        answered = _play(board, square, "O")
        lost = _wins(answered, "O")
        outcomes.append((1 / len(free), answered, -float(lost), lost or "." not in answered))
    return outcomes


def _free(board: str) -> list[int]:
    return [square for square, mark in enumerate(board) if mark == "."]


def _play(board: str, square: int, mark: str) -> str:
    return board[:square] + mark + board[square + 1 :]


def _wins(board: str, mark: str) -> bool:
    return any(all(board[square] == mark for square in line) for line in LINES)
