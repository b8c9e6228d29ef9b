"""Bootstrap intervals and paired comparisons: by hand, against theory, and their seeds."""

import numpy as np
import pytest

from core.metrics.bootstrap import (
    bootstrap_mean,
    bootstrap_median,
    bootstrap_sums,
    paired_difference,
    paired_difference_of_sums,
    paired_ratio,
    resample_counts,
)


def test_each_resample_draws_as_many_items_as_there_are():
    counts = resample_counts(7, 50, seed=0)
    assert counts.shape == (50, 7)
    assert (counts.sum(1) == 7).all()
    assert np.array_equal(counts, resample_counts(7, 50, seed=0))
    assert not np.array_equal(counts, resample_counts(7, 50, seed=1))
    # Every item is drawn once on average, with the variance of a multinomial: 1 - 1/7.
    many = resample_counts(7, 20_000, seed=2)
    assert many.mean(0) == pytest.approx(np.ones(7), abs=0.03)
    assert many.var(0) == pytest.approx(np.full(7, 6 / 7), abs=0.03)


def test_equal_scores_have_no_spread():
    interval = bootstrap_mean([0.5] * 10)
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)
    assert str(interval) == "0.500 [0.500, 0.500]"


def test_interval_of_a_mean_agrees_with_theory():
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = bootstrap_mean(values, num_resamples=4000)
    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


def test_wider_level_wider_interval_and_the_signature_tells():
    values = np.arange(20.0)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.signature == "bootstrap|percentile|level:0.99|resamples:1000|items:20|seed:0"


def test_interval_covers_the_truth_as_often_as_it_says():
    chance = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        interval = bootstrap_mean(chance.normal(0, 1, 100), num_resamples=300, seed=trial)
        covered += interval.low <= 0 <= interval.high
    assert 180 <= covered <= 199


def test_a_score_of_sums_is_not_the_mean_of_scores():
    # Two fractions 1/1 and 1/9: together 2/10, not the mean of 1 and 1/9.
    interval = bootstrap_sums([[1, 1], [1, 9]], lambda sums: sums[:, 0] / sums[:, 1], num_resamples=200)
    assert interval.value == pytest.approx(0.2)
    assert (interval.low, interval.high) == pytest.approx((1 / 9, 1.0))


def test_paired_difference_sees_what_separate_intervals_hide():
    chance = np.random.default_rng(2)
    hard = chance.normal(0, 5, 100)
    first, second = hard + 0.2 + chance.normal(0, 0.1, 100), hard + chance.normal(0, 0.1, 100)
    paired = paired_difference(first, second)
    assert paired.significant
    assert paired.p_value == pytest.approx(2 / 1001)
    assert paired.difference.value == pytest.approx((first - second).mean())
    assert bootstrap_mean(first).low < bootstrap_mean(second).high


def test_a_system_does_not_differ_from_itself():
    values = np.random.default_rng(3).normal(0, 1, 50)
    paired = paired_difference(values, values)
    assert not paired.significant
    assert paired.p_value == 1.0


def test_paired_difference_is_antisymmetric():
    chance = np.random.default_rng(4)
    first, second = chance.normal(0, 1, 50), chance.normal(0.1, 1, 50)
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert one.difference.low == pytest.approx(-other.difference.high)
    assert one.p_value == other.p_value
    sums = paired_difference_of_sums(first[:, None], second[:, None], lambda sums: sums[:, 0] / 50)
    assert sums.difference.low == pytest.approx(one.difference.low)


def test_median_is_that_of_each_resample():
    values = np.array([7.0, 1.0, 100.0, 2.0, 2.0])
    for numbers in (values, values[:4]):
        interval = bootstrap_median(numbers, num_resamples=300, seed=5, level=0.9)
        # The same draws, but of the sorted numbers, each written out as often as it is drawn.
        counts = resample_counts(len(numbers), 300, seed=5).astype(int)
        medians = [np.median(np.repeat(np.sort(numbers), row)) for row in counts]
        assert interval.value == np.median(numbers)
        assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(medians, [5, 95])))


def test_ratio_of_means_by_hand():
    # Every item costs twice as much: 2 whatever is drawn, though the items differ tenfold.
    paired = paired_ratio([2.0, 20.0, 6.0], [1.0, 10.0, 3.0])
    assert (paired.ratio.value, paired.ratio.low, paired.ratio.high) == pytest.approx((2, 2, 2))
    assert paired.significant
    # (1 + 5) / (2 + 2), not the mean of 1/2 and 5/2; of a single item drawn twice 1/2 or 5/2.
    paired = paired_ratio([1.0, 5.0], [2.0, 2.0])
    assert (paired.ratio.value, paired.ratio.low, paired.ratio.high) == pytest.approx((1.5, 0.5, 2.5))
    assert not paired.significant


def test_ratio_covers_the_truth_as_often_as_it_says():
    chance = np.random.default_rng(6)
    covered = 0
    for trial in range(200):
        size = chance.uniform(1, 10, 100)
        first, second = size * chance.uniform(1, 2, 100), size * chance.uniform(0.5, 1.5, 100)
        ratio = paired_ratio(first, second, num_resamples=300, seed=trial).ratio
        covered += ratio.low <= 1.5 <= ratio.high
    assert 180 <= covered <= 199


def test_a_ratio_to_nothing_is_refused():
    with pytest.raises(ValueError, match="mean stays above 0 in every resample"):
        paired_ratio([1.0, 1.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="mean stays above 0 in every resample"):
        paired_ratio([1.0, 1.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="same items, got 2 and 1"):
        paired_ratio([1.0, 1.0], [1.0])


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="at least one number"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="level"):
        bootstrap_mean([1.0], level=95)
    with pytest.raises(ValueError, match="num_resamples"):
        bootstrap_mean([1.0], num_resamples=0)
    with pytest.raises(ValueError, match="same items, got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one item"):
        bootstrap_sums(np.zeros((0, 2)), lambda sums: sums[:, 0])
