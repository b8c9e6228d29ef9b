"""Writing a text piece by piece."""

import gymnasium
import pytest

import rl.envs  # noqa: F401 - registers them
from rl.rewards import BadReward


def make(**kwargs):
    return gymnasium.make("trillium/TextGeneration-v0", **kwargs).unwrapped


def test_pieces_are_appended_and_the_whole_is_rewarded():
    seen = []

    def vowels(prompts, completions, **columns):
        seen.append((prompts, completions))
        return [sum(letter in "aeiou" for letter in text) for text in completions]

    env = make(prompts="Once ", turns=3, piece_length=6, reward=vowels)
    assert env.reset(seed=0)[0] == "Once "
    assert env.step("upon")[:4] == ("Once upon", 0.0, False, False)
    observation, reward, terminated, _, info = env.step(" a")
    assert (observation, reward, terminated) == ("Once upon a", 0.0, False)
    assert info["state_key"] == ("Once ", "upon a", 2)
    assert not env.step("caf\u00e9")[4]["valid"]
    assert env.step(" time, and")[:4] == ("Once upon a time,", 5.0, True, False)
    assert seen == [(["Once "], ["upon a time,"])]
    assert env.optimal_return is None
    assert env.random_return is None
    env.reset()
    with pytest.raises(ValueError, match="TextGenerationEnv has no known optimum"):
        env.optimal_action()


def test_an_empty_action_ends_the_text():
    env = make(turns=5, piece_length=4)
    env.reset(seed=0)
    assert env.step("abc")[1:3] == (0.0, False)
    assert env.step("")[1:3] == (3 / 20, True)


def test_prompts_are_drawn():
    env = make(prompts=["a", "b", "c"])
    env.reset(seed=0)
    assert {env.reset()[0] for _ in range(30)} == {"a", "b", "c"}


def test_rewards_by_name_and_their_mix(tmp_path, monkeypatch):
    (tmp_path / "my_quality.py").write_text(
        "def exclaims(prompts, completions, **columns):\n    return [text.count('!') for text in completions]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    env = make(reward="my_quality:exclaims")
    env.reset(seed=0)
    assert env.step("oh!!")[1] == 2.0
    env = make(reward="0.5 * length + -2*my_quality:exclaims", piece_length=8)
    env.reset(seed=0)
    assert env.step("oh!!")[1] == pytest.approx(0.25 - 4)
    env = make(reward="rl.envs.lexicon:sentiment")
    env.reset(seed=0)
    assert env.step("love it")[1] == 0.5


def test_a_reward_that_is_no_number_stops_the_run():
    env = make(reward=lambda prompts, completions, **columns: [float("nan")])
    env.reset(seed=0)
    with pytest.raises(BadReward, match=r"<lambda> gave nan for 'hm': return a list of one finite number"):
        env.step("hm")
