"""Statistics of a few runs: estimates with intervals that hold what they promise, as far as so few runs allow.

The interval of an interquartile mean is a percentile bootstrap, stratified by task, whose levels are widened: with z =
1.96, n runs a task and M tasks, the bootstrap's quantiles are taken at the levels

    Phi(-z k), Phi(z k)   with   k^2 = n / (n - 1 - 1/M),

because resampling n of n values has a variance that is short by (n - 1)/n, and because for one task k z is 1.96
standard deviations of Student's t with n degrees of freedom. `mbrl.experiments.coverage` simulates how often that holds
the truth; docs/statistics.md has what was tried beside it.

Sources: Agarwal et al. (2021), https://arxiv.org/abs/2108.13264 (interquartile mean, profiles, probability of
improvement); Efron and Tibshirani (1993), chapter 13; Hesterberg (2015), https://arxiv.org/abs/1411.5279, section 4
(too narrow intervals).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import optimize, stats
from scipy.special import ndtr

Statistic = Literal["iqm", "mean"]
CONFIDENCE = 0.95
Z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
TRIMMED = 0.25
"""Share of values that an interquartile mean leaves out at either end, rounded down to whole values."""
RESAMPLES = 4_000
"""Of a bootstrap."""
SEED = 0
"""Of the bootstrap: equal values always have equal intervals."""
FEWEST = 2
"""Runs of a task that an interval takes."""


class Interval(NamedTuple):
    """A 95 % interval; floats, or arrays of them."""

    low: np.ndarray | float
    high: np.ndarray | float


def iqm(values: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: the mean without the lowest and the highest quarter (`TRIMMED`).

    Of three values or fewer it is the mean, for there is no whole value in a quarter of them.
    """
    return np.asarray(stats.trim_mean(values, TRIMMED, axis=-1))


def interval(values: np.ndarray, statistic: Statistic = "iqm") -> Interval | None:
    """The interval of the interquartile mean, or mean, of each row of values [..., n] of one task; None for n < 2.

    Raises:
        ValueError: a value is not finite.
    """
    values = _finite(values)
    n = values.shape[-1]
    if n < FEWEST:
        return None
    resampled = np.sort(values, axis=-1) @ _weights(n, statistic).T
    low, high = np.quantile(resampled, levels(n), axis=-1)
    return Interval(low, high)


def stratified_interval(tasks: Sequence[np.ndarray], statistic: Statistic = "iqm") -> Interval | None:
    """The interval of `over_tasks`; None where a task has fewer than two values.

    Every task's values [n] are resampled among themselves: tasks are the ones that were chosen, runs are samples.

    Raises:
        ValueError: there is no task, or a value is not finite.
    """
    if not tasks:
        raise ValueError("tasks: expected the values of at least one task, got none")
    if len(tasks) == 1:
        return interval(tasks[0], statistic)
    fewest = min(len(values) for values in tasks)
    if fewest < FEWEST:
        return None
    generator = np.random.default_rng(SEED)
    drawn = [_finite(values)[generator.integers(0, len(values), (RESAMPLES, len(values)))] for values in tasks]
    low, high = np.quantile(over_tasks(drawn, statistic), levels(fewest, len(tasks)))
    return Interval(float(low), float(high))


def over_tasks(tasks: Sequence[np.ndarray], statistic: Statistic = "iqm") -> np.ndarray:
    """The interquartile mean, or mean, of the values [..., n] of several tasks together, in which tasks count alike.

    Where all have the same n, that is `iqm` of all values. Else a value weighs 1/n, and a quarter of the weights goes
    at either end, of single values in part.
    """
    pooled = np.concatenate(tasks, axis=-1)
    if statistic == "mean":
        return np.mean([np.mean(values, axis=-1) for values in tasks], axis=0)
    if len({np.shape(values)[-1] for values in tasks}) == 1:
        return iqm(pooled)
    weights = np.concatenate([np.full(np.shape(v)[-1], 1 / np.shape(v)[-1] / len(tasks)) for v in tasks])
    order = np.argsort(pooled, axis=-1)
    ends = np.cumsum(weights[order], axis=-1)
    kept = np.clip(ends, TRIMMED, 1 - TRIMMED)
    kept = np.diff(kept, axis=-1, prepend=TRIMMED)  # the part of each value that lies in the middle
    return np.sum(np.take_along_axis(pooled, order, axis=-1) * kept, axis=-1) / (1 - 2 * TRIMMED)


