"""Environments as tables, and exact expected returns by dynamic programming.

Shape suffixes: S = states, A = actions, M = outcomes of all actions in all states, T = turns.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Outcome = tuple[float, Any, float, bool]
"""(probability, key of the next state, reward, terminated)."""
TIE = 1e-9
"""Expected returns this close are equal: the dynamic programming leaves differences of some 1e-14."""


class Solution(NamedTuple):
    """What the best and the uniformly random policy reach."""

    optimal_return: float
    random_return: float
    value_S: Floats
    """Best expected return of an episode that starts there."""
    best_TS: NDArray[np.int64]
    """Number of the best action, by turns played and state; 0 after the end."""


@dataclass(frozen=True, eq=False)
class Table:
    """All of an environment that can be enumerated.

    A state's row is its place in `keys`. Rows where the game is over have no outcomes.
    """

    keys: tuple[Hashable, ...]
    """`state_key` of each state."""
    observations: tuple[str, ...]
    """What the agent reads in each state; different where the game goes on."""
    actions: tuple[str, ...]
    """All actions, legal in one state or another."""
    start_S: Floats
    """Probability that an episode starts here."""
    state_M: NDArray[np.int64]
    """Row of the state; outcomes of one state and action stand together."""
    action_M: NDArray[np.int64]
    """Number of the action."""
    probability_M: Floats
    """Probability of the outcome, given state and action."""
    next_M: NDArray[np.int64]
    """Row of the next state."""
    reward_M: Floats
    """Reward."""
    terminated_M: NDArray[np.bool_]
    """The game ends."""
    horizon: int
    """Turns after which every episode is over."""

    @cached_property
    def legal_SA(self) -> NDArray[np.bool_]:
        """True where an action is legal."""
        legal_SA = np.zeros((len(self.keys), len(self.actions)), dtype=bool)
        legal_SA[self.state_M, self.action_M] = True
        return legal_SA

    @cached_property
    def legal(self) -> tuple[tuple[str, ...], ...]:
        """The legal actions of each state."""
        return tuple(tuple(self.actions[a] for a in np.flatnonzero(legal_A)) for legal_A in self.legal_SA)

    @cached_property
    def rows(self) -> dict[Hashable, int]:
        """Row by state key."""
        return {key: row for row, key in enumerate(self.keys)}

    @cached_property
    def moves(self) -> tuple[dict[str, list[tuple[float, int, float, bool]]], ...]:
        """For play: by state and action, outcomes as (probability up to here, next row, reward, terminated)."""
        moves: tuple[dict[str, list[tuple[float, int, float, bool]]], ...] = tuple({} for _ in self.keys)
        columns = (self.state_M, self.action_M, self.probability_M, self.next_M, self.reward_M, self.terminated_M)
        for state, action, probability, following, reward, terminated in zip(*(c.tolist() for c in columns)):
            outcomes = moves[state].setdefault(self.actions[action], [])
            outcomes.append((probability + (outcomes[-1][0] if outcomes else 0.0), following, reward, terminated))
        return moves

    @cached_property
    def solution(self) -> Solution:
        """Optimal and random return. Of equally good actions the optimal policy takes one that is done sooner.

        References:
            Bellman 1957, "Dynamic Programming": backward induction.
        """
        num_states = len(self.keys)
        value_S, turns_S = np.zeros(num_states), np.zeros(num_states)
        best_TS = np.zeros((self.horizon, num_states), dtype=np.int64)
        every_S = np.arange(num_states)
        over_S = ~self.legal_SA.any(1)
        for turn in range(self.horizon - 1, -1, -1):
            value_SA = np.where(self.legal_SA, self.look_ahead(self.reward_M, value_S), -np.inf)
            turns_SA = self.look_ahead(np.ones(len(self.reward_M)), turns_S)
            value_S = value_SA.max(1)
            good_SA = value_SA >= value_S[:, None] - TIE
            best_TS[turn] = np.where(good_SA, turns_SA, np.inf).argmin(1)
            turns_S = turns_SA[every_S, best_TS[turn]]
            value_S[over_S] = 0
        return Solution(float(self.start_S @ value_S), policy_return(self, uniform_policy(self)), value_S, best_TS)

    def look_ahead(self, reward_M: Floats, value_S: Floats) -> Floats:
        """Expected value_SA of taking an action and then having the value of the next state.

        Args:
            reward_M: what an outcome gives at once.
            value_S: what the next state gives, where the game goes on.
        """
        worth_M = self.probability_M * (reward_M + np.where(self.terminated_M, 0.0, value_S[self.next_M]))
        shape = len(self.keys), len(self.actions)
        place_M = self.state_M * shape[1] + self.action_M
        sums = np.bincount(place_M, weights=worth_M, minlength=shape[0] * shape[1])
        return sums.astype(np.float64, copy=False).reshape(shape)


@runtime_checkable
class Tabular(Protocol):
    """An environment that can be enumerated. Reach it through Gymnasium's wrappers with `env.unwrapped`."""

    def table(self) -> Table:
        """The whole environment; its observations are those that tell the state."""
        ...


