"""The rules of the text environments, one by one."""

import itertools
import math
from collections import deque
from functools import reduce
from operator import xor

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.taxi import TaxiEnv

import rl.envs  # noqa: F401 - registers them
from rl.envs.lexicon import WORDS, repeated_sentiment, sentence_sentiment, sentiment
from rl.envs.mini_wordle import WORDS as WORDLE
from rl.envs.mini_wordle import marks
from rl.envs.random_walk import graph
from rl.envs.tic_tac_toe import LINES
from rl.envs.valences import VALENCES


def make(name, **kwargs):
    return gymnasium.make(f"trillium/{name}-v0", **kwargs).unwrapped


def test_copying_is_rewarded_letter_by_letter():
    env = make("Copy")
    word = env.reset(seed=0)[0][:4]
    other = "".join("b" if letter == "a" else "a" for letter in word)
    assert env.step(word)[1:4] == (1.0, True, False)
    env.reset(seed=0)
    assert env.step(word[:3] + other[3])[1:4] == (0.75, True, False)
    sparse = make("Copy", dense=False)
    sparse.reset(seed=0)
    assert sparse.step(word[:3] + other[3])[1:4] == (0.0, True, False)


@pytest.mark.parametrize(
    ("name", "kwargs", "right"),
    [
        ("Reverse", {}, lambda word: word[::-1]),
        ("Sort", {"alphabet": "dcab"}, lambda word: "".join(sorted(word, key="dcab".index))),
        ("Add", {"digits": 3}, lambda sum_: f"{sum(map(int, sum_.split('+'))):04}"),
        ("Parity", {"length": 7}, lambda bits: str(bits.count("1") % 2)),
        (
            "Parity",
            {"length": 5, "running": True},
            lambda bits: "".join(str(bits[: i + 1].count("1") % 2) for i in range(5)),
        ),
        ("CountChar", {"char": "", "length": 5}, lambda char: char * 5),
    ],
)
def test_questions_have_their_answers(name, kwargs, right):
    env = make(name, **kwargs)
    asked = set()
    env.reset(seed=0)
    for _ in range(30):
        question, _ = env.reset()
        asked.add(question)
        assert env.step(right(question[:-1]))[1:4] == (1.0, True, False)
    assert len(asked) > 3


def test_few_answers_are_listed():
    assert make("Parity").reset(seed=0)[1]["legal_actions"] == ("0", "1")
    assert make("Copy", length=2, alphabet="xy").reset(seed=0)[1]["legal_actions"] == ("xx", "xy", "yx", "yy")
    assert "legal_actions" not in make("Copy").reset(seed=0)[1]


@pytest.mark.parametrize(("beta", "golden"), [(1, 0.2829), (0.3, 0.3706), (0.1, 0.6146), (0.05, 0.7926)])
def test_the_optimum_under_a_kl_penalty(beta, golden):
    """Golden values from the sum over all 64 answers, by another program; here that sum again."""
    env = make("CountChar")
    best = env.regularized_optimum(beta)
    assert best.objective == pytest.approx(golden, abs=5e-5)
    rewards = np.array([answer.count("a") / 3 for answer in itertools.product("abcd", repeat=3)])
    weights = np.exp(rewards / beta)
    policy = weights / weights.sum()
    assert best.objective == pytest.approx(beta * math.log(weights.mean()))
    assert best.expected_return == pytest.approx(policy @ rewards)
    assert best.kl == pytest.approx(policy @ np.log(64 * policy))
    if beta == 0.1:
        assert (round(best.expected_return, 4), round(best.kl, 3)) == (0.9033, 2.887)
    assert env.regularized_optimum(1e-9).objective == pytest.approx(1)
    with pytest.raises(ValueError, match="beta"):
        env.regularized_optimum(0)


def test_the_word_list():
    assert 190 <= len(VALENCES) <= 210
    assert all(word.isascii() and word.islower() and word.isalpha() for word in VALENCES)
    assert set(VALENCES.values()) == {-3, -2, -1, 0, 1, 2, 3}


