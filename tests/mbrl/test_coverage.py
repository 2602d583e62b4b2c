"""Intervals hold the truth as often as they say."""

import pytest
from scipy import integrate, stats

from mbrl.experiments.coverage import (
    COVERAGE,
    MOST,
    SHAPES,
    coverage,
    difference_coverage,
    simulate,
    simulate_differences,
    truth,
)


def test_ten_seeds_cover_within_two_points_of_95_percent_on_every_shape():
    """2,000 simulated studies of every shape, none of them the ones of the table."""
    found = simulate(10, 1, "iqm", studies=2_000, seed=7)
    assert set(found) == set(SHAPES)
    assert all(abs(share - 0.95) <= 0.02 for share in found.values()), found


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_ten_seeds_cover_within_two_points_over_several_tasks_2_000_times():
    for tasks in (2, 4):
        found = simulate(10, tasks, "iqm", studies=2_000, seed=7)
        assert all(abs(share - 0.95) <= 0.02 for share in found.values()), found


@pytest.mark.parametrize("n", range(2, MOST + 1))
def test_the_printed_coverage_is_what_is_simulated(n):
    found = simulate(n, 1, "iqm", studies=400, seed=11)
    low, high = coverage(n)
    assert min(found.values()) == pytest.approx(low, abs=0.05)  # 400 studies have a deviation of up to 0.025
    assert max(found.values()) == pytest.approx(high, abs=0.05)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(("statistic", "tasks"), list(COVERAGE))
def test_all_printed_coverages_are_what_is_simulated(statistic, tasks):
    for n in range(2, MOST + 1):
        found = simulate(n, tasks, statistic, studies=400, seed=11)
        low, high = coverage(n, tasks, statistic)
        assert min(found.values()) == pytest.approx(low, abs=0.05)
        assert max(found.values()) == pytest.approx(high, abs=0.05)


def test_several_tasks_cover_about_what_is_printed():
    """200 studies have a deviation of 0.025; the interval of one task, or one without widened levels, fails."""
    found = simulate(3, 2, "iqm", studies=200, seed=11)
    low, high = coverage(3, 2)
    assert all(low - 0.07 <= share <= high + 0.07 for share in found.values()), found


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_differences_cover_what_is_printed(n):
    found = simulate_differences(n, studies=400, seed=11)
    low, high = difference_coverage(n)
    assert min(found.values()) == pytest.approx(low, abs=0.05)
    assert max(found.values()) == pytest.approx(high, abs=0.05)
    assert difference_coverage(1) is None
    assert difference_coverage(40) == difference_coverage(10)


def test_three_seeds_cover_about_three_quarters():
    """A resample of three can't leave their range, which holds the median in 1 - 2 / 8 of studies."""
    low, high = coverage(3)
    assert 0.65 < low < high < 0.8


def test_numbers_that_were_not_simulated_take_the_next_lower():
    assert coverage(1) is None
    assert coverage(50) == coverage(10)
    assert coverage(5, 3) == coverage(5, 2)
    assert coverage(5, 9) == coverage(5, 4)
    assert all(list(row) == list(range(2, MOST + 1)) for row in COVERAGE.values())


def test_truths_are_those_of_the_distributions():
    """Symmetric ones: the middle. Exponential: minus the mean of its quantiles between the quartiles."""
    assert truth((SHAPES["normal"],), "iqm") == pytest.approx(0, abs=0.005)
    assert truth((SHAPES["uniform"],), "iqm") == pytest.approx(0.5, abs=0.002)
    expected = -2 * integrate.quad(stats.expon.ppf, 0.25, 0.75)[0]
    assert truth((SHAPES["long lower tail (exponential)"],), "iqm") == pytest.approx(expected, abs=0.005)
    assert truth((SHAPES["normal"], SHAPES["normal"]), "iqm") == pytest.approx(0, abs=0.005)
