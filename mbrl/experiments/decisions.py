"""The one rule by which a comparison decides: an exact permutation test of ranks, two-sided, at 5 %.

Two algorithms that are the same differ as much as what was seen, or more, in the share p of all ways to deal the runs
out to them; told apart is what has p <= 5 %. Nothing is assumed of how returns are spread, and where there are too few
runs, no outcome whatever has so small a p: 3 against 3 decide nothing, 4 against 4 only if every run of one beats every
run of the other. Over several tasks, shares of pairs add up, so that each task counts alike however many runs it has,
and runs are dealt out within each task.

Sources: Mann and Whitney (1947); Gehan (1965), https://doi.org/10.1093/biomet/52.1-2.203, for runs that were no longer
watched when it would have happened, which is exact where both are watched equally long (`Sample.until`); van Elteren
(1960) for strata, here with weights by which all tasks count alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, reduce
from typing import NamedTuple

import numpy as np
from scipy.signal import convolve

LEVEL = 0.05
"""The share of studies of two equal algorithms in which they are told apart is at most this."""
POWER = 0.8
"""Of the differences that `detectable_shift` speaks of."""
STUDIES = 4_000
"""Simulated for it."""


class Sample(NamedTuple):
    """Runs by when something happened in them; earlier is better."""

    time: np.ndarray
    """[n] when it happened, or until when it was watched for."""
    happened: np.ndarray
    """[n] bool."""

    @classmethod
    def of_returns(cls, returns: np.ndarray) -> Sample:
        """Higher returns [n] are better; -inf is the worst."""
        return cls(-np.asarray(returns, float), np.ones(len(returns), bool))

    def until(self, horizon: float) -> Sample:
        """The same, had watching ended at the horizon."""
        return Sample(np.minimum(self.time, horizon), self.happened & (self.time <= horizon))

    def with_worst(self, count: int) -> Sample:
        """With so many runs more in which it never happens."""
        return Sample(
            np.concatenate([self.time, np.full(count, np.inf)]), np.concatenate([self.happened, np.zeros(count, bool)])
        )


class Verdict(NamedTuple):
    """What the runs say of the first against the second."""

    better: float
    """Share of pairs, each task counting alike, in which the first is better; undecided ones count half."""
    p: float
    """Of a difference as large as this or larger, in either direction, between equals."""
    least: float
    """The smallest p that the best outcome for either would have had with so many runs."""

    @property
    def decided(self) -> bool:
        return self.p <= LEVEL and self.better != 0.5


def judge(tasks: Sequence[tuple[Sample, Sample]]) -> Verdict:
    """The first against the second of each task's pair of samples."""
    pairs = [len(first.time) * len(second.time) for first, second in tasks]
    unit = math.lcm(*pairs)  # a pair of this task's counts unit / pairs
    shares, total, chances = [], 0, []
    for (first, second), count in zip(tasks, pairs, strict=True):
        scores = _scores(
            np.concatenate([first.time, second.time]), np.concatenate([first.happened, second.happened])
        )  # [n + m] runs that this one is better than, less those that are better
        n, won = len(first.time), int(scores[: len(first.time)].sum())
        shares.append(0.5 + won / (2 * count))
        total += won * (unit // count)
        chances.append(_spread(_distribution(tuple(sorted(scores.tolist())), n), unit // count))
    chance = reduce(convolve, chances)
    middle = len(chance) // 2
    far = np.abs(np.arange(len(chance)) - middle)
    p = float(chance[far >= abs(total)].sum())
    least = min(1.0, 2 * float(np.prod([1 / math.comb(len(a.time) + len(b.time), len(a.time)) for a, b in tasks])))
    return Verdict(float(np.mean(shares)), min(1.0, p), least)


@cache
def detectable_shift(n: int, m: int) -> float | None:
    """The smallest difference, in standard deviations, that the rule finds with a probability of 80 %.

    Between normal returns of `n` and `m` runs, simulated; None where so few runs decide nothing.
    """
    critical = _critical(n, m)
    if critical is None:
        return None
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((STUDIES, n)), generator.standard_normal((STUDIES, m))
    # A study finds a shift when enough pairs are won, so from the shift on that wins the last pair it needs.
    needed = np.sort((y[:, None, :] - x[:, :, None]).reshape(STUDIES, n * m), axis=1)[:, critical - 1]
    return float(np.quantile(needed, POWER))


def _critical(n: int, m: int) -> int | None:
    """How many of the pairs [n m] the first has to win to be told apart; None: all are not enough."""
    scores = _scores(np.arange(float(n + m)), np.ones(n + m, bool))
    chance = _distribution(tuple(sorted(scores.tolist())), n)
    middle = len(chance) // 2
    far = np.abs(np.arange(len(chance)) - middle)
    for won in range(n * m // 2 + 1, n * m + 1):
        if chance[far >= 2 * won - n * m].sum() <= LEVEL:
            return won
    return None


def _scores(time: np.ndarray, happened: np.ndarray) -> np.ndarray:
    """[n] of each run: those that it is surely earlier than, less those that are surely earlier."""
    x, y = time[:, None], time
    earlier = happened[:, None] & ((x < y) | ((x == y) & ~happened))
    return (earlier.sum(axis=1) - earlier.sum(axis=0)).astype(int)


@cache
def _distribution(scores: tuple[int, ...], n: int) -> np.ndarray:
    """[2 R + 1] probability of every sum from -R to R of `n` of the scores, drawn without putting back."""
    reach = sum(map(abs, scores))
    ways = np.zeros((n + 1, 2 * reach + 1))
    ways[0, reach] = 1
    for score in scores:
        for taken in range(n, 0, -1):  # a score is taken once
            ways[taken] += np.roll(ways[taken - 1], score)
    return ways[n] / ways[n].sum()


def _spread(chance: np.ndarray, weight: int) -> np.ndarray:
    """[2 R weight + 1] probability of every sum that is `weight` times as large as those of `chance`, [2 R + 1]."""
    spread = np.zeros((len(chance) - 1) * weight + 1)
    spread[::weight] = chance
    return spread