def test_sentiment_by_hand():
    # love 3, bad -2, table 0, nonsense none: 1 of 4 words and at most 3 a word.
    texts = ["Love, bad table; qwxz!", "love love love", "", "joy and love"]
    assert sentiment(["", "", "", ""], texts) == pytest.approx([1 / 12, 1 / 3, 0, 2 / 3])
    assert repeated_sentiment(["", "", "", ""], texts) == pytest.approx([1 / 12, 1, 0, 2 / 3])
    # Of fewer than ten words as if there were ten.
    assert sentence_sentiment(["", "", "", ""], texts) == pytest.approx([1 / 30, 1 / 10, 0, 6 / 30])
    long = "love " + "table " * 11
    assert sentence_sentiment([""], [long]) == sentiment([""], [long]) == [3 / 36]


@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize("tone", ["good", "bad", "either"])
def test_exact_returns_of_two_words(proxy, tone):
    env = make("Lexicon", num_words=2, tone=tone, proxy=proxy)
    texts = [f"{first} {second}" for first in WORDS for second in WORDS]
    goods = (repeated_sentiment if proxy else sentiment)([""] * len(texts), texts)
    signs = {"good": [1], "bad": [-1], "either": [1, -1]}[tone]
    assert env.random_return == pytest.approx(np.mean([sign * np.mean(goods) for sign in signs]), abs=1e-12)
    assert env.optimal_return == pytest.approx(np.mean([np.max(sign * np.array(goods)) for sign in signs]))


def test_saying_one_word_over_and_over_hacks_the_proxy():
    for proxy in (False, True):
        env = make("Lexicon", tone="good", proxy=proxy)
        env.reset(seed=0)
        _, reward, terminated, _, info = env.step("love love love love")
        assert terminated
        assert (info["true_reward"], info["proxy_reward"]) == (0.25, 1.0)
        assert reward == info["proxy_reward" if proxy else "true_reward"]
    env = make("Lexicon", tone="bad")
    assert env.reset(seed=0)[0] == "bad:"
    assert env.step("love bad bad table")[1] == pytest.approx(-1 / 12)


@pytest.mark.parametrize("text", ["love", "love love love love love", "love love  love", "Love love love love"])
def test_a_sentence_has_its_number_of_listed_words(text):
    env = make("Lexicon")
    env.reset(seed=0)
    assert not env.step(text)[4]["valid"]


def test_the_best_walks_are_the_shortest_paths():
    env = make("RandomWalk", nodes=26, edge_probability=0.05, graph_seed=4, horizon=20)
    back = {node: [start for start, ends in enumerate(env.edges) if node in ends] for node in range(26)}
    distance, queue = {0: 0}, deque([0])
    while queue:
        node = queue.popleft()
        for start in back[node]:
            if start not in distance:
                distance[start] = distance[node] + 1
                queue.append(start)
    assert len(distance) == 26
    assert env.optimal_return == pytest.approx(-sum(distance.values()) / 25)


def test_every_graph_leads_to_the_goal_and_follows_its_seed():
    assert graph(21, 0.1, 0) == graph(21, 0.1, 0) != graph(21, 0.1, 1)
    tree = graph(12, 0.0, 5)
    assert sum(map(len, tree)) == 11
    assert all(tree[node] for node in range(1, 12))


def test_a_walk_over_the_ice():
    env = make("FrozenLake", render_mode="ansi")
    assert env.reset(seed=0) == ("r0c0:", {"valid": True, "state_key": 0, "legal_actions": ("L", "D", "R", "U")})
    assert env.step("R") == (
        "r0c1:", 0.0, False, False, {"valid": True, "state_key": 1, "legal_actions": ("L", "D", "R", "U")}
    )  # fmt: skip
    assert env.render().splitlines()[:2] == [" S[F]F F ", " F H F H "]
    for letter in "RDDD":
        env.step(letter)
    assert env.step("R")[:4] == ("r3c3:", 1.0, True, False)


