"""Between an environment's text and a language model's token ids: vocabulary, contexts, actions and legal tokens.

Shape suffixes: N = turns, T = tokens of a turn, V = vocabulary, K = different masks.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import gymnasium
import torch
from gymnasium.spaces import Text
from torch import Tensor

from core.text.characters import CharTokenizer
from core.text.chat import after_answer, answer_end, encode_prompt, without_special
from core.text.huggingface import HFTokenizer
from core.text.tokenizer import Tokenizer

_REMEMBERED = 1 << 16
"""Texts whose tokens are kept."""


class EnvironmentMismatch(ValueError):
    """An environment, or one of its texts, that the policy cannot read or write."""


def text_spaces(env: gymnasium.Env[Any, Any]) -> tuple[Text, Text]:
    """The observation and the action space.

    Raises:
        EnvironmentMismatch: one of them is not text.
    """
    for role, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, Text):
            name = env.spec.id if env.spec else type(env).__name__
            raise EnvironmentMismatch(
                f"{name} has the {role} space {space}; a language model needs gymnasium.spaces.Text: wrap the "
                "environment so that it reads and gives text (rl/envs/frozen_lake.py does it for FrozenLake)"
            )
    return env.observation_space, env.action_space  # type: ignore[return-value]


def build_tokenizer(env: gymnasium.Env[Any, Any]) -> CharTokenizer:
    """One token per character that the environment reads or gives."""
    observation, action = text_spaces(env)
    return CharTokenizer.train(observation.characters + action.characters)


class TextInterface:
    """Turns observations into contexts and sampled tokens into actions, for one kind of environment.

    Actions of one fixed length end by themselves; others end with the tokenizer's end-of-sequence token. Token ids are
    kept from end to end: sampled text is never tokenized again.

    Args:
        tokenizer: of the policy.
        observation_space: what the environment gives.
        action_space: what it takes.
        vocab_size: V, the rows of the model's output; the tokenizer's by default.

    Raises:
        EnvironmentMismatch: the tokenizer lacks a character, or an end-of-sequence token that is needed.
    """

    def __init__(
        self, tokenizer: Tokenizer, observation_space: Text, action_space: Text, *, vocab_size: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size or tokenizer.vocab_size
        self.observation_space = observation_space
        self.action_space = action_space
        longest = max((len(tokenizer.encode(character)) for character in action_space.characters), default=1)
        # A tokenizer with tokens of several characters writes texts of one length with different numbers of tokens.
        one_each = longest == 1 and (isinstance(tokenizer, CharTokenizer) or action_space.max_length == 1)
        fixed = one_each and action_space.min_length == action_space.max_length
        self.stop_id = self._end(fixed)
        self.max_action_tokens = action_space.max_length * longest + (self.stop_id is not None)
        self._check_characters()
        # The same few texts come again and again, and a step in a small environment costs less than a tokenizer does.
        self._starts = lru_cache(_REMEMBERED)(self._start)
        self._replies = lru_cache(_REMEMBERED)(self._reply)
        self._texts = lru_cache(_REMEMBERED)(self._text)

    def _check_characters(self) -> None:
        unknown = self.tokenizer.unk_id
        for role, space in (("observation", self.observation_space), ("action", self.action_space)):
            missing = [c for c in space.characters if unknown is not None and unknown in self.tokenizer.encode(c)]
            if missing:
                raise EnvironmentMismatch(
                    f"the policy's vocabulary lacks {''.join(missing)!r} of the {role} space: "
                    "use an environment with the characters that it was trained on, or train a new policy"
                )

    @property
    def max_observation_tokens(self) -> int:
        """Most tokens of one observation."""
        longest = max((len(self.tokenizer.encode(c)) for c in self.observation_space.characters), default=1)
        return self.observation_space.max_length * longest

    def start(self, observation: str) -> list[int]:
        """The context of the first turn. The list is shared by equal observations: do not change it."""
        return self._starts(observation)

    def reply(self, observation: str, *, finished: bool = True) -> list[int]:
        """What is read of a later turn's observation. The list is shared by equal observations: do not change it.

        Args:
            observation: what the environment gave.
            finished: whether the answer before ended by itself, and was not cut by the length limit.
        """
        return self._replies(observation, finished)

    def action(self, tokens: Sequence[int]) -> str:
        """The text of sampled tokens. Special tokens are spelled out, so that they make an action invalid."""
        return self._texts(tuple(tokens))

    def _end(self, fixed: bool) -> int | None:
        """The token that ends an action; None for actions of one fixed length, which end by themselves."""
        if not fixed and self.tokenizer.eos_id is None:
            raise EnvironmentMismatch("actions of varying length need a tokenizer with an end-of-sequence token")
        return None if fixed else self.tokenizer.eos_id

    def _start(self, observation: str) -> list[int]:
        bos = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
        return bos + self.tokenizer.encode(observation)

    def _reply(self, observation: str, finished: bool) -> list[int]:
        return self.tokenizer.encode(observation)

    def _text(self, tokens: tuple[int, ...]) -> str:
        end = 1 if self.stop_id is not None and tokens and tokens[-1] == self.stop_id else 0
        return self.tokenizer.decode(tokens[: len(tokens) - end], skip_special=False)


class ChatInterface(TextInterface):
    """Observations are what the user says to a chat model, by its template; actions are its answers.

    Args: as of `TextInterface`; the tokenizer's template is used, ChatML where it has none.

    Raises:
        EnvironmentMismatch: no chat model's tokenizer.
        ChatError: its template cannot be used turn by turn.
    """

    tokenizer: HFTokenizer

    def __init__(
        self, tokenizer: Tokenizer, observation_space: Text, action_space: Text, *, vocab_size: int | None = None
    ) -> None:
        if not isinstance(tokenizer, HFTokenizer):
            raise EnvironmentMismatch("chat needs the tokenizer of a chat model")
        super().__init__(tokenizer, observation_space, action_space, vocab_size=vocab_size)

    def _end(self, fixed: bool) -> int | None:
        return answer_end(self.tokenizer)

    def _start(self, observation: str) -> list[int]:
        return encode_prompt(self.tokenizer, [self._user(observation)])

    def _reply(self, observation: str, finished: bool) -> list[int]:
        # Nothing that was sampled is tokenized again: the template is asked what stands between two answers.
        ids = self.tokenizer.encode(after_answer(self.tokenizer, [self._user(observation)]), special=True)
        return ids[1:] if finished else ids

    def _user(self, observation: str) -> dict[str, str]:
        # An environment may repeat what the policy said.
        return {"role": "user", "content": without_special(self.tokenizer, observation)}


class LegalTokens:
    """Which tokens may come next when only some texts are legal, as numbered masks.

    Few masks are different, so a rollout keeps their numbers. Mask 0 allows everything.

    Args:
        interface: of the environment.
    """

    def __init__(self, interface: TextInterface) -> None:
        self._interface = interface
        self._masks: list[Tensor] = [torch.ones(interface.vocab_size, dtype=torch.bool)]
        self._numbers: dict[tuple[tuple[str, ...], tuple[int, ...]], int] = {}
        self._sequences: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
        self._stacked_KV = torch.stack(self._masks)

    def number(self, legal: Sequence[str] | None, generated: Sequence[int]) -> int:
        """The number of the mask in force after `generated`.

        Args:
            legal: legal actions, or None when every text is allowed.
            generated: tokens of the action so far.

        Raises:
            EnvironmentMismatch: there are no legal actions, or none of them begins like `generated`.
        """
        if legal is None:
            return 0
        key = (tuple(legal), tuple(generated))
        if key not in self._numbers:
            self._numbers[key] = self._make(*key)
        return self._numbers[key]

    def masks_KV(self) -> Tensor:
        """All masks so far: bool, True = the token may come next."""
        if len(self._stacked_KV) != len(self._masks):
            self._stacked_KV = torch.stack(self._masks)
        return self._stacked_KV

    def _make(self, legal: tuple[str, ...], generated: tuple[int, ...]) -> int:
        if legal not in self._sequences:
            stop = () if self._interface.stop_id is None else (self._interface.stop_id,)
            self._sequences[legal] = [(*self._interface.tokenizer.encode(text), *stop) for text in legal]
        depth = len(generated)
        following = {s[depth] for s in self._sequences[legal] if len(s) > depth and s[:depth] == generated}
        if not following:
            raise EnvironmentMismatch(f"no legal action of {list(legal)} begins with the tokens {list(generated)}")
        mask_V = torch.zeros(self._interface.vocab_size, dtype=torch.bool)
        mask_V[sorted(following)] = True
        self._masks.append(mask_V)
        return len(self._masks) - 1
