"""What the text environments share: spaces, invalid actions, the clock and the `info` dict."""

from collections.abc import Hashable
from typing import Any, ClassVar

import gymnasium
from gymnasium.spaces import Text


class TextEnv(gymnasium.Env[str, str]):
    """Text in, text out. A subclass gives the game; this class judges actions and keeps the clock.

    Subclasses set `optimal_return` and `random_return`, and implement `_start`, `_observe`, `_act`, `_state_key` and,
    where the legal actions can be listed, `_legal_actions`.

    Args:
        observation_space: character set and lengths of what the agent reads.
        action_space: character set and lengths of what it may write; anything outside is invalid.
        horizon: turns after which the episode is truncated; None for no limit. Invalid turns count.
        max_invalid: invalid actions after which the episode is truncated.
        invalid_penalty: what an invalid action costs; its reward is minus this.
        render_mode: `ansi` or None.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]

    optimal_return: float
    """Best expected undiscounted return of an episode."""
    random_return: float
    """Expected undiscounted return of uniformly random legal actions."""

    def __init__(
        self,
        *,
        observation_space: Text,
        action_space: Text,
        horizon: int | None,
        max_invalid: int,
        invalid_penalty: float,
        render_mode: str | None,
    ) -> None:
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon must be >= 1, got {horizon}")
        if max_invalid < 1:
            raise ValueError(f"max_invalid must be >= 1, got {max_invalid}")
        if invalid_penalty < 0:
            raise ValueError(f"invalid_penalty must be >= 0, got {invalid_penalty}")
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

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Returns:
            (observation, info); `info["valid"]` is True before the first action.
        """
        super().reset(seed=seed)
        self._turns = 0
        self._num_invalid = 0
        self._start()
        return self._observe(), self._info(valid=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action.

        Args:
            action: any text, also one outside `action_space`.

        Returns:
            (observation, reward, terminated, truncated, info). `terminated` is the game's end, `truncated` a limit.
        """
        self._turns += 1
        valid = self._accepts(action)
        reward, terminated = self._act(action) if valid else (-self.invalid_penalty, False)
        self._num_invalid += not valid
        late = self.horizon is not None and self._turns >= self.horizon
        truncated = not terminated and (late or self._num_invalid >= self.max_invalid)
        return self._observe(), float(reward), terminated, truncated, self._info(valid=valid)

    def render(self) -> str:
        """What the agent reads now."""
        return self._observe()

    def _accepts(self, action: Any) -> bool:
        """Gymnasium does not check actions, so neither type nor characters can be taken for granted."""
        if not (isinstance(action, str) and action in self.action_space):
            return False
        legal = self._legal_actions()
        return legal is None or action in legal

    def _info(self, *, valid: bool) -> dict[str, Any]:
        info: dict[str, Any] = {"valid": valid, "state_key": self._state_key()}
        legal = self._legal_actions()
        if legal is not None:
            info["legal_actions"] = legal
        return info

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

    def _legal_actions(self) -> list[str] | None:
        """A new list of the legal actions; None when every text of the action space is legal."""
        return None
