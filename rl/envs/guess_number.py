"""Guess a number from the answers `higher` and `lower`."""

from functools import cache
from typing import Unpack

from gymnasium.spaces import Text

from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import Outcome, Table, tabulate
from rl.envs.text import Limits

State = tuple[int, int, int]
"""(guesses left, lowest and highest number that are possible)."""


class GuessNumberEnv(MarkovTextEnv):
    """Guess a uniformly random number. Reward 1 for finding it, less `turn_cost` for each guess; lost without guesses.

    The action is a number in as many digits as the highest, as `07`. With `markov` the observation is the guesses that
    are left and the range that is possible, as `3 01-07:`. Without, it is only the answer: `?:` at the start, then `>:`
    (the number is higher), `<:` (lower) or `=:`.

    Which number it is stays open among those that fit the answers so far; the answers have the same distribution as
    those of a number drawn at the start.

    Args:
        numbers: 1 to this, at most 50.
        turns: guesses, at most 9.
        turn_cost: cost of a guess.
        markov: see above; False is for policies that read the whole history.
        limits: `max_invalid`; `invalid_penalty`; `render_mode`.
    """

    def __init__(
        self,
        *,
        numbers: int = 7,
        turns: int = 3,
        turn_cost: float = 0.0,
        markov: bool = True,
        **limits: Unpack[Limits],
    ) -> None:
        if not 2 <= numbers <= 50:
            raise ValueError(f"numbers must be from 2 to 50, got {numbers}")
        if not 1 <= turns <= 9:
            raise ValueError(f"turns must be from 1 to 9, got {turns}")
        if not 0 <= turn_cost < float("inf"):
            raise ValueError(f"turn_cost must be finite and >= 0, got {turn_cost}")
        # Giving up must be dearer than a guess in vain at every turn.
        limits.setdefault("invalid_penalty", max(0.1, turn_cost * turns))
        super().__init__(
            _table(numbers, turns, turn_cost), observations="0123456789 -:", actions="0123456789", **limits
        )
        self.markov = markov
        if not markov:
            self.observation_space = Text(2, min_length=2, charset="?<>=:")
        self._answer = "?"

    def render(self) -> str:
        """The range that is left, on a line of all numbers."""
        left, low, high = self._state_key()
        highest = int(self._table.actions[-1])
        line = "".join("o" if low <= number <= high else "." for number in range(1, highest + 1))
        return f"{line}  {left} guesses left"

    def _start(self) -> None:
        super()._start()
        self._answer = "?"

    def _act(self, action: str) -> tuple[float, bool]:
        result = super()._act(action)
        _, low, high = self._state_key()
        guess = int(action)
        self._answer = ">" if guess < low else "<" if guess > high else "="
        return result

    def _observe(self) -> str:
        return super()._observe() if self.markov else self._answer + ":"


@cache
def _table(numbers: int, turns: int, turn_cost: float) -> Table:
    width = len(str(numbers))

    def moves(state: State) -> dict[str, list[Outcome]]:
        left, low, high = state
        return {f"{guess:0{width}}": outcomes(left - 1, low, high, guess) for guess in range(1, numbers + 1)}

    def outcomes(left: int, low: int, high: int, guess: int) -> list[Outcome]:
        count = high - low + 1
        below = range(low, min(guess - 1, high) + 1)
        above = range(max(guess + 1, low), high + 1)
        found: list[Outcome] = [
            (len(part) / count, (left, part[0], part[-1]), -turn_cost, left == 0) for part in (below, above) if part
        ]
        if low <= guess <= high:
            found.append((1 / count, (0, guess, guess), 1 - turn_cost, True))
        return found

    def observe(state: State) -> str:
        left, low, high = state
        return f"{left} {low:0{width}}-{high:0{width}}:"

    return tabulate({(turns, 1, numbers): 1.0}, moves, observe, turns)
