"""What the text environments share: spaces, invalid actions, the clock and the `info` dict."""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, TypedDict

import gymnasium
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Text


class Limits(TypedDict, total=False):
    """Arguments that every text environment takes."""

    max_invalid: int
    """Invalid actions after which the episode is truncated."""
    invalid_penalty: float
    """What an invalid action costs; its reward is minus this."""
    render_mode: str | None
    """`ansi` or None."""


class TextEnv(gymnasium.Env[str, str]):
    """Text in, text out. A subclass gives the game; this class judges actions and keeps the clock.

    Subclasses set `optimal_return` and `random_return`, and implement `_start`, `_observe`, `_act`, `_state_key` and,
    where the legal actions can be listed, `_legal_actions`; where the optimum is known, `_best`.

    Args:
        observation_space: character set and lengths of what the agent reads.
        action_space: character set and lengths of what it may write; anything outside is invalid.
        horizon: turns after which the episode is truncated; None for no limit. Invalid turns count.
        max_invalid: invalid actions after which the episode is truncated.
        invalid_penalty: what an invalid action costs; its reward is minus this. All that are allowed together should
            cost more than the worst that playing on well can bring, or giving up pays.
        render_mode: `ansi` or None.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]

    optimal_return: float | None = None
    """Best expected undiscounted return of an episode; None where it isn't known."""
    random_return: float | None = None
    """Expected undiscounted return of uniformly random legal actions; None where it isn't known."""

    def __init__(
        self,
        *,
        observation_space: Text,
        action_space: Text,
        horizon: int | None = None,
        max_invalid: int = 3,
        invalid_penalty: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon must be >= 1, got {horizon}")
        if max_invalid < 1:
            raise ValueError(f"max_invalid must be >= 1, got {max_invalid}")
        if not 0 <= invalid_penalty < float("inf"):
            raise ValueError(f"invalid_penalty must be finite and >= 0, got {invalid_penalty}")
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode must be ansi or None, got {render_mode!r}")
        self.observation_space = observation_space
        self.action_space = action_space
        self.horizon = horizon
        self.max_invalid = max_invalid
        self.invalid_penalty = invalid_penalty
        self.render_mode = render_mode
        self._turns = 0
        self._num_invalid = 0
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Returns:
            (observation, info); `info["valid"]` is True before the first action.
        """
        super().reset(seed=seed)
        self._turns = 0
        self._num_invalid = 0
        self._over = False
        self._start()
        return self._observe(), self._info(valid=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action.

        Args:
            action: any text, also one outside `action_space`.

        Returns:
            (observation, reward, terminated, truncated, info). `terminated` is the game's end, `truncated` a limit.

        Raises:
            ResetNeeded: the episode is over, or none was started.
        """
        self._check_running()
        self._turns += 1
        valid = self._accepts(action)
        if valid:
            reward, terminated = self._act(action)
        else:
            reward, terminated = -self.invalid_penalty, False
            self._num_invalid += 1
        truncated = not terminated and (self._turns == self.horizon or self._num_invalid >= self.max_invalid)
        self._over = terminated or truncated
        return self._observe(), reward, terminated, truncated, self._info(valid=valid)

    def render(self) -> str:
        """What the agent reads now."""
        return self._observe()

    def optimal_action(self) -> str:
        """What the policy behind `optimal_return` does now.

        Raises:
            ValueError: nobody knows.
            ResetNeeded: the episode is over, or none was started.
        """
        self._check_running()
        return self._best()

    def _best(self) -> str:
        """The answer of `optimal_action`."""
        raise ValueError(f"{type(self).__name__} has no known optimum for these arguments")

    def _accepts(self, action: Any) -> bool:
        """Gymnasium does not check actions, so neither type nor characters can be taken for granted."""
        legal = self._legal_actions()
        return isinstance(action, str) and action in (self.action_space if legal is None else legal)

    def _check_running(self) -> None:
        if self._over:
            raise ResetNeeded("no episode is going on: call reset() first")

    def _info(self, *, valid: bool) -> dict[str, Any]:
        legal = self._legal_actions()
        if legal is None:
            return {"valid": valid, "state_key": self._state_key()}
        return {"valid": valid, "state_key": self._state_key(), "legal_actions": legal}

    def _start(self) -> None:
        """Draw the start state from `self.np_random`."""
        raise NotImplementedError

    def _observe(self) -> str:
        """The state as text."""
        raise NotImplementedError

    def _act(self, action: str) -> tuple[float, bool]:
        """Play a valid action; gives (reward, terminated)."""
        raise NotImplementedError

    def _state_key(self) -> Hashable:
        """The state, hashable: equal keys mean equal futures."""
        raise NotImplementedError

    def _legal_actions(self) -> Sequence[str] | None:
        """The legal actions; None when every text of the action space is legal.

        It is handed out in `info`: give a tuple, or a new list each time.
        """
        return None
