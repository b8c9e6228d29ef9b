"""Bernoulli bandit: find out which arm pays, and pull it."""

import math
from collections.abc import Hashable
from functools import cache
from typing import Unpack

from gymnasium.spaces import Text

from rl.envs.tabular import Outcome, Table, tabulate
from rl.envs.text import Limits, TextEnv

ARMS = "abcdefghij"
MAX_HISTORIES = 200_000
"""Histories for which the optimum is worked out; symmetry leaves far fewer."""
MAX_STATES = 20_000
"""States of a table."""
Arm = tuple[int, int]
"""(rewards, pulls)."""
State = tuple[Arm, ...]


class BanditEnv(TextEnv):
    """Each arm pays 1 with a probability of its own, drawn uniformly from [0, 1] anew for each episode, else 0.

    The action is the letter of an arm. The observation is what the last pull paid: `?:` at the start, then `1:` or
    `0:`; it takes the whole history to play well. With `markov` it is the history in short, as `1/3 0/2:` for an arm
    that paid once in three pulls and another that never paid in two.

    Args:
        arms: 2 to 10.
        pulls: of an episode.
        markov: see above.
        limits: `max_invalid`; `invalid_penalty`; `render_mode`.

    References:
        Gittins 1979, "Bandit Processes and Dynamic Allocation Indices".
    """

    def __init__(self, *, arms: int = 2, pulls: int = 10, markov: bool = False, **limits: Unpack[Limits]) -> None:
        if not 2 <= arms <= len(ARMS):
            raise ValueError(f"arms must be from 2 to {len(ARMS)}, got {arms}")
        if pulls < 1:
            raise ValueError(f"pulls must be >= 1, got {pulls}")
        if _histories(arms, pulls - 1) > MAX_HISTORIES:
            raise ValueError(f"{arms} arms and {pulls} pulls have too many histories to know the optimum: lower either")
        digits = len(str(pulls))
        space = Text(2, min_length=2, charset="?01:")
        if markov:
            space = Text(arms * (2 * digits + 2), min_length=arms * 4, charset="0123456789/ :")
        super().__init__(observation_space=space, action_space=Text(1, min_length=1, charset=ARMS[:arms]), **limits)
        self.arms, self.pulls, self.markov = arms, pulls, markov
        self.optimal_return = _value(((0, 0),) * arms, pulls)
        self.random_return = pulls / 2
        self._legal = tuple(ARMS[:arms])
        self._chances = [0.5] * arms
        self._counts: list[Arm] = [(0, 0)] * arms
        self._paid = "?"

    def table(self) -> Table:
        """The bandit as its player knows it: what an arm paid so far says how probably it pays next.

        Raises:
            ValueError: too many states.
        """
        if _histories(self.arms, self.pulls) > MAX_STATES:
            raise ValueError(
                f"{self.arms} arms and {self.pulls} pulls have more than {MAX_STATES} states: lower either for a table"
            )
        return _table(self.arms, self.pulls)

    @property
    def state(self) -> int:
        """Row of the present state in the table."""
        return self.table().rows[self._state_key()]

    def render(self) -> str:
        """What each arm paid."""
        return "\n".join(f"{arm}: {paid} of {pulls}" for arm, (paid, pulls) in zip(ARMS, self._counts))

    def _start(self) -> None:
        self._chances = self.np_random.random(self.arms).tolist()
        self._counts = [(0, 0)] * self.arms
        self._paid = "?"

    def _observe(self) -> str:
        return _short(tuple(self._counts)) if self.markov else self._paid + ":"

    def _act(self, action: str) -> tuple[float, bool]:
        arm = ARMS.index(action)
        paid = int(self.np_random.random() < self._chances[arm])
        rewards, pulls = self._counts[arm]
        self._counts[arm] = rewards + paid, pulls + 1
        self._paid = str(paid)
        return float(paid), self._pulls_left() == 0

    def _state_key(self) -> Hashable:
        return tuple(self._counts)

    def _legal_actions(self) -> tuple[str, ...] | None:
        return self._legal if self._pulls_left() else ()

    def _best(self) -> str:
        left = self._pulls_left()
        values = [_pull_value(tuple(self._counts), arm, left) for arm in range(self.arms)]
        return ARMS[values.index(max(values))]

    def _pulls_left(self) -> int:
        return self.pulls - sum(pulls for _, pulls in self._counts)


def _histories(arms: int, pulls: int) -> int:
    """Different counts of rewards and failures after at most so many pulls."""
    return math.comb(2 * arms + pulls, pulls)


def _chance(arm: Arm) -> float:
    """That the next pull pays: the mean of the posterior of a uniform prior (Laplace's rule of succession)."""
    rewards, pulls = arm
    return (rewards + 1) / (pulls + 2)


def _after(counts: State, arm: int, paid: int) -> State:
    rewards, pulls = counts[arm]
    return (*counts[:arm], (rewards + paid, pulls + 1), *counts[arm + 1 :])


def _pull_value(counts: State, arm: int, left: int) -> float:
    """Expected rewards of pulling an arm and playing on as well as possible."""
    chance = _chance(counts[arm])
    won, lost = (_value(tuple(sorted(_after(counts, arm, paid))), left - 1) for paid in (1, 0))
    return chance * (1 + won) + (1 - chance) * lost


@cache
def _value(counts: State, left: int) -> float:
    """Expected rewards of the best play; arms in ascending order, as their names make no difference."""
    if left == 0:
        return 0.0
    different = {arm: place for place, arm in enumerate(counts)}
    return max(_pull_value(counts, place, left) for place in different.values())


def _short(counts: State) -> str:
    return " ".join(f"{rewards}/{pulls}" for rewards, pulls in counts) + ":"


@cache
def _table(arms: int, pulls: int) -> Table:
    def moves(counts: State) -> dict[str, list[Outcome]]:
        last = sum(arm[1] for arm in counts) + 1 == pulls
        found: dict[str, list[Outcome]] = {}
        for arm in range(arms):
            chance = _chance(counts[arm])
            found[ARMS[arm]] = [
                (chance, _after(counts, arm, 1), 1.0, last),
                (1 - chance, _after(counts, arm, 0), 0.0, last),
            ]
        return found

    return tabulate({((0, 0),) * arms: 1.0}, moves, _short, pulls)
