"""What all text environments have in common: Gymnasium's contract, and ours on top of it."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Text
from gymnasium.utils.env_checker import check_env

import rl.envs  # noqa: F401 - registers them
from rl.envs.tabular import Tabular

VARIANTS = [
    ("Copy", {}),
    ("Copy", {"length": 2, "alphabet": "xyz", "dense": False, "max_invalid": 3}),
    ("Reverse", {}),
    ("Sort", {"length": 6}),
    ("Add", {}),
    ("Add", {"digits": 18, "dense": False}),
    ("Parity", {}),
    ("Parity", {"length": 9, "running": True}),
    ("CountChar", {}),
    ("CountChar", {"char": "", "alphabet": "xyz"}),
    ("Lexicon", {}),
    ("Lexicon", {"tone": "bad", "proxy": True, "num_words": 1}),
    ("RandomWalk", {}),
    ("RandomWalk", {"nodes": 5, "graph_seed": 3, "edge_probability": 0.5}),
    ("FrozenLake", {}),
    ("FrozenLake", {"slippery": True, "horizon": 20}),
    ("FrozenLake", {"slippery": True, "map_name": "8x8", "success_rate": 0.8}),
    ("CliffWalking", {}),
    ("CliffWalking", {"slippery": True}),
    ("Taxi", {}),
    ("Taxi", {"rainy": True, "horizon": 30}),
    ("Taxi", {"masked": True}),
    ("Blackjack", {}),
    ("Blackjack", {"sab": False, "natural": True}),
    ("TicTacToe", {}),
    ("TicTacToe", {"first": False}),
    ("Nim", {}),
    ("Nim", {"heaps": "15", "opponent": "perfect"}),
    ("Bandit", {}),
    ("Bandit", {"arms": 3, "pulls": 12, "markov": True}),
    ("GuessNumber", {}),
    ("GuessNumber", {"numbers": 16, "turns": 6, "markov": False, "turn_cost": 0.1}),
    ("MiniWordle", {}),
    ("MiniWordle", {"turns": 2, "markov": False}),
    ("TextGeneration", {}),
    ("TextGeneration", {"prompts": ["Once", "A\n"], "turns": 3, "piece_length": 4, "max_invalid": 1}),
]
TABULAR = [variant for variant in VARIANTS if variant[0] not in "Copy Reverse Sort Add Parity CountChar Lexicon "
           "TextGeneration".split()]  # fmt: skip


def make(name, kwargs):
    return gymnasium.make(f"trillium/{name}-v0", **kwargs)


def legal_or_sampled(env, info, rng):
    legal = info.get("legal_actions")
    return env.action_space.sample() if legal is None else legal[int(rng.integers(len(legal)))]


def test_every_registered_environment_is_tested():
    registered = {
        name
        for name, spec in gymnasium.registry.items()
        if str(spec.entry_point).startswith("rl.envs.") and not name.startswith("tests/")
    }
    assert registered == {f"trillium/{name}-v0" for name, _ in VARIANTS}


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
def test_gymnasium_finds_nothing_to_complain_about(name, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(name, kwargs).unwrapped)


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
def test_equal_seeds_give_equal_episodes(name, kwargs):
    first, second = (make(name, kwargs) for _ in range(2))
    rng = np.random.default_rng(5)
    first.action_space.seed(5)
    result = first.reset(seed=3)
    assert result == second.reset(seed=3)
    seen = set()
    for _ in range(50):
        action = legal_or_sampled(first, result[-1], rng)
        result = first.step(action)
        assert result == second.step(action)
        seen.add(result[:2])
        if result[2] or result[3]:
            result = first.reset()
            assert result == second.reset()
    assert len(seen) > 1


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
def test_spaces_legal_actions_and_keys(name, kwargs):
    env = make(name, kwargs).unwrapped
    assert isinstance(env.observation_space, Text)
    assert isinstance(env.action_space, Text)
    rng = np.random.default_rng(0)
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)
    by_key, over = {}, False
    for _ in range(200):
        assert observation in env.observation_space
        if over:
            observation, info = env.reset()
        legal = info.get("legal_actions")
        if legal is not None:
            assert 0 < len(legal) <= 50
            assert len(set(legal)) == len(legal)
            assert all(action in env.action_space for action in legal)
        # Equal keys, equal situations: the same text to read (with markov) and the same that is legal.
        if kwargs.get("markov", name != "Bandit"):
            assert by_key.setdefault(info["state_key"], (observation, legal)) == (observation, legal)
        hash(info["state_key"])
        observation, reward, terminated, truncated, info = env.step(legal_or_sampled(env, info, rng))
        assert type(reward) is float
        assert (type(terminated), type(truncated)) == (bool, bool)
        assert info["valid"]
        over = terminated or truncated


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
@pytest.mark.parametrize("text", ["Ł", "a\tb", 2, None, ["U"]])
def test_an_invalid_action_changes_nothing_costs_a_penalty_and_truncates_in_the_end(name, kwargs, text):
    env = make(name, {**kwargs, "max_invalid": 2, "invalid_penalty": 0.5}).unwrapped
    before, info = env.reset(seed=0)
    observation, reward, terminated, truncated, after = env.step(text)
    assert (observation, reward, terminated, truncated) == (before, -0.5, False, False)
    assert after == {**info, "valid": False}
    assert env.optimal_action() in env.action_space
    assert env.step(text)[1:4] == (-0.5, False, True)


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
def test_a_step_before_the_start_or_after_the_end_is_refused(name, kwargs):
    env = make(name, kwargs).unwrapped
    for call in (lambda: env.step("a"), env.optimal_action):
        with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
            call()
    env.reset(seed=0)
    while not any(env.step(env.optimal_action())[2:4]):
        pass
    for call in (lambda: env.step("a"), env.optimal_action):
        with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
            call()


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
def test_a_picture_for_people(name, kwargs):
    env = make(name, {**kwargs, "render_mode": "ansi"}).unwrapped
    start, _ = env.reset(seed=0)
    pictures = [env.render()]
    while not any(env.step(env.optimal_action())[2:4]):
        pictures.append(env.render())
    assert all(isinstance(picture, str) for picture in pictures)
    assert pictures[0] or start == ""
    assert len(set(pictures)) == len(pictures) or name in ("CliffWalking", "FrozenLake", "Taxi")  # one may slip


@pytest.mark.parametrize(("name", "kwargs"), TABULAR)
def test_giving_up_by_invalid_texts_never_pays(name, kwargs):
    env = make(name, kwargs).unwrapped
    table = env.table()
    value_S = np.zeros(len(table.keys))
    worst = 0.0
    for _ in range(table.horizon):
        value_SA = np.where(table.legal_SA, table.look_ahead(table.reward_M, value_S), -np.inf)
        value_S = np.where(table.legal_SA.any(1), value_SA.max(1), 0.0)
        worst = min(worst, value_S.min())
    assert -env.max_invalid * env.invalid_penalty < worst or worst == 0


def test_those_that_can_be_enumerated_say_so():
    for name, kwargs in VARIANTS:
        assert isinstance(make(name, kwargs).unwrapped, Tabular) == ((name, kwargs) in TABULAR)


def test_gymnasium_makes_them_by_module_and_id():
    env = gymnasium.make("rl.envs:trillium/Copy-v0", length=3)
    observation, info = env.reset(seed=0)
    assert len(observation) == 4
    assert observation.endswith(":")
    assert info == {"valid": True, "state_key": observation[:3]}


def test_copies_share_their_table():
    first, second = (make("Taxi", {}).unwrapped for _ in range(2))
    assert first.table() is second.table()
    assert first.action_space is not second.action_space


def test_a_picture_that_cannot_be_drawn_is_refused():
    from rl.envs.copying import CopyEnv

    with pytest.raises(ValueError, match="render_mode must be ansi or None, got 'human'"):
        CopyEnv(render_mode="human")


def test_the_end_of_the_game_is_not_a_truncation():
    env = make("FrozenLake", {"horizon": 2})
    env.reset(seed=0)
    env.step("R")
    assert env.step("D")[2:4] == (True, False)  # into the hole, on the last turn
    env.reset(seed=0)
    env.step("L")
    assert env.step("L")[2:4] == (False, True)


@pytest.mark.parametrize(
    ("name", "kwargs", "named"),
    [
        ("Copy", {"length": 0}, "length"),
        ("Copy", {"alphabet": "aa"}, "alphabet"),
        ("Sort", {"alphabet": "a:"}, "alphabet"),
        ("Reverse", {"alphabet": ""}, "alphabet"),
        ("Copy", {"max_invalid": 0}, "max_invalid"),
        ("Copy", {"invalid_penalty": -1.0}, "invalid_penalty"),
        ("Copy", {"invalid_penalty": float("nan")}, "invalid_penalty"),
        ("Add", {"digits": 0}, "digits"),
        ("Add", {"digits": 19}, "digits"),
        ("Parity", {"length": 0}, "length"),
        ("CountChar", {"length": 0}, "length"),
        ("CountChar", {"char": "ab"}, "char"),
        ("CountChar", {"alphabet": "::"}, "alphabet"),
        ("Lexicon", {"num_words": 0}, "num_words"),
        ("Lexicon", {"tone": "loud"}, "tone must be one of good, bad, either"),
        ("RandomWalk", {"nodes": 1}, "nodes"),
        ("RandomWalk", {"edge_probability": 1.5}, "edge_probability"),
        ("RandomWalk", {"graph_seed": -1}, "graph_seed"),
        ("RandomWalk", {"horizon": 0}, "horizon"),
        ("FrozenLake", {"map_name": "9x9"}, "map_name"),
        ("FrozenLake", {"horizon": 0}, "horizon"),
        ("FrozenLake", {"success_rate": 0.0}, "success_rate"),
        ("CliffWalking", {"horizon": 0}, "horizon"),
        ("Taxi", {"horizon": 0}, "horizon"),
        ("Nim", {"heaps": ""}, "heaps"),
        ("Nim", {"heaps": "304"}, "heaps"),
        ("Nim", {"heaps": 345}, "heaps"),
        ("Nim", {"heaps": "12345"}, "heaps"),
        ("Nim", {"opponent": "kind"}, "opponent must be one of random, perfect"),
        ("Bandit", {"arms": 1}, "arms"),
        ("Bandit", {"pulls": 0}, "pulls"),
        ("Bandit", {"arms": 9, "pulls": 90}, "9 arms and 90 pulls"),
        ("GuessNumber", {"numbers": 1}, "numbers"),
        ("GuessNumber", {"turns": 0}, "turns"),
        ("GuessNumber", {"turn_cost": -1.0}, "turn_cost"),
        ("MiniWordle", {"turns": 10}, "turns"),
        ("TextGeneration", {"turns": 0}, "turns"),
        ("TextGeneration", {"piece_length": 0}, "piece_length"),
        ("TextGeneration", {"charset": ""}, "charset"),
        ("TextGeneration", {"prompts": []}, "prompts"),
        ("TextGeneration", {"prompts": "Łódź"}, "prompts have 'ó"),
        ("TextGeneration", {"reward": "quality"}, "needs reference"),
        ("TextGeneration", {"reward": "nice"}, "no reward is called 'nice'"),
        ("TextGeneration", {"reward": "quality", "reference": "nowhere/at-all"}, "no reference model at nowhere"),
        ("TextGeneration", {"reward": 7}, "reward must be a function"),
    ],
)
def test_wrong_arguments_are_named(name, kwargs, named):
    with pytest.raises(ValueError, match=named) as caught:
        make(name, kwargs)
    assert "\n" not in str(caught.value)
