"""How well scores agree with preferences."""

import math
from collections.abc import Sequence

from torch import Tensor

from rl.evaluation import Score, share_score
from rl.preferences.examples import Pair


def pair_accuracy(chosen_B: Tensor, rejected_B: Tensor) -> Score:
    """Share of pairs whose chosen completion scores higher, with Wilson's interval; a tie counts half."""
    wins = int((chosen_B > rejected_B).sum()) + int((chosen_B == rejected_B).sum()) / 2
    return share_score(round(wins), len(chosen_B))


def separation(good_B: Tensor, bad_B: Tensor) -> float:
    """Probability that a good completion scores higher than a bad one (area under the ROC curve); a tie counts half.

    NaN where there is none of one kind.
    """
    wins_BB = (good_B[:, None] > bad_B).double() + (good_B[:, None] == bad_B).double() / 2
    return float(wins_BB.mean()) if wins_BB.numel() else math.nan


def best_accuracy(pairs: Sequence[Pair]) -> float | None:
    """Expected accuracy of a judge who knows how likely every preference was; None where that is not known."""
    known = [pair.probability for pair in pairs if pair.probability is not None]
    return sum(max(p, 1 - p) for p in known) / len(known) if known and len(known) == len(pairs) else None
