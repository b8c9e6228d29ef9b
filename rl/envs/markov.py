"""Environments that are played from their table."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
from gymnasium.spaces import Text

from rl.envs.tabular import Table
from rl.envs.text import Limits, TextEnv


class MarkovTextEnv(TextEnv):
    """A text environment whose states, actions and outcomes are all known; so are its returns, exactly.

    Args:
        table: the environment; copies may share it.
        observations: characters of the observations.
        actions: characters of the actions.
        truncates: cut episodes at the table's horizon. False where the game ends by itself.
        limits: `max_invalid`, `invalid_penalty`, `render_mode`.
    """

    def __init__(
        self, table: Table, *, observations: str, actions: str, truncates: bool = False, **limits: Unpack[Limits]
    ) -> None:
        super().__init__(
            observation_space=_space(table.observations, observations),
            action_space=_space(table.actions, actions),
            horizon=table.horizon if truncates else None,
            **limits,
        )
        self.optimal_return, self.random_return = table.solution.optimal_return, table.solution.random_return
        self._table = table
        # Looked up at every step, so each is one attribute away.
        self._moves, self._legal, self._observations = table.moves, table.legal, table.observations
        starts = np.flatnonzero(table.start_S)
        self._start_rows, self._start_bounds = starts.tolist(), table.start_S[starts].cumsum().tolist()
        self._row = 0

    def table(self) -> Table:
        """The whole environment."""
        return self._table

    @property
    def state(self) -> int:
        """Row of the present state in the table."""
        return self._row

    def _start(self) -> None:
        # The last bound may be a little below 1.
        place = bisect_right(self._start_bounds, self.np_random.random(), hi=len(self._start_bounds) - 1)
        self._row = self._start_rows[place]

    def _observe(self) -> str:
        return self._observations[self._row]

    def _act(self, action: str) -> tuple[float, bool]:
        outcomes = self._moves[self._row][action]
        drawn = self.np_random.random() if len(outcomes) > 1 else 0.0
        for upto, following, reward, terminated in outcomes:  # noqa: B007 - the one that it stops at
            if drawn < upto:
                break
        self._row = following
        return reward, terminated

    def _best(self) -> str:
        # Where the game ends by itself, the state knows how long it can last.
        turn = self._turns if self.horizon is not None else 0
        return self._table.actions[self._table.solution.best_TS[turn, self._row]]

    def _state_key(self) -> Any:
        return self._table.keys[self._row]

    def _legal_actions(self) -> tuple[str, ...] | None:
        return self._legal[self._row]


def _space(texts: Sequence[str], characters: str) -> Text:
    return Text(max(map(len, texts)), min_length=min(map(len, texts)), charset=characters)
