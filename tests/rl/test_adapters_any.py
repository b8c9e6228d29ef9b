"""Any Gymnasium environment as text."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text
from gymnasium.utils.env_checker import check_env

from rl.adapters.adapter import TextAdapter
from rl.environments import known_return, make_environment


class Plain(gymnasium.Env):
    """Gives what it is told to; remembers the actions that reached it."""

    optimal_return, random_return = 4.5, 1.25

    def __init__(self, observation_space=None, action_space=None, observations=(0,), info=None):
        self.observation_space = observation_space or Discrete(9)
        self.action_space = action_space or Discrete(3)
        self.observations, self.info, self.actions = list(observations), info or {}, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.actions = []
        return self.observations[0], dict(self.info)

    def step(self, action):
        self.actions.append(action)
        turn = len(self.actions)
        return (
            self.observations[min(turn, len(self.observations) - 1)],
            np.float64(turn),
            turn == 3,
            False,
            dict(self.info),
        )


@pytest.mark.parametrize(
    ("env", "first", "legal", "key"),
    [
        ("FrozenLake-v1", "0:", ("0", "1", "2", "3"), 0),
        ("CliffWalking-v1", "36:", ("0", "1", "2", "3"), 36),
        ("CartPole-v1", None, ("0", "1"), None),
        ("Taxi-v4", None, None, None),
        ("Blackjack-v1", None, ("0", "1"), None),
    ],
)
def test_environments_by_id_become_text_by_themselves(env, first, legal, key):
    made, raw = make_environment(env, {}), gymnasium.make(env)
    seen, info = made.reset(seed=4)
    wanted, other = raw.reset(seed=4)
    assert seen in made.observation_space
    if first is not None:
        assert (seen, info["state_key"]) == (first, key)
    if "action_mask" in other:
        legal = tuple(str(action) for action in np.flatnonzero(other["action_mask"]))
        assert "action_mask" not in info
    assert info["legal_actions"] == legal
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = int(rng.choice([int(name) for name in info["legal_actions"]]))
        seen, *result, info = made.step(str(action))
        wanted, *expected, _ = raw.step(action)
        assert seen in made.observation_space
        assert result == expected
        assert info["valid"]
        if env in ("FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"):
            assert (seen, info["state_key"]) == (f"{wanted}:", wanted)
        if result[1] or result[2]:
            seen, info = made.reset()
            raw.reset()


def test_what_is_no_action_does_not_reach_the_environment():
    plain = Plain(observations=[5, 6, 7, 8])
    env = TextAdapter(plain, max_invalid=2, invalid_penalty=0.5)
    env.reset(seed=0)
    assert env.step("2")[:4] == ("6:", 1.0, False, False)
    for text in ("x", "", "22", 2, None, "²"):
        plain.reset()
        env.reset()
        env.step("0")
        seen, reward, terminated, truncated, info = env.step(text)
        assert (seen, reward, terminated, truncated, info["valid"]) == ("6:", -0.5, False, False, False)
        assert plain.actions == [0]
        assert env.step("1")[4]["valid"]
        assert env.step(text)[1:4] == (-0.5, False, True)
        assert plain.actions == [0, 1]
        with pytest.raises(ResetNeeded):
            env.step("0")


def test_an_action_mask_says_what_is_legal():
    plain = Plain(info={"action_mask": np.array([0, 1, 0], np.int8), "kept": 7})
    env = TextAdapter(plain, action_names=["left", "stay", "right"])
    _, info = env.reset(seed=0)
    assert info == {"kept": 7, "state_key": 0, "cut_characters": 0, "legal_actions": ("stay",), "valid": True}
    assert env.step("left")[4]["valid"] is False
    assert env.step("stay")[4]["valid"]
    assert plain.actions == [1]


def test_a_writer_and_a_parser_of_the_users_own():
    plain = Plain(Box(0, 1, (8, 8, 3)), Box(-1, 1, (1,)), observations=[np.zeros((8, 8, 3))])

    def parser(text):
        try:
            return np.array([float(text)], np.float32)
        except ValueError:
            return None

    env = TextAdapter(plain, lambda seen: f"sum {seen.sum():g} é", parser, action_space=Text(5), characters="é")
    seen, info = env.reset(seed=0)
    assert seen == "sum 0 é"
    assert "legal_actions" not in info
    assert info["state_key"] == seen  # an array cannot be hashed
    assert env.step("up")[4]["valid"] is False
    assert env.step("0.5")[4]["valid"]
    assert plain.actions == [np.array([0.5], np.float32)]


def test_text_that_is_text_already_stays_as_it_is():
    plain = Plain(Text(3, charset="ab"), MultiDiscrete([2, 3]), observations=["ab", "b"])
    env = TextAdapter(plain)
    assert env.reset(seed=0)[0] == "ab"
    assert env.step("1 2")[0] == "b"
    assert plain.actions[0].tolist() == [1, 2]
    spoken = TextAdapter(Plain(Discrete(3), Text(3, charset="ab"), info={"legal_actions": ["ab"]}))
    assert spoken.reset(seed=0)[1]["legal_actions"] == ["ab"]
    assert [spoken.step(text)[4]["valid"] for text in ("ab", "aa")] == [True, False]


def test_terminal_drawings_lose_their_colours():
    env = gymnasium.make("FrozenLake-v1", render_mode="ansi", is_slippery=False)
    text = TextAdapter(env, lambda _: env.render(), characters="")
    assert text.reset(seed=0)[0].split() == ["SFFF", "FHFH", "FFFH", "HFFG"]
    assert text.step("2")[0].split()[0] == "(Right)"


def test_unknown_characters_in_an_observation_are_named():
    env = TextAdapter(Plain(), lambda _: "a ♠")
    with pytest.raises(ValueError, match=r"'♠' \(U\+2660\), which its observation space lacks"):
        env.reset(seed=0)
    long = TextAdapter(Plain(), lambda _: "long " * 9, max_observation=12, cut_from="right")
    seen, info = long.reset(seed=0)
    assert (seen, info["cut_characters"]) == ("long lo[...]", 38)


def test_known_returns_of_the_environment_stay_visible():
    env = TextAdapter(Plain())
    assert (known_return(env, "optimal_return"), known_return(env, "random_return")) == (4.5, 1.25)
    assert known_return(make_environment("CartPole-v1", {}), "optimal_return") is None


def test_gymnasium_finds_nothing_to_complain_about_any_adapted_environment():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # It means to be given environments without wrappers and says so.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        for env in ("FrozenLake-v1", "CartPole-v1", "Blackjack-v1"):
            check_env(TextAdapter(gymnasium.make(env)), skip_render_check=True)


@pytest.mark.parametrize(
    ("spaces", "named"),
    [
        ({"observation_space": Box(0, 255, (84, 84), np.uint8)}, r"observation space Box.*obs_to_text of your own"),
        ({"action_space": Box(-1, 1, (2,))}, r"action space Box.*action_parser of your own"),
        ({"action_space": MultiDiscrete([[2], [2]])}, r"action space MultiDiscrete.*action_parser of your own"),
    ],
)
def test_what_has_no_text_is_refused_in_one_sentence(spaces, named):
    with pytest.raises(ValueError, match=named):
        TextAdapter(Plain(**spaces))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_invalid": 0}, "max_invalid"),
        ({"invalid_penalty": -1}, "invalid_penalty"),
        ({"invalid_penalty": float("inf")}, "invalid_penalty"),
        ({"action_names": ["a"]}, "action_names"),
        ({"action_parser": int, "action_names": ["a", "b", "c"]}, "not both"),
        ({"max_observation": 0}, "max_observation"),
    ],
)
def test_wrong_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        TextAdapter(Plain(), **options)


def test_an_environment_that_cannot_be_made_says_why():
    for env, kwargs, named in (
        ("Taxi-v3", {}, "v4"),
        ("Nowhere-v0", {}, "Nowhere"),
        ("no_such_module:Some-v0", {}, "no_such_module"),
        ("FrozenLake-v1", {"slipperiness": 1}, "slipperiness"),
        ("CarRacing-v3", {}, "cannot make"),
    ):
        with pytest.raises(ValueError, match=named):
            make_environment(env, kwargs)
