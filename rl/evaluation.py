"""Scores of played episodes, with intervals, and the random player that they are compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

from rl.episodes import EpisodeSeed
from rl.rollout import Rollout

Z95 = 1.959964
"""97.5 % quantile of the standard normal distribution."""
TOLERANCE = 1e-6
"""A return this close to the optimum has reached it."""


@dataclass(frozen=True)
class Score:
    """A mean over episodes with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def json(self) -> dict[str, float]:
        """As `eval.json` has it."""
        return {"value": self.value, "low": self.low, "high": self.high}


def mean_score(values: Sequence[float]) -> Score:
    """Mean with a normal interval: value +- 1.96 standard errors. At least two values."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Score(mean, mean - Z95 * error, mean + Z95 * error)


def share_score(hits: int, total: int) -> Score:
    """A share with Wilson's interval, which is not empty where all or none hit.

    References:
        Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    share, weight = hits / total, Z95**2 / total
    centre = (share + weight / 2) / (1 + weight)
    half = Z95 * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    return Score(share, max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class Episodes:
    """What scores need of played episodes."""

    returns: list[float]
    """Undiscounted return of each episode."""
    turns: list[int]
    """Turns of each episode."""
    num_valid: int
    """Valid actions of all episodes."""
    starts: list[str]
    """First observation of each episode."""

    @classmethod
    def of(cls, rollout: Rollout) -> "Episodes":
        """From a rollout."""
        turns = torch.bincount(rollout.episode_N, minlength=rollout.num_episodes)
        num_valid = sum(turn.valid for turn in rollout.turns)
        return cls(rollout.returns_E.tolist(), turns.tolist(), num_valid, rollout.starts)

    def solved(self, optimum: float, by_start: Mapping[str, float]) -> list[bool]:
        """Whether each episode reached the optimum.

        Args:
            optimum: the best expected return.
            by_start: that of episodes with this first observation, where it is known.
        """
        wanted = (by_start.get(start, optimum) for start in self.starts)
        return [reached >= best - TOLERANCE for reached, best in zip(self.returns, wanted)]

    def scores(self, optimum: float | None, by_start: Mapping[str, float] | None = None) -> dict[str, Score]:
        """`return`, `valid` (share of actions), `turns` and, with a known optimum, `regret` and `solved`.

        `regret` is the optimum less the mean return. Arguments as of `solved`.
        """
        mean = mean_score(self.returns)
        found = {"return": mean}
        if optimum is not None:
            found["regret"] = Score(optimum - mean.value, optimum - mean.high, optimum - mean.low)
            found["solved"] = share_score(sum(self.solved(optimum, by_start or {})), len(self.returns))
        found["valid"] = share_score(self.num_valid, sum(self.turns))
        found["turns"] = mean_score(self.turns)
        return found


def random_action(env: gymnasium.Env[Any, Any], legal: Sequence[str] | None, chance: np.random.Generator) -> str:
    """A uniformly random legal action; where the environment lists none, a sample of its action space."""
    if legal is not None:
        return legal[int(chance.integers(len(legal)))]
    env.action_space.seed(int(chance.integers(2**31)))
    return str(env.action_space.sample())


def play_randomly(envs: Sequence[gymnasium.Env[Any, Any]], seeds: Sequence[EpisodeSeed], *, max_turns: int) -> Episodes:
    """Episodes of `random_action`.

    Args:
        envs: at least as many as seeds.
        seeds: the episodes to play.
        max_turns: turns after which an episode is cut.
    """
    returns, turns, starts, num_valid = [], [], [], 0
    for env, seed in zip(envs, seeds, strict=False):
        chance = np.random.default_rng(seed.sampling)
        start, info = env.reset(seed=seed.environment)
        total, count, done = 0.0, 0, False
        while not done and count < max_turns:
            action = random_action(env, info.get("legal_actions"), chance)
            _, reward, terminated, truncated, info = env.step(action)
            total, count, done = total + float(reward), count + 1, terminated or truncated
            num_valid += bool(info.get("valid", True))
        returns.append(total)
        turns.append(count)
        starts.append(start)
    return Episodes(returns, turns, num_valid, starts)


def as_row(name: str, scores: Mapping[str, Score]) -> dict[str, Any]:
    """A row of `eval.json`."""
    return {"name": name, **{metric: score.json() for metric, score in scores.items()}}
