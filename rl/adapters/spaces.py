"""Gymnasium's spaces as text: how observations are written, and what actions are called."""

import itertools
import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple

MOST_NUMBERS = 64
"""A larger `Box` is a picture or the like, and no text."""
MOST_LISTED = 50
"""More actions than these are not listed as legal."""

_FLOAT = ".3g"
_FLOAT_LONGEST = len("-1.23e-308")
_FLOAT_CHARACTERS = string.digits + "+-.einfa"


@dataclass(frozen=True)
class Writing:
    """How values of a space are written."""

    write: Callable[[Any], str]
    longest: int
    """Characters at most."""
    characters: str
    """Those that occur."""


def writing(space: Space[Any]) -> Writing | None:
    """How observations are written: numbers with spaces between them, floats with three digits.

    Args:
        space: `Discrete`, `MultiDiscrete`, `MultiBinary`, a `Box` of at most 64 numbers, `Text`, or a `Tuple` or
            `Dict` of these.

    Returns:
        None where the space has no plain text.
    """
    match space:
        case Text():
            return Writing(str, space.max_length, space.characters)
        case Discrete():
            return _integers([space.start, space.start + space.n - 1], 1)
        case MultiDiscrete():
            last = space.start + space.nvec - 1
            return _integers([*space.start.flat, *last.flat], space.nvec.size)
        case MultiBinary():
            size = math.prod(space.shape)
            return Writing(lambda value: "".join(str(int(x)) for x in np.asarray(value).flat), size, "01")
        case Box():
            size = math.prod(space.shape)
            if size > MOST_NUMBERS:
                return None
            if np.issubdtype(space.dtype, np.integer):
                return _integers([*space.low.flat, *space.high.flat], size)
            longest = size * (_FLOAT_LONGEST + 1) - 1
            return Writing(lambda value: " ".join(format(float(x), _FLOAT) for x in np.asarray(value).flat),
                           longest, _FLOAT_CHARACTERS + " ")  # fmt: skip
        case Tuple():
            parts = [writing(part) for part in space.spaces]
            return _joined([""] * len(parts), parts, lambda value: value)
        case Dict():
            names = list(space.spaces)
            parts = [writing(space[name]) for name in names]
            return _joined([f"{name}=" for name in names], parts, lambda value: [value[name] for name in names])
    return None


def _integers(extremes: Sequence[Any], count: int) -> Writing:
    longest = max(len(str(int(value))) for value in extremes)
    sign = "-" if min(extremes) < 0 else ""

    def write(value: Any) -> str:
        return str(int(value)) if count == 1 else " ".join(str(int(x)) for x in np.asarray(value).flat)

    return Writing(write, count * (longest + 1) - 1, string.digits + sign + (" " if count > 1 else ""))


def _joined(
    labels: Sequence[str], parts: Sequence[Writing | None], items: Callable[[Any], Sequence[Any]]
) -> Writing | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None

    def write(value: Any) -> str:
        return " ".join(label + part.write(item) for label, part, item in zip(labels, known, items(value), strict=True))

    longest = sum(len(label) + part.longest for label, part in zip(labels, known)) + max(0, len(known) - 1)
    return Writing(write, longest, " " + "".join(labels) + "".join(part.characters for part in known))


class ActionNames:
    """Names of the actions of a `Discrete` or a flat `MultiDiscrete` space.

    A `Discrete` action has one name; one of a `MultiDiscrete` has a name per number, with spaces between them. By
    default names are digits where one is enough, else the letters a to z, else numbers with leading zeros: all of one
    length, so that an action needs no sign for its end.

    Args:
        space: `Discrete` or a `MultiDiscrete` of one dimension.
        names: those of a `Discrete` space, in order.

    Raises:
        ValueError: names that do not fit.
    """

    def __init__(self, space: Discrete | MultiDiscrete, names: Sequence[str] | None = None) -> None:
        if names is not None and not isinstance(space, Discrete):
            raise ValueError(f"action_names need a Discrete action space, got {space}")
        starts, counts = ([space.start], [space.n]) if isinstance(space, Discrete) else (space.start, space.nvec)
        if names is not None and not (len(set(names)) == len(names) == counts[0] and all(names)):
            raise ValueError(f"action_names must be {counts[0]} different names, got {list(names)}")
        self._names = [
            list(names) if names is not None else _default_names(int(start), int(count))
            for start, count in zip(starts, counts, strict=True)
        ]
        self._starts = [int(start) for start in starts]
        self._index = [{name: i for i, name in enumerate(some)} for some in self._names]
        self._single = isinstance(space, Discrete)
        self._dtype = space.dtype
        characters = {c for some in self._names for name in some for c in name} | (set() if self._single else {" "})
        between = len(self._names) - 1
        self.space = Text(
            sum(max(map(len, some)) for some in self._names) + between,
            min_length=sum(min(map(len, some)) for some in self._names) + between,
            charset=frozenset(characters),
        )
        few = math.prod(map(len, self._names)) <= MOST_LISTED
        self.listed = tuple(" ".join(some) for some in itertools.product(*self._names)) if few else None
        """All names, where they are at most 50."""

    def parse(self, text: str) -> Any:
        """The action of a name; None for anything else."""
        if self._single:
            index = self._index[0].get(text)
            return None if index is None else self._starts[0] + index
        words = text.split(" ")
        if len(words) != len(self._index):
            return None
        found = [index.get(word) for index, word in zip(self._index, words)]
        if None in found:
            return None
        return np.asarray([start + i for start, i in zip(self._starts, found) if i is not None], dtype=self._dtype)

    def allowed(self, mask: Any) -> tuple[str, ...]:
        """The names that an action mask of a `Discrete` space allows: 1 or True where an action is legal."""
        return tuple(name for name, legal in zip(self._names[0], mask, strict=True) if legal)


def _default_names(start: int, count: int) -> list[str]:
    values = range(start, start + count)
    if values[0] >= 0 and values[-1] <= 9:
        return [str(value) for value in values]
    if count <= len(string.ascii_lowercase):
        return list(string.ascii_lowercase[:count])
    width = max(len(str(value)) for value in (values[0], values[-1]))
    return [f"{value:0{width}d}" for value in values]
