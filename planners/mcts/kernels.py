"""The parts of a search compiled by numba, one tree after the other: what `tensors.py` does, for the CPU.

`policies.py` states the rules, `tensors.TensorEngine` what each part does; the same numbers come out, up to rounding.
Arrays are those of `Tree`, seen by numpy. Imported by `compiled.py` alone, where numba is there.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from planners.mcts.policies import Rule

Array = np.ndarray[Any, Any]
GUMBEL, PUCT = 2, 1


class Arrays(NamedTuple):
    """`Tree` without the states."""

    parent: Array
    action: Array
    sibling: Array
    key: Array
    reward: Array
    raw: Array
    sign: Array
    logits: Array
    mask: Array
    visits: Array
    total: Array
    child: Array
    size: Array


class RootArrays(NamedTuple):
    """`tensors.Root`."""

    noise: Array
    base: Array
    turns: Array


class LeafArrays(NamedTuple):
    """A step of the model and the evaluation of what it led to."""

    reward: Array
    obs: Array
    terminated: Array
    logits: Array
    value: Array
    mask: Array
    sign: Array


@njit(cache=True, error_model="numpy")
def descend(
    t: Arrays, rule: Rule, root: RootArrays, simulation: int, slot: Array, action: Array, depth: Array, place: Array
) -> None:
    """Fill slot, action, depth and place [batch] with where each tree's simulation leaves it."""
    for b in range(len(slot)):
        slot[b], action[b], depth[b] = descend_one(t, rule, root, simulation, b)
        place[b] = b * t.parent.shape[1] + slot[b]


@njit(cache=True, error_model="numpy")
def descend_one(t: Arrays, rule: Rule, root: RootArrays, simulation: int, b: int) -> tuple[int, int, int]:
    n, depth = 0, 0
    while True:
        a = pick(t, rule, root, simulation, b, n)
        child = t.child[b, n, a]
        if child < 0:
            return n, a, depth
        n, depth = child, depth + 1


@njit(cache=True, error_model="numpy")
def choose(t: Arrays, rule: Rule, root: RootArrays, simulation: int, slot: Array, action: Array) -> None:
    """Fill action [batch] with the rule's choice in the nodes `slot`."""
    for b in range(len(slot)):
        action[b] = pick(t, rule, root, simulation, b, slot[b])


@njit(cache=True, error_model="numpy")
def find(t: Arrays, slot: Array, action: Array, key: Array, found: Array) -> None:
    """Fill found [batch] with the nodes of these outcomes, -1 where there is none."""
    for b in range(len(slot)):
        n = t.child[b, slot[b], action[b]]
        while n >= 0 and t.key[b, n] != key[b]:
            n = t.sibling[b, n]
        found[b] = n


@njit(cache=True, error_model="numpy")
def pick(t: Arrays, rule: Rule, root: RootArrays, simulation: int, b: int, n: int) -> int:
    if rule.kind == GUMBEL:
        if n == 0:
            return _halve(t, rule, root, simulation, b)
        return _pick_gumbel(t, rule, b, n)
    return _pick_bandit(t, rule, b, n)


@njit(cache=True, error_model="numpy")
def _pick_bandit(t: Arrays, rule: Rule, b: int, n: int) -> int:
    """UCT and PUCT."""
    sign, count, summed = t.sign[b, n], 1, 0.0
    low, high = np.inf, -np.inf
    for a in range(t.visits.shape[2]):
        visits = t.visits[b, n, a]
        count += visits
        summed += t.total[b, n, a]
        if visits > 0 and t.mask[b, n, a]:
            q = sign * t.total[b, n, a] / visits
            low, high = min(low, q), max(high, q)
    value = sign * (t.raw[b, n] + summed) / count
    low, high = min(low, value), max(high, value)
    span = high - low if high > low else 1.0
    explore = np.log(np.float64(count))
    if rule.kind == PUCT:
        explore = np.sqrt(np.float64(count)) * (rule.exploration + np.log((count + rule.base + 1) / rule.base))
    best, chosen = -np.inf, 0
    for a in range(t.visits.shape[2]):
        if not t.mask[b, n, a]:
            continue
        visits = t.visits[b, n, a]
        q = sign * t.total[b, n, a] / visits if visits > 0 else value
        if rule.normalise:
            q = (q - low) / span if visits > 0 else 0.0
        if rule.kind == PUCT:
            score = q + np.exp(t.logits[b, n, a]) * explore / (1 + visits)
        elif visits > 0:
            score = q + 2 * rule.exploration * np.sqrt(2 * explore / visits)
        else:
            score = np.inf
        if score > best:
            best, chosen = score, a
    return chosen


