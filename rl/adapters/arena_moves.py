"""The moves of some of TextArena's games, as a policy can write them. Whether one is legal now, the game decides."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Moves:
    """What is known about a game."""

    moves: Callable[[Any], list[str]]
    """All moves of a game that was made."""
    players: int = 1
    """How many take part."""


def _numbers(game: Any) -> list[str]:
    return [str(number) for number in range(game.min_number, game.max_number + 1)]


def _takes(game: Any) -> list[str]:
    return [f"{pile} {n}" for pile, size in enumerate(game.initial_piles) for n in range(1, size + 1)]


def _squares(game: Any) -> list[str]:
    return [f"{row} {column}" for row in range(game.size) for column in range(game.size)]


MOVES = {
    "2048": Moves(lambda game: ["Up", "Down", "Left", "Right"]),
    "Bandit": Moves(lambda game: list(game.buttons)),
    "FrozenLake": Moves(lambda game: ["w", "a", "s", "d"]),
    "GuessTheNumber": Moves(_numbers),
    "LightsOut": Moves(_squares),
    "Secretary": Moves(lambda game: ["accept", "continue"]),
    "TowerOfHanoi": Moves(lambda game: ["A B", "A C", "B A", "B C", "C A", "C B"]),
    "ConnectFour": Moves(lambda game: [str(column) for column in range(game.num_cols)], players=2),
    "KuhnPoker": Moves(lambda game: ["check", "bet", "call", "fold"], players=2),
    "Nim": Moves(_takes, players=2),
    "TicTacToe": Moves(lambda game: [str(cell) for cell in range(9)], players=2),
}
"""By the part of TextArena's id before its version."""
