"""Gymnasium's FrozenLake as text."""

from collections.abc import Hashable

import numpy as np
from gymnasium.envs.toy_text.frozen_lake import MAPS, FrozenLakeEnv
from gymnasium.spaces import Text

from rl.envs.tabular import expected_return
from rl.envs.text import TextEnv

ACTIONS = "LDRU"
"""Left, down, right, up: the letters of Gymnasium's actions 0 to 3."""


class FrozenLakeTextEnv(TextEnv):
    """Walk from the top left to the goal without falling into a hole. Reward 1 at the goal, else 0.

    The observation is the place (`r2c3:` is row 2, column 3, from 0); the action is one of the letters L, D, R, U.
    Walking against the edge stays in place. A hole or the goal terminates the episode, `horizon` turns truncate it.

    Args:
        slippery: move as intended with probability `success_rate` only, else to either side.
        map_name: `4x4` or `8x8`.
        horizon: turns of an episode at most.
        success_rate: see `slippery`.
        max_invalid: invalid texts after which the episode is truncated.
        invalid_penalty: cost of an invalid text.
        render_mode: `ansi` or None.
    """

    def __init__(
        self,
        *,
        slippery: bool = False,
        map_name: str = "4x4",
        horizon: int = 100,
        success_rate: float = 1 / 3,
        max_invalid: int = 3,
        invalid_penalty: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        if map_name not in MAPS:
            raise ValueError(f"map_name must be one of {', '.join(MAPS)}, got {map_name!r}")
        if not 0 < success_rate <= 1:
            raise ValueError(f"success_rate must be in (0, 1], got {success_rate}")
        super().__init__(
            observation_space=Text(5, min_length=5, charset="0123456789cr:"),
            action_space=Text(1, min_length=1, charset=ACTIONS),
            horizon=horizon,
            max_invalid=max_invalid,
            invalid_penalty=invalid_penalty,
            render_mode=render_mode,
        )
        lake = FrozenLakeEnv(map_name=map_name, is_slippery=slippery, success_rate=success_rate)
        self.rows: list[str] = MAPS[map_name]
        self.transitions = lake.P
        self.start_S = np.asarray(lake.initial_state_distrib)
        self.optimal_return = expected_return(lake.P, self.start_S, horizon, optimal=True)
        self.random_return = expected_return(lake.P, self.start_S, horizon, optimal=False)
        self._state = 0

    def render(self) -> str:
        """The map with the agent's place in brackets."""
        row, column = self._place()
        lines = [f" {' '.join(line)} " for line in self.rows]
        line = lines[row]
        lines[row] = f"{line[: 2 * column]}[{line[2 * column + 1]}]{line[2 * column + 3 :]}"
        return "\n".join(lines)

    def _start(self) -> None:
        self._state = int(self.np_random.choice(len(self.start_S), p=self.start_S))

    def _observe(self) -> str:
        row, column = self._place()
        return f"r{row}c{column}:"

    def _act(self, action: str) -> tuple[float, bool]:
        outcomes = self.transitions[self._state][ACTIONS.index(action)]
        chosen = 0
        if len(outcomes) > 1:
            chosen = int(self.np_random.choice(len(outcomes), p=[outcome[0] for outcome in outcomes]))
        _, self._state, reward, terminated = outcomes[chosen]
        return float(reward), bool(terminated)

    def _state_key(self) -> Hashable:
        return self._state

    def _legal_actions(self) -> list[str] | None:
        return list(ACTIONS)

    def _place(self) -> tuple[int, int]:
        return divmod(self._state, len(self.rows[0]))
