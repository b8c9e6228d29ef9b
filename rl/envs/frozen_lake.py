"""Gymnasium's FrozenLake as text."""

from functools import cache
from typing import Unpack

from gymnasium.envs.toy_text.frozen_lake import MAPS, FrozenLakeEnv

from rl.envs.grids import PLACES, picture, place, read_transitions
from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import Table
from rl.envs.text import Limits

ACTIONS = "LDRU"
"""Left, down, right, up: the letters of Gymnasium's actions 0 to 3."""


class FrozenLakeTextEnv(MarkovTextEnv):
    """Walk from the top left to the goal without falling into a hole. Reward 1 at the goal, else 0.

    The observation is the place (`r2c3:` is row 2, column 3, from 0); the action is one of the letters L, D, R, U.
    Walking against the edge stays in place. A hole or the goal terminates the episode, `horizon` turns truncate it.

    Args:
        slippery: move as intended with probability `success_rate` only, else to either side.
        map_name: `4x4` or `8x8`.
        horizon: turns of an episode at most.
        success_rate: see `slippery`.
        limits: `max_invalid`, `invalid_penalty`, `render_mode`.
    """

    def __init__(
        self,
        *,
        slippery: bool = False,
        map_name: str = "4x4",
        horizon: int = 100,
        success_rate: float = 1 / 3,
        **limits: Unpack[Limits],
    ) -> None:
        if map_name not in MAPS:
            raise ValueError(f"map_name must be one of {', '.join(MAPS)}, got {map_name!r}")
        if not 0 < success_rate <= 1:
            raise ValueError(f"success_rate must be in (0, 1], got {success_rate}")
        if horizon < 1:
            raise ValueError(f"horizon must be >= 1, got {horizon}")
        table = _table(map_name, slippery, success_rate, horizon)
        super().__init__(table, observations=PLACES, actions=ACTIONS, truncates=True, **limits)
        self.rows: list[str] = MAPS[map_name]

    def render(self) -> str:
        """The map with the agent's place in brackets."""
        return picture(self.rows, *divmod(self._state_key(), len(self.rows[0])))


@cache
def _table(map_name: str, slippery: bool, success_rate: float, horizon: int) -> Table:
    lake = FrozenLakeEnv(map_name=map_name, is_slippery=slippery, success_rate=success_rate)
    width = len(MAPS[map_name][0])
    return read_transitions(
        lake.P, lake.initial_state_distrib, ACTIONS, lambda state: place(*divmod(state, width)), horizon
    )
