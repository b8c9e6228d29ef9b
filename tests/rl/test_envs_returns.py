"""The exact returns of the text environments: values worked out independently of this project, and play."""

import math

import gymnasium
import numpy as np
import pytest

import rl.envs  # noqa: F401 - registers them
from rl.episodes import EpisodeSeed
from rl.evaluation import play_randomly

# Value iteration on Gymnasium's own tables, exhaustive search and closed forms, by other programs.
GOLDEN = [
    ("FrozenLake", {"slippery": True, "horizon": 100}, 0.7442, 0.0139),
    ("FrozenLake", {"slippery": False, "horizon": 100}, 1.0, 0.0139),
    ("FrozenLake", {"slippery": False, "horizon": 20}, 1.0, 0.0124),
    ("FrozenLake", {"slippery": True, "horizon": 20}, 0.1991, 0.0124),
    ("FrozenLake", {"slippery": True, "map_name": "8x8", "horizon": 200}, 0.9132, 0.0019),
    ("FrozenLake", {"slippery": False, "map_name": "8x8", "horizon": 200}, 1.0, 0.0019),
    ("CliffWalking", {}, -13, -1083),
    ("CliffWalking", {"slippery": True}, -63.01, -1083),
    ("CliffWalking", {"slippery": True, "horizon": 200}, -64.70, -2079),
    ("Taxi", {}, 7.93, -771.1),
    ("Taxi", {"horizon": 30}, 7.93, -118.1),
    ("Taxi", {"rainy": True}, 3.9546, None),
    ("Taxi", {"masked": True}, 7.93, None),
    ("Blackjack", {}, -0.0431, None),
    ("Blackjack", {"sab": False}, -0.0466, -0.3959),
    ("Blackjack", {"sab": False, "natural": True}, -0.0257, None),
    ("TicTacToe", {}, 0.9948, 0.2968),
    ("GuessNumber", {"numbers": 7, "turns": 3}, 1, 1 - (6 / 7) ** 3),
    ("GuessNumber", {"numbers": 16, "turns": 4}, 0.9375, 1 - (15 / 16) ** 4),
    ("GuessNumber", {"numbers": 32, "turns": 5}, 0.96875, None),
    # Bisection finds 1 number with one guess, 2 with two, 4 with three, and so on: 2.4286 guesses of 7, 3.70 of 20.
    ("GuessNumber", {"numbers": 7, "turns": 3, "turn_cost": 1.0}, 1 - 17 / 7, None),
    ("GuessNumber", {"numbers": 20, "turns": 7, "turn_cost": 1.0}, 1 - 3.70, None),
    ("MiniWordle", {"turns": 2}, 0.4375, 1 - (15 / 16) ** 2),
    ("MiniWordle", {"turns": 3}, 0.875, 1 - (15 / 16) ** 3),
    ("MiniWordle", {"turns": 4}, 1.0, 1 - (15 / 16) ** 4),
    ("Bandit", {}, 6.0218, 5.0),
    ("Bandit", {"pulls": 5}, 2.8889, 2.5),
    ("Bandit", {"arms": 3}, 6.4096, 5.0),
    ("Bandit", {"arms": 5}, 6.66, 5.0),
    ("Copy", {}, 1, 0.25),
    ("Copy", {"dense": False}, 1, 0.00390625),
    ("Sort", {"length": 3, "alphabet": "ab", "dense": False}, 1, 0.125),
    ("Add", {"dense": False}, 1, 0.001),
    ("Parity", {}, 1, 0.5),
    ("TextGeneration", {"piece_length": 3}, 1, 0.5),
    # Of 0 to 2 letters a piece, an empty one being the last: 1 + 2/3 + 4/9 letters of 6.
    ("TextGeneration", {"piece_length": 2, "turns": 3}, 1, 19 / 54),
]


def decimals(value):
    return len(repr(value).partition(".")[2])


@pytest.mark.parametrize(("name", "kwargs", "optimal", "chance"), GOLDEN)
def test_exact_returns(name, kwargs, optimal, chance):
    env = gymnasium.make(f"trillium/{name}-v0", **kwargs).unwrapped
    for exact, golden in ((env.optimal_return, optimal), (env.random_return, chance)):
        if golden is not None:
            assert abs(exact - golden) <= 0.5 * 10.0 ** -min(decimals(golden), 12) + 1e-12


def test_a_horizon_too_short_for_the_goal_is_worth_nothing():
    assert gymnasium.make("trillium/FrozenLake-v0", horizon=5).unwrapped.optimal_return == 0
    assert gymnasium.make("trillium/FrozenLake-v0", horizon=6).unwrapped.optimal_return == 1


