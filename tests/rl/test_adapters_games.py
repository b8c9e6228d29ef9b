"""Environments of reasoning-gym, TextArena, TextWorld and minigrid."""

import importlib.util
import random
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl.adapters.limits import MARK
from rl.adapters.randomness import PrivateRandomness
from rl.environments import known_return, make_environment


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


reasoning, arena, adventure, gridworld = map(needs, ("reasoning_gym", "textarena", "textworld", "minigrid"))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRILLIUM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def moves(env, seed, count=30):
    """What a random player sees; the moves depend on nothing but the seed."""
    rng, (seen, info), told = np.random.default_rng(seed), env.reset(seed=seed), []
    for _ in range(count):
        legal = info.get("legal_actions") or ("7", "12")
        action = legal[int(rng.integers(len(legal)))]
        seen, reward, terminated, truncated, info = env.step(action)
        told.append((action, seen, reward, terminated, truncated, info))
        yield told
        if terminated or truncated:
            return


def play(env, seed, count=30):
    *_, told = moves(env, seed, count)
    return told


def side_by_side(*games):
    """What is told in games that move in turn."""
    told, going = [None] * len(games), dict(enumerate(games))
    while going:
        for number, game in list(going.items()):
            latest = next(game, None)
            if latest is None:
                del going[number]
            else:
                told[number] = latest
    return told


VARIANTS = [
    pytest.param("trillium/ReasoningGym-v0", {"dataset": "count_bits", "max_invalid": 2}, marks=reasoning),
    pytest.param("trillium/TextArena-v0", {"game": "TowerOfHanoi-v0", "horizon": 9, "show": "new"}, marks=arena),
    pytest.param("trillium/TextArena-v0", {"game": "TicTacToe-v0", "seat": 1}, marks=arena),
    pytest.param("trillium/TextArena-v0", {"game": "Mastermind-v0", "max_observation": 200}, marks=arena),
    pytest.param(
        "trillium/TextWorld-v0", {"rooms": 2, "quest_length": 2, "seed": 1, "games": 2, "horizon": 9}, marks=adventure
    ),
    pytest.param("trillium/BabyAI-v0", {}, marks=gridworld),
    pytest.param("trillium/BabyAI-v0", {"level": "OpenDoor", "view": "grid", "actions": "words"}, marks=gridworld),
]


@pytest.mark.parametrize(("env", "kwargs"), VARIANTS)
def test_they_keep_gymnasiums_contract_and_repeat_themselves(env, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make_environment(env, kwargs).unwrapped)
    first, second = (make_environment(env, kwargs) for _ in range(2))
    alone = [play(first, seed) for seed in (3, 4)]
    assert [play(second, seed) for seed in (3, 4)] == alone
    assert side_by_side(moves(first, 3), moves(second, 4)) == alone
    for _, seen, _, _, _, info in play(first, 5):
        assert seen in first.observation_space
        assert info["valid"] or "legal_actions" not in info
        assert all(action in first.action_space for action in info.get("legal_actions", ()))
        hash(info["state_key"])


def test_a_private_generator_goes_on_where_it_stopped_and_leaves_the_rest_alone():
    random.seed(1)
    np.random.seed(1)
    state, numbers = random.getstate(), np.random.get_state()[1].copy()
    one, other = PrivateRandomness(5), PrivateRandomness(6)
    drawn = {one: [], other: []}
    for private in (one, other, one, one, other):
        with private:
            drawn[private].append((random.random(), np.random.rand()))
    assert random.getstate() == state
    assert (np.random.get_state()[1] == numbers).all()
    rng, legacy = random.Random(5), np.random.RandomState(5)
    assert drawn[one] == [(rng.random(), legacy.rand()) for _ in range(3)]
    rng, legacy = random.Random(6), np.random.RandomState(6)
    assert drawn[other] == [(rng.random(), legacy.rand()) for _ in range(2)]
    with pytest.raises(KeyError), one:
        raise KeyError
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("module", "env"), [("reasoning_gym", "ReasoningGym"), ("textarena", "TextArena"), ("textworld", "TextWorld")]
)
def test_a_missing_package_is_one_sentence_with_the_command(monkeypatch, module, env):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ValueError, match=rf"{module.replace('_', '-')} is not installed .*pip install 'trillium-lm\[games\]'"
    ):
        make_environment(f"trillium/{env}-v0", {})