def test_a_fall_down_the_cliff_and_the_way_along_it():
    env = make("CliffWalking")
    assert env.reset(seed=0)[0] == "r3c0:"
    assert env.step("R")[:4] == ("r3c0:", -100.0, False, False)
    steps = [env.step(letter) for letter in "U" + "R" * 11 + "D"]
    assert [step[1] for step in steps] == [-1.0] * 13
    assert steps[-1][0] == "r3c11:"
    assert steps[-1][2]


def test_a_ride():
    env = make("Taxi")
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert observation[4] != observation[5]
        total, pictures = 0.0, [env.render()]
        while not env.step("D" if observation[4] == "T" else "P")[4]["valid"]:
            pass
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            observation, reward, terminated, _, _ = env.step(env.optimal_action())
            total += reward
            pictures.append(env.render())
        assert total >= 20 - 1 - 8 - 1 - 8  # the farthest stands are 8 moves apart, and no square is farther from one
        assert "@" in pictures[0]
        assert any("in the taxi" in picture for picture in pictures)


def test_a_taxi_pays_for_a_wrong_stop():
    env = make("Taxi")
    env.reset(seed=1)
    assert env.step("D")[1] == -10.0


def test_a_masked_taxi_may_do_what_gymnasium_s_mask_allows():
    env, original = make("Taxi", masked=True), TaxiEnv()
    seen = set()
    for seed in range(30):
        _, info = env.reset(seed=seed)
        for _ in range(40):
            mask = original.action_mask(info["state_key"])
            assert set(info["legal_actions"]) == {letter for letter, legal in zip("SNEWPD", mask) if legal}
            seen.add(frozenset(info["legal_actions"]))
            letter = info["legal_actions"][int(env.np_random.integers(len(info["legal_actions"])))]
            _, _, terminated, truncated, info = env.step(letter)
            if terminated or truncated:
                break
    assert len(seen) > 10
    observation, before = env.reset(seed=1)
    assert "P" not in before["legal_actions"]
    after = env.step("P")
    assert after[0] == observation
    assert not after[4]["valid"]


def test_three_in_a_row():
    env = make("TicTacToe")
    outcomes = set()
    env.reset(seed=0)
    for _ in range(60):
        observation, info = env.reset()
        over = False
        while not over:
            assert observation[:9].count("X") == observation[:9].count("O")
            assert info["legal_actions"] == tuple(str(i + 1) for i in range(9) if observation[i] == ".")
            observation, reward, over, _, info = env.step(info["legal_actions"][-1])
        board = observation[:9]
        winners = {board[line[0]] for line in LINES if len({board[i] for i in line}) == 1} - {"."}
        assert winners == {1.0: {"X"}, -1.0: {"O"}, 0.0: set()}[reward]
        outcomes.add(reward)
    assert {1.0, -1.0} <= outcomes


@pytest.mark.parametrize("heaps", ["1", "22", "123", "145", "345", "1257", "37"])
def test_nim_is_won_where_theory_says_so(heaps):
    """Against a perfect opponent the first player wins unless the binary sum without carries is 0 (Bouton 1901)."""
    env = make("Nim", heaps=heaps, opponent="perfect")
    assert env.optimal_return == pytest.approx(1 if reduce(xor, map(int, heaps)) else -1)
    assert make("Nim", heaps=heaps).optimal_return >= env.optimal_return - 1e-9


def test_a_move_in_nim():
    env = make("Nim", heaps="21", render_mode="ansi")
    observation, info = env.reset(seed=0)
    assert observation == "21:"
    assert info["legal_actions"] == ("a1", "a2", "b1")
    assert env.render() == "a: ||\nb: |"
    assert env.step("a1")[0] in ("10:", "01:")
    assert not env.step("a2")[4]["valid"]