PLAYED = [
    ("FrozenLake", {"slippery": True, "horizon": 30, "success_rate": 0.7}, 400),
    ("CliffWalking", {"slippery": True, "horizon": 40}, 200),
    ("Taxi", {"horizon": 30}, 200),
    ("Taxi", {"rainy": True, "horizon": 40}, 200),
    ("Taxi", {"masked": True, "horizon": 60}, 200),
    ("RandomWalk", {}, 500),
    ("Blackjack", {}, 4000),
    ("Blackjack", {"sab": False, "natural": True}, 2000),
    ("TicTacToe", {}, 500),
    ("TicTacToe", {"first": False}, 500),
    ("Nim", {}, 500),
    ("Nim", {"opponent": "perfect", "heaps": "35"}, 300),
    ("Bandit", {}, 2000),
    ("Bandit", {"arms": 3, "pulls": 6, "markov": True}, 1000),
    ("GuessNumber", {"numbers": 16, "turns": 4}, 500),
    ("GuessNumber", {"numbers": 9, "turns": 5, "turn_cost": 0.2, "markov": False}, 500),
    ("MiniWordle", {"turns": 2}, 500),
    ("MiniWordle", {"turns": 3, "markov": False}, 500),
    ("Copy", {"length": 2}, 300),
    ("Copy", {"length": 1, "alphabet": "ab", "dense": False}, 300),
    ("Reverse", {}, 300),
    ("Sort", {}, 300),
    ("Add", {}, 300),
    ("Parity", {"running": True}, 300),
    ("CountChar", {"char": ""}, 300),
    ("Lexicon", {"num_words": 6, "tone": "good"}, 500),
    ("Lexicon", {"num_words": 3, "proxy": True}, 500),
    ("TextGeneration", {"turns": 3, "piece_length": 2}, 500),
]
# Chance hardly ever gets there.
WALKED_WELL = ("FrozenLake", {"slippery": True, "map_name": "8x8", "horizon": 60, "success_rate": 0.9}, 150)


def assert_mean(returns, expected):
    error = np.std(returns, ddof=1) / math.sqrt(len(returns))
    assert abs(np.mean(returns) - expected) <= 3 * error + 1e-9, (np.mean(returns), error, expected)


@pytest.mark.parametrize(("name", "kwargs", "episodes"), [*PLAYED, WALKED_WELL])
def test_the_best_policy_reaches_the_optimal_return(name, kwargs, episodes):
    env = gymnasium.make(f"trillium/{name}-v0", **kwargs).unwrapped
    env.reset(seed=1)
    returns = []
    for _ in range(episodes):
        _, info = env.reset()
        total, over = 0.0, False
        while not over:
            action = env.optimal_action()
            assert action in info.get("legal_actions", [action])
            _, reward, terminated, truncated, info = env.step(action)
            assert info["valid"]
            total, over = total + reward, terminated or truncated
        returns.append(total)
    assert_mean(returns, env.optimal_return)


@pytest.mark.parametrize(("name", "kwargs", "episodes"), PLAYED)
def test_random_play_reaches_the_random_return(name, kwargs, episodes):
    env = gymnasium.make(f"trillium/{name}-v0", **kwargs)
    seeds = [EpisodeSeed.derive(1, 2, number) for number in range(episodes)]
    played = play_randomly([env.unwrapped] * episodes, seeds, max_turns=200)
    assert_mean(played.returns, env.unwrapped.random_return)
    assert played.num_valid == sum(played.turns)


@pytest.mark.parametrize("rules", [{"sab": True}, {"sab": False}, {"sab": False, "natural": True}])
def test_blackjack_is_gymnasiums(rules):
    """Sticking at once, so that many hands are played: Gymnasium's own cards give our expected return."""
    from rl.envs.tabular import policy_return

    theirs = gymnasium.make("Blackjack-v1", **rules).unwrapped
    theirs.reset(seed=0)
    returns = []
    for _ in range(8000):
        theirs.reset()
        returns.append(float(theirs.step(0)[1]))
    table = gymnasium.make("trillium/Blackjack-v0", **rules).unwrapped.table()
    stick_A = np.array([action == "S" for action in table.actions], dtype=float)
    assert_mean(returns, policy_return(table, np.tile(stick_A, (len(table.keys), 1))))


def test_under_sab_a_natural_beats_a_21_that_is_none():
    """Then it wins instead of a draw; random play sticks on a natural half the time, and all else is equal."""
    sab, other = (gymnasium.make("trillium/Blackjack-v0", sab=sab).unwrapped for sab in (True, False))
    table = other.table()
    natural_S = np.array([hand.natural for hand in table.keys])
    drawn_M = (table.reward_M == 0) & (table.action_M == table.actions.index("S")) & natural_S[table.state_M]
    draws = (table.start_S[table.state_M] * table.probability_M)[drawn_M].sum()
    both_natural = (2 * 1 / 13 * 4 / 13) ** 2
    assert sab.optimal_return - other.optimal_return == pytest.approx(draws - both_natural, abs=1e-12)
    assert sab.random_return - other.random_return == pytest.approx((draws - both_natural) / 2, abs=1e-12)