@arena
class TestArena:
    def make(self, game, **kwargs):
        return make_environment("trillium/TextArena-v0", {"game": game, **kwargs})

    def test_bisection_wins_the_guessing_game(self):
        env = self.make("GuessTheNumber-v0", show="new")
        for seed in range(5):
            seen, info = env.reset(seed=seed)
            assert "Guess The Number" in seen
            assert info["legal_actions"] == tuple(str(n) for n in range(1, 21))
            low, high, done, reward = 1, 20, False, 0
            while not done:
                assert reward == 0
                guess = (low + high) // 2
                seen, reward, done, _, info = env.step(str(guess))
                assert done or str(guess) not in info["legal_actions"]
                low, high = (guess + 1, high) if "higher" in seen else (low, guess - 1)
            assert reward == 1.0
            assert info["legal_actions"] == ()

    def test_two_games_side_by_side_do_not_change_one_another(self):
        alone = [play(self.make("2048-v0"), seed) for seed in (1, 2)]
        random.seed(9)
        state = random.getstate()
        assert side_by_side(*(moves(self.make("2048-v0"), seed) for seed in (1, 2))) == alone
        assert random.getstate() == state

    def test_an_episode_shows_nothing_of_the_one_before(self):
        env = self.make("GuessTheNumber-v0")
        fresh = play(self.make("GuessTheNumber-v0"), 8)
        play(env, 7)
        assert play(env, 8) == fresh

    def test_what_the_game_refuses_changes_nothing(self):
        env = self.make("Mastermind-v0", max_invalid=2, invalid_penalty=0.25)
        seen, info = env.reset(seed=0)
        assert "legal_actions" not in info
        for text in ("no move", "1 2", "[1 2"):
            env.reset(seed=0)
            again, reward, terminated, truncated, info = env.step(text)
            assert (again, reward, terminated, truncated, info["valid"]) == (seen, -0.25, False, False, False)
            assert env.step(text)[1:4] == (-0.25, False, True)
        env.reset(seed=0)
        after, reward, *_, info = env.step("[1 2 3 4]")
        assert (info["valid"], reward) == (True, 0.0)
        assert "> [1 2 3 4]" in after

    def test_moves_are_legal_where_the_game_takes_them(self):
        env = self.make("TowerOfHanoi-v0")
        assert env.reset(seed=0)[1]["legal_actions"] == ("A B", "A C")
        solution = ["A C", "A B", "C B", "A C", "B A", "B C", "A C"]
        for move in solution[:-1]:
            _, reward, terminated, _, info = env.step(move)
            assert (reward, terminated, info["valid"]) == (0.0, False, True)
        assert env.step(solution[-1])[1:3] == (1.0, True)

    @pytest.mark.parametrize("seat", [0, 1])
    def test_a_perfect_player_of_nim_beats_the_random_one(self, seat):
        env = self.make("Nim-v0", seat=seat)
        for seed in range(4):
            seen, _ = env.reset(seed=seed)
            done, reward = False, 0
            while not done:
                piles = [int(line.split()[-1]) for line in seen.splitlines() if line.startswith("  pile")]
                total = piles[0] ^ piles[1] ^ piles[2]
                best = [f"{n} {size - (size ^ total)}" for n, size in enumerate(piles) if size ^ total < size]
                fallback = next(f"{n} 1" for n, size in enumerate(piles) if size)
                seen, reward, done, _, _ = env.step(best[0] if best else fallback)
            assert reward == 1.0

    def test_a_long_observation_is_cut_and_counted(self):
        env = self.make("GuessTheNumber-v0", max_observation=50)
        seen, info = env.reset(seed=0)
        whole = self.make("GuessTheNumber-v0", max_observation=1000).reset(seed=0)[0]
        assert seen == MARK + whole[-45:]
        assert info["cut_characters"] == len(whole) - 45
        assert self.make("GuessTheNumber-v0", rules=False).reset(seed=0)[0] == "\n"

    def test_a_game_that_would_download_is_refused(self, monkeypatch):
        import nltk

        def missing(path, *rest):
            raise LookupError(path)

        monkeypatch.setattr(nltk.data, "find", missing)
        before = nltk.download
        monkeypatch.delitem(sys.modules, "textarena.envs.Hangman.env", raising=False)
        with pytest.raises(ValueError, match="Hangman-v0 needs NLTK's data 'words': get it with `python -m nltk"):
            self.make("Hangman-v0")
        assert nltk.download is before

    @pytest.mark.parametrize(
        ("game", "kwargs", "named"),
        [
            ("GuessTheNumbers-v0", {}, "near: GuessTheNumber-v0"),
            ("GuessTheNumber-v0", {"no_such": 1}, "no_such"),
            ("GuessTheNumber-v0", {"show": "half"}, "show"),
            ("Nim-v0", {"seat": 2}, "seat"),
            ("Othello-v0", {"players": 2}, "moves to draw from"),
        ],
    )
    def test_wrong_games_and_options_are_named(self, game, kwargs, named):
        with pytest.raises(ValueError, match=named):
            self.make(game, **kwargs)

    def test_a_wrong_number_of_players_is_named(self):
        env = self.make("Othello-v0")
        with pytest.raises(ValueError, match=r"Othello-v0 is not for 1 players .*set players"):
            env.reset(seed=0)


