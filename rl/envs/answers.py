"""What tasks of one question and one answer share."""

from collections.abc import Hashable
from itertools import product
from typing import Unpack

from gymnasium.spaces import Text

from rl.envs.text import Limits, TextEnv

FEW = 50
"""Answers that are worth listing."""


def check_alphabet(alphabet: str) -> None:
    """Refuse an alphabet with equal letters, the colon that ends a question, or nothing in it.

    Raises:
        ValueError: names it.
    """
    if not alphabet or len(set(alphabet)) != len(alphabet) or ":" in alphabet:
        raise ValueError(f"alphabet must be different letters without a colon, got {alphabet!r}")


class AnswerEnv(TextEnv):
    """One turn: the observation is a question, the action is the answer. A subclass implements `_ask`.

    Reward: with `dense`, the fraction of the answer's letters that are right; else 1 for the whole answer and 0
    otherwise. Any text of the right length and letters is legal, and listed where there are few.

    Args:
        questions: space of the questions.
        answer_length: letters of every answer.
        answer_alphabet: different letters of answers; uniformly random answers are right letter by letter with
            probability 1 / their number.
        dense: reward every right letter.
        limits: `max_invalid`, by default 1; `invalid_penalty`; `render_mode`.
    """

    def __init__(
        self, *, questions: Text, answer_length: int, answer_alphabet: str, dense: bool, **limits: Unpack[Limits]
    ) -> None:
        limits.setdefault("max_invalid", 1)
        answers = Text(answer_length, min_length=answer_length, charset=answer_alphabet)
        super().__init__(observation_space=questions, action_space=answers, **limits)
        self.dense = dense
        self.optimal_return = 1.0
        self.random_return = 1 / len(answer_alphabet) if dense else len(answer_alphabet) ** -answer_length
        self._question, self._answer = "", ""
        self._listed: tuple[str, ...] | None = None
        if len(answer_alphabet) ** answer_length <= FEW:
            self._listed = tuple("".join(letters) for letters in product(answer_alphabet, repeat=answer_length))

    def _ask(self) -> tuple[str, str]:
        """Draw a question; gives it and its answer."""
        raise NotImplementedError

    def _start(self) -> None:
        self._question, self._answer = self._ask()

    def _observe(self) -> str:
        return self._question

    def _act(self, action: str) -> tuple[float, bool]:
        right = sum(wanted == given for wanted, given in zip(self._answer, action, strict=True))
        return (right / len(self._answer) if self.dense else float(action == self._answer)), True

    def _best(self) -> str:
        return self._answer

    def _state_key(self) -> Hashable:
        return self._question.removesuffix(":")

    def _legal_actions(self) -> tuple[str, ...] | None:
        return self._listed
