"""Making environments, one or many, and stepping them with everything checked that comes out of them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Text

from core.errors import UserError

Outcome = tuple[str, float, bool, bool, dict[str, Any]]
"""(observation, reward, terminated, truncated, info) of a step."""

_INFINITY = float("inf")


class EnvironmentFault(UserError, RuntimeError):
    """An environment that raised, hung or died, or gave what no environment may give."""

    exit_code: ClassVar[int] = 1


def make_environment(env: str, kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make`, with this project's environments registered, and one sentence when it does not work.

    An environment that is not text on both sides gets a `rl.adapters.adapter.TextAdapter`.

    Args:
        env: Gymnasium id; `module:id` imports the module first.
        kwargs: arguments of the environment.

    Returns:
        An environment with `Text` spaces.

    Raises:
        ValueError: no such environment, a module that cannot be imported, arguments that it does not take, or spaces
            that have no plain text.
    """
    import rl.adapters
    import rl.envs  # noqa: F401
    from rl.adapters.adapter import TextAdapter

    try:
        made = gymnasium.make(env, **kwargs)
        if isinstance(made.observation_space, Text) and isinstance(made.action_space, Text):
            return made
        return TextAdapter(made)
    except (gymnasium.error.Error, UserError, ImportError, TypeError, ValueError) as error:
        described = f" with {dict(kwargs)}" if kwargs else ""
        raise ValueError(f"cannot make the environment {env!r}{described}: {error}") from error


class ResultCheck:
    """Follows one copy of an environment from step to step and refuses what none may give.

    It costs less than a microsecond a step, and a little for every 100 characters of an observation.

    Args:
        env: the environment's name, for messages.
        space: its observations.
    """

    def __init__(self, env: str, space: Text) -> None:
        self.env = env
        self._characters, self._longest = frozenset(space.character_set), space.max_length
        self._seed: int | None = None
        self._steps = 0
        self._running = False

    def reset(self, seed: int | None) -> None:
        """An episode is about to begin."""
        self._seed, self._steps, self._running = seed, 0, True

    def step(self) -> None:
        """An action is about to be played.

        Raises:
            gymnasium.error.ResetNeeded: no episode is going on.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded(f"{self.env} has no episode going on: call reset first")
        self._steps += 1

    def start(self, observation: Any, info: Any) -> tuple[str, dict[str, Any]]:
        """What a reset gave, if it is a text of the space and a dict.

        Raises:
            EnvironmentFault: it is not.
        """
        if not isinstance(observation, str):
            raise self.fault(f"gave an observation of type {type(observation).__name__}, which is no text,")
        if len(observation) > self._longest:
            raise self.fault(f"gave an observation of {len(observation)} characters, over its space's {self._longest},")
        if not self._characters.issuperset(observation):
            unknown = "".join(sorted(set(observation) - self._characters))
            raise self.fault(f"gave an observation with {unknown!r}, which its space lacks,")
        if not isinstance(info, dict):
            raise self.fault(f"gave an info of type {type(info).__name__}, which is no dict,")
        return observation, info

    def outcome(self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Outcome:
        """What a step gave, if it is a text of the space, a finite number, two truth values and a dict.

        Raises:
            EnvironmentFault: it is not.
        """
        if type(reward) is not float:
            reward = self._number(reward)
        if not -_INFINITY < reward < _INFINITY:
            raise self.fault(f"gave the reward {reward}")
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated, truncated = self._truth("terminated", terminated), self._truth("truncated", truncated)
        self.start(observation, info)
        self._running = not (terminated or truncated)
        return observation, reward, terminated, truncated, info

    def fault(self, what: str) -> EnvironmentFault:
        """The error of an environment that did what it may not do; its episode is over.

        Args:
            what: the middle of a sentence that begins with the environment's name.
        """
        self._running = False
        return EnvironmentFault(
            f"{self.env} {what} at step {self._steps} of the episode with seed {self._seed}: reset it with that seed "
            "and play the same actions to see why"
        )

    def raised(self, error: Exception) -> EnvironmentFault:
        """The error of an environment that raised one."""
        return self.fault(f"raised {type(error).__name__} ({error})")

    def _number(self, reward: Any) -> float:
        if isinstance(reward, int | float | np.integer | np.floating):
            return float(reward)
        raise self.fault(f"gave a reward of type {type(reward).__name__}, which is no number,")

    def _truth(self, name: str, value: Any) -> bool:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        raise self.fault(f"gave {name} of type {type(value).__name__}, which is no truth value,")


class CheckedEnvironment(gymnasium.Wrapper[str, str, str, str]):
    """An environment whose every result is checked, so that no fault of it gets into a policy's update.

    Args:
        env: an environment with `Text` spaces.
    """

    def __init__(self, env: gymnasium.Env[str, str]) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, Text)
        self._check = ResultCheck(env.unwrapped.spec.id if env.unwrapped.spec else type(env.unwrapped).__name__, space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Raises:
            EnvironmentFault: the environment raised, or gave something else than a text of its space and a dict.
        """
        self._check.reset(seed)
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._check.raised(error) from error
        return self._check.start(observation, info)

    def step(self, action: str) -> Outcome:
        """Play one action.

        Raises:
            gymnasium.error.ResetNeeded: no episode is going on.
            EnvironmentFault: the environment raised, or gave something else than a text of its space, a finite number,
                two truth values and a dict.
        """
        self._check.step()
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise self._check.raised(error) from error
        return self._check.outcome(observation, reward, terminated, truncated, info)


