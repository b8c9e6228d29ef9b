"""Text adventures of TextWorld, generated or from a file.

References:
    Côté et al. 2018, "TextWorld: A Learning Environment for Text-based Games", arXiv:1806.11532.
"""

import re
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal, Unpack

from gymnasium.spaces import Text

from rl.adapters.adventure_games import compiled_game
from rl.adapters.limits import PRINTABLE, AdaptedEnv, CutFrom
from rl.adapters.packages import optional
from rl.envs.text import Limits

_COMMAND = 100
"""Characters of a command at most."""


class TextWorldEnv(AdaptedEnv):
    """A text adventure. The reward of a turn is what it adds to the score; a won game has `max_score`.

    What can be done now is listed as legal actions. Compiling a game takes one or two seconds, once: it is kept in the
    cache. Episodes draw uniformly from the games, which follow from the seeds `seed` to `seed` + `games` - 1.

    Args:
        file: a game of TextWorld's own (`.z8`, with the `.json` beside it) in the place of generated ones.
        rooms: of a generated game.
        objects: of a generated game.
        quest_length: actions that the shortest solution of a generated game takes.
        seed: of the first generated game.
        games: how many are generated.
        show: `state`: the task, the place and what is carried, all that counts; `reply`: the answer to the last
            command, with task and place at the start, for a policy that reads the whole history.
        horizon: turns after which the episode is truncated.
        max_observation: characters of an observation at most.
        cut_from: side on which longer observations are cut: `left`, `right`, or `nowhere` to make them an error.
        characters: characters beyond printable ASCII and the line break that the game uses.
        limits: `max_invalid`, `invalid_penalty`, `render_mode`.

    Raises:
        MissingPackage: textworld is not installed.
        ValueError: a file that is missing or not TextWorld's, a game that cannot be generated, or too short a horizon.
    """

    def __init__(
        self,
        *,
        file: str = "",
        rooms: int = 1,
        objects: int = 3,
        quest_length: int = 1,
        seed: int = 0,
        games: int = 1,
        show: Literal["state", "reply"] = "state",
        horizon: int = 30,
        max_observation: int = 1000,
        cut_from: CutFrom = "left",
        characters: str = "",
        **limits: Unpack[Limits],
    ) -> None:
        if show not in ("state", "reply"):
            raise ValueError(f"show must be state or reply, got {show!r}")
        if min(rooms, objects, quest_length, games) < 1:
            raise ValueError(
                f"rooms, objects, quest_length and games must be >= 1, got {rooms}, {objects}, {quest_length}, {games}"
            )
        super().__init__(
            action_space=Text(_COMMAND, min_length=1, charset=frozenset(PRINTABLE.strip("\n"))),
            max_observation=max_observation,
            cut_from=cut_from,
            characters=characters,
            horizon=horizon,
            **limits,
        )
        if file:
            files = [Path(file)]
        else:
            seeds = range(seed, seed + games)
            files = [compiled_game(rooms=rooms, objects=objects, quest_length=quest_length, seed=n) for n in seeds]
        self._show_reply = show == "reply"
        self._games = [_start_game(path) for path in files]
        firsts = [game.reset() for game in self._games]
        longest = max(len(first["policy_commands"]) for first in firsts)
        if longest > horizon:
            raise ValueError(f"horizon must be >= {longest}, the length of the shortest solution, got {horizon}")
        self.optimal_return = sum(first["max_score"] for first in firsts) / len(firsts)
        self._number = 0
        self._state: Any = firsts[0]
        self._reply = ""

    def close(self) -> None:
        """End the games."""
        for game in self._games:
            game.close()

    def _start(self) -> None:
        self._number = int(self.np_random.integers(len(self._games)))
        self._state = self._games[self._number].reset()
        self._reply = f"{self._state['objective']}\n{self._state['description']}"

    def _act(self, action: str) -> tuple[float, bool]:
        before = self._state["score"]
        self._state, score, done = self._games[self._number].step(action)
        self._reply = _without_status_line(self._state["feedback"])
        return float(score - before), bool(done)

    def _best(self) -> str:
        commands = self._state["policy_commands"]
        if not commands:
            raise ValueError("the game can no longer be won: call reset first")
        return str(commands[0])

    def _read(self) -> str:
        state = self._state
        parts = [self._reply] if self._show_reply else [state["objective"], state["description"], state["inventory"]]
        return re.sub(r"\n\s*\n+", "\n", "\n".join(part.strip() for part in parts)) + "\n>"

    def _legal_actions(self) -> tuple[str, ...]:
        return () if self._over else tuple(self._state["admissible_commands"])

    def _state_key(self) -> Hashable:
        return self._number, frozenset(self._state["_facts"])


def _start_game(path: Path) -> Any:
    with optional("textworld"):
        import textworld
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        raise ValueError(f"{path} needs to be a game of TextWorld with its .json beside it: make one with `tw-make`")
    wanted = ("feedback", "description", "inventory", "objective", "admissible_commands", "policy_commands", "facts")
    infos = textworld.EnvInfos(**dict.fromkeys((*wanted, "score", "max_score"), True))
    with warnings.catch_warnings():
        # The interpreter knows no scores of generated games; TextWorld keeps them itself.
        warnings.simplefilter("ignore")
        game = textworld.start(str(path), request_infos=infos)
        game.reset()  # which loads it
    return game


def _without_status_line(reply: str) -> str:
    """A reply without the prompt and the line with place and score that the interpreter prints after it."""
    return re.sub(r"\n>[^\n]*$", "", reply)
