"""A finished tree in compiled code: `results.principal_line` and `dynamic_programming.best_values`."""

import numpy as np
from numba import njit

from planners.mcts.kernels import Array, Arrays


@njit(cache=True, error_model="numpy")
def principal_line(t: Arrays, first: Array, line: Array, length: Array) -> None:
    """Fill line [batch, horizon] and length [batch], 0 before, by `results.principal_line`."""
    for b in range(len(first)):
        n, a, step = 0, first[b], 0
        while n >= 0 and t.size[b] > 0 and step < line.shape[1]:
            line[b, step] = a
            length[b] += t.visits[b, n, a] > 0
            step += 1
            n = _most_visited_outcome(t, b, n, a)
            if n >= 0:
                a = _favourite(t, b, n)


@njit(cache=True, error_model="numpy")
def _most_visited_outcome(t: Arrays, b: int, n: int, a: int) -> int:
    best, found = -1, -1
    child = t.child[b, n, a]
    while child >= 0:  # the oldest comes last, and wins among equals
        visits = t.visits[b, child].sum()
        if visits >= best:
            best, found = visits, child
        child = t.sibling[b, child]
    return found


@njit(cache=True, error_model="numpy")
def _favourite(t: Arrays, b: int, n: int) -> int:
    most = -1
    for a in range(t.visits.shape[2]):
        if t.mask[b, n, a]:
            most = max(most, t.visits[b, n, a])
    best, chosen = -np.inf, 0
    for a in range(t.visits.shape[2]):
        if t.mask[b, n, a] and t.visits[b, n, a] == most:
            merit = t.sign[b, n] * t.total[b, n, a] / most if most > 0 else t.logits[b, n, a]
            if merit > best:
                best, chosen = merit, a
    return chosen


@njit(cache=True, error_model="numpy")
def best_values(t: Arrays, discount: float, q: Array) -> None:
    """Fill q [batch, actions], 0 before, by `dynamic_programming.best_values`."""
    for b in range(len(q)):
        total = t.total[b, : t.size[b]].copy()
        for n in range(t.size[b] - 1, 0, -1):
            count = 1 + t.visits[b, n].sum()
            mean = (t.raw[b, n] + t.total[b, n].sum()) / count
            value = _best(t, total, mean, b, n)
            total[t.parent[b, n], t.action[b, n]] += discount * count * (value - mean)
        for a in range(q.shape[1]):
            if t.size[b] > 0 and t.visits[b, 0, a] > 0:
                q[b, a] = total[0, a] / t.visits[b, 0, a]


@njit(cache=True, error_model="numpy")
def _best(t: Arrays, total: Array, mean: float, b: int, n: int) -> float:
    best, sign = -np.inf, t.sign[b, n]
    for a in range(t.visits.shape[2]):
        if t.mask[b, n, a]:
            if t.visits[b, n, a] == 0:
                return mean
            best = max(best, sign * total[n, a] / t.visits[b, n, a])
    return sign * best if best > -np.inf else mean
