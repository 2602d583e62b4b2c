"""The parts of a search on tensors: every tree of the batch takes the same step at once, on any device."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from planners.dynamics import Step
from planners.mcts.evaluators import Leaf
from planners.mcts.policies import GUMBEL, Edges, Rule, choose, halve
from planners.mcts.tree import NONE, Tree


class Root(NamedTuple):
    """What the rule needs at the root."""

    noise: Float[Tensor, "batch actions"]
    """Gumbel noise."""
    base: Int[Tensor, "batch actions"]
    """Visits when the plan began."""
    turns: Int[Tensor, "batch simulations"]
    """Sequential halving's schedule."""


class Arrival(NamedTuple):
    """Where a simulation leaves the tree."""

    slot: Int[Tensor, "batch"]
    action: Int[Tensor, "batch"]
    depth: Int[Tensor, "batch"]
    """Of the node in `slot`; the root's is 0."""
    place: Int[Tensor, "batch"]
    """Where the node's state is: the slot, counted through all trees."""


class Limits(NamedTuple):
    horizon: int
    """Nodes are stored at depths below it."""
    discount: float


class FullLeaf(NamedTuple):
    """A leaf with nothing left out, in float64."""

    logits: Float[Tensor, "rows actions"]
    """Logarithm of the prior probabilities; 0 where an action is not valid."""
    value: Float[Tensor, "rows"]
    mask: Bool[Tensor, "rows actions"]
    sign: Float[Tensor, "rows"]
    good: Bool[Tensor, "rows"]
    """The evaluation is finite."""


def fill(leaf: Leaf) -> FullLeaf:
    """Priors as normalised logarithms; no mask: actions with a prior are valid; no sign: the side to move maximises."""
    logits, value = leaf.logits.double(), leaf.value.double()
    mask = logits != -torch.inf if leaf.mask is None else leaf.mask & (logits != -torch.inf)
    sign = torch.ones_like(value) if leaf.sign is None else leaf.sign.double()
    good = value.isfinite() & (logits.isfinite() | ~mask).all(1)
    log_prior = logits.masked_fill(~mask, -torch.inf).log_softmax(1)
    usable = mask & good[:, None]
    return FullLeaf(torch.where(usable, log_prior, 0.0), torch.where(good, value, 0.0), mask, sign, good)


def edges_of(tree: Tree, slot: Int[Tensor, "batch"]) -> Edges:
    """The edges of one node of each tree, seen from its side to move."""
    rows = torch.arange(len(slot), device=slot.device)
    visits, total, sign = tree.visits[rows, slot], tree.total[rows, slot], tree.sign[rows, slot]
    raw = tree.raw[rows, slot]
    return Edges(
        visits=visits,
        q=sign[:, None] * total / visits.clamp(min=1),
        value=sign * (raw + total.sum(1)) / (1 + visits.sum(1)),
        raw=sign * raw,
        logits=tree.logits[rows, slot],
        mask=tree.mask[rows, slot],
    )


