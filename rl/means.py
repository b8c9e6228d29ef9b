"""Means over tokens, turns or episodes that come piece by piece, from all processes."""

import torch
from torch import Tensor

from core.training import distributed


class Means:
    """Sums and counts by name. Every process must add under the same names."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, name: str, values: Tensor, mask: Tensor | None = None) -> None:
        """Add the elements of `values` where `mask` is True."""
        kept = values.detach() if mask is None else values.detach()[mask]
        self._sums[name] = self._sums.get(name, 0.0) + float(kept.double().sum())
        self._counts[name] = self._counts.get(name, 0.0) + kept.numel()

    def result(self) -> dict[str, float]:
        """The means, over all processes; NaN where nothing was added."""
        names = sorted(self._sums)
        table = torch.tensor([[self._sums[n], self._counts[n]] for n in names], dtype=torch.float64)
        sums, counts = distributed.all_reduce_sum(table).unbind(1)
        return dict(zip(names, (sums / counts).tolist()))
