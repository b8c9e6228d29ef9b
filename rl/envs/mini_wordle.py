"""Wordle with sixteen words of three letters."""

from functools import cache
from typing import Unpack

from gymnasium.spaces import Text

from rl.envs.markov import MarkovTextEnv
from rl.envs.tabular import Outcome, Table, tabulate
from rl.envs.text import Limits

# No two begin with the same letter, so that the first letters tell which words are left.
WORDS = ("art", "boa", "can", "day", "elf", "fix", "gas", "has", "jog", "kit", "nod", "paw", "sin", "urn", "van", "zip")
State = tuple[int, tuple[int, ...]]
"""(guesses left, numbers of the words that are possible)."""


class MiniWordleEnv(MarkovTextEnv):
    """Guess which of the sixteen `WORDS` it is. Reward 1 for finding it; lost without guesses.

    The action is one of the words. With `markov` the observation is the guesses that are left and the first letters of
    the words that are possible, as `3bcj:`. Without, it is only the answer, one mark a letter, as `g-y:`: g in its
    place, y elsewhere in the word, - not in it; and `???:` at the start.

    Which word it is stays open among those that fit the answers so far; the answers have the same distribution as those
    of a word drawn at the start.

    Args:
        turns: guesses, at most 9; with 4 every word can be found.
        markov: see above; False is for policies that read the whole history.
        limits: `max_invalid`; `invalid_penalty`; `render_mode`.
    """

    def __init__(self, *, turns: int = 4, markov: bool = True, **limits: Unpack[Limits]) -> None:
        if not 1 <= turns <= 9:
            raise ValueError(f"turns must be from 1 to 9, got {turns}")
        letters = "".join(sorted(set("".join(WORDS))))
        super().__init__(_table(turns), observations="0123456789:" + letters, actions=letters, **limits)
        self.markov = markov
        if not markov:
            self.observation_space = Text(4, min_length=4, charset="?gy-:")
        self._answer = "???"

    def render(self) -> str:
        """The words that are left."""
        left, words = self._state_key()
        return f"{left} guesses left: {' '.join(WORDS[word] for word in words)}"

    def _start(self) -> None:
        super()._start()
        self._answer = "???"

    def _act(self, action: str) -> tuple[float, bool]:
        result = super()._act(action)
        # All words that are left give the same answer.
        self._answer = marks(action, WORDS[self._state_key()[1][0]])
        return result

    def _observe(self) -> str:
        return super()._observe() if self.markov else self._answer + ":"


def marks(guess: str, word: str) -> str:
    """The answer to a guess: g where the letter is in its place, y where it is elsewhere, - where it isn't.

    A letter that the word has once is marked once, in its place before elsewhere.
    """
    answer = ["g" if mine == its else "-" for mine, its in zip(guess, word)]
    rest = [its for mine, its in zip(guess, word) if mine != its]
    for at, letter in enumerate(guess):
        if answer[at] == "-" and letter in rest:
            answer[at] = "y"
            rest.remove(letter)
    return "".join(answer)


@cache
def _table(turns: int) -> Table:
    answers = [[marks(guess, word) for word in WORDS] for guess in WORDS]

    def moves(state: State) -> dict[str, list[Outcome]]:
        left, words = state
        return {guess: outcomes(left - 1, words, number) for number, guess in enumerate(WORDS)}

    def outcomes(left: int, words: tuple[int, ...], guess: int) -> list[Outcome]:
        parts: dict[str, list[int]] = {}
        for word in words:
            parts.setdefault(answers[guess][word], []).append(word)
        found: list[Outcome] = []
        for part in parts.values():
            hit = part == [guess]
            state = (0 if hit else left, tuple(part))
            found.append((len(part) / len(words), state, float(hit), hit or left == 0))
        return found

    def observe(state: State) -> str:
        left, words = state
        return f"{left}{''.join(WORDS[word][0] for word in words)}:"

    return tabulate({(turns, tuple(range(len(WORDS)))): 1.0}, moves, observe, turns)
