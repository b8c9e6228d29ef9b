"""The units in which a critic expects returns.

Shape suffixes: M = tokens.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from core.policy import ValueHead
from rl.means import Means

RATE = 0.05
"""Weight of a step's returns in their mean and deviation, once there have been 20 steps."""
SMALLEST = 1e-4
"""A deviation below this part of the mean is rounding, not a difference."""


class ValueScale:
    """Mean and deviation of the returns so far, which a critic's head has as its 0 and its 1.

    So it learns as fast where rewards are hundredths as where they are thousands. When the units change, the head's
    weights change so that its values do not; but for the first time, when it goes from knowing nothing to the mean.

    Args:
        head: of the critic.

    References:
        van Hasselt et al. 2016, "Learning values across many orders of magnitude", arXiv:1602.07714 (Pop-Art).
    """

    def __init__(self, head: ValueHead) -> None:
        self._linear = head.linear
        self.mean, self.deviation = 0.0, 1.0
        self._steps, self._square = 0, 0.0

    def values(self, units: Tensor) -> Tensor:
        """What the head says, as returns."""
        return self.mean + self.deviation * units

    def units(self, values: Tensor) -> Tensor:
        """Returns as the head should say them."""
        return (values - self.mean) / self.deviation

    @torch.no_grad()
    def follow(self, target_M: Tensor) -> None:
        """Take in the returns of a step, from all processes."""
        found = Means()
        found.add("mean", target_M)
        found.add("square", target_M.double().square())
        step = found.result()
        self._steps += 1
        weight = max(1 / self._steps, RATE)
        mean = self.mean + weight * (step["mean"] - self.mean)
        self._square += weight * (step["square"] - self._square)
        variance = self._square - mean**2
        deviation = variance**0.5 if variance > (SMALLEST * mean) ** 2 else self.deviation
        if self._steps > 1:
            self._linear.weight.mul_(self.deviation / deviation)
            self._linear.bias.mul_(self.deviation).add_(self.mean - mean).div_(deviation)
        self.mean, self.deviation = mean, deviation

    def state_dict(self) -> dict[str, float]:
        """What was taken in. The head is its updater's."""
        return {"mean": self.mean, "deviation": self.deviation, "steps": self._steps, "square": self._square}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what `state_dict` gave."""
        self.mean, self.deviation = state["mean"], state["deviation"]
        self._steps, self._square = int(state["steps"]), state["square"]