@adventure
class TestAdventure:
    KWARGS = {"rooms": 2, "quest_length": 2, "seed": 1}  # noqa: RUF012

    def test_the_known_solution_wins(self):
        env = make_environment("trillium/TextWorld-v0", self.KWARGS)
        _, info = env.reset(seed=0)
        total, turns, done = 0.0, 0, False
        while not done:
            action = env.unwrapped.optimal_action()
            assert action in info["legal_actions"]
            _, reward, done, _, info = env.step(action)
            total, turns = total + reward, turns + 1
        assert total == known_return(env, "optimal_return") == 1.0
        assert turns == 2

    @pytest.mark.parametrize("show", ["state", "reply"])
    def test_neither_banner_nor_status_line_is_shown(self, show):
        env = make_environment("trillium/TextWorld-v0", {**self.KWARGS, "show": show})
        seen, info = env.reset(seed=0)
        for text in (seen, env.step(info["legal_actions"][0])[0]):
            assert "$$" not in text
            assert not text.rstrip("\n>").endswith("/2")
            assert text.endswith("\n>")
            assert "\n\n" not in text
        assert "go south" in seen or "south" in seen

    def test_equal_states_have_equal_keys(self):
        env = make_environment("trillium/TextWorld-v0", self.KWARGS)
        _, info = env.reset(seed=0)
        start = info["state_key"]
        assert env.step("look")[4]["state_key"] == start
        assert env.step("go south")[4]["state_key"] != start
        assert env.step("go north")[4]["state_key"] == start
        _, reward, _, _, info = env.step("open the pod bay doors")
        assert (reward, info["valid"], info["state_key"]) == (-0.1, False, start)

    def test_a_compiled_game_is_compiled_once_and_can_be_given_as_a_file(self, monkeypatch):
        import textworld

        from rl.adapters.adventure_games import compiled_game

        path = compiled_game(rooms=2, objects=3, quest_length=2, seed=1)
        monkeypatch.setattr(textworld, "make", None)
        assert compiled_game(rooms=2, objects=3, quest_length=2, seed=1) == path
        env = make_environment("trillium/TextWorld-v0", {"file": str(path)})
        assert env.reset(seed=0)[0] == make_environment("trillium/TextWorld-v0", self.KWARGS).reset(seed=0)[0]

    def test_several_games_are_drawn_from(self):
        env = make_environment("trillium/TextWorld-v0", {**self.KWARGS, "games": 2})
        assert len({env.reset(seed=seed)[0] for seed in range(12)}) == 2

    @pytest.mark.parametrize(
        ("kwargs", "named"),
        [
            ({"rooms": 0}, "rooms"), ({"show": "all"}, "show"), ({"file": "no_such.z8"}, "no_such.z8"),
            ({"rooms": 2, "quest_length": 2, "seed": 1, "horizon": 1}, "horizon must be >= 2"),
        ],
    )  # fmt: skip
    def test_wrong_options_are_named(self, kwargs, named):
        with pytest.raises(ValueError, match=named):
            make_environment("trillium/TextWorld-v0", kwargs)