class EnvironmentPool:
    """As many copies of an environment as are played side by side, made when they are first needed.

    Copies are stepped one after another in this process, which is best while an environment is far cheaper than a
    model; `rl.vector.WorkerPool` spreads slow ones over processes. Gymnasium's own vector environments reset by
    themselves, which would waste a turn of the model per episode.

    Args:
        env: Gymnasium id.
        kwargs: arguments of the environment.
    """

    def __init__(self, env: str, kwargs: Mapping[str, Any]) -> None:
        self.env, self.kwargs = env, dict(kwargs)
        self._envs: list[CheckedEnvironment] = []

    def first(self, count: int) -> list[CheckedEnvironment]:
        """The first `count` copies, in this process."""
        while len(self._envs) < count:
            self._envs.append(CheckedEnvironment(make_environment(self.env, self.kwargs)))
        return self._envs[:count]

    def reset(self, seeds: Mapping[int, int]) -> list[tuple[str, dict[str, Any]]]:
        """Start an episode in some copies.

        Args:
            seeds: number of a copy → seed of its episode.

        Returns:
            (observation, info) of each, in the order of `seeds`.

        Raises:
            EnvironmentFault: one of them failed; all are closed.
        """
        envs = self.first(max(seeds, default=-1) + 1)
        try:
            return [envs[row].reset(seed=seed) for row, seed in seeds.items()]
        except EnvironmentFault:
            self.close()
            raise

    def step(self, actions: Mapping[int, str]) -> dict[int, Outcome]:
        """Play an action in some copies; the others stay as they are.

        Args:
            actions: number of a copy → action.

        Returns:
            number of a copy → what came of it.

        Raises:
            EnvironmentFault: one of them failed; all are closed.
        """
        envs = self.first(max(actions, default=-1) + 1)
        try:
            return {row: envs[row].step(action) for row, action in actions.items()}
        except EnvironmentFault:
            self.close()
            raise

    def close(self) -> None:
        """Close all copies; the pool makes new ones when it is used again."""
        envs, self._envs = self._envs, []
        for env in envs:
            env.close()


def known_return(env: gymnasium.Env[Any, Any], name: str) -> float | None:
    """`optimal_return` or `random_return` of an environment that declares it."""
    value = getattr(env.unwrapped, name, None)
    return None if value is None else float(value)
