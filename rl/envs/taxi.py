"""Gymnasium's Taxi as text."""

from functools import cache
from typing import Unpack

from gymnasium.envs.toy_text.taxi import MAP, TaxiEnv

from rl.envs.grids import read_transitions
from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import Table
from rl.envs.text import Limits

ACTIONS = "SNEWPD"
"""South, north, east, west, pick up, drop off: the letters of Gymnasium's actions 0 to 5."""
STANDS = "RGYB"
"""The four stands: red, green, yellow, blue."""


class TaxiTextEnv(MarkovTextEnv):
    """Fetch a passenger from one stand and bring them to another. A turn costs 1, arriving is rewarded with 20.

    The observation is `r2c3YB:` for the taxi in row 2, column 3, the passenger at the stand Y (T in the taxi) and the
    destination B. Picking up or dropping off in the wrong place costs 10, and is legal.

    Args:
        masked: only what changes something is legal, as Gymnasium's `action_mask` has it: no step into a wall, no
            picking up where nobody waits, no dropping off but at a stand.
        rainy: move as intended with probability 0.8 only, else to either side.
        horizon: turns of an episode at most.
        limits: `max_invalid`; `invalid_penalty`, by default 100, so that giving up is dearer than driving on;
            `render_mode`.
    """

    def __init__(
        self, *, masked: bool = False, rainy: bool = False, horizon: int = 200, **limits: Unpack[Limits]
    ) -> None:
        if horizon < 1:
            raise ValueError(f"horizon must be >= 1, got {horizon}")
        limits.setdefault("invalid_penalty", 100.0)
        super().__init__(
            _table(masked, rainy, horizon), observations="01234cr:BGRTY", actions=ACTIONS, truncates=True, **limits
        )

    def render(self) -> str:
        """The map with its walls and the taxi as `@`, and where the passenger is and wants to go."""
        _, row, _, column, passenger, destination, _ = tuple(self._observe())
        lines = list(MAP)
        line, at = lines[1 + int(row)], 2 * int(column) + 1
        lines[1 + int(row)] = f"{line[:at]}@{line[at + 1 :]}"
        where = "in the taxi" if passenger == "T" else f"at {passenger}"
        return "\n".join([*lines, f"passenger {where}, to {destination}"])


@cache
def _table(masked: bool, rainy: bool, horizon: int) -> Table:
    taxi = TaxiEnv(is_rainy=rainy)

    def observe(state: int) -> str:
        row, column, passenger, destination = taxi.decode(state)
        return f"r{row}c{column}{(STANDS + 'T')[passenger]}{STANDS[destination]}:"

    legal = taxi.action_mask if masked else None
    return read_transitions(taxi.P, taxi.initial_state_distrib, ACTIONS, observe, horizon, legal)