@njit(cache=True, error_model="numpy")
def _completed(t: Arrays, b: int, n: int) -> tuple[float, float, float, int, int]:
    """The mixed value, the lowest and the highest completed q, the most visits of a valid action, and all visits."""
    sign, count, most = t.sign[b, n], 0, 0
    weight, summed = 0.0, 0.0
    for a in range(t.visits.shape[2]):
        visits = t.visits[b, n, a]
        count += visits
        if visits > 0 and t.mask[b, n, a]:
            prior = np.exp(t.logits[b, n, a])
            weight += prior
            summed += prior * (sign * t.total[b, n, a] / visits)
            most = max(most, visits)
    mean = summed / (weight if weight > 0 else 1.0)
    mixed = (sign * t.raw[b, n] + count * mean) / (1 + count)
    low, high = np.inf, -np.inf
    for a in range(t.visits.shape[2]):
        if t.mask[b, n, a]:
            visits = t.visits[b, n, a]
            q = sign * t.total[b, n, a] / visits if visits > 0 else mixed
            low, high = min(low, q), max(high, q)
    return mixed, low, high, most, count


@njit(cache=True, error_model="numpy")
def _improved(t: Arrays, rule: Rule, b: int, n: int, a: int, mixed: float, low: float, high: float, most: int) -> float:
    """ln p(a) + sigma(q(a))."""
    visits = t.visits[b, n, a]
    q = t.sign[b, n] * t.total[b, n, a] / visits if visits > 0 else mixed
    scaled = (q - low) / (high - low if high > low else 1.0)
    return t.logits[b, n, a] + (rule.visit_offset + most) * rule.value_scale * scaled


@njit(cache=True, error_model="numpy")
def _pick_gumbel(t: Arrays, rule: Rule, b: int, n: int) -> int:
    mixed, low, high, most, count = _completed(t, b, n)
    top, norm = -np.inf, 0.0
    for a in range(t.visits.shape[2]):
        if t.mask[b, n, a]:
            top = max(top, _improved(t, rule, b, n, a, mixed, low, high, most))
    for a in range(t.visits.shape[2]):
        if t.mask[b, n, a]:
            norm += np.exp(_improved(t, rule, b, n, a, mixed, low, high, most) - top)
    best, chosen = -np.inf, 0
    for a in range(t.visits.shape[2]):
        if t.mask[b, n, a]:
            weight = np.exp(_improved(t, rule, b, n, a, mixed, low, high, most) - top) / norm
            score = weight - t.visits[b, n, a] / (1 + count)
            if score > best:
                best, chosen = score, a
    return chosen


@njit(cache=True, error_model="numpy")
def _halve(t: Arrays, rule: Rule, root: RootArrays, simulation: int, b: int) -> int:
    turn, least, due = root.turns[b, simulation], np.iinfo(np.int64).max, False
    for a in range(t.visits.shape[2]):
        if t.mask[b, 0, a]:
            since = t.visits[b, 0, a] - root.base[b, a]
            least, due = min(least, since), due or since == turn
    turn = turn if due else least
    mixed, low, high, most, _ = _completed(t, b, 0)
    best, chosen = -np.inf, 0
    for a in range(t.visits.shape[2]):
        if t.mask[b, 0, a] and t.visits[b, 0, a] - root.base[b, a] == turn:
            score = root.noise[b, a] + _improved(t, rule, b, 0, a, mixed, low, high, most)
            if score > best:
                best, chosen = score, a
    return chosen


@njit(cache=True, error_model="numpy")
def update(
    t: Arrays,
    leaf: LeafArrays,
    horizon: int,
    discount: float,
    slot: Array,
    action: Array,
    depth: Array,
    key: Array,
    stuck: Array,
    place: Array,
) -> None:
    """Store and back up every row; fill place [batch] with the places to write the states to."""
    for b in range(len(slot)):
        n = update_one(t, leaf, horizon, discount, b, slot[b], action[b], depth[b], key[b], stuck)
        place[b] = b * t.parent.shape[1] + n


