"""Games of TextArena, alone or against a random opponent.

References:
    Guertler et al. 2025, "TextArena", arXiv:2504.11442.
"""

import copy
import difflib
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from gymnasium.spaces import Text

from rl.adapters.arena_moves import MOVES
from rl.adapters.limits import PRINTABLE, AdaptedEnv, CutFrom, choices
from rl.adapters.packages import optional
from rl.adapters.randomness import PrivateRandomness

MOST_TEXT = 64
"""Characters of an action in games whose moves are not listed."""
_NEVER = 1_000_000_000
"""Invalid moves that a game forgives: `max_invalid` counts them here."""


class TextArenaEnv(AdaptedEnv):
    """A game. Its reward comes at its end, from about -1 (lost) to 1 (won).

    Every action is tried on a copy of the game first, so that one which the game refuses, or at which it fails, changes
    nothing. Where the moves of a game are known (`rl.adapters.arena_moves`) or given as `moves`, the legal ones are
    listed in `info`.

    In a game of several players the others draw uniformly from the legal moves. Square brackets around an action are
    put on where a game wants them.

    TextArena draws from the process's global generators; here each environment has its own. Word games need word lists
    that NLTK would download: they are refused until the lists are there.

    Args:
        game: TextArena's id, such as `GuessTheNumber-v0`.
        moves: texts of all moves with `|` between them; by default those known for the game.
        players: how many take part, the agent among them; by default those known for the game, else 1.
        seat: which of the players the agent is, from 0.
        show: what an observation has. `new`: what was said since the agent's last turn, the rules first, for a policy
            that reads the whole history. `all`: everything so far, with the last board only.
        rules: whether the rules are shown.
        max_observation: characters of an observation at most.
        cut_from: side on which longer observations are cut: `left`, `right`, or `nowhere` to make them an error.
        characters: characters beyond printable ASCII and the line break that the game uses.
        horizon: turns of the agent after which the episode is truncated; None for the game's own limit only.
        max_invalid: invalid texts after which the episode is truncated.
        invalid_penalty: cost of an invalid text.
        render_mode: `ansi` or None.
        **settings: arguments of the game, such as `max_number`.

    Raises:
        MissingPackage: textarena is not installed.
        ValueError: an unknown game, wrong settings, a game that needs downloads, or opponents without known moves.
    """

    def __init__(
        self,
        *,
        game: str = "GuessTheNumber-v0",
        moves: str = "",
        players: int = 0,
        seat: int = 0,
        show: Literal["new", "all"] = "all",
        rules: bool = True,
        max_observation: int = 1000,
        cut_from: CutFrom = "left",
        characters: str = "",
        horizon: int | None = None,
        max_invalid: int = 3,
        invalid_penalty: float = 0.1,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if show not in ("new", "all"):
            raise ValueError(f"show must be new or all, got {show!r}")
        self._randomness = PrivateRandomness()
        self.game = game
        self._game = _make(game, settings, self._randomness)
        known = MOVES.get(game.partition("-v")[0])
        self._moves = moves.split("|") if moves else known.moves(self._game) if known else None
        self._players = players or (known.players if known else 1)
        if not 0 <= seat < self._players:
            raise ValueError(f"seat must be in 0..{self._players - 1}, got {seat}")
        if self._players > 1 and self._moves is None:
            raise ValueError(f"the opponents in {game} need moves to draw from: list them with moves='A|B|...'")
        anything = Text(MOST_TEXT, charset=frozenset(PRINTABLE + characters))
        super().__init__(
            action_space=anything if self._moves is None else choices(self._moves),
            max_observation=max_observation,
            cut_from=cut_from,
            characters=characters,
            horizon=horizon,
            max_invalid=max_invalid,
            invalid_penalty=invalid_penalty,
            render_mode=render_mode,
        )
        self._seat = seat
        self._show_all = show == "all"
        self._rules = rules
        self._said: list[tuple[str, str]] = []
        self._legal: tuple[str, ...] | None = None

    def _start(self) -> None:
        self._randomness.seed(int(self.np_random.integers(2**31)))
        with self._randomness:
            try:
                self._game.reset(num_players=self._players)
            except AssertionError as error:
                raise ValueError(f"{self.game} is not for {self._players} players ({error}): set players") from error
        self._game.state.error_allowance = _NEVER
        self._said, self._legal = [], None
        self._go_on()

    def _act(self, action: str) -> tuple[float, bool]:
        if not self._show_all:
            self._said = []
        self._play(action)
        self._go_on()
        state = self._game.state
        reward = (state.rewards or {}).get(self._seat, 0) if state.done else 0
        return float(reward), bool(state.done)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action; see `TextEnv.step`."""
        free = self._moves is None and not self._over
        if free and isinstance(action, str) and action in self.action_space and not self._allowed([action]):
            action = ""  # invalid here, as what the game refuses has to be
        return super().step(action)

    def _legal_actions(self) -> tuple[str, ...] | None:
        if self._moves is None:
            return None
        if self._over or self._game.state.done:
            return ()
        if self._legal is None:
            self._legal = self._allowed(self._moves)
        return self._legal

    def _allowed(self, actions: Iterable[str]) -> tuple[str, ...]:
        """Those of some actions that the game takes, each tried on a copy."""
        found = []
        with copy.copy(self._randomness):
            for action in actions:
                trial = copy.deepcopy(self._game)
                try:
                    trial.step(action)
                except Exception:  # games trust that what they asked for can be parsed
                    continue
                if not trial.state.error_count:
                    found.append(action)
        return tuple(found)

    def _play(self, action: str) -> None:
        with self._randomness:
            self._game.step(action)
        self._legal = None

    def _go_on(self) -> None:
        """Let the others play until it is the agent's turn, and hear what was said."""
        state = self._game.state
        while not state.done and state.current_player_id != self._seat:
            legal = self._legal_actions()
            if not legal:
                raise ValueError(f"an opponent in {self.game} has no legal move: complete moves='A|B|...'")
            self._play(legal[int(self.np_random.integers(len(legal)))])
        heard, state.observations[self._seat] = state.observations[self._seat], []
        for speaker, message, kind in heard:
            # Some games for one forget to say whose action it is.
            mine = speaker == self._seat or self._players == 1
            if kind.name != "PLAYER_ACTION":
                self._said.append((kind.name, message.strip()))
            elif not mine:
                self._said.append((kind.name, f"{state.role_mapping.get(speaker, speaker)}: {message}"))
            elif self._show_all:  # a policy that reads the whole history has its own actions there
                self._said.append((kind.name, f"> {message}"))

    def _read(self) -> str:
        boards = [number for number, (kind, _) in enumerate(self._said) if kind == "GAME_BOARD"]
        shown = [
            text
            for number, (kind, text) in enumerate(self._said)
            if (self._rules or kind != "PROMPT") and (kind != "GAME_BOARD" or number == boards[-1])
        ]
        return "\n".join(shown) + "\n"

    def _state_key(self) -> Hashable:
        return self._read()


def _make(game: str, settings: dict[str, Any], randomness: PrivateRandomness) -> Any:
    with optional("textarena"):
        import textarena
    known = textarena.envs.registration.ENV_REGISTRY
    if game not in known:
        near = difflib.get_close_matches(game, known, n=5, cutoff=0.3)
        raise ValueError(f"game must be one of TextArena's {len(known)} ids, got {game!r}; near: {', '.join(near)}")
    with randomness, _no_downloads(game):
        try:
            return textarena.make(game, **settings)
        except ValueError:
            raise
        except Exception as error:  # anything from a wrong setting to a missing key of an online judge
            raise ValueError(f"TextArena cannot make {game}: {type(error).__name__}: {error}") from error


@contextmanager
def _no_downloads(game: str) -> Iterator[None]:
    """Within the block NLTK finds what is on this machine, and refuses to download the rest."""
    import nltk

    def find(names: str | list[str], *rest: Any, **named: Any) -> bool:
        for name in [names] if isinstance(names, str) else names:
            if not any(
                _found(nltk, f"{folder}/{name}{end}") for folder in ("corpora", "taggers") for end in ("", ".zip")
            ):
                raise ValueError(f"{game} needs NLTK's data {name!r}: get it with `python -m nltk.downloader {name}`")
        return True

    original, nltk.download = nltk.download, find
    try:
        yield
    finally:
        nltk.download = original


def _found(nltk: Any, path: str) -> bool:
    try:
        nltk.data.find(path)
    except LookupError:
        return False
    return True
