"""Off-policy evaluation by importance sampling: what a policy is worth, from episodes of another whose odds are known.

With rho_t = pi(a_t | s_t) / b(a_t | s_t), w_t = rho_0 ... rho_t, and episodes i = 1 ... n:

    per decision            1/n sum_i sum_t discount^t w_it r_it
    weighted                sum_t discount^t sum_i w_it r_it / sum_i w_it
    doubly robust           1/n sum_i v_i0,   v_it = V(s_it) + rho_it (r_it + discount v_i,t+1 - Q(s_it, a_it))
    weighted doubly robust  the sum over t of the weighted means of discount^t (r_it - Q(s_it, a_it)), by w_it, and of
                            discount^t V(s_it), by w_i,t-1

The first and the third have no bias, whatever Q is (given that it is not fitted to the same episodes), and a variance
that grows exponentially with the steps; the others have a bias that goes to 0 with the episodes, and far less variance.

An episode that terminated stands in an absorbing state from there on: rewards 0, weight as it was. One that was cut is
missing from there on: at each step the means are over the episodes that are still known, so that cuts must not depend
on what would have come. Doubly robust estimators go on with V(s_T) where an episode was cut; the others then estimate
the value of the steps up to the longest episode's end alone.

Sources: per decision and weighted, Precup et al. (2000), https://scholarworks.umass.edu/cs_faculty_pubs/80; doubly
robust, Jiang and Li (2016), https://arxiv.org/abs/1511.03722; weighted doubly robust, Thomas and Brunskill (2016),
https://arxiv.org/abs/1604.00923.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from mbrl.data.datasets import Dataset

Estimator = Literal["per_decision", "weighted", "doubly_robust", "weighted_doubly_robust"]
RESAMPLES = 2_000
"""Bootstrap samples of an interval."""
_BLOCK = 100
"""Bootstrap samples that are looked at together."""
_HUGE = 600.0
"""Logarithm of the largest weight that is worked with: beyond, estimates mean nothing, and should not overflow."""
Weigh = Callable[[np.ndarray], np.ndarray]
"""Estimates [samples], for episodes that count `counts` [samples, episodes] times."""


@dataclass(frozen=True)
class Episodes:
    """Episodes side by side, [episodes, steps] in float64; behind an episode's end everything is 0.

    Args:
        reward: of each step.
        log_ratio: log pi(a|s) - log b(a|s); -inf where the policy never does what was done.
        known: True where there was a step.
        terminated: [episodes], whether the episode ended by itself.
        q: Q(s_t, a_t); None: there are no critics, and no doubly robust estimates.
        v: V(s_t), [episodes, steps + 1]: of the observation behind the last step too.

    Raises:
        ValueError: shapes disagree, or a ratio is NaN or infinite.
    """

    reward: np.ndarray
    log_ratio: np.ndarray
    known: np.ndarray
    terminated: np.ndarray
    q: np.ndarray | None = None
    v: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = self.known.shape
        wide = None if self.v is None else self.v[:, :-1]
        for name, array in (("reward", self.reward), ("log_ratio", self.log_ratio), ("q", self.q), ("v", wide)):
            if array is not None and array.shape != shape:
                raise ValueError(f"{name}: expected shape {list(shape)} as known has, got {list(array.shape)}")
        if (self.q is None) != (self.v is None):
            raise ValueError("q, v: expected both or neither, as doubly robust estimates need them, got one")
        bad = ~(self.log_ratio < np.inf)
        if bad.any():
            i, t = (int(x[0]) for x in bad.nonzero())
            raise ValueError(f"log_ratio: expected numbers below inf, got {self.log_ratio[i, t]} in episode {i}, {t}")

    @property
    def log_weight(self) -> np.ndarray:
        """log w_t [episodes, steps]; it stays where it was behind an episode's end."""
        return np.cumsum(self.log_ratio, 1)

    @property
    def counted(self) -> np.ndarray:
        """[episodes, steps]: steps that are known, and all those behind an end: nothing more comes there."""
        return self.known | self.terminated[:, None]


