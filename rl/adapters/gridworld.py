"""The grid worlds of BabyAI in words.

References:
    Chevalier-Boisvert et al. 2019, "BabyAI: A Platform to Study the Sample Efficiency of Grounded Language Learning",
    arXiv:1810.08272.
"""

from collections.abc import Hashable, Iterator
from typing import Any, Literal, Unpack

from core.babyai import make_level, silent
from rl.adapters.limits import AdaptedEnv, CutFrom, choices
from rl.envs.text import Limits

WORDS = ("left", "right", "forward", "pickup", "drop", "toggle")
"""minigrid's actions 0 to 5; its seventh, `done`, does nothing."""
LETTERS = tuple("LRFPDT")
"""The same as letters."""


class BabyAIEnv(AdaptedEnv):
    """Carry out an instruction in a grid world. Reward: 1 less 0.9 times the share of the turns that were used.

    The agent sees the seven by seven cells before it. `view` says how they are told:

    - `objects`: `go to the red ball|grey key 2F1L|red ball 3F|wall 5F2L4R:` has the things in sight, nearest first, so
      many cells forward (F), left (L) or right (R), and how far the walls are straight ahead and to the sides;
    - `grid`: the mission and seven lines of seven cells, the farthest first, two letters a cell (colour and thing; `##`
      a wall, `..` nothing, `??` out of sight); the agent stands in the middle of the last line.

    What the agent carries is told with the rest. An open, closed or locked door says so.

    Args:
        level: the part of its name between `BabyAI-` and the version: GoToLocal, PickupLoc, OpenDoor …
        view: see above.
        actions: `letters` (L, R, F, P, D, T) or `words` (left, right, forward, pickup, drop, toggle).
        max_observation: characters of an observation at most.
        cut_from: side on which longer observations are cut: `left`, `right`, or `nowhere` to make them an error.
        limits: `max_invalid`, `invalid_penalty`, `render_mode`.

    Raises:
        MissingData: minigrid is not installed.
        ValueError: an unknown level or option.
    """

    def __init__(
        self,
        *,
        level: str = "GoToLocal",
        view: Literal["objects", "grid"] = "objects",
        actions: Literal["letters", "words"] = "letters",
        max_observation: int = 400,
        cut_from: CutFrom = "right",
        **limits: Unpack[Limits],
    ) -> None:
        if view not in ("objects", "grid"):
            raise ValueError(f"view must be objects or grid, got {view!r}")
        if actions not in ("letters", "words"):
            raise ValueError(f"actions must be letters or words, got {actions!r}")
        self._names = LETTERS if actions == "letters" else WORDS
        super().__init__(
            action_space=choices(self._names),
            max_observation=max_observation,
            cut_from=cut_from,
            **limits,
        )
        self._tell = _objects if view == "objects" else _grid
        with silent():
            self._level = make_level(level)
        self._seen: dict[str, Any] = {}

    def _start(self) -> None:
        with silent():
            self._seen, _ = self._level.reset(seed=int(self.np_random.integers(2**31)))
        self.horizon = int(self._level.max_steps)

    def _read(self) -> str:
        return f"{self._seen['mission']}{self._tell(self._seen['image'])}:"

    def _act(self, action: str) -> tuple[float, bool]:
        with silent():
            self._seen, reward, terminated, _, _ = self._level.step(self._names.index(action))
        return float(reward), bool(terminated)

    def _state_key(self) -> Hashable:
        level = self._level
        held = level.carrying and (level.carrying.color, level.carrying.type)
        return level.mission, level.hash(), held

    def _legal_actions(self) -> tuple[str, ...]:
        return () if self._over else self._names


def _objects(image: Any) -> str:
    """The things in sight, nearest first, what is carried, and the walls."""
    size = len(image)
    column, row = size // 2, size - 1
    told = []
    for x, y, colour, thing, state in sorted(_things(image), key=lambda cell: abs(cell[0] - column) + row - cell[1]):
        if (x, y) == (column, row):
            told.append(f"carry {colour} {thing}")
        else:
            told.append(f"{state}{colour} {thing} {_offset(x - column, row - y)}")
    walls = _ahead(image, column, row, 0, -1, "F") + _ahead(image, column, row, -1, 0, "L")
    walls += _ahead(image, column, row, 1, 0, "R")
    return "".join(f"|{text}" for text in told + ([f"wall {walls}"] if walls else []))


def _grid(image: Any) -> str:
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

    plain = {"unseen": "??", "empty": "..", "floor": "..", "wall": "##"}
    lines = []
    for y in range(len(image)):
        cells = (image[x, y] for x in range(len(image)))
        names = ((IDX_TO_OBJECT[int(kind)], IDX_TO_COLOR[int(colour)], int(state)) for kind, colour, state in cells)
        lines.append("".join(plain.get(kind, colour[0] + _letter(kind, state)) for kind, colour, state in names))
    return "".join(f"\n{line}" for line in lines)


def _letter(kind: str, state: int) -> str:
    """k, b (ball), x (box), g (goal); a door is `_` open, d closed, D locked."""
    if kind == "door":
        return "_dD"[state]
    return "x" if kind == "box" else kind[0]


def _things(image: Any) -> Iterator[tuple[int, int, str, str, str]]:
    """(column, row, colour, thing, state of a door) of each cell with something in it."""
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT

    for x in range(len(image)):
        for y in range(len(image)):
            kind, colour, state = (int(number) for number in image[x, y])
            thing = IDX_TO_OBJECT[kind]
            if thing not in ("unseen", "empty", "floor", "wall"):
                closed = ("open ", "closed ", "locked ")[state] if thing == "door" else ""
                yield x, y, IDX_TO_COLOR[colour], thing, closed


def _offset(right: int, forward: int) -> str:
    ahead = f"{forward}F" if forward else ""
    return ahead + (f"{right}R" if right > 0 else f"{-right}L" if right < 0 else "")


def _ahead(image: Any, column: int, row: int, right: int, down: int, name: str) -> str:
    """How far the first wall is in one direction, as in `3F`; nothing where none is in sight."""
    from minigrid.core.constants import OBJECT_TO_IDX

    distance = 1
    x, y = column + right, row + down
    while 0 <= x < len(image) and 0 <= y < len(image):
        if image[x, y, 0] == OBJECT_TO_IDX["wall"]:
            return f"{distance}{name}"
        x, y, distance = x + right, y + down, distance + 1
    return ""
