"""Environments as tables, and exact returns of policies."""

import gymnasium
import numpy as np
import pytest

import rl.envs  # noqa: F401 - registers them
from rl.envs.tabular import optimum_by_start, policy_return, tabulate, uniform_policy
from rl.evaluation import Episodes


def chain(horizon=3):
    """From `x` go (to `y` for 2, or with probability 1/4 nowhere for 0) or quit for 1; from `y` quit for 8."""
    moves = {
        "x": {"go": [(0.75, "y", 2.0, False), (0.25, "x", 0.0, False)], "quit": [(1.0, "end", 1.0, True)]},
        "y": {"quit": [(1.0, "end", 8.0, True)]},
    }
    return tabulate({"x": 1.0}, moves.get, lambda key: f"at {key}", horizon)


def test_a_table_by_hand():
    table = chain()
    assert table.keys == ("x", "y", "end")
    assert table.observations == ("at x", "at y", "at end")
    assert table.actions == ("go", "quit")
    assert table.start_S.tolist() == [1, 0, 0]
    assert table.legal == (("go", "quit"), ("quit",), ())
    assert table.legal_SA.tolist() == [[True, True], [False, True], [False, False]]
    assert list(zip(table.state_M, table.action_M, table.probability_M, table.next_M, table.reward_M)) == [
        (0, 0, 0.75, 1, 2.0), (0, 0, 0.25, 0, 0.0), (0, 1, 1.0, 2, 1.0), (1, 1, 1.0, 2, 8.0)
    ]  # fmt: skip
    assert table.rows == {"x": 0, "y": 1, "end": 2}


@pytest.mark.parametrize("name", ["Taxi", "FrozenLake"])
def test_what_can_be_reached_from_a_start_is_what_the_best_play_reaches(name):
    env = gymnasium.make(f"trillium/{name}-v0")
    by_start = optimum_by_start(env)
    for seed in range(10):
        start, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.unwrapped.optimal_action())
            total, done = total + reward, terminated or truncated
        assert by_start[start] == pytest.approx(total)
    assert optimum_by_start(gymnasium.make("trillium/Copy-v0")) == {}


def test_an_episode_is_solved_where_it_reached_what_its_start_allows():
    played = Episodes(returns=[4.0, 4.0, 12.0], turns=[1, 1, 1], num_valid=3, starts=["far", "near", "unknown"])
    assert played.scores(8.0, {"far": 4.0, "near": 12.0})["solved"].value == pytest.approx(2 / 3)
    assert played.scores(8.0)["solved"].value == pytest.approx(1 / 3)


def test_returns_by_hand():
    # With one turn left, x is worth 1 (quit) or 1.5 (go); with two, go gives .75 * (2 + 8) + .25 * x1.
    assert chain(1).solution.optimal_return == 1.5
    assert chain(2).solution.optimal_return == pytest.approx(7.5 + 0.25 * 1.5)
    # Uniform: 1.25 with one turn, (1 + 7.5 + .25 * 1.25) / 2 with two.
    assert chain(1).solution.random_return == 1.25
    assert chain(2).solution.random_return == pytest.approx(4.40625)
    assert policy_return(chain(2), uniform_policy(chain(2))) == pytest.approx(4.40625)
    quitting = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert policy_return(chain(5), quitting) == 1
    # The horizon can be another than the table's, and rows of states where the game is over aren't read.
    anything = np.array([[1.0, 0.0], [0.0, 1.0], [np.nan, 7.0]])
    assert policy_return(chain(9), anything, 1) == 1.5


def test_of_equally_good_actions_the_one_that_is_done_sooner_is_best():
    moves = {
        "start": {"wait": [(1.0, "start", 0.0, False)], "go": [(1.0, "end", 1.0, True)]},
    }
    table = tabulate({"start": 1.0}, moves.get, str, 4)
    best = [table.actions[number] for number in table.solution.best_TS[:, 0]]
    assert best == ["go"] * 4


def test_a_policys_exact_return_is_that_of_its_play():
    env = gymnasium.make("trillium/FrozenLake-v0", slippery=True, horizon=15).unwrapped
    table = env.table()
    rng = np.random.default_rng(0)
    policy_SA = rng.dirichlet(np.ones(4), len(table.keys))
    env.reset(seed=0)
    returns = []
    for _ in range(3000):
        _, info = env.reset()
        total, over = 0.0, False
        while not over:
            row = table.rows[info["state_key"]]
            assert env.state == row
            action = table.actions[rng.choice(4, p=policy_SA[row])]
            _, reward, terminated, truncated, info = env.step(action)
            total, over = total + reward, terminated or truncated
        returns.append(total)
    error = np.std(returns) / np.sqrt(len(returns))
    assert error > 0
    assert abs(np.mean(returns) - policy_return(table, policy_SA)) < 3 * error


