"""Bootstrap confidence intervals and paired comparisons: percentile method, seeded, all resamples at once.

Shape suffixes: N = items, R = resamples, F = sufficient statistics of an item.

An interval says how the score would vary with other test items of the same kind; not with another training seed.

References:
    Efron 1979, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1).
    Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP (corpus-level scores, pairs).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A score and the range in which resampled test sets put it."""

    value: float
    """The score of the items themselves."""
    low: float
    high: float
    signature: str
    """How it was made."""

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class BootstrapSettings(TypedDict, total=False):
    """The options that every function here takes, for those who pass them on."""

    level: float
    """Of the confidence intervals, 0.95 by default."""
    num_resamples: int
    """1000 by default."""
    seed: int
    """0 by default."""


@dataclass(frozen=True)
class PairedDifference:
    """First minus second system on the same items."""

    difference: Interval
    p_value: float
    """Two-sided: how often a resample turns the sign of the difference, doubled, at least 1 / (resamples + 1)."""

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True)
class PairedRatio:
    """First divided by second system on the same items."""

    ratio: Interval

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 1."""
        return self.ratio.low > 1 or self.ratio.high < 1


def bootstrap_mean(values_N: ArrayLike, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0) -> Interval:
    """Interval of the mean of per-item scores (CIDEr-D, exact match, episode returns)."""
    column_N1 = _as_items(values_N)[:, None]
    return bootstrap_sums(
        column_N1, lambda sums_R1: sums_R1[:, 0] / len(column_N1), level=level, num_resamples=num_resamples, seed=seed
    )


def bootstrap_median(values_N: ArrayLike, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0) -> Interval:
    """Interval of the median of per-item scores (ranks, seconds)."""
    sorted_N = np.sort(_as_items(values_N))
    num_items = len(sorted_N)
    # The k-th smallest of a resample is the first item with which more than k draws are counted.
    drawn_RN = resample_counts(num_items, num_resamples, seed).cumsum(1)
    middle = [sorted_N[(drawn_RN > place).argmax(1)] for place in ((num_items - 1) // 2, num_items // 2)]
    medians_R = (middle[0] + middle[1]) / 2
    return _interval(float(np.median(sorted_N)), medians_R, level, num_resamples, seed, num_items)


def bootstrap_sums(
    statistics_NF: ArrayLike,
    score: Callable[[NDArray], NDArray],
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval of a score that depends on sums over the items only (corpus BLEU, word error rate).

    Args:
        statistics_NF: the sufficient statistics of each item.
        score: maps sums_RF, the statistics added up within each resample, to scores_R.
    """
    statistics_NF = np.asarray(statistics_NF)
    if statistics_NF.ndim != 2 or not len(statistics_NF):
        raise ValueError(f"statistics must be (items, statistics) with at least one item, got {statistics_NF.shape}")
    sums_RF = resample_counts(len(statistics_NF), num_resamples, seed) @ statistics_NF
    value = float(score(statistics_NF.sum(0, keepdims=True))[0])
    return _interval(value, np.asarray(score(sums_RF)), level, num_resamples, seed, len(statistics_NF))


def paired_difference(
    first_N: ArrayLike, second_N: ArrayLike, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> PairedDifference:
    """Difference of the means of two systems' scores on the same items; both are resampled together."""
    first_N, second_N = _as_items(first_N), _as_items(second_N)
    if len(first_N) != len(second_N):
        raise ValueError(f"a paired comparison needs the same items, got {len(first_N)} and {len(second_N)} scores")
    statistics_N2 = np.stack([first_N, second_N], 1)
    return paired_difference_of_sums(
        statistics_N2[:, :1],
        statistics_N2[:, 1:],
        lambda sums_R1: sums_R1[:, 0] / len(statistics_N2),
        level=level,
        num_resamples=num_resamples,
        seed=seed,
    )


def paired_difference_of_sums(
    first_NF: ArrayLike,
    second_NF: ArrayLike,
    score: Callable[[NDArray], NDArray],
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> PairedDifference:
    """`paired_difference` for a score of summed statistics, such as corpus BLEU."""
    first_NF, second_NF = np.asarray(first_NF), np.asarray(second_NF)
    if first_NF.shape != second_NF.shape or first_NF.ndim != 2 or not len(first_NF):
        raise ValueError(f"both systems need the same items, got {first_NF.shape} and {second_NF.shape}")
    counts_RN = resample_counts(len(first_NF), num_resamples, seed)
    differences_R = np.asarray(score(counts_RN @ first_NF)) - np.asarray(score(counts_RN @ second_NF))
    value = float(score(first_NF.sum(0, keepdims=True))[0] - score(second_NF.sum(0, keepdims=True))[0])
    interval = _interval(value, differences_R, level, num_resamples, seed, len(first_NF))
    against = min(int((differences_R <= 0).sum()), int((differences_R >= 0).sum()))
    return PairedDifference(interval, min(1.0, 2 * (against + 1) / (num_resamples + 1)))


def paired_ratio(
    first_N: ArrayLike, second_N: ArrayLike, *, level: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> PairedRatio:
    """Ratio of the means of two systems on the same items, as for costs or error rates; both are resampled together.

    Raises:
        ValueError: where the second system's mean is not positive, in all items or in a resample: no ratio then.
    """
    first_N, second_N = _as_items(first_N), _as_items(second_N)
    if len(first_N) != len(second_N):
        raise ValueError(f"a paired comparison needs the same items, got {len(first_N)} and {len(second_N)} scores")

    def score(sums_R2: NDArray) -> NDArray:
        if (sums_R2[:, 1] <= 0).any():
            raise ValueError(
                "a ratio needs a second system whose mean stays above 0 in every resample: use paired_difference"
            )
        return sums_R2[:, 0] / sums_R2[:, 1]

    statistics_N2 = np.stack([first_N, second_N], 1)
    return PairedRatio(bootstrap_sums(statistics_N2, score, level=level, num_resamples=num_resamples, seed=seed))


def resample_counts(num_items: int, num_resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each item occurs in each resample of equal size: counts_RN."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be >= 1, got {num_resamples}")
    draws_RN = np.random.default_rng(seed).integers(0, num_items, (num_resamples, num_items))
    draws_RN += np.arange(num_resamples)[:, None] * num_items
    counts = np.bincount(draws_RN.ravel(), minlength=num_resamples * num_items)
    return counts.reshape(num_resamples, num_items).astype(np.float64)


def _as_items(values_N: ArrayLike) -> NDArray[np.float64]:
    values_N = np.asarray(values_N, dtype=np.float64)
    if values_N.ndim != 1 or not len(values_N):
        raise ValueError(f"scores must be a list of at least one number, got shape {values_N.shape}")
    return values_N


def _interval(value: float, scores_R: NDArray, level: float, num_resamples: int, seed: int, num_items: int) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    tail = 50 * (1 - level)
    low, high = np.percentile(scores_R, [tail, 100 - tail])
    signature = f"bootstrap|percentile|level:{level:g}|resamples:{num_resamples}|items:{num_items}|seed:{seed}"
    return Interval(value, float(low), float(high), signature)
