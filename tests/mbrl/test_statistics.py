"""Statistics against published worked examples, scipy, exhaustive enumeration, and laws."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mbrl.experiments import statistics
from mbrl.experiments.statistics import (
    Interval,
    difference_interval,
    effective_runs,
    improvement_interval,
    interval,
    iqm,
    levels,
    mean_of_intervals,
    over_tasks,
    performance_profile,
    pooled_deviation,
    probability_of_being_earlier,
    probability_of_improvement,
    share_interval,
    stratified_interval,
    survival,
)

# Freireich et al. (1963), weeks in remission of 21 patients under 6-MP and 21 under placebo: the worked example of
# Kaplan-Meier in most textbooks, Klein and Moeschberger (2003), table 1.1 among them. 0: censored.
TREATED = np.array([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35])
RELAPSED = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], bool)
PLACEBO = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7.0], 7.0), ([1, 3], 2), ([1, 2, 9], 4), ([0, 1, 3, 99], 2), ([-99, 1, 2, 3, 99], 2), (range(8), 3.5)],
)
def test_iqm_by_hand(values, expected):
    assert iqm(np.array(values, float)) == expected


def test_iqm_of_a_normal_sample_is_scipys_quartile_mean():
    """With a multiple of four, the values between the quartiles."""
    values = np.random.default_rng(0).normal(size=(5, 40))
    inside = np.sort(values, axis=1)[:, 10:30]
    np.testing.assert_allclose(iqm(values), inside.mean(axis=1))


@pytest.mark.parametrize("statistic", ["iqm", "mean"])
def test_interval_equals_all_resamples_enumerated(statistic):
    """4 values have 256 equally likely resamples: the exact bootstrap."""
    values = np.array([0.0, 1.0, 5.0, 20.0])
    resamples = np.array(list(itertools.product(values, repeat=4)))
    exact = np.sort(iqm(resamples) if statistic == "iqm" else resamples.mean(1))
    found = interval(values, statistic)
    for end, level in zip(found, levels(4), strict=True):  # drawn resamples have the level to a few thousandths
        below, above = np.quantile(exact, np.clip([level - 0.004, level + 0.004], 0, 1))
        assert below <= end <= above


def test_interval_is_scipys_percentile_bootstrap_at_its_levels():
    values = np.random.default_rng(3).normal(size=12)
    low, high = levels(12)
    theirs = stats.bootstrap(
        (values,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        confidence_level=high - low,
        method="percentile",
        n_resamples=4_000,
        rng=1,
    ).confidence_interval
    ours = interval(values)
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_levels_approach_the_plain_ones_and_are_wider_before():
    lows = [levels(n)[0] for n in (2, 3, 5, 10, 100, 100_000)]
    assert lows[0] == 0.0
    assert lows == sorted(lows)
    assert lows[-1] == pytest.approx(0.025, abs=1e-4)
    assert levels(5, tasks=4)[0] > levels(5)[0]


def test_intervals_follow_affine_changes():
    values = np.random.default_rng(1).normal(size=(3, 7))
    one, other = interval(values), interval(-2 * values + 5)
    np.testing.assert_allclose(other.low, -2 * one.high + 5, atol=0.05)
    np.testing.assert_allclose(interval(3 * values + 1).low, 3 * one.low + 1)


def test_rows_have_the_intervals_they_have_alone():
    values = np.random.default_rng(1).normal(size=(4, 6))
    together = interval(values)
    for row, low in zip(values, together.low, strict=True):
        assert interval(row).low == pytest.approx(low)


def test_one_run_has_no_interval_and_two_have_their_range():
    assert interval(np.array([3.0])) is None
    assert stratified_interval([np.array([3.0]), np.array([1.0, 2.0])]) is None
    assert interval(np.array([3.0, 1.0])) == (1.0, 3.0)


def test_strata_are_resampled_among_themselves():
    """Tasks far apart with no spread within them leave nothing to be uncertain of."""
    found = stratified_interval([np.full(5, 0.0), np.full(5, 100.0)], "mean")
    assert found == (50.0, 50.0)


def test_stratified_mean_has_the_textbook_width():
    """The variance of a mean over strata is the mean of theirs: sqrt(sum s_k^2 / n) / M."""
    generator = np.random.default_rng(0)
    tasks = [generator.normal(loc, 1, size=40) for loc in (0, 10, 30)]
    found = stratified_interval(tasks, "mean")
    deviation = np.sqrt(sum(values.var(ddof=1) / 40 for values in tasks)) / 3
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.05)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="expected finite numbers, got nan"):
        interval(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="at least one task"):
        stratified_interval([])


def test_probability_of_improvement_is_mann_whitneys():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, 9), generator.integers(0, 6, 7)  # with ties
    u = stats.mannwhitneyu(first, second).statistic
    assert probability_of_improvement(first, second) == pytest.approx(u / 63)


def test_improvement_interval_holds_its_own_equation():
    """At its ends, the observed probability is 1.96 of Hanley and McNeil's standard errors away (Newcombe 2006)."""
    found = improvement_interval(0.7, 8, 12)
    for p in found:
        # with their exponential Q1 = p / (2 - p), Q2 = 2 p^2 / (1 + p), and the mean of both sizes for either
        q1, q2, size = p / (2 - p), 2 * p**2 / (1 + p), (8 + 12) / 2
        variance = (p * (1 - p) + (size - 1) * (q1 - p**2) + (size - 1) * (q2 - p**2)) / (8 * 12)
        assert (0.7 - p) ** 2 == pytest.approx(statistics.Z**2 * variance)


