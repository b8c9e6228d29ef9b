"""Observations of bounded length and known characters, as a `Text` space and a fixed vocabulary need them."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Unpack

from gymnasium.spaces import Text

from rl.envs.text import Limits, TextEnv

PRINTABLE = "\n" + "".join(map(chr, range(32, 127)))
"""Line break and printable ASCII."""
MARK = "[...]"
"""Stands where an observation was cut."""

CutFrom = Literal["left", "right", "nowhere"]

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class TextLimits:
    """What observations may be, and how longer ones are cut.

    Args:
        max_length: characters of an observation at most.
        characters: those that may occur.
        cut_from: the side on which longer texts lose what is too much; `nowhere` makes them an error.
    """

    def __init__(self, max_length: int, characters: Iterable[str], cut_from: CutFrom = "nowhere") -> None:
        if cut_from not in ("left", "right", "nowhere"):
            raise ValueError(f"cut_from must be left, right or nowhere, got {cut_from!r}")
        shortest = 1 if cut_from == "nowhere" else len(MARK) + 1
        if max_length < shortest:
            raise ValueError(f"max_observation must be >= {shortest}, got {max_length}")
        allowed = set(characters) | (set() if cut_from == "nowhere" else set(MARK))
        self.space = Text(max_length, min_length=0, charset=frozenset(allowed))
        self.cut_from = cut_from
        self._allowed = frozenset(allowed)

    def fit(self, text: str) -> tuple[str, int]:
        """A text that is in the space, and how many of its characters were cut.

        Terminal colour codes are removed first.

        Raises:
            ValueError: a character that may not occur, or a text that is too long and may not be cut.
        """
        if "\x1b" in text:
            text = _ANSI.sub("", text)
        if not self._allowed.issuperset(text):
            unknown = sorted(set(text) - self._allowed)
            shown = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in unknown[:8])
            raise ValueError(
                f"an observation has {shown}, which its observation space lacks: add "
                f"{'the character' if len(unknown) == 1 else 'the characters'} to the environment's option `characters`"
            )
        longest = self.space.max_length
        if len(text) <= longest:
            return text, 0
        if self.cut_from == "nowhere":
            raise ValueError(
                f"an observation has {len(text)} characters, more than max_observation = {longest}: raise it, or set "
                "cut_from to left or right"
            )
        kept = longest - len(MARK)
        fitted = MARK + text[-kept:] if self.cut_from == "left" else text[:kept] + MARK
        return fitted, len(text) - kept


def choices(texts: Sequence[str]) -> Text:
    """The action space of some texts.

    Raises:
        ValueError: none, an empty one, or one twice.
    """
    if not texts or not all(texts) or len(set(texts)) != len(texts):
        raise ValueError(f"actions must be different texts with at least one character, got {list(texts)}")
    lengths = [len(text) for text in texts]
    return Text(max(lengths), min_length=min(lengths), charset=frozenset("".join(texts)))


class AdaptedEnv(TextEnv):
    """A text environment whose observations come from elsewhere: `_read` gives them, whatever their length.

    `info["cut_characters"]` counts what the observation lost.

    Args:
        action_space: what the agent may write.
        max_observation: characters of an observation at most.
        cut_from: side on which longer observations are cut: `left`, `right`, or `nowhere` to make them an error.
        characters: characters beyond printable ASCII and the line break that observations may have.
        horizon: turns after which the episode is truncated; None for no limit.
        limits: `max_invalid`, `invalid_penalty`, `render_mode`.
    """

    def __init__(
        self,
        *,
        action_space: Text,
        max_observation: int,
        cut_from: CutFrom,
        characters: str = "",
        horizon: int | None = None,
        **limits: Unpack[Limits],
    ) -> None:
        self._text_limits = TextLimits(max_observation, PRINTABLE + characters, cut_from)
        super().__init__(
            observation_space=self._text_limits.space, action_space=action_space, horizon=horizon, **limits
        )
        self._cut = 0

    def _observe(self) -> str:
        text, self._cut = self._text_limits.fit(self._read())
        return text

    def _info(self, *, valid: bool) -> dict[str, Any]:
        return {**super()._info(valid=valid), "cut_characters": self._cut}

    def _read(self) -> str:
        """What there is to observe, whatever its length."""
        raise NotImplementedError
