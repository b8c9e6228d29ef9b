"""Copy a word: one turn, and the smallest task in which a language model must read its prompt."""

from collections.abc import Hashable

from gymnasium.spaces import Text

from rl.envs.text import TextEnv


class CopyEnv(TextEnv):
    """The observation is a random word and a colon (`abca:`); the action should be the same word.

    Reward: with `dense`, the fraction of letters in their right places; else 1 for the whole word and 0 otherwise.

    Args:
        length: letters of the word.
        alphabet: different letters that words are drawn from, uniformly; no colon.
        dense: reward every right letter.
        max_invalid: attempts at a text that is not `length` letters of the alphabet.
        invalid_penalty: cost of such a text.
        render_mode: `ansi` or None.
    """

    def __init__(
        self,
        *,
        length: int = 4,
        alphabet: str = "abcd",
        dense: bool = True,
        max_invalid: int = 1,
        invalid_penalty: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be >= 1, got {length}")
        if not alphabet or len(set(alphabet)) != len(alphabet) or ":" in alphabet:
            raise ValueError(f"alphabet must be different letters without a colon, got {alphabet!r}")
        super().__init__(
            observation_space=Text(length + 1, min_length=length + 1, charset=alphabet + ":"),
            action_space=Text(length, min_length=length, charset=alphabet),
            horizon=None,
            max_invalid=max_invalid,
            invalid_penalty=invalid_penalty,
            render_mode=render_mode,
        )
        self.alphabet = alphabet
        self.length = length
        self.dense = dense
        self.optimal_return = 1.0
        self.random_return = 1 / len(alphabet) if dense else len(alphabet) ** -length
        self._word = alphabet[0] * length

    def _start(self) -> None:
        self._word = "".join(self.alphabet[i] for i in self.np_random.integers(len(self.alphabet), size=self.length))

    def _observe(self) -> str:
        return self._word + ":"

    def _act(self, action: str) -> tuple[float, bool]:
        right = sum(wanted == given for wanted, given in zip(self._word, action, strict=True))
        return (right / self.length if self.dense else float(right == self.length)), True

    def _state_key(self) -> Hashable:
        return self._word
