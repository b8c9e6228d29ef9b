"""Any Gymnasium environment as one that is read and written."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import gymnasium
from gymnasium.spaces import Discrete, MultiDiscrete, Space, Text
from gymnasium.utils import RecordConstructorArgs

from rl.adapters.limits import PRINTABLE, CutFrom, TextLimits
from rl.adapters.spaces import MOST_NUMBERS, ActionNames, writing

END = ":"
"""Ends an observation that was written from numbers, so that a reader knows where it stops."""


class TextAdapter(gymnasium.Wrapper[str, str, Any, Any], RecordConstructorArgs):
    """Observations become text, and text becomes actions. The contract is that of `rl.envs`.

    `info` gets `valid`, `state_key` (the observation where it can be hashed, else its text), `legal_actions` (from the
    environment's `action_mask` where it gives one, else all names where they are at most 50) and `cut_characters`.
    What is no action does not reach the environment: it costs a penalty, and after `max_invalid` of them the episode is
    truncated. `optimal_return` and `random_return` of the environment stay visible.

    Example:
        `TextAdapter(gymnasium.make("FrozenLake-v1"), action_names=list("LDRU"))`

    Args:
        env: the environment.
        obs_to_text: writes an observation. By default numbers with spaces between them and a colon at the end.
        action_parser: gives the action of a text, or None where it is none. By default names: see `action_names`.
        action_names: one for each action of a `Discrete` space; by default digits, else letters, else numbers.
        action_space: length and characters of actions, for an `action_parser` of your own; by default at most 64
            printable characters.
        max_observation: characters of an observation at most; needed where `obs_to_text` writes more than 1000.
        cut_from: side on which longer observations are cut: `left`, `right`, or `nowhere` to make them an error.
        characters: characters beyond printable ASCII and the line break that `obs_to_text` writes.
        max_invalid: invalid texts after which the episode is truncated.
        invalid_penalty: cost of an invalid text.

    Raises:
        ValueError: a space that has no plain text, or options that do not fit it.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        obs_to_text: Callable[[Any], str] | None = None,
        action_parser: Callable[[str], Any] | None = None,
        *,
        action_names: Sequence[str] | None = None,
        action_space: Text | None = None,
        max_observation: int | None = None,
        cut_from: CutFrom = "nowhere",
        characters: str = "",
        max_invalid: int = 3,
        invalid_penalty: float = 0.1,
    ) -> None:
        RecordConstructorArgs.__init__(  # from which Gymnasium makes the wrapper again for a spec
            self, obs_to_text=obs_to_text, action_parser=action_parser, action_names=action_names,
            action_space=action_space, max_observation=max_observation, cut_from=cut_from, characters=characters,
            max_invalid=max_invalid, invalid_penalty=invalid_penalty,
        )  # fmt: skip
        gymnasium.Wrapper.__init__(self, env)
        if max_invalid < 1:
            raise ValueError(f"max_invalid must be >= 1, got {max_invalid}")
        if not 0 <= invalid_penalty < math.inf:
            raise ValueError(f"invalid_penalty must be finite and >= 0, got {invalid_penalty}")
        self.max_invalid = max_invalid
        self.invalid_penalty = invalid_penalty
        longest, allowed = 1000, PRINTABLE + characters
        if obs_to_text is None:
            obs_to_text, longest, allowed = _default_writer(env)
        self._write = obs_to_text
        self._limits = TextLimits(longest if max_observation is None else max_observation, allowed, cut_from)
        self.observation_space = self._limits.space
        self._names: ActionNames | None = None
        if action_parser is not None and action_names is not None:
            raise ValueError("give action_names or an action_parser, not both")
        if action_parser is None and isinstance(env.action_space, Text) and action_names is None:
            action_space = env.action_space
            action_parser = _verbatim(action_space)
        elif action_parser is None:
            self._names = _default_names(env, action_names)
            action_parser, action_space = self._names.parse, self._names.space
        self._parse = action_parser
        self.action_space = action_space or Text(64, charset=PRINTABLE)
        self._num_invalid = 0
        self._text = ""
        self._info: dict[str, Any] = {}
        self._running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; `info["valid"]` is True before the first action."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._num_invalid = 0
        self._running = True
        self._take(observation, info)
        return self._text, {**self._info, "valid": True}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action.

        Args:
            action: any text.

        Raises:
            gymnasium.error.ResetNeeded: no episode is going on.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded("no episode is going on: call reset first")
        parsed = self._accepted(action)
        if parsed is None:
            self._num_invalid += 1
            truncated = self._num_invalid >= self.max_invalid
            self._running = not truncated
            return self._text, -self.invalid_penalty, False, truncated, {**self._info, "valid": False}
        observation, reward, terminated, truncated, info = self.env.step(parsed)
        self._running = not (terminated or truncated)
        self._take(observation, info)
        return self._text, float(reward), bool(terminated), bool(truncated), {**self._info, "valid": True}

    def _accepted(self, action: Any) -> Any:
        """The action that a text stands for; None where it stands for none that is legal."""
        if not isinstance(action, str):
            return None
        legal = self._info.get("legal_actions")
        return None if legal is not None and action not in legal else self._parse(action)

    def _take(self, observation: Any, info: dict[str, Any]) -> None:
        """Write down what the environment gave."""
        self._text, cut = self._limits.fit(self._write(observation))
        self._info = {**info, "state_key": _key(observation, self._text), "cut_characters": cut}
        if self._names is None:
            return
        mask = self._info.pop("action_mask", None)
        if mask is not None and isinstance(self.env.action_space, Discrete):
            self._info["legal_actions"] = self._names.allowed(mask)
        elif self._names.listed is not None:
            self._info["legal_actions"] = self._names.listed


def _default_writer(env: gymnasium.Env[Any, Any]) -> tuple[Callable[[Any], str], int, str]:
    space = env.observation_space
    found = writing(space)
    if found is None:
        raise ValueError(
            f"{_name(env)} has the observation space {_line(space)}, which has no plain text (discrete values, at most "
            f"{MOST_NUMBERS} numbers, text, or tuples and dicts of these): wrap it with "
            "rl.adapters.adapter.TextAdapter and an obs_to_text of your own"
        )
    if isinstance(space, Text):
        return found.write, found.longest, found.characters
    return lambda value: found.write(value) + END, found.longest + 1, found.characters + END


def _verbatim(space: Text) -> Callable[[str], str | None]:
    return lambda text: text if text in space else None


def _default_names(env: gymnasium.Env[Any, Any], names: Sequence[str] | None) -> ActionNames:
    space = env.action_space
    if isinstance(space, Discrete) or (isinstance(space, MultiDiscrete) and space.nvec.ndim == 1):
        return ActionNames(space, names)
    raise ValueError(
        f"{_name(env)} has the action space {_line(space)}, whose actions have no names: wrap it with "
        "rl.adapters.adapter.TextAdapter and an action_parser of your own"
    )


def _name(env: gymnasium.Env[Any, Any]) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def _line(space: Space[Any]) -> str:
    return " ".join(str(space).split())


def _key(observation: Any, text: str) -> Hashable:
    try:
        hash(observation)
    except TypeError:
        return text
    key: Hashable = observation
    return key
