"""The text environments: Gymnasium's contract, ours on top of it, and their exact returns."""

import math
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rl.envs  # noqa: F401 - registers them
from rl.envs.frozen_lake import ACTIONS
from rl.envs.tabular import action_values
from rl.episodes import EpisodeSeed
from rl.evaluation import play_randomly

VARIANTS = [
    ("trillium/Copy-v0", {}),
    ("trillium/Copy-v0", {"length": 2, "alphabet": "xyz", "dense": False, "max_invalid": 3}),
    ("trillium/FrozenLake-v0", {}),
    ("trillium/FrozenLake-v0", {"slippery": True, "horizon": 20}),
    ("trillium/FrozenLake-v0", {"slippery": True, "map_name": "8x8", "success_rate": 0.8}),
]


@pytest.mark.parametrize(("env", "kwargs"), VARIANTS)
def test_gymnasium_finds_nothing_to_complain_about(env, kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env, **kwargs).unwrapped)


@pytest.mark.parametrize(("env", "kwargs"), VARIANTS)
def test_equal_seeds_give_equal_episodes(env, kwargs):
    first, second = (gymnasium.make(env, **kwargs) for _ in range(2))
    first.action_space.seed(5)
    assert first.reset(seed=3) == second.reset(seed=3)
    for _ in range(50):
        action = first.action_space.sample()
        result = first.step(action)
        assert result == second.step(action)
        if result[2] or result[3]:
            assert first.reset() == second.reset()


def test_gymnasium_makes_them_by_module_and_id():
    env = gymnasium.make("rl.envs:trillium/Copy-v0", length=3)
    observation, info = env.reset(seed=0)
    assert len(observation) == 4
    assert observation.endswith(":")
    assert info == {"valid": True, "state_key": observation[:3]}


# Values of value iteration on Gymnasium's own tables, worked out independently of this project.
@pytest.mark.parametrize(
    ("kwargs", "optimal", "chance"),
    [
        ({"slippery": True, "horizon": 100}, 0.7442, 0.0139),
        ({"slippery": False, "horizon": 100}, 1.0, 0.0139),
        ({"slippery": False, "horizon": 20}, 1.0, 0.0124),
        ({"slippery": True, "horizon": 20}, 0.1991, 0.0124),
        ({"slippery": True, "map_name": "8x8", "horizon": 200}, 0.9132, 0.0019),
        ({"slippery": False, "map_name": "8x8", "horizon": 200}, 1.0, 0.0019),
    ],
)
def test_exact_returns_of_the_frozen_lake(kwargs, optimal, chance):
    env = gymnasium.make("trillium/FrozenLake-v0", **kwargs).unwrapped
    assert round(env.optimal_return, 4) == optimal
    assert round(env.random_return, 4) == chance


def test_a_horizon_too_short_for_the_goal_is_worth_nothing():
    assert gymnasium.make("trillium/FrozenLake-v0", horizon=5).unwrapped.optimal_return == 0
    assert gymnasium.make("trillium/FrozenLake-v0", horizon=6).unwrapped.optimal_return == 1


def test_the_best_policy_reaches_the_optimal_return():
    env = gymnasium.make("trillium/FrozenLake-v0", slippery=True, horizon=30, success_rate=0.7)
    game = env.unwrapped
    q = action_values(game.transitions, 30, optimal=True)
    returns = []
    for episode in range(400):
        _, info = env.reset(seed=episode)
        for turn in range(30):
            _, reward, terminated, truncated, info = env.step(ACTIONS[q[turn, info["state_key"]].argmax()])
            if terminated or truncated:
                break
        returns.append(reward)
    error = np.std(returns) / math.sqrt(len(returns))
    assert abs(np.mean(returns) - game.optimal_return) < 3 * error


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        ("trillium/Copy-v0", {}),
        ("trillium/Copy-v0", {"length": 1, "alphabet": "ab", "dense": False}),
        ("trillium/FrozenLake-v0", {"slippery": True, "success_rate": 0.9, "horizon": 50}),
    ],
)
def test_random_play_reaches_the_random_return(env, kwargs):
    seeds = [EpisodeSeed.derive(1, 2, number) for number in range(1000)]
    copies = [gymnasium.make(env, **kwargs)] * len(seeds)
    played = play_randomly(copies, seeds, max_turns=100)
    error = np.std(played.returns, ddof=1) / math.sqrt(len(seeds))
    assert abs(np.mean(played.returns) - copies[0].unwrapped.random_return) < 3 * error
    assert played.num_valid == sum(played.turns)


def test_copying_is_rewarded_letter_by_letter():
    env = gymnasium.make("trillium/Copy-v0")
    word = env.reset(seed=0)[0][:4]
    other = "".join("b" if letter == "a" else "a" for letter in word)
    assert env.step(word)[1:4] == (1.0, True, False)
    env.reset(seed=0)
    assert env.step(word[:3] + other[3])[1:4] == (0.75, True, False)
    sparse = gymnasium.make("trillium/Copy-v0", dense=False)
    sparse.reset(seed=0)
    assert sparse.step(word[:3] + other[3])[1:4] == (0.0, True, False)


@pytest.mark.parametrize("text", ["", "X", "LL", "l", 2, None, "Ł"])
def test_an_invalid_action_changes_nothing_costs_a_penalty_and_truncates_in_the_end(text):
    env = gymnasium.make("trillium/FrozenLake-v0", max_invalid=2, invalid_penalty=0.5)
    env.reset(seed=0)
    env.step("D")
    observation, reward, terminated, truncated, info = env.step(text)
    assert (observation, reward, terminated, truncated) == ("r1c0:", -0.5, False, False)
    assert (info["valid"], info["state_key"], info["legal_actions"]) == (False, 4, ["L", "D", "R", "U"])
    assert env.step("D")[4]["valid"]
    assert env.step(text)[1:4] == (-0.5, False, True)


def test_the_end_of_the_game_is_not_a_truncation():
    env = gymnasium.make("trillium/FrozenLake-v0", horizon=2)
    env.reset(seed=0)
    env.step("R")
    assert env.step("D")[2:4] == (True, False)  # into the hole, on the last turn
    env.reset(seed=0)
    env.step("L")
    assert env.step("L")[2:4] == (False, True)


def test_the_map_shows_the_place():
    env = gymnasium.make("trillium/FrozenLake-v0", render_mode="ansi")
    env.reset(seed=0)
    env.step("R")
    assert env.render().splitlines()[:2] == [" S[F]F F ", " F H F H "]


@pytest.mark.parametrize(
    ("env", "kwargs", "named"),
    [
        ("trillium/Copy-v0", {"length": 0}, "length"),
        ("trillium/Copy-v0", {"alphabet": "aa"}, "alphabet"),
        ("trillium/Copy-v0", {"alphabet": "a:"}, "alphabet"),
        ("trillium/Copy-v0", {"max_invalid": 0}, "max_invalid"),
        ("trillium/Copy-v0", {"invalid_penalty": -1.0}, "invalid_penalty"),
        ("trillium/FrozenLake-v0", {"map_name": "9x9"}, "map_name"),
        ("trillium/FrozenLake-v0", {"horizon": 0}, "horizon"),
        ("trillium/FrozenLake-v0", {"success_rate": 0.0}, "success_rate"),
    ],
)
def test_wrong_arguments_are_named(env, kwargs, named):
    with pytest.raises(ValueError, match=named):
        gymnasium.make(env, **kwargs)
