"""Copy a word as it is, backwards or sorted: the smallest tasks in which a language model must read its prompt."""

from typing import Unpack

from gymnasium.spaces import Text

from rl.envs.answers import AnswerEnv, check_alphabet
from rl.envs.text import Limits


class CopyEnv(AnswerEnv):
    """The observation is a random word and a colon (`abca:`); the action should be the same word.

    Reward: with `dense`, the fraction of letters in their right places; else 1 for the whole word and 0 otherwise.

    Args:
        length: letters of the word.
        alphabet: different letters that words are drawn from, uniformly; no colon.
        dense: reward every right letter.
        limits: `max_invalid`, attempts at a text that is not `length` letters of the alphabet, by default 1;
            `invalid_penalty`, cost of such a text; `render_mode`.
    """

    def __init__(
        self, *, length: int = 4, alphabet: str = "abcd", dense: bool = True, **limits: Unpack[Limits]
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be >= 1, got {length}")
        check_alphabet(alphabet)
        questions = Text(length + 1, min_length=length + 1, charset=alphabet + ":")
        super().__init__(questions=questions, answer_length=length, answer_alphabet=alphabet, dense=dense, **limits)
        self.alphabet = alphabet
        self.length = length

    def _ask(self) -> tuple[str, str]:
        word = "".join(self.alphabet[i] for i in self.np_random.integers(len(self.alphabet), size=self.length).tolist())
        return word + ":", self._changed(word)

    def _changed(self, word: str) -> str:
        """What should be answered."""
        return word


class ReverseEnv(CopyEnv):
    """The action should be the word backwards. Arguments and reward as in `CopyEnv`."""

    def _changed(self, word: str) -> str:
        return word[::-1]


class SortEnv(CopyEnv):
    """The action should be the word's letters in the order of the alphabet. Arguments and reward as in `CopyEnv`."""

    def _changed(self, word: str) -> str:
        return "".join(sorted(word, key=self.alphabet.index))