def test_improvement_interval_has_a_width_at_the_ends_and_is_symmetric():
    low, high = improvement_interval(1.0, 5, 5)
    assert 0.5 < low < 0.75
    assert high == 1.0
    mirrored = improvement_interval(0.0, 5, 5)
    assert mirrored.low == 0.0
    assert mirrored.high == pytest.approx(1 - low)
    assert improvement_interval(1.0, 3, 3).low < 0.55


def test_improvement_interval_holds_the_truth():
    """1,000 studies of 5 and 5 runs with a true probability of Phi(0.5 / sqrt 2) = 0.638."""
    generator = np.random.default_rng(0)
    truth, held = float(stats.norm.cdf(0.5 / np.sqrt(2))), 0
    for _ in range(1_000):
        first, second = generator.normal(0.5, 1, 5), generator.normal(0, 1, 5)
        low, high = improvement_interval(probability_of_improvement(first, second), 5, 5)
        held += low <= truth <= high
    assert 0.93 <= held / 1_000 <= 0.99


def test_mean_of_intervals_is_that_of_normal_ones():
    """Symmetric intervals of +-3 and +-4 have a mean of +-5/2."""
    assert mean_of_intervals([0, 10], [Interval(-3, 3), Interval(6, 14)]) == pytest.approx((2.5, 7.5))


def test_share_interval_is_wilsons():
    """scipy's, and 0 of 10: 0 to 0.2775 (Brown, Cai and DasGupta 2001, table 4, rounded there)."""
    for count, n in ((0, 10), (3, 7), (5, 5)):
        theirs = stats.binomtest(count, n).proportion_ci(method="wilson")
        assert share_interval(count, n) == pytest.approx((theirs.low, theirs.high))
    assert share_interval(0, 10).high == pytest.approx(0.2775, abs=1e-4)


def test_profile_by_hand():
    shares = performance_profile(np.array([0.1, 0.5, 0.9]), np.array([0.0, 0.1, 0.5, 1.0]))
    np.testing.assert_allclose(shares, [1, 2 / 3, 1 / 3, 0])


def test_kaplan_meier_of_the_published_example():
    """Klein and Moeschberger (2003), table 4.1A; medians 23 (13, none) and 8 (4, 11), as SAS prints them by log-log."""
    found = survival(TREATED, RELAPSED)
    np.testing.assert_array_equal(found.time, [6, 7, 10, 13, 16, 22, 23])
    np.testing.assert_allclose(found.share, [0.857, 0.807, 0.753, 0.690, 0.628, 0.538, 0.448], atol=6e-4)
    assert found.median() == 23
    assert found.median_interval() == (13, None)
    placebo = survival(PLACEBO, np.ones(21, bool))
    assert placebo.median() == 8
    assert placebo.median_interval() == (4, 11)


