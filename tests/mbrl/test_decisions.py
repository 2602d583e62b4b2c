"""The rule by which a comparison decides, against scipy, enumeration, and its stated error."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mbrl.experiments.decisions import LEVEL, Sample, detectable_shift, judge
from mbrl.experiments.statistics import probability_of_being_earlier


def returns(*values: float) -> Sample:
    return Sample.of_returns(np.array(values, float))


def test_it_is_mann_whitneys_exact_test():
    generator = np.random.default_rng(0)
    for n, m in ((3, 4), (5, 5), (4, 9)):
        x, y = generator.normal(0.7, 1, n), generator.normal(0, 1, m)
        found = judge([(Sample.of_returns(x), Sample.of_returns(y))])
        assert found.p == pytest.approx(stats.mannwhitneyu(x, y, method="exact").pvalue)
        assert found.better == pytest.approx(stats.mannwhitneyu(x, y).statistic / (n * m))


def test_ties_and_ends_are_enumerated():
    """Every way to deal out nine runs, of which some end before it happens."""
    time = np.array([2.0, 3, 3, 5, 7, 1, 3, 9, 9])
    happened = np.array([1, 1, 1, 0, 1, 1, 0, 1, 0], bool)

    def better(first: list[int]) -> float:
        rest = [i for i in range(9) if i not in first]
        return probability_of_being_earlier(time[first], happened[first], time[rest], happened[rest])

    every = np.array([better(list(first)) for first in itertools.combinations(range(9), 4)])
    seen = better([0, 1, 2, 3])
    found = judge([(Sample(time[:4], happened[:4]), Sample(time[4:], happened[4:]))])
    assert found.better == pytest.approx(seen)
    assert found.p == pytest.approx(np.mean(np.abs(every - 0.5) >= abs(seen - 0.5) - 1e-12))


def test_a_task_with_more_runs_counts_no_more_than_another():
    """One task of ten runs each for the second, two of two runs each for the first: no task outweighs the others."""
    many = returns(*range(10)), returns(*range(20, 30))
    few = returns(5, 6), returns(1, 2)
    found = judge([many, few, few])
    assert found.better == pytest.approx(2 / 3)
    assert not found.decided
    assert judge([many]).decided


def test_unequal_tasks_are_enumerated():
    """All ways to deal out the runs of two tasks, 2 against 3 and 1 against 2, by the mean share of pairs."""
    tasks = [(returns(3, 6), returns(1, 4, 5)), (returns(2), returns(1, 3))]

    def shares(pair: tuple[Sample, Sample]) -> list[float]:
        times = np.concatenate([pair[0].time, pair[1].time])
        dealt = []
        for chosen in itertools.combinations(range(len(times)), len(pair[0].time)):
            rest = np.delete(times, chosen)
            dealt.append(np.mean(times[list(chosen)][:, None] < rest))
        return dealt

    means = np.array([np.mean(both) for both in itertools.product(*map(shares, tasks))])
    seen = np.mean([shares(pair)[0] for pair in tasks])
    found = judge(tasks)
    assert found.better == pytest.approx(seen)
    assert found.p == pytest.approx(np.mean(np.abs(means - 0.5) >= abs(seen - 0.5) - 1e-12))


def test_few_runs_decide_nothing_whatever_they_show():
    for n, m, least in ((2, 2, 2 / 6), (3, 3, 2 / 20), (4, 4, 2 / 70), (2, 8, 2 / 45)):
        found = judge([(returns(*range(10, 10 + n)), returns(*range(m)))])
        assert (found.p, found.least) == (pytest.approx(least), pytest.approx(least))
        assert found.decided == (least <= LEVEL)
    assert detectable_shift(3, 3) is None
    two = [(returns(3, 4, 5), returns(0, 1, 2))] * 2  # over tasks, three do: 2 / 20^2
    assert judge(two).p == pytest.approx(2 / 400)
    assert judge([(returns(0.0), returns(0.0))]).p == 1.0


@pytest.mark.parametrize(("n", "expected"), [(2, 0.0), (3, 0.0), (4, 2 / 70), (5, 8 / 252)])
def test_equal_algorithms_are_told_apart_as_rarely_as_said(n, expected):
    """Non-overlapping intervals did so in a third of studies of two runs, and in a tenth of three."""
    generator = np.random.default_rng(0)
    studies = generator.standard_normal((1_000, 2, n))
    found = np.mean([judge([(Sample.of_returns(x), Sample.of_returns(y))]).decided for x, y in studies])
    assert found == pytest.approx(expected, abs=0.017)  # three deviations
    assert expected <= LEVEL


def test_what_is_found_in_four_of_five_studies():
    generator = np.random.default_rng(1)
    shift = detectable_shift(5, 5)
    studies = generator.standard_normal((1_000, 2, 5))
    found = [judge([(Sample.of_returns(x + shift), Sample.of_returns(y))]).decided for x, y in studies]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
    assert detectable_shift(20, 20) < detectable_shift(10, 10) < shift


def test_what_happened_behind_the_horizon_had_not_happened():
    found = Sample(np.array([1.0, 5.0, 9.0]), np.array([True, True, False])).until(5.0)
    assert (found.time.tolist(), found.happened.tolist()) == ([1, 5, 5], [True, True, False])
    worst = returns(1.0).with_worst(2)
    assert judge([(worst, returns(-99.0))]).better == pytest.approx(1 / 3)