def difference_interval(first: np.ndarray, second: np.ndarray) -> Interval | None:
    """The interval of IQM(first) - IQM(second) for independent runs [..., n] and [..., m]; None where either has one.

    Both are resampled by themselves, at the levels of two tasks with the fewer runs.

    Raises:
        ValueError: a value is not finite.
    """
    first, second = _finite(first), _finite(second)
    n, m = first.shape[-1], second.shape[-1]
    if min(n, m) < FEWEST:
        return None
    other = np.random.default_rng(SEED + 1).permutation(RESAMPLES)  # else equal n would be resampled alike
    resampled = np.sort(first, axis=-1) @ _weights(n, "iqm").T - np.sort(second, axis=-1) @ _weights(m, "iqm")[other].T
    low, high = np.quantile(resampled, levels(min(n, m), 2), axis=-1)
    return Interval(low, high)


def levels(n: int, tasks: int = 1) -> tuple[float, float]:
    """The bootstrap's quantiles that are the ends of an interval, for `n` runs of each of so many tasks.

    Two runs of one task have no more to say than where they are: the ends are then the lowest and the highest.
    """
    spare = n - 1 - 1 / tasks
    low = float(ndtr(-Z * math.sqrt(n / spare))) if spare > 0 else 0.0
    return low, 1 - low


@lru_cache(maxsize=64)
def _weights(n: int, statistic: Statistic) -> np.ndarray:
    """[RESAMPLES, n]: the statistic of each resample as weights of the sorted values.

    Sorted positions of a resample are positions of its sorted values, so the weights fit any values.
    """
    cut = int(TRIMMED * n) if statistic == "iqm" else 0
    positions = np.sort(np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n)), axis=1)[:, cut : n - cut]
    weights = np.zeros((RESAMPLES, n))
    for column in positions.T:
        weights[np.arange(RESAMPLES), column] += 1 / positions.shape[1]
    return weights


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> float:
    """P(X > Y) + P(X = Y) / 2 for runs X of `first` [n] and Y of `second` [m]: Mann-Whitney's U over n m."""
    difference = np.subtract.outer(np.asarray(first), np.asarray(second))
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def improvement_interval(probability: float, n: int, m: int) -> Interval:
    """The interval of a probability of improvement over `n` times `m` pairs.

    It holds the probabilities p that the observed one is not far from, by the variance that p would have: so it has a
    width even where every run beats every other. Source: Newcombe (2006), "Confidence intervals for an effect size
    measure based on the Mann-Whitney statistic", part 2, method 5, https://doi.org/10.1002/sim.2324.
    """
    extra = (n + m) / 2 - 1

    def excess(p: float) -> float:
        variance = p * (1 - p) * (1 + extra * ((1 - p) / (2 - p) + p / (1 + p))) / (n * m)
        return (p - probability) ** 2 - Z**2 * variance

    inside = min(max(probability, 1e-9), 1 - 1e-9)  # at the ends themselves, the variance is 0
    low = 0.0 if probability == 0 else optimize.brentq(excess, 0.0, inside)
    high = 1.0 if probability == 1 else optimize.brentq(excess, inside, 1.0)
    return Interval(float(low), float(high))


def probability_of_being_earlier(
    first: np.ndarray, happened_first: np.ndarray, second: np.ndarray, happened_second: np.ndarray
) -> float:
    """P(X < Y) + P(undecided) / 2 for right-censored times X [n] and Y [m].

    A pair is undecided where both times are equal, or where watching one ended before the other happened. Source:
    Gehan (1965), https://doi.org/10.1093/biomet/52.1-2.203.
    """
    x, y = np.asarray(first, float)[:, None], np.asarray(second, float)
    in_x, in_y = np.asarray(happened_first, bool)[:, None], np.asarray(happened_second, bool)
    earlier = in_x & ((x < y) | ((x == y) & ~in_y))
    later = in_y & ((y < x) | ((x == y) & ~in_x))
    return float(np.mean(0.5 + 0.5 * earlier - 0.5 * later))


