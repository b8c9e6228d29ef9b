"""Vector environments of Gymnasium that a user made, played like an `EnvironmentPool`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Text
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from rl.environments import Outcome, ResultCheck


def check_vector_env(env: VectorEnv[Any, Any, Any]) -> None:
    """Refuse a vector environment whose text or whose episodes would come out wrong.

    Raises:
        ValueError: spaces that are not text, shared memory, or a reset in the place of a step.
    """
    for role, space in (("observation", env.single_observation_space), ("action", env.single_action_space)):
        if not isinstance(space, Text):
            raise ValueError(
                f"the vector environment has the {role} space {space}, which is no text: make its environments with "
                "rl.environments.make_environment, or wrap each with rl.adapters.adapter.TextAdapter"
            )
    inner = env.unwrapped
    if isinstance(inner, AsyncVectorEnv) and inner.shared_memory:
        raise ValueError(
            "AsyncVectorEnv with shared memory gives zeros instead of text: make it with shared_memory=False"
        )
    if env.metadata.get("autoreset_mode") not in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
        raise ValueError(
            "with autoreset_mode NEXT_STEP the action after an episode's end does nothing: make the vector environment "
            "with autoreset_mode=AutoresetMode.DISABLED"
        )


class VectorPool:
    """Episodes in a vector environment, with the surface of `rl.environments.EnvironmentPool`.

    A vector environment steps all its copies at once. Those whose episode is over, or that have none, get random
    actions until their next one begins, and what comes of that is dropped.

    Args:
        env: with `Text` spaces and autoreset SAME_STEP or DISABLED; an `AsyncVectorEnv` without shared memory.

    Raises:
        ValueError: see `check_vector_env`.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        check_vector_env(env)
        self.env = env
        name = env.spec.id if env.spec else repr(env.unwrapped)
        space = env.single_observation_space
        assert isinstance(space, Text)
        self._checks = [ResultCheck(name, space) for _ in range(env.num_envs)]
        self._resets = env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
        self._over = np.zeros(env.num_envs, dtype=np.bool_)
        self._fresh = True

    def reset(self, seeds: Mapping[int, int]) -> list[tuple[str, dict[str, Any]]]:
        """Start an episode in some copies; see `EnvironmentPool.reset`."""
        if max(seeds, default=0) >= self.env.num_envs:
            raise ValueError(f"{max(seeds) + 1} episodes at once need as many copies, got {self.env.num_envs}")
        for row, seed in seeds.items():
            self._checks[row].reset(seed)
        observations, infos = self._reset(seeds)
        return [self._checks[row].start(observations[row], _one(infos, row)) for row in seeds]

    def step(self, actions: Mapping[int, str]) -> dict[int, Outcome]:
        """Play an action in some copies; see `EnvironmentPool.step`."""
        for row in actions:
            self._checks[row].step()
        if not self._resets and self._over.any():
            self._reset({})
        idle = self.env.single_action_space.sample
        everything = tuple(actions[row] if row in actions else idle() for row in range(self.env.num_envs))
        try:
            observations, rewards, terminated, truncated, infos = self.env.step(everything)
        except Exception as error:
            raise self._checks[next(iter(actions))].raised(error) from error
        self._over = np.logical_or(terminated, truncated)
        return {row: self._outcome(row, observations, rewards, terminated, truncated, infos) for row in actions}

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    def _reset(self, seeds: Mapping[int, int]) -> tuple[Any, dict[str, Any]]:
        """Reset the copies with seeds, and those that have to be reset before they can step again."""
        mask = np.ones_like(self._over) if self._fresh else self._over.copy()
        mask[list(seeds)] = True
        given: Any = [seeds.get(row) for row in range(self.env.num_envs)]
        try:
            made = self.env.reset(seed=given, options={"reset_mask": mask})
        except Exception as error:
            raise self._checks[next(iter(seeds), 0)].raised(error) from error
        self._fresh, self._over = False, np.zeros_like(self._over)
        return made

    def _outcome(
        self, row: int, observations: Any, rewards: Any, terminated: Any, truncated: Any, infos: dict[str, Any]
    ) -> Outcome:
        observation, info = observations[row], _one(infos, row)
        if self._resets and self._over[row]:
            observation, info = info["final_obs"], info["final_info"]
        ended = bool(terminated[row]), bool(truncated[row])
        return self._checks[row].outcome(observation, float(rewards[row]), *ended, info)


def _one(infos: Mapping[str, Any], row: int) -> dict[str, Any]:
    """The info of one copy; Gymnasium keeps `key` for all copies and `_key` for which of them have it."""
    found: dict[str, Any] = {}
    for key, values in infos.items():
        present = infos.get(f"_{key}")
        if present is not None and present[row]:
            value = _one(values, row) if isinstance(values, dict) else values[row]
            found[key] = value.item() if isinstance(value, np.generic) else value
    return found