def test_the_bandit_pays_as_often_as_its_arm():
    env = make("Bandit", pulls=40, arms=2)
    env.reset(seed=3)
    seen = set()
    paid = []
    for _ in range(40):
        observation, reward, terminated, _, info = env.step("a")
        assert observation == f"{int(reward)}:"
        paid.append(reward)
        seen.add(info["state_key"])
    assert terminated
    assert len(seen) == 40
    assert info["state_key"] == ((sum(paid), 40), (0, 0))
    assert env.render() == f"a: {int(sum(paid))} of 40\nb: 0 of 0"
    # Means of many episodes are uniform: mean 1/2, standard deviation about sqrt(1/12).
    means = []
    for _ in range(400):
        env.reset()
        means.append(np.mean([env.step("b")[1] for _ in range(40)]))
    assert np.mean(means) == pytest.approx(0.5, abs=3 * np.std(means) / 20)
    assert np.std(means) == pytest.approx(math.sqrt(1 / 12 + 1 / 240), abs=0.03)


def test_the_history_of_a_bandit_in_short():
    env = make("Bandit", markov=True)
    assert env.reset(seed=0)[0] == "0/0 0/0:"
    observation, reward, *_ = env.step("b")
    assert observation == f"0/0 {int(reward)}/1:"


def test_answers_narrow_the_range():
    for markov in (True, False):
        env = make("GuessNumber", numbers=30, turns=6, markov=markov)
        assert env.reset(seed=0)[0] == ("6 01-30:" if markov else "?:")
        low, high = 1, 30
        for turn in range(6):
            guess = (low + high) // 2
            observation, reward, terminated, _, info = env.step(f"{guess:02}")
            left, new_low, new_high = info["state_key"]
            if terminated:
                assert reward == 1.0 or turn == 5
                assert markov or (observation == "=:") == (reward == 1)
                break
            assert left == 5 - turn
            if new_low > guess:
                assert (new_low, new_high) == (guess + 1, high)
                assert observation == (f"{left} {new_low:02}-{new_high:02}:" if markov else ">:")
            else:
                assert (new_low, new_high) == (low, guess - 1)
                assert observation == (f"{left} {new_low:02}-{new_high:02}:" if markov else "<:")
            low, high = new_low, new_high
        else:
            pytest.fail("six guesses are enough for 30 numbers")


@pytest.mark.parametrize(
    ("guess", "word", "answer"),
    [("zip", "zip", "ggg"), ("art", "tar", "yyy"), ("day", "pay", "-gg"), ("boo", "oat", "-y-"), ("too", "loo", "-gg"),
     ("oxo", "boo", "y-g"), ("elf", "gas", "---")],
)  # fmt: skip
def test_marks(guess, word, answer):
    assert marks(guess, word) == answer


def test_a_mini_wordle_is_a_word_that_was_drawn_at_the_start():
    """Play against each hidden word, with the strategy of the environment: its answers, and the words that are left."""
    env = make("MiniWordle", turns=4)
    table = env.table()
    found = 0
    for hidden in WORDLE:
        left = tuple(range(16))
        for turn in range(4):
            row = table.rows[(4 - turn, left)]
            guess = table.actions[table.solution.best_TS[0, row]]
            if guess == hidden:
                found += 1
                break
            left = tuple(i for i in left if marks(guess, WORDLE[i]) == marks(guess, hidden))
    assert found == 16 == 16 * env.optimal_return
    assert len({word[0] for word in WORDLE}) == 16


def test_what_a_mini_wordle_says():
    env, silent = make("MiniWordle"), make("MiniWordle", markov=False)
    assert env.reset(seed=0)[0] == "4abcdefghjknpsuvz:"
    assert silent.reset(seed=0)[0] == "???:"
    observation, _, _, _, info = env.step("can")
    answer, *_ = silent.step("can")
    left, words = info["state_key"]
    assert observation == f"{left}{''.join(WORDLE[i][0] for i in words)}:"
    assert {marks("can", WORDLE[i]) + ":" for i in words} == {answer}
    assert env.render() == f"3 guesses left: {' '.join(WORDLE[i] for i in words)}"
