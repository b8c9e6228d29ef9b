"""Write a text piece by piece, rewarded by any function of it."""

import string
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Unpack

from gymnasium.spaces import Text

from rl.envs.text import Limits, TextEnv
from rl.rewards import LengthReward, QualityReward, RewardFunction, resolve_reward, score

PRINTABLE = string.digits + string.ascii_letters + string.punctuation + " \n"


class TextGenerationEnv(TextEnv):
    """The action is text that is appended, the observation is the text so far, the prompt first.

    The episode ends with the last turn, or before with an empty action; then the text without its prompt is rewarded.
    What a piece has beyond its length is cut off, as a language model need not know when to stop; so only foreign
    characters are invalid.

    Args:
        prompts: a text to go on from, or several, of which each episode draws one.
        reward: a reward function, `module:function`, `length` (the written share of what could be written), `quality`
            (`rl.rewards.QualityReward` under `reference`), or a weighted sum of names as `0.3*length+0.7*quality`.
        turns: pieces.
        piece_length: characters of a piece at most.
        reference: model folder, .gguf file or run directory that judges quality.
        repetition_penalty: see `rl.rewards.QualityReward`.
        charset: characters of prompts and pieces; printable ASCII and the line feed by default.
        limits: `max_invalid`; `invalid_penalty`; `render_mode`.
    """

    def __init__(
        self,
        *,
        prompts: str | Sequence[str] = "",
        reward: RewardFunction | str = "length",
        turns: int = 1,
        piece_length: int = 32,
        reference: Path | str | None = None,
        repetition_penalty: float = 1.0,
        charset: str = PRINTABLE,
        **limits: Unpack[Limits],
    ) -> None:
        for name, value in (("turns", turns), ("piece_length", piece_length)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not charset:
            raise ValueError("charset must have at least one character, got none")
        self.prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not self.prompts:
            raise ValueError("prompts must be a text or some texts, got none")
        foreign = sorted(set("".join(self.prompts)) - set(charset))
        if foreign:
            raise ValueError(f"prompts have {''.join(foreign)!r}, which charset lacks: add it there")
        lengths = [len(prompt) for prompt in self.prompts]
        super().__init__(
            observation_space=Text(max(lengths) + turns * piece_length, min_length=min(lengths), charset=charset),
            action_space=Text(piece_length, min_length=0, charset=charset),
            **limits,
        )

        def quality() -> QualityReward:
            if reference is None:
                raise ValueError("the reward quality needs reference: give a model folder, .gguf file or run directory")
            return QualityReward(reference, repetition_penalty=repetition_penalty)

        named: dict[str, Callable[[], RewardFunction]] = {
            "length": lambda: LengthReward(turns * piece_length),
            "quality": quality,
        }
        self.reward = resolve_reward(reward, named)
        self.turns, self.piece_length = turns, piece_length
        if reward == "length":
            self.optimal_return = 1.0
            # A piece is of 0 to piece_length characters, all as likely; the text goes on unless it is empty.
            go_on = piece_length / (piece_length + 1)
            self.random_return = sum(go_on**turn for turn in range(turns)) / (2 * turns)
        self._letter, self._characters = charset[0], frozenset(charset)
        self._prompt, self._written, self._pieces = "", "", 0

    def _start(self) -> None:
        self._prompt = self.prompts[int(self.np_random.integers(len(self.prompts)))]
        self._written, self._pieces = "", 0

    def _observe(self) -> str:
        return self._prompt + self._written

    def _accepts(self, action: Any) -> bool:
        return isinstance(action, str) and self._characters.issuperset(action)

    def _act(self, action: str) -> tuple[float, bool]:
        self._written += action[: self.piece_length]
        self._pieces += 1
        if action and self._pieces < self.turns:
            return 0.0, False
        return score(self.reward, [self._prompt], [self._written])[0], True

    def _best(self) -> str:
        if self.optimal_return is None:
            return super()._best()
        return self._letter * self.piece_length

    def _state_key(self) -> Hashable:
        return self._prompt, self._written, self._pieces