def table_of(env: Any) -> Table | None:
    """The environment as a table, where it can be enumerated and its observations tell the state."""
    game = env.unwrapped
    return game.table() if isinstance(game, Tabular) and getattr(game, "markov", True) else None


def optimum_by_start(env: Any) -> dict[str, float]:
    """Best expected return of an episode by its first observation; empty where `table_of` is None."""
    table = table_of(env)
    if table is None:
        return {}
    starts, values = np.flatnonzero(table.start_S), table.solution.value_S
    return {table.observations[row]: float(values[row]) for row in starts}


def tabulate(
    starts: Mapping[Any, float],
    moves: Callable[[Any], Mapping[str, Sequence[Outcome]]],
    observe: Callable[[Any], str],
    horizon: int,
) -> Table:
    """Explore an environment from its start states.

    Args:
        starts: probability by state key.
        moves: of a state key, the outcomes of each legal action; not asked where the game is over.
        observe: what the agent reads.
        horizon: turns after which every episode is over.
    """
    rows = {key: row for row, key in enumerate(key for key, probability in starts.items() if probability > 0)}
    live = list(rows)
    expanded = set(live)
    actions: dict[str, int] = {}
    found: list[tuple[int, int, float, int, float, bool]] = []
    for key in live:  # grows as it goes
        for action, outcomes in moves(key).items():
            number = actions.setdefault(action, len(actions))
            assert abs(sum(outcome[0] for outcome in outcomes) - 1) < TIE
            for probability, following, reward, terminated in outcomes:
                found.append(
                    (rows[key], number, probability, rows.setdefault(following, len(rows)), reward, terminated)
                )
                if not terminated and following not in expanded:
                    expanded.add(following)
                    live.append(following)
    state, action_numbers, probability_list, next_rows, rewards, ends = zip(*found)
    return Table(
        keys=tuple(rows),
        observations=tuple(observe(key) for key in rows),
        actions=tuple(actions),
        start_S=np.array([starts.get(key, 0.0) for key in rows], dtype=np.float64),
        state_M=np.array(state, dtype=np.int64),
        action_M=np.array(action_numbers, dtype=np.int64),
        probability_M=np.array(probability_list, dtype=np.float64),
        next_M=np.array(next_rows, dtype=np.int64),
        reward_M=np.array(rewards, dtype=np.float64),
        terminated_M=np.array(ends, dtype=bool),
        horizon=horizon,
    )


def uniform_policy(table: Table) -> Floats:
    """probabilities_SA of uniformly random legal actions; zeros where the game is over."""
    return table.legal_SA / np.maximum(table.legal_SA.sum(1, keepdims=True), 1)


def policy_return(table: Table, probabilities_SA: Floats, horizon: int | None = None) -> float:
    """Exact expected undiscounted return of a policy that looks at the observation alone.

    The greedy twin of a policy is `np.eye(len(table.actions))[probabilities_SA.argmax(1)]`.

    Args:
        table: the environment.
        probabilities_SA: probability of each of `table.actions` in each state; rows where the game is over are not
            read.
        horizon: turns after which an episode is cut; the table's own by default.

    Raises:
        ValueError: another shape, a row that is no distribution, or one with weight on an illegal action.
    """
    probabilities_SA = np.asarray(probabilities_SA, dtype=np.float64)
    if probabilities_SA.shape != table.legal_SA.shape:
        raise ValueError(f"probabilities_SA must be {table.legal_SA.shape}, got {probabilities_SA.shape}")
    policy_SA = np.where(table.legal_SA.any(1, keepdims=True), probabilities_SA, 0.0)
    if np.any(np.where(table.legal_SA, 0.0, policy_SA)):
        raise ValueError("probabilities_SA has weight on illegal actions: mask them before you normalise")
    if not (np.all(policy_SA >= 0) and np.allclose(policy_SA.sum(1), table.legal_SA.any(1), rtol=0, atol=1e-5)):
        raise ValueError("each row of probabilities_SA must be >= 0 and sum to 1: normalise over the legal actions")
    value_S = np.zeros(len(table.keys))
    for _ in range(table.horizon if horizon is None else horizon):
        value_S = (policy_SA * table.look_ahead(table.reward_M, value_S)).sum(1)
    return float(table.start_S @ value_S)
