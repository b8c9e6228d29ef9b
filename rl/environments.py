"""Making environments, one or many."""

from collections.abc import Mapping
from typing import Any

import gymnasium


def make_environment(env: str, kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make`, with this project's environments registered, and one sentence when it does not work.

    Args:
        env: Gymnasium id; `module:id` imports the module first.
        kwargs: arguments of the environment.

    Raises:
        ValueError: no such environment, a module that cannot be imported, or arguments that it does not take.
    """
    import rl.envs  # noqa: F401

    try:
        return gymnasium.make(env, **kwargs)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        described = f" with {dict(kwargs)}" if kwargs else ""
        raise ValueError(f"cannot make the environment {env!r}{described}: {error}") from error


class EnvironmentPool:
    """As many copies of an environment as are played side by side, made when they are first needed.

    Copies are stepped one after another in this process: text environments are far cheaper than a model, and
    Gymnasium's own vector environments reset by themselves, which would waste a turn of the model per episode.

    Args:
        env: Gymnasium id.
        kwargs: arguments of the environment.
    """

    def __init__(self, env: str, kwargs: Mapping[str, Any]) -> None:
        self.env, self.kwargs = env, dict(kwargs)
        self._envs: list[gymnasium.Env[Any, Any]] = []

    def first(self, count: int) -> list[gymnasium.Env[Any, Any]]:
        """The first `count` copies."""
        while len(self._envs) < count:
            self._envs.append(make_environment(self.env, self.kwargs))
        return self._envs[:count]


def known_return(env: gymnasium.Env[Any, Any], name: str) -> float | None:
    """`optimal_return` or `random_return` of an environment that declares it."""
    value = getattr(env.unwrapped, name, None)
    return None if value is None else float(value)
