"""Write a letter as often as possible: the task whose optimum under a KL penalty is known in closed form."""

import math
from typing import NamedTuple, Unpack

from gymnasium.spaces import Text

from rl.envs.answers import AnswerEnv, check_alphabet
from rl.envs.text import Limits


class Regularized(NamedTuple):
    """The optimum of expected reward - beta * KL(policy || uniform letters)."""

    objective: float
    """Its value."""
    expected_return: float
    """Expected reward of the best policy."""
    kl: float
    """Its KL divergence from uniform letters, in nats an answer."""
    chance: float
    """Its probability of the wanted letter, the same at every place; the other letters share the rest."""


class CountCharEnv(AnswerEnv):
    """The observation is a letter and a colon (`a:`); the reward is the fraction of it in the answer of some letters.

    Args:
        length: letters of the answer.
        alphabet: different letters; no colon.
        char: the letter that is wanted, in every episode; by default the alphabet's first one. An empty text draws one
            anew for each episode.
        limits: `max_invalid`, by default 1; `invalid_penalty`; `render_mode`.
    """

    def __init__(
        self, *, length: int = 3, alphabet: str = "abcd", char: str | None = None, **limits: Unpack[Limits]
    ) -> None:
        if length < 1:
            raise ValueError(f"length must be >= 1, got {length}")
        check_alphabet(alphabet)
        self.char = alphabet[0] if char is None else char
        if self.char and self.char not in list(alphabet):
            raise ValueError(f"char must be one letter of the alphabet {alphabet!r}, got {char!r}")
        super().__init__(
            questions=Text(2, min_length=2, charset=alphabet + ":"), answer_length=length, answer_alphabet=alphabet,
            dense=True, **limits,
        )  # fmt: skip
        self.length, self.alphabet = length, alphabet

    def regularized_optimum(self, beta: float) -> Regularized:
        """The best that a policy can reach that pays for moving away from uniformly random letters.

        The best policy draws an answer with a probability proportional to exp(reward / beta). The reward is a sum over
        the letters, so it draws each letter for itself.

        Args:
            beta: weight of the KL divergence, > 0.

        References:
            Peters et al. 2010, "Relative Entropy Policy Search"; Rafailov et al. 2023, arXiv:2305.18290, equation 4.
        """
        if beta <= 0:
            raise ValueError(f"beta must be > 0, got {beta}")
        gain, others = 1 / (self.length * beta), len(self.alphabet) - 1
        # exp(gain) / (exp(gain) + others), without overflow
        chance = 1 / (1 + others * math.exp(-gain))
        objective = beta * self.length * (gain - math.log(chance * len(self.alphabet)))
        return Regularized(objective, chance, (chance - objective) / beta, chance)

    def _ask(self) -> tuple[str, str]:
        char = self.char or self.alphabet[int(self.np_random.integers(len(self.alphabet)))]
        return char + ":", char * self.length