def mean_of_intervals(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """The interval of the mean of independent estimates, from theirs: distances to their ends add up as squares.

    Source: Zou and Donner (2008), https://doi.org/10.1002/sim.3095.
    """
    below = math.sqrt(sum((v - i.low) ** 2 for v, i in zip(values, intervals, strict=True))) / len(values)
    above = math.sqrt(sum((i.high - v) ** 2 for v, i in zip(values, intervals, strict=True))) / len(values)
    mean = float(np.mean(values))
    return Interval(mean - below, mean + above)


def share_interval(count: float, n: float) -> Interval:
    """Wilson's score interval of a share of `n`; also of a share over strata, see `effective_runs`."""
    centre, total = (count + Z**2 / 2) / (n + Z**2), n + Z**2
    half = Z * math.sqrt(max(0.0, count * (n - count) / n) + Z**2 / 4) / total
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def effective_runs(counts: Sequence[int]) -> float:
    """How many runs a mean of shares over tasks is worth that have so many each: M^2 / sum(1/n), their sum where all
    have the same."""
    return len(counts) ** 2 / sum(1 / n for n in counts)


def performance_profile(scores: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Share of `scores` [n] above each value of `grid`."""
    return (np.asarray(scores)[:, None] > np.asarray(grid)).mean(axis=0)


class Survival(NamedTuple):
    """The Kaplan-Meier estimate of when something happens."""

    time: np.ndarray
    """[events] distinct times at which it happened, rising."""
    share: np.ndarray
    """[events] for which it has not happened after them."""
    low: np.ndarray
    """[events] of the share's interval (log-log); NaN where it is 0."""
    high: np.ndarray

    def median(self) -> float | None:
        """The first time with a share of at most a half; None where there is none."""
        return _first(self.time, self.share <= 0.5)

    def median_interval(self) -> tuple[float | None, float | None]:
        """The times at which the share's interval is not, and no longer, above a half (Brookmeyer and Crowley 1982);
        None where there is none: without bound."""
        return _first(self.time, (self.low <= 0.5) | (self.share == 0)), _first(self.time, self.high <= 0.5)

    def restricted_mean(self, horizon: float) -> float:
        """Mean time until it happens, or `horizon` where that comes first: the area under the shares."""
        inside = self.time < horizon
        edges = np.concatenate([[0.0], self.time[inside], [horizon]])
        return float(np.sum(np.diff(edges) * np.concatenate([[1.0], self.share[inside]])))


def survival(time: np.ndarray, happened: np.ndarray) -> Survival:
    """Kaplan-Meier for right-censored times.

    Args:
        time: [n] until it happened, or until watching ended.
        happened: [n] bool; False: it had not when watching ended (censored).

    Source: Kaplan and Meier (1958); Greenwood's variance, intervals on the scale of log(-log).
    """
    time, happened = np.asarray(time, float), np.asarray(happened, bool)
    at = np.unique(time[happened])
    risk = (time[:, None] >= at).sum(axis=0)
    events = ((time[:, None] == at) & happened[:, None]).sum(axis=0)
    share = np.cumprod(1 - events / risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(np.cumsum(events / (risk * (risk - events)))) / np.abs(np.log(share))
        low, high = share ** np.exp(Z * deviation), share ** np.exp(-Z * deviation)
    unknown = (share <= 0) | (share >= 1)
    return Survival(at, share, np.where(unknown, np.nan, low), np.where(unknown, np.nan, high))


def pooled_deviation(first: np.ndarray, second: np.ndarray) -> float:
    """The standard deviation that two samples share, estimated from both."""
    freedom = len(first) + len(second) - 2
    squares = sum(float(((x - np.mean(x)) ** 2).sum()) for x in (np.asarray(first), np.asarray(second)))
    return math.sqrt(squares / freedom) if freedom > 0 else math.nan


def _first(time: np.ndarray, where: np.ndarray) -> float | None:
    return float(time[where][0]) if where.any() else None


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        raise ValueError(f"values: expected finite numbers, got {values[~np.isfinite(values)][0]}")
    return values