@njit(cache=True, error_model="numpy")
def update_one(
    t: Arrays,
    leaf: LeafArrays,
    horizon: int,
    discount: float,
    b: int,
    slot: int,
    action: int,
    depth: int,
    key: int,
    stuck: Array,
) -> int:
    """Store and back up row b; returns the slot to write the state to, the last one where it is not to be stored."""
    last = t.parent.shape[1] - 1
    if not _any(t.mask[b, 0]):
        return last
    if not _finite(leaf, b):
        _invalidate(t, b, slot, action)
        return last
    value, n = 0.0, last
    if not leaf.terminated[b]:
        value = np.float64(leaf.value[b])
        stuck[b] |= not _any_allowed(leaf, b)
        if depth + 1 < horizon and t.size[b] < last:
            n = t.size[b]
            t.size[b] += 1
            _store(t, leaf, b, n, slot, action, key)
    _back_up(t, b, slot, action, np.float64(leaf.reward[b]) + discount * value, discount)
    return n


@njit(cache=True, error_model="numpy")
def _store(t: Arrays, leaf: LeafArrays, b: int, n: int, parent: int, action: int, key: int) -> None:
    t.parent[b, n], t.action[b, n], t.key[b, n] = parent, action, key
    t.sibling[b, n] = t.child[b, parent, action]
    t.child[b, parent, action] = n
    t.reward[b, n], t.raw[b, n], t.sign[b, n] = leaf.reward[b], leaf.value[b], leaf.sign[b]
    top, norm = -np.inf, 0.0
    for a in range(t.logits.shape[2]):
        t.mask[b, n, a] = _allowed(leaf, b, a)
        if t.mask[b, n, a]:
            top = max(top, np.float64(leaf.logits[b, a]))
    for a in range(t.logits.shape[2]):
        if t.mask[b, n, a]:
            norm += np.exp(np.float64(leaf.logits[b, a]) - top)
    norm = np.log(norm)
    for a in range(t.logits.shape[2]):
        t.logits[b, n, a] = np.float64(leaf.logits[b, a]) - top - norm if t.mask[b, n, a] else 0.0


@njit(cache=True, error_model="numpy")
def _back_up(t: Arrays, b: int, n: int, a: int, result: float, discount: float) -> None:
    while True:
        t.visits[b, n, a] += 1
        t.total[b, n, a] += result
        if n == 0:
            return
        result = t.reward[b, n] + discount * result
        n, a = t.parent[b, n], t.action[b, n]


@njit(cache=True, error_model="numpy")
def _invalidate(t: Arrays, b: int, n: int, a: int) -> None:
    while True:
        t.mask[b, n, a] = False
        if n == 0 or _any(t.mask[b, n]):
            return
        n, a = t.parent[b, n], t.action[b, n]


@njit(cache=True, error_model="numpy")
def _finite(leaf: LeafArrays, b: int) -> bool:
    """The step is finite, and so is the evaluation where it counts."""
    good = np.isfinite(leaf.reward[b])
    for i in range(leaf.obs.shape[1]):
        good = good and np.isfinite(leaf.obs[b, i])
    if leaf.terminated[b]:
        return good
    for a in range(leaf.logits.shape[1]):
        good = good and (np.isfinite(leaf.logits[b, a]) or not _allowed(leaf, b, a))
    return good and np.isfinite(leaf.value[b])


@njit(cache=True, error_model="numpy")
def _allowed(leaf: LeafArrays, b: int, a: int) -> bool:
    """No mask forbids the action, nor a prior of 0."""
    return leaf.mask[b, a] and leaf.logits[b, a] != -np.inf


@njit(cache=True, error_model="numpy")
def _any_allowed(leaf: LeafArrays, b: int) -> bool:
    for a in range(leaf.mask.shape[1]):  # noqa: SIM110 (numba compiles no generators)
        if _allowed(leaf, b, a):
            return True
    return False


@njit(cache=True, error_model="numpy")
def _any(mask: Array) -> bool:
    for m in mask:  # noqa: SIM110 (numba compiles no generators)
        if m:
            return True
    return False
