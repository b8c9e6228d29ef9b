"""Sums and parities."""

from itertools import accumulate
from operator import xor
from typing import Unpack

from gymnasium.spaces import Text

from rl.envs.answers import AnswerEnv
from rl.envs.text import Limits


class AddEnv(AnswerEnv):
    """The observation is two uniformly random numbers (`07+85:`); the action should be their sum, as `092`.

    Numbers have leading zeros, so that all have `digits` digits and their sum has one more.

    Args:
        digits: of each number, 1 to 18.
        dense: reward every right digit; else 1 for the whole sum and 0 otherwise.
        limits: `max_invalid`, by default 1; `invalid_penalty`; `render_mode`.
    """

    def __init__(self, *, digits: int = 2, dense: bool = True, **limits: Unpack[Limits]) -> None:
        if not 1 <= digits <= 18:  # the generator draws integers of 64 bits
            raise ValueError(f"digits must be from 1 to 18, got {digits}")
        size = 2 * digits + 2
        super().__init__(
            questions=Text(size, min_length=size, charset="0123456789+:"), answer_length=digits + 1,
            answer_alphabet="0123456789", dense=dense, **limits,
        )  # fmt: skip
        self.digits = digits

    def _ask(self) -> tuple[str, str]:
        first, second = self.np_random.integers(10**self.digits, size=2).tolist()
        question = f"{first:0{self.digits}}+{second:0{self.digits}}:"
        return question, f"{first + second:0{self.digits + 1}}"


class ParityEnv(AnswerEnv):
    """The observation is random bits (`0110:`); the action should be 1 where an odd number of them is 1, else 0.

    Args:
        length: bits.
        running: the answer is the parity of the first bit, of the first two, and so on to all: the steps by which it
            can be worked out.
        dense: with `running`, reward every right parity; else 1 for the whole answer and 0 otherwise.
        limits: `max_invalid`, by default 1; `invalid_penalty`; `render_mode`.
    """

    def __init__(self, *, length: int = 4, running: bool = False, dense: bool = True, **limits: Unpack[Limits]) -> None:
        if length < 1:
            raise ValueError(f"length must be >= 1, got {length}")
        super().__init__(
            questions=Text(length + 1, min_length=length + 1, charset="01:"), answer_length=length if running else 1,
            answer_alphabet="01", dense=dense, **limits,
        )  # fmt: skip
        self.length, self.running = length, running

    def _ask(self) -> tuple[str, str]:
        bits = self.np_random.integers(2, size=self.length).tolist()
        parities = "".join(map(str, accumulate(bits, xor)))
        return "".join(map(str, bits)) + ":", parities if self.running else parities[-1]