@pytest.mark.parametrize(("limit", "golden"), [(0, -0.186), (16, -0.075), (17, -0.079), (18, -0.112)])
def test_returns_of_simple_blackjack_policies(limit, golden):
    """Of `stick at a total of 16` and the like, worked out by another program."""
    table = gymnasium.make("trillium/Blackjack-v0", sab=False).unwrapped.table()
    stick_S = np.array([hand.total >= limit for hand in table.keys])
    policy_SA = np.stack([np.where(stick_S, action == "S", action == "H") for action in table.actions], 1)
    assert policy_return(table, policy_SA.astype(float)) == pytest.approx(golden, abs=5e-4)


@pytest.mark.parametrize(("map_name", "horizon", "golden"), [("4x4", 100, 0.7402), ("8x8", 200, 0.8857)])
def test_return_of_the_best_stationary_policy_on_the_ice(map_name, horizon, golden):
    """That of value iteration without a horizon, by another program; knowing the time makes it a little better."""
    kwargs = {"slippery": True, "map_name": map_name}
    table = gymnasium.make("trillium/FrozenLake-v0", horizon=5000, **kwargs).unwrapped.table()
    greedy_SA = np.eye(len(table.actions))[table.solution.best_TS[0]]
    found = policy_return(table, greedy_SA, horizon)
    assert found == pytest.approx(golden, abs=5e-5)
    assert found < gymnasium.make("trillium/FrozenLake-v0", horizon=horizon, **kwargs).unwrapped.optimal_return


@pytest.mark.parametrize(
    ("name", "kwargs", "live"),
    [
        ("TicTacToe", {}, 2423),  # boards with X to move on which nobody has won, as is well known
        ("Taxi", {}, 400),
        ("CliffWalking", {}, 37),
        ("Bandit", {"pulls": 10}, 715),  # C(13, 4) counts of at most 9 pulls
        ("MiniWordle", {"turns": 4}, None),
        ("GuessNumber", {"numbers": 16, "turns": 4}, None),
        ("Blackjack", {}, None),
        ("Nim", {}, None),
    ],
)
def test_the_observation_tells_the_state(name, kwargs, live):
    table = gymnasium.make(f"trillium/{name}-v0", **kwargs).unwrapped.table()
    rows = np.flatnonzero(table.legal_SA.any(1))
    assert live is None or len(rows) == live
    assert len({table.observations[row] for row in rows}) == len(rows)
    assert table.start_S.sum() == pytest.approx(1)
    assert not table.start_S[~table.legal_SA.any(1)].any()
    sums_SA = table.look_ahead(np.ones(len(table.state_M)), np.zeros(len(table.keys)))
    assert np.allclose(sums_SA, table.legal_SA)


def test_the_bandits_table_agrees_with_its_recursion():
    env = gymnasium.make("trillium/Bandit-v0", arms=3, pulls=6).unwrapped
    assert env.table().solution.optimal_return == pytest.approx(env.optimal_return, abs=1e-12)
    assert env.table().solution.random_return == pytest.approx(env.random_return, abs=1e-12)
    env.reset(seed=0)
    env.step("b")
    assert env.table().keys[env.state][1][1] == 1
    with pytest.raises(ValueError, match="lower either for a table"):
        gymnasium.make("trillium/Bandit-v0", arms=5).unwrapped.table()


@pytest.mark.parametrize(
    ("policy_SA", "named"),
    [
        (np.ones((2, 2)), r"must be \(3, 2\), got \(2, 2\)"),
        (np.array([[0.5, 0.4], [0, 1], [0, 0]]), "sum to 1"),
        (np.array([[1.5, -0.5], [0, 1], [0, 0]]), "sum to 1"),
        (np.array([[np.nan, 1], [0, 1], [0, 0]]), "sum to 1"),
        (np.array([[0.5, 0.5], [0.1, 0.9], [0, 0]]), "illegal"),
    ],
)
def test_a_policy_that_is_none_is_refused(policy_SA, named):
    with pytest.raises(ValueError, match=named):
        policy_return(chain(), policy_SA)
