"""A whole search compiled: model and evaluator are numba functions of one row (see `native.py`)."""

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from planners.mcts.kernels import Array, Arrays, LeafArrays, RootArrays, descend_one, pick, update_one
from planners.mcts.policies import Rule

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@njit(cache=True)
def uniform(luck: Array) -> float:
    """The next number of a row's random stream `luck`, in [0, 1).

    SplitMix64: Steele, Lea and Flood (2014), https://doi.org/10.1145/2660193.2660195.
    """
    luck[0] += _GOLDEN
    z = luck[0]
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@njit
def simulate(
    t: Arrays,
    states: Array,
    leaf: LeafArrays,
    rule: Rule,
    root: RootArrays,
    luck: Array,
    stuck: Array,
    span: tuple[int, int],
    limits: tuple[int, float],
    drawn: bool,
    transition: Any,
    evaluate: Any,
) -> None:
    """Run the simulations span[0] to span[1] - 1 in every tree.

    Args:
        states: [batch, slots, state].
        leaf: room for one evaluation of each tree; `obs` holds the next state.
        luck: random streams [batch].
        limits: horizon and discount.
        drawn: every step on the way is drawn anew.
    """
    for b in range(len(luck)):
        own = luck[b : b + 1]
        for simulation in range(span[0], span[1]):
            if drawn:
                n, a, depth = _descend_drawn(t, states, leaf, rule, root, simulation, b, own, transition)
            else:
                n, a, depth = descend_one(t, rule, root, simulation, b)
                leaf.reward[b], leaf.terminated[b] = transition(states[b, n], a, leaf.obs[b], own)
            leaf.mask[b] = True
            leaf.logits[b] = 0.0
            leaf.value[b], leaf.sign[b] = evaluate(leaf.obs[b], leaf.logits[b], leaf.mask[b], own)
            slot = update_one(t, leaf, limits[0], limits[1], b, n, a, depth, 0, stuck)
            states[b, slot] = leaf.obs[b]


@njit
def _descend_drawn(
    t: Arrays,
    states: Array,
    leaf: LeafArrays,
    rule: Rule,
    root: RootArrays,
    simulation: int,
    b: int,
    luck: Array,
    transition: Any,
) -> tuple[int, int, int]:
    n, depth = 0, 0
    while True:
        a = pick(t, rule, root, simulation, b, n)
        leaf.reward[b], leaf.terminated[b] = transition(states[b, n], a, leaf.obs[b], luck)
        child = -1 if leaf.terminated[b] else t.child[b, n, a]
        while child >= 0 and not _same(t, states, leaf, b, child):
            child = t.sibling[b, child]
        if child < 0:
            return n, a, depth
        n, depth = child, depth + 1


@njit(cache=True)
def _same(t: Arrays, states: Array, leaf: LeafArrays, b: int, n: int) -> bool:
    if t.reward[b, n] != leaf.reward[b]:
        return False
    for i in range(states.shape[2]):  # noqa: SIM110 (numba compiles no generators)
        if states[b, n, i] != leaf.obs[b, i]:
            return False
    return True


@njit
def step_rows(
    transition: Any, states: Array, actions: Array, next_states: Array, reward: Array, ended: Array, luck: Array
) -> None:
    """One step of every row."""
    for b in range(len(states)):
        reward[b], ended[b] = transition(states[b], actions[b], next_states[b], luck[b : b + 1])


@njit
def evaluate_rows(
    evaluate: Any, states: Array, logits: Array, mask: Array, value: Array, sign: Array, luck: Array
) -> None:
    """The evaluation of every row."""
    for b in range(len(states)):
        value[b], sign[b] = evaluate(states[b], logits[b], mask[b], luck[b : b + 1])


@cache
def make_rollout(transition: Any, actions: int, depth: int, count: int, discount: float) -> Any:
    """An evaluation by rollouts of uniformly random actions (`evaluators.Rollouts`)."""

    @njit
    def evaluate(state: Array, logits: Array, mask: Array, luck: Array) -> tuple[float, float]:
        total = 0.0
        now, then = np.empty_like(state), np.empty_like(state)
        for _ in range(count):
            weight = 1.0
            now[:] = state
            for _ in range(depth):
                reward, terminated = transition(now, int(uniform(luck) * actions), then, luck)
                if not np.isfinite(reward + 0 * then.sum()):
                    break
                total += weight * reward
                if terminated:
                    break
                weight *= discount
                now[:] = then
        return total / count, 1.0

    return evaluate
