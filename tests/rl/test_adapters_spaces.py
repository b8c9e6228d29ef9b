"""Gymnasium's spaces as text."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Sequence, Text, Tuple

from rl.adapters.limits import MARK, PRINTABLE, TextLimits
from rl.adapters.spaces import ActionNames, writing


@pytest.mark.parametrize(
    ("space", "value", "text"),
    [
        (Discrete(16), np.int64(13), "13"),
        (Discrete(3, start=-1), -1, "-1"),
        (MultiDiscrete([3, 12]), np.array([2, 11]), "2 11"),
        (MultiDiscrete([[3], [12]]), np.array([[2], [11]]), "2 11"),
        (MultiBinary(4), np.array([0, 1, 1, 0]), "0110"),
        (Box(-1, 1, (3,)), np.array([0.0, -0.12345, 1.0]), "0 -0.123 1"),
        (Box(0, 255, (2, 2), np.uint8), np.array([[0, 255], [7, 10]]), "0 255 7 10"),
        (Tuple([Discrete(32), Discrete(11), Discrete(2)]), (14, 10, 0), "14 10 0"),
        (
            Dict({"pole": Box(-9, 9, (2,)), "at": Discrete(5), "say": Text(3)}),
            {"pole": np.array([1.5, -2.0]), "at": 4, "say": "abc"},
            "at=4 pole=1.5 -2 say=abc",
        ),
        (Dict({"a": Tuple([Discrete(2), Discrete(2)])}), {"a": (1, 0)}, "a=1 0"),
    ],
)
def test_values_are_written_as_numbers_with_spaces(space, value, text):
    found = writing(space)
    assert found.write(value) == text
    assert len(text) <= found.longest
    assert set(text) <= set(found.characters)


@pytest.mark.parametrize(
    "space",
    [
        Discrete(123, start=-7), MultiDiscrete([4, 100, 7]), MultiBinary((2, 3)), Box(-np.inf, np.inf, (5,)),
        Box(-1e300, 1e-300, (3,), np.float64), Box(-128, 127, (4,), np.int8), Tuple([Box(-1, 1, ()), MultiBinary(2)]),
        Dict({"one": Discrete(3), "two": Dict({"three": Box(0, 1, (2,))})}), Text(8, charset="xyz"),
    ],
)  # fmt: skip
def test_no_sample_is_longer_or_has_other_characters_than_was_said(space):
    found = writing(space)
    space.seed(0)
    extremes = [space.low, space.high] if isinstance(space, Box) else []
    for value in [*extremes, *(space.sample() for _ in range(200))]:
        text = found.write(value)
        assert len(text) <= found.longest
        assert set(text) <= set(found.characters)


@pytest.mark.parametrize(
    "space",
    [
        Box(0, 255, (84, 84, 3), np.uint8), Box(0, 1, (65,)), Sequence(Discrete(3)), Graph(Discrete(2), None),
        Tuple([Discrete(2), Box(0, 1, (65,))]), Dict({"seen": Box(0, 1, (9, 9))}),
    ],
)  # fmt: skip
def test_pictures_and_the_like_have_no_text(space):
    assert writing(space) is None


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (Discrete(4), ("0", "1", "2", "3")),
        (Discrete(3, start=7), ("7", "8", "9")),
        (Discrete(3, start=8), ("a", "b", "c")),
        (Discrete(26), tuple("abcdefghijklmnopqrstuvwxyz")),
        (Discrete(30), tuple(f"{n:02d}" for n in range(30))),
        (MultiDiscrete([2, 2]), ("0 0", "0 1", "1 0", "1 1")),
        (MultiDiscrete([11, 2]), tuple(f"{letter} {n}" for letter in "abcdefghijk" for n in range(2))),
    ],
)
def test_names_of_actions_have_one_length(space, names):
    found = ActionNames(space)
    assert found.listed == names
    assert found.space.min_length == found.space.max_length == len(names[0])
    assert all(name in found.space for name in names)
    everything = list(range(space.start, space.start + space.n)) if isinstance(space, Discrete) else None
    parsed = [found.parse(name) for name in names]
    assert all(action in space for action in parsed)
    if everything is not None:
        assert parsed == everything
    else:
        assert len({tuple(action) for action in parsed}) == len(names) == np.prod(space.nvec)


def test_names_of_the_users_own():
    found = ActionNames(Discrete(3, start=1), ["up", "down", "s"])
    assert [found.parse(name) for name in ("up", "down", "s", "0", "", "UP")] == [1, 2, 3, None, None, None]
    assert (found.space.min_length, found.space.max_length) == (1, 4)
    assert found.allowed(np.array([1, 0, 1], np.int8)) == ("up", "s")


def test_many_actions_are_not_listed_but_have_names():
    found = ActionNames(MultiDiscrete([10, 10, 10]))
    assert found.listed is None
    assert found.parse("3 0 9").tolist() == [3, 0, 9]
    for text in ("3 0", "3 0 9 1", "309", "3 0 x", "3  0 9", ""):
        assert found.parse(text) is None


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (Discrete(3), ["a", "b"]),
        (Discrete(2), ["a", "a"]),
        (Discrete(2), ["a", ""]),
        (MultiDiscrete([2, 2]), ["a", "b"]),
    ],
)
def test_names_that_do_not_fit_are_refused(space, names):
    with pytest.raises(ValueError, match="action_names"):
        ActionNames(space, names)


def test_a_long_observation_loses_its_left_or_right_and_says_so():
    text = "abcdefghijklmnop"
    assert TextLimits(10, PRINTABLE, "left").fit(text) == (MARK + "lmnop", 11)
    assert TextLimits(10, PRINTABLE, "right").fit(text) == ("abcde" + MARK, 11)
    assert TextLimits(16, PRINTABLE, "left").fit(text) == (text, 0)
    limits = TextLimits(10, "xyz", "left")
    assert limits.fit("xyz" * 9)[0] in limits.space
    with pytest.raises(ValueError, match=r"16 characters, more than max_observation = 10: raise it, or set cut_from"):
        TextLimits(10, PRINTABLE).fit(text)


def test_unknown_characters_are_named_and_colour_codes_removed():
    limits = TextLimits(20, "abc")
    assert limits.fit("\x1b[41ma\x1b[0mb") == ("ab", 0)
    with pytest.raises(
        ValueError, match=r"'♠' \(U\+2660\).*add the character to the environment's option `characters`"
    ):
        limits.fit("ab♠")


@pytest.mark.parametrize(("length", "cut_from"), [(5, "left"), (0, "nowhere"), (10, "middle")])
def test_limits_that_leave_no_room_are_refused(length, cut_from):
    with pytest.raises(ValueError, match=r"max_observation|cut_from"):
        TextLimits(length, "abc", cut_from)
