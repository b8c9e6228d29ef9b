"""Nim: take sticks from heaps; who takes the last one wins."""

from functools import cache, reduce
from operator import xor
from typing import Literal, Unpack, get_args

from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import Outcome, Table, tabulate
from rl.envs.text import Limits

Opponent = Literal["random", "perfect"]
Heaps = tuple[int, ...]


class NimEnv(MarkovTextEnv):
    """Take any number of sticks from one heap, in turns with an opponent; who takes the last stick wins.

    The observation is the sticks of each heap, as in `345:`; the action is a heap and a number, as `b3`. Reward 1 for
    winning, -1 for losing.

    Args:
        heaps: sticks of each heap, one digit a heap; at most 50 in all.
        opponent: `random` plays any move with equal probability, `perfect` wins whenever it can.
        limits: `max_invalid`; `invalid_penalty`, by default 0.5, so that giving up is dearer than losing;
            `render_mode`.

    References:
        Bouton 1901, "Nim, a Game with a Complete Mathematical Theory".
    """

    def __init__(self, *, heaps: str = "345", opponent: Opponent = "random", **limits: Unpack[Limits]) -> None:
        if not (isinstance(heaps, str) and heaps.isascii() and heaps.isdigit() and "0" not in heaps):
            raise ValueError(f"heaps must be a text of digits from 1 to 9, one a heap, got {heaps!r}")
        if len(heaps) > 4:
            raise ValueError(f"heaps must be at most 4, got {len(heaps)}")
        if opponent not in get_args(Opponent):
            raise ValueError(f"opponent must be one of {', '.join(get_args(Opponent))}, got {opponent!r}")
        limits.setdefault("invalid_penalty", 0.5)
        letters = "abcd"[: len(heaps)]
        super().__init__(_table(heaps, opponent), observations="0123456789:", actions=letters + "123456789", **limits)

    def render(self) -> str:
        """The sticks of each heap."""
        heaps: Heaps = self._state_key()
        return "\n".join(f"{letter}: {'|' * sticks}" for letter, sticks in zip("abcd", heaps))


@cache
def _table(heaps: str, opponent: Opponent) -> Table:
    start = tuple(int(digit) for digit in heaps)

    def moves(before: Heaps) -> dict[str, list[Outcome]]:
        return {name: _replies(after, opponent) for name, after in _options(before).items()}

    return tabulate({start: 1.0}, moves, lambda rest: "".join(map(str, rest)) + ":", (sum(start) + 1) // 2)


def _options(heaps: Heaps) -> dict[str, Heaps]:
    """Heaps after each legal move."""
    return {
        f"{'abcd'[heap]}{taken}": (*heaps[:heap], sticks - taken, *heaps[heap + 1 :])
        for heap, sticks in enumerate(heaps)
        for taken in range(1, sticks + 1)
    }


def _replies(heaps: Heaps, opponent: Opponent) -> list[Outcome]:
    """What can come of the heaps that the agent leaves."""
    if not any(heaps):
        return [(1.0, heaps, 1.0, True)]
    options = list(_options(heaps).values())
    if opponent == "perfect":
        # Leaving heaps whose binary sum without carries is 0 wins; where that can't be done, all moves are as good.
        options = [option for option in options if reduce(xor, option) == 0] or options
    return [(1 / len(options), option, 0.0 if any(option) else -1.0, not any(option)) for option in options]
