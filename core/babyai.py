"""The levels of BabyAI, from the package `minigrid`.

References:
    Chevalier-Boisvert et al. 2019, "BabyAI: A Platform to Study the Sample Efficiency of Grounded Language Learning",
    arXiv:1810.08272.
"""

import contextlib
import io
from typing import Any

from core.pretrained.sources import locate


def make_level(level: str) -> Any:
    """The environment of a level, in its highest version.

    Args:
        level: the part of its name between `BabyAI-` and the version: GoToLocal, PickupLoc, GoToSeq …

    Raises:
        ValueError: an unknown level.
        MissingData: `minigrid` is not installed.
    """
    locate("minigrid", verify=False)
    import gymnasium
    import minigrid  # noqa: F401  (registers the levels)

    names = {
        name.removeprefix("BabyAI-").rpartition("-v")[0]: name
        for name in sorted(gymnasium.registry)
        if name.startswith("BabyAI-")
    }
    if level not in names:
        raise ValueError(f"level must be one of BabyAI's, got {level!r}; there are: {', '.join(names)}")
    return gymnasium.make(names[level], disable_env_checker=True).unwrapped


def silent() -> contextlib.AbstractContextManager[Any]:
    """Within the block nothing is printed: the level generator prints a line for every room that it rejects."""
    return contextlib.redirect_stdout(io.StringIO())