def test_kaplan_meier_is_scipys():
    theirs = stats.ecdf(stats.CensoredData.right_censored(TREATED, ~RELAPSED)).sf
    band = theirs.confidence_interval(method="log-log")
    found = survival(TREATED, RELAPSED)
    at = np.searchsorted(theirs.quantiles, found.time)
    np.testing.assert_allclose(found.share, theirs.probabilities[at])
    np.testing.assert_allclose(found.low, band.low.probabilities[at])
    np.testing.assert_allclose(found.high, band.high.probabilities[at])


def test_restricted_mean_without_censoring_is_the_mean_of_what_is_left():
    everyone = np.ones(21, bool)
    assert survival(PLACEBO, everyone).restricted_mean(23) == pytest.approx(PLACEBO.mean())
    assert survival(PLACEBO, everyone).restricted_mean(8) == pytest.approx(np.minimum(PLACEBO, 8).mean())


def test_nobody_got_there():
    found = survival(np.array([5.0, 5.0, 7.0]), np.zeros(3, bool))
    assert found.median() is None
    assert found.median_interval() == (None, None)
    assert found.restricted_mean(4.0) == 4.0


def test_censored_runs_are_not_dropped():
    """Leaving out runs that never got there would say 2; counted as they are, half of them have not."""
    time, happened = np.array([1.0, 2.0, 3.0, 10.0, 10.0, 10.0]), np.array([1, 1, 1, 0, 0, 0], bool)
    assert survival(time[happened], happened[happened]).median() == 2
    assert survival(time, happened).median() == 3


def test_being_earlier_by_hand():
    """(2, seen) against (3, seen), (1, ended), (2, ended): sure, undecided, sure."""
    found = probability_of_being_earlier([2], [True], [3, 1, 2], [True, False, False])
    assert found == pytest.approx((1 + 0.5 + 1) / 3)
    assert probability_of_being_earlier([5, 5], [False, False], [9], [False]) == 0.5


def test_pooled_deviation_by_hand():
    assert pooled_deviation(np.array([0.0, 2.0]), np.array([5.0, 5.0, 5.0])) == pytest.approx(np.sqrt(2 / 3))


def test_tasks_count_alike_however_many_runs_they_have():
    """Ten runs of one task do not outweigh two of another: the middle half of the weights lies half in each."""
    many, few = np.zeros(10), np.array([1.0, 1.0])
    assert over_tasks([many, few], "mean") == 0.5
    assert over_tasks([many, few]) == pytest.approx(0.5)
    assert iqm(np.concatenate([many, few])) == 0.0  # pooled, the second task is trimmed away


def test_over_tasks_is_the_repetition_of_runs():
    """2 and 4 runs: the first task's weigh double, and quarters of 8 values are whole."""
    generator = np.random.default_rng(0)
    two, four = generator.normal(size=(3, 2)), generator.normal(size=(3, 4))
    repeated = np.concatenate([two, two, four], axis=1)
    np.testing.assert_allclose(over_tasks([two, four]), iqm(repeated))
    np.testing.assert_allclose(over_tasks([four, four + 1]), iqm(np.concatenate([four, four + 1], axis=1)))


def test_shares_over_unequal_tasks_hold_the_truth():
    """2 and 20 runs of tasks with a true share of a half: the mean of the tasks' shares."""
    assert effective_runs([5, 5, 5]) == pytest.approx(15)
    assert effective_runs([2, 20]) == pytest.approx(4 / (1 / 2 + 1 / 20))
    shares = [stats.binom(n, 0.5) for n in (2, 20)]
    held = 0.0
    for a in range(3):
        for b in range(21):
            share, n = (a / 2 + b / 20) / 2, effective_runs([2, 20])
            low, high = share_interval(share * n, n)
            held += shares[0].pmf(a) * shares[1].pmf(b) * (low <= 0.5 <= high)
    assert held >= 0.93


def test_a_difference_has_the_width_of_independent_runs():
    """Squares of the widths add up; equal runs leave no doubt."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(3, 1, 40), generator.normal(0, 2, 40)
    found = difference_interval(first, second)
    one, other = interval(first), interval(second)
    alone = [(each.high - each.low) ** 2 for each in (one, other)]
    assert found.high - found.low == pytest.approx(np.sqrt(sum(alone)), rel=0.08)
    assert difference_interval(np.full(5, 7.0), np.full(4, 2.0)) == pytest.approx((5.0, 5.0))
    assert difference_interval(np.array([1.0]), first) is None
