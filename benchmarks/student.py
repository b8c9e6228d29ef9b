"""Intervals of means over a few runs."""

import numpy as np

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, 97.5 %, for 1 to 9 degrees of freedom."""


def interval(changes: np.ndarray) -> str:
    """The 95 % interval of a mean over runs by Student's t; empty for one run."""
    if len(changes) < 2:
        return ""
    reach = STUDENT[len(changes) - 2] * changes.std(ddof=1) / len(changes) ** 0.5
    return f"[{changes.mean() - reach:+.4f}, {changes.mean() + reach:+.4f}]"