@gridworld
class TestGridworld:
    def scene(self, view):
        """A room of our own: a red ball two cells ahead and one to the right, a locked blue door at the left end."""
        from minigrid.core.world_object import Ball, Door, Key, Wall

        env = make_environment("trillium/BabyAI-v0", {"view": view}).unwrapped
        env.reset(seed=0)
        level = env._level
        for x in range(1, 7):
            for y in range(1, 7):
                level.grid.set(x, y, None)
        level.agent_pos, level.agent_dir = (3, 6), 3  # looks up
        level.grid.set(4, 4, Ball("red"))
        level.grid.set(1, 6, Door("blue", is_locked=True))
        level.grid.set(3, 1, Wall())
        level.carrying = Key("grey")
        env._seen = level.gen_obs()
        return env._read().partition(env._seen["mission"])[2]

    def test_the_view_as_objects(self):
        assert self.scene("objects") == "|carry grey key|locked blue door 2L|red ball 2F1R|wall 5F:"

    def test_the_view_as_a_grid(self):
        lines = self.scene("grid").split("\n")
        # What is behind the door is out of sight.
        assert lines[0] == ""
        assert lines[-1] == "??bD..gk......:"
        assert lines[5] == "##......rb...."
        assert [line[6:8] for line in lines[1:7]] == ["##", "##", "..", "..", "..", ".."]

    def test_the_bots_way_in_words_earns_what_minigrid_pays(self):
        from minigrid.utils.baby_ai_bot import BabyAIBot

        env = make_environment("trillium/BabyAI-v0", {"actions": "words"})
        _, info = env.reset(seed=3)
        level = env.unwrapped._level
        bot, action, reward, done = BabyAIBot(level), None, 0.0, False
        while not done:
            action = bot.replan(action)
            assert env.unwrapped.horizon == level.max_steps
            _, reward, done, truncated, info = env.step(info["legal_actions"][action])
            assert not truncated
        assert reward == pytest.approx(1 - 0.9 * level.step_count / level.max_steps)

    def test_an_episode_is_cut_at_the_levels_own_limit(self):
        env = make_environment("trillium/BabyAI-v0", {})
        env.reset(seed=0)
        limit = env.unwrapped.horizon
        outcomes = [env.step("L")[2:4] for _ in range(limit)]
        assert outcomes == [(False, False)] * (limit - 1) + [(False, True)]

    @pytest.mark.parametrize("kwargs", [{"level": "NoSuch"}, {"view": "pixels"}, {"actions": "numbers"}])
    def test_wrong_options_are_named(self, kwargs):
        (name,) = kwargs
        with pytest.raises(ValueError, match=name):
            make_environment("trillium/BabyAI-v0", kwargs)


def test_gymnasium_makes_them_by_module_and_id():
    assert {f"trillium/{name}-v0" for name in ("ReasoningGym", "TextArena", "TextWorld", "BabyAI")} <= set(
        gymnasium.registry
    )
