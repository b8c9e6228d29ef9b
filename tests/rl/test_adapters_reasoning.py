"""Puzzles of reasoning-gym."""

import pytest

pytest.importorskip("reasoning_gym")

from rl.environments import known_return, make_environment


def test_the_right_answer_ends_the_episode_with_its_score():
    env = make_environment("trillium/ReasoningGym-v0", {"dataset": "spell_backward"})
    seen, info = env.reset(seed=1)
    word = seen.split()[-1]
    assert env.unwrapped.optimal_action() == word[::-1]
    assert env.step(word[::-1])[1:4] == (1.0, True, False)
    assert known_return(env, "optimal_return") == 1.0
    assert info["state_key"] < 1_000_000


def test_a_part_of_the_score_can_be_refused():
    for exact, reward in ((False, 0.5), (True, 0.0)):
        env = make_environment("trillium/ReasoningGym-v0", {"dataset": "count_bits", "exact": exact})
        env.reset(seed=2)
        answer = env.unwrapped.optimal_action()
        assert env.step(answer + " " * len(answer))[1] == reward


def test_answers_can_be_limited_to_some():
    numbers = [str(n) for n in range(-8, 19)]
    kwargs = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "answers": "|".join(numbers)}
    env = make_environment("trillium/ReasoningGym-v0", {"dataset": "chain_sum", **kwargs})
    _, info = env.reset(seed=1)
    assert info["legal_actions"] == tuple(numbers)
    assert env.unwrapped.optimal_action() in numbers
    assert env.step("100")[4]["valid"] is False
    env.reset(seed=1)
    _, reward, *_, info = env.step(env.unwrapped.optimal_action())
    assert (reward, info["valid"], info["legal_actions"]) == (1.0, True, ())
    few = make_environment("trillium/ReasoningGym-v0", {"dataset": "chain_sum", "answers": "x|y"})
    few.reset(seed=1)
    with pytest.raises(ValueError, match=r"cannot be given: .*`answers`"):
        few.unwrapped.optimal_action()


def test_an_answer_at_which_the_scorer_fails_gets_nothing_and_is_counted():
    env = make_environment("trillium/ReasoningGym-v0", {"dataset": "prime_factorization", "characters": "×"})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="invalid literal"):
        env.unwrapped._data.score_answer("x", env.unwrapped._item)
    _, reward, terminated, _, info = env.step("x")
    assert (reward, terminated, info["unscored"], info["valid"]) == (0.0, True, True, True)
    assert env.reset(seed=0)[1]["unscored"] is False


def test_a_dataset_without_answers_has_no_known_optimum():
    env = make_environment("trillium/ReasoningGym-v0", {"dataset": "rush_hour"})
    env.reset(seed=0)
    assert known_return(env, "optimal_return") is None
    with pytest.raises(ValueError, match="rush_hour scores answers but gives none"):
        env.unwrapped.optimal_action()


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"dataset": "game_of_life_halting"}, "any answer"),
        ({"dataset": "composite"}, "mixture"),
        ({"dataset": "no_such"}, "chain_sum, "),
        ({"dataset": "chain_sum", "no_such": 3}, "no_such"),
        ({"dataset": "chain_sum", "min_terms": -3}, "chain_sum does not take"),
        ({"size": 0}, "size"),
        ({"answers": "True|True"}, "different texts"),
    ],
)
def test_wrong_datasets_and_settings_are_named(kwargs, named):
    with pytest.raises(ValueError, match=named):
        make_environment("trillium/ReasoningGym-v0", kwargs)


def test_characters_and_lengths_that_do_not_fit_are_named():
    odd = make_environment("trillium/ReasoningGym-v0", {"dataset": "complex_arithmetic"})
    with pytest.raises(ValueError, match=r"'÷' \(U\+00F7\).*`characters`"):
        odd.reset(seed=12)
    short = make_environment("trillium/ReasoningGym-v0", {"dataset": "caesar_cipher", "max_answer": 2})
    short.reset(seed=0)
    with pytest.raises(ValueError, match="raise max_answer"):
        short.unwrapped.optimal_action()
