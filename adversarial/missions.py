"""The instructions of BabyAI's levels, and the grammar that says exactly which sentences are instructions.

References:
    Chevalier-Boisvert et al. 2019, "BabyAI", arXiv:1810.08272.
"""

from adversarial.grammar import Grammar
from core.babyai import make_level, silent

_MOST = 10_000_000
"""Missions of one part of a run, at most: the parts' seeds lie so far apart."""


def missions(level: str, count: int, *, seed: int) -> list[str]:
    """The instructions of `count` episodes, words and commas separated by spaces; 2 to 9 ms each.

    Args:
        level: the part of its name between `BabyAI-` and the version.
        count: how many; they repeat where the level has few.
        seed: different seeds share no episode.

    Raises:
        ValueError: an unknown level, or one whose instructions the grammar does not know.
        MissingData: the package `minigrid` is not installed.
    """
    env = make_level(level)
    grammar = mission_grammar()
    found = []
    for index in range(count):
        with silent():
            env.reset(seed=seed * _MOST + index)
        mission = env.mission.replace(",", " ,")
        if not grammar.accepts(mission):
            raise ValueError(f"level {level} has instructions of another kind ({mission!r}): choose another level")
        found.append(mission)
    env.close()
    return found


def mission_grammar() -> Grammar:
    """BabyAI's language: "put the red key next to a box on your left and open a door, then go to the grey ball".

    Its weights say nothing: how often the levels use a form depends on what stands in their rooms.
    """
    rules: dict[str, list[tuple[float, tuple[str, ...]]]] = {
        "S": _any("One", "One , then One", "One after you One"),
        "One": _any("Action", "Action and Action"),
        "Action": _any("go to Thing", "pick up Movable", "open Door", "put Movable next to Thing"),
        "Thing": _any("Movable", "Door"),
        "Movable": _any("Article Colour Ware Place"),
        "Door": _any("Article Colour door Place"),
        "Article": _any("the", "a"),
        "Colour": _any("", "red", "green", "blue", "purple", "yellow", "grey"),
        "Ware": _any("box", "ball", "key", "object"),
        "Place": _any("", "in front of you", "behind you", "on your left", "on your right"),
    }
    return Grammar(rules)


def _any(*forms: str) -> list[tuple[float, tuple[str, ...]]]:
    return [(1.0, tuple(form.split())) for form in forms]