class Interval(NamedTuple):
    """An estimate with a confidence interval."""

    value: float
    low: float
    high: float
    effective: float
    """Episodes that would tell as much if all weights were the same, (sum w)^2 / sum w^2 over the episodes that count
    at a step, where it is least; far below their number, the estimate hangs on a few of them. 0: on none."""


def episodes_of(
    dataset: Dataset, log_prob: np.ndarray, q: np.ndarray | None = None, v: np.ndarray | None = None
) -> Episodes:
    """A dataset's episodes, for estimates.

    Args:
        dataset: with the behaviour's log-probabilities.
        log_prob: [rows], of the dataset's actions under the policy that is to be evaluated.
        q: [rows], Q(s, a) of that policy, for doubly robust estimates.
        v: [rows + episodes], V(s) of that policy, in the order of the dataset's observations.

    Raises:
        ValueError: a row's behaviour is not known, or has no probability; the message names episode and row.
    """
    unknown = ~np.isfinite(dataset.log_probs)
    if unknown.any():
        row = int(unknown.argmax())
        raise ValueError(
            f"dataset: expected finite log-probabilities of the policy that collected it, got "
            f"{dataset.log_probs[row]} in {dataset.place(row)}; collect it with a policy that knows them, or evaluate "
            "by FQE and by a model"
        )
    lengths = dataset.lengths
    steps = np.arange(int(lengths.max()))
    known = steps < lengths[:, None]

    def spread(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
        array = np.zeros(mask.shape)
        array[mask] = rows
        return array

    ratio = np.asarray(log_prob, np.float64) - dataset.log_probs
    wide = np.arange(len(steps) + 1) <= lengths[:, None]
    return Episodes(
        spread(dataset.rewards, known),
        spread(ratio, known),
        known,
        dataset.terminated[dataset.ends],
        None if q is None else spread(q, known),
        None if v is None else spread(v, wide),
    )


def estimate(episodes: Episodes, estimator: Estimator, **settings: Any) -> Interval:
    """One of `estimates`."""
    return estimates(episodes, (estimator,), **settings)[estimator]


def estimates(
    episodes: Episodes,
    names: Sequence[Estimator],
    *,
    discount: float,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> dict[Estimator, Interval]:
    """Estimates of the discounted value, with percentile intervals of one bootstrap over episodes.

    All are NaN where the policy does nothing of what the data did, up to some step: then no episode tells of it.

    Raises:
        ValueError: an estimator is unknown or needs critics that are not given, or a number is out of range.
    """
    for name in names:
        if name not in get_args(Estimator):
            raise ValueError(f"estimator: expected one of {', '.join(get_args(Estimator))}, got {name!r}")
        if "robust" in name and episodes.q is None:
            raise ValueError(f"estimator: expected one without critics, as episodes have none, got {name!r}")
    if not 0 < confidence < 1 or not 0 <= discount <= 1:
        raise ValueError(
            f"confidence, discount: expected numbers in (0, 1) and [0, 1], got {confidence} and {discount}"
        )
    effective = effective_episodes(episodes)
    if effective == 0:
        return dict.fromkeys(names, Interval(math.nan, math.nan, math.nan, 0.0))
    count = len(episodes.known)
    made = {name: _ESTIMATORS[name](episodes, discount) for name in names}
    values = {name: float(weigh(np.ones((1, count)))[0]) for name, weigh in made.items()}
    drawn: dict[Estimator, list[np.ndarray]] = {name: [] for name in names}
    stream = np.random.default_rng(seed)
    for first in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - first)
        counts = stream.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        for name, weigh in made.items():
            drawn[name].append(weigh(counts))
    tail, found = 50 * (1 - confidence), {}
    for name in names:
        low, high = np.nanpercentile(np.concatenate(drawn[name]), [tail, 100 - tail])
        found[name] = Interval(values[name], float(low), float(high), effective)
    return found


def effective_episodes(episodes: Episodes) -> float:
    """(sum w)^2 / sum w^2 over the episodes that count at a step, at the step where it is least.

    One episode more, whatever its length and weights, raises it by 1 at most.
    """
    weight = _relative(episodes.log_weight, episodes.counted)
    total = weight.sum(0)
    return float(np.divide(total**2, np.square(weight).sum(0), out=np.zeros_like(total), where=total > 0).min())


def _per_decision(episodes: Episodes, discount: float) -> Weigh:
    earned, counted = _huge(episodes.log_weight) * episodes.reward, episodes.counted.astype(np.float64)
    powers = _powers(episodes, discount)
    return lambda counts: _divided(counts @ earned, counts @ counted) @ powers


def _weighted(episodes: Episodes, discount: float) -> Weigh:
    weight = _relative(episodes.log_weight, episodes.counted)
    earned, powers = weight * episodes.reward, _powers(episodes, discount)
    return lambda counts: _divided(counts @ earned, counts @ weight) @ powers


def _doubly_robust(episodes: Episodes, discount: float) -> Weigh:
    """By the recursion, backwards from the observation that each episode led to."""
    assert episodes.q is not None
    assert episodes.v is not None
    ratio, last = _huge(episodes.log_ratio), episodes.known.sum(1)
    rows = np.arange(len(last))
    value = np.zeros(len(last))
    for t in reversed(range(episodes.known.shape[1])):
        ending = np.where(episodes.terminated, 0.0, episodes.v[rows, last])
        value = np.where(t == last - 1, ending, value)
        surprise = episodes.reward[:, t] + discount * value - episodes.q[:, t]
        with np.errstate(over="ignore"):
            before = np.clip(episodes.v[:, t] + ratio[:, t] * surprise, -np.exp(_HUGE), np.exp(_HUGE))
        value = np.where(episodes.known[:, t], before, value)
    return lambda counts: _divided(counts @ value, counts.sum(1))


def _weighted_doubly_robust(episodes: Episodes, discount: float) -> Weigh:
    """Where an episode was cut it goes on with V(s_T), as one that ended goes on with 0."""
    assert episodes.q is not None
    assert episodes.v is not None
    powers = _powers(episodes, discount)
    everywhere = np.ones_like(episodes.known)
    weight = _relative(episodes.log_weight, everywhere)
    before = np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], 1)
    cut = np.where(episodes.terminated, 0.0, 1.0)[:, None] * episodes.v
    at_end = np.arange(cut.shape[1]) == episodes.known.sum(1)[:, None]
    surprise = weight * np.where(episodes.known, episodes.reward - episodes.q, 0.0)
    ahead = before * np.where(episodes.known, episodes.v[:, :-1], np.where(at_end[:, :-1], cut[:, :-1], 0.0))
    final = weight[:, -1:] * np.where(at_end[:, -1:], cut[:, -1:], 0.0)

    def weigh(counts: np.ndarray) -> np.ndarray:
        total = counts @ weight
        means = _divided(counts @ surprise, total) + _divided(counts @ ahead, counts @ before)
        tail = _divided(counts @ final, total[:, -1:])[:, 0]
        values: np.ndarray = means @ powers + powers[-1] * discount * tail
        return values

    return weigh


_ESTIMATORS: dict[Estimator, Callable[[Episodes, float], Weigh]] = {
    "per_decision": _per_decision,
    "weighted": _weighted,
    "doubly_robust": _doubly_robust,
    "weighted_doubly_robust": _weighted_doubly_robust,
}


def _powers(episodes: Episodes, discount: float) -> np.ndarray:
    return discount ** np.arange(episodes.known.shape[1])


def _huge(log: np.ndarray) -> np.ndarray:
    """Ratios and weights as numbers, cut to the largest that is worked with."""
    return np.exp(np.minimum(log, _HUGE))


def _relative(log_weight: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Weights, at each step in units of the largest, so that nothing overflows; 0 where an episode does not count."""
    shown = np.where(counted, log_weight, -np.inf)
    most = shown.max(0)
    return np.exp(shown - np.where(np.isfinite(most), most, 0.0))


def _divided(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """0 where nothing counts: behind the last known step, or where the policy does nothing that was done."""
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
