"""Gymnasium's CliffWalking as text."""

from functools import cache
from typing import Unpack

from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv

from rl.envs.grids import PLACES, picture, place, read_transitions
from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import Table
from rl.envs.text import Limits

ACTIONS = "URDL"
"""Up, right, down, left: the letters of Gymnasium's actions 0 to 3."""
ROWS = ["." * 12, "." * 12, "." * 12, "S" + "C" * 10 + "G"]


class CliffWalkingTextEnv(MarkovTextEnv):
    """Walk along a cliff to the goal. Each turn costs 1; who falls down the cliff pays 100 and is back at the start.

    The observation is the place (`r3c0:` is row 3, column 0, from 0); the action is one of the letters U, R, D, L.

    Args:
        slippery: move as intended with probability 1/3 only, else to either side.
        horizon: turns of an episode at most.
        limits: `max_invalid`; `invalid_penalty`, by default 100, so that giving up is dearer than walking on;
            `render_mode`.
    """

    def __init__(self, *, slippery: bool = False, horizon: int = 100, **limits: Unpack[Limits]) -> None:
        if horizon < 1:
            raise ValueError(f"horizon must be >= 1, got {horizon}")
        limits.setdefault("invalid_penalty", 100.0)
        super().__init__(_table(slippery, horizon), observations=PLACES, actions=ACTIONS, truncates=True, **limits)

    def render(self) -> str:
        """The map with the agent's place in brackets: S start, C cliff, G goal."""
        return picture(ROWS, *divmod(self._state_key(), len(ROWS[0])))


@cache
def _table(slippery: bool, horizon: int) -> Table:
    cliff = CliffWalkingEnv(is_slippery=slippery)
    return read_transitions(
        cliff.P, cliff.initial_state_distrib, ACTIONS, lambda state: place(*divmod(state, len(ROWS[0]))), horizon
    )