class TensorEngine:
    """Selection, insertion and backup on tensors; `tree` is changed in place.

    Its docstrings specify `compiled.CompiledEngine` too.
    """

    def __init__(self, tree: Tree, rule: Rule, root: Root, limits: Limits) -> None:
        self.tree, self.rule, self.root, self.limits = tree, rule, root, limits
        self.rows = torch.arange(len(tree.size), device=tree.size.device)
        self.offsets = self.rows * tree.slots
        self.no_key = torch.zeros_like(tree.size)
        """The key of outcomes where an edge has only one."""
        self.stuck = torch.zeros_like(tree.size, dtype=torch.bool)
        """Trees that met a state without a valid action."""

    def choose(self, slot: Int[Tensor, "batch"], simulation: int) -> Int[Tensor, "batch"]:
        """The rule's action in one node of each tree."""
        edges = edges_of(self.tree, slot)
        action = choose(self.rule, edges)
        if self.rule.kind != GUMBEL:
            return action
        since = edges.visits - self.root.base
        first = halve(self.rule, edges, self.root.noise, since, self.root.turns[:, simulation])
        return torch.where(slot == 0, first, action)

    def descend(self, simulation: int) -> Arrival:
        """Follow the rule from the root to an edge that leads to no node (deterministic models)."""
        slot = torch.zeros_like(self.tree.size)
        action, depth = self.choose(slot, simulation), torch.zeros_like(slot)
        while True:
            child = self.tree.child[self.rows, slot, action]
            inside = child >= 0
            if not bool(inside.any()):
                return Arrival(slot, action, depth, slot + self.offsets)
            slot, depth = torch.where(inside, child, slot), depth + inside
            action = torch.where(inside, self.choose(slot, simulation), action)

    def find(self, arrival: Arrival, key: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
        """The node of this outcome of the edge, or NONE."""
        tree = self.tree
        same = (tree.parent == arrival.slot[:, None]) & (tree.action == arrival.action[:, None])
        same = same & (tree.key == key[:, None])
        same = same & (torch.arange(tree.slots, device=key.device) < tree.size[:, None])
        return torch.where(same.any(1), same.byte().argmax(1), NONE)

    def update(self, arrival: Arrival, key: Int[Tensor, "batch"], step: Step, leaf: Leaf) -> Int[Tensor, "batch"]:
        """Store the node that was reached, where it is to be stored, and add its return to the edges on the way.

        A step or an evaluation that is not finite makes its edge invalid, and the edges to nodes that have no other
        left: they are never taken again, and the simulation counts for nothing.

        Returns:
            The places to write the states to: the last slot, which holds no node, where there is nothing to store.
        """
        tree, rows, full = self.tree, self.rows, fill(leaf)
        alive = tree.mask[:, 0].any(1)
        good = (step.reward + 0 * step.obs.sum(1)).isfinite() & (full.good | step.terminated)
        value = torch.where(step.terminated, 0.0, full.value)
        result = torch.where(good, step.reward.double(), 0.0) + self.limits.discount * value
        new = alive & good & ~step.terminated & (arrival.depth + 1 < self.limits.horizon)
        new = new & (tree.size < tree.slots - 1)
        self.stuck |= alive & good & ~step.terminated & ~full.mask.any(1)
        slot = torch.where(new, tree.size, tree.slots - 1)
        before = tree.child[rows, arrival.slot, arrival.action]
        tree.parent[rows, slot] = arrival.slot
        tree.action[rows, slot] = arrival.action
        tree.sibling[rows, slot] = before
        tree.key[rows, slot] = key
        tree.reward[rows, slot] = torch.where(good, step.reward.double(), 0.0)
        tree.raw[rows, slot] = value
        tree.sign[rows, slot] = full.sign
        tree.logits[rows, slot] = full.logits
        tree.mask[rows, slot] = full.mask
        tree.child[rows, arrival.slot, arrival.action] = torch.where(new, slot, before)
        tree.size.add_(new)
        self._back_up(arrival, result, alive & good)
        if bool((alive & ~good).any()):
            self._invalidate(arrival, alive & ~good)
        return slot + self.offsets

    def _back_up(self, arrival: Arrival, result: Tensor, active: Tensor) -> None:
        tree, rows = self.tree, self.rows
        slot, action = arrival.slot, arrival.action
        while True:
            tree.visits[rows, slot, action] += active
            tree.total[rows, slot, action] += torch.where(active, result, 0.0)
            active = active & (slot > 0)
            if not bool(active.any()):
                return
            result = torch.where(active, tree.reward[rows, slot] + self.limits.discount * result, result)
            action = torch.where(active, tree.action[rows, slot], action)
            slot = torch.where(active, tree.parent[rows, slot], slot)

    def _invalidate(self, arrival: Arrival, dying: Tensor) -> None:
        tree, rows = self.tree, self.rows
        slot, action = arrival.slot, arrival.action
        while bool(dying.any()):
            tree.mask[rows, slot, action] &= ~dying
            dying = dying & (slot > 0) & ~tree.mask[rows, slot].any(1)
            action = torch.where(dying, tree.action[rows, slot], action)
            slot = torch.where(dying, tree.parent[rows, slot], slot)
