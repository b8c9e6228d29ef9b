"""Exact expected returns of a tabular environment, by dynamic programming.

Shape suffixes: S = states, A = actions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Transitions = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]
"""state → action → (probability, next state, reward, terminated), as Gymnasium's toy texts keep it in `P`."""


def action_values(transitions: Transitions, horizon: int, *, optimal: bool) -> NDArray[np.float64]:
    """Expected undiscounted return of the rest of an episode that is cut after `horizon` turns.

    Args:
        transitions: the environment; every state has the same number of actions.
        horizon: turns left at most.
        optimal: the best policy that knows the time; else uniformly random actions.

    Returns:
        q of shape (horizon, S, A): q[t] has the values with horizon - t turns left, so q[0] those at the start.

    References:
        Bellman 1957, "Dynamic Programming": backward induction.
    """
    num_states, num_actions = len(transitions), len(transitions[0])
    probability = np.zeros((num_states, num_actions, num_states))
    reward = np.zeros((num_states, num_actions))
    for state, actions in transitions.items():
        for action, outcomes in actions.items():
            for chance, following, gain, terminated in outcomes:
                reward[state, action] += chance * gain
                if not terminated:
                    probability[state, action, following] += chance
    q = np.zeros((horizon, num_states, num_actions))
    value_S = np.zeros(num_states)
    for turn in range(horizon - 1, -1, -1):
        q[turn] = reward + probability @ value_S
        value_S = q[turn].max(1) if optimal else q[turn].mean(1)
    return q


def expected_return(transitions: Transitions, start_S: NDArray[np.float64], horizon: int, *, optimal: bool) -> float:
    """Expected return of an episode.

    Args:
        transitions: the environment.
        start_S: probability of each start state.
        horizon: turns of an episode at most.
        optimal: the best policy, or uniformly random actions.
    """
    first = action_values(transitions, horizon, optimal=optimal)[0]
    return float(start_S @ (first.max(1) if optimal else first.mean(1)))
