"""The parts of a search compiled by numba: for trees on the CPU, a small batch above all."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from planners.dynamics import Step
from planners.mcts import kernels, kernels_results
from planners.mcts.evaluators import Leaf
from planners.mcts.policies import Rule
from planners.mcts.tensors import Arrival, Limits, Root
from planners.mcts.tree import Tree


def arrays_of(tree: Tree) -> kernels.Arrays:
    """The tree's own memory, but for the states."""
    return kernels.Arrays(*(field.numpy() for field in tree[1:]))


def compiled_line(
    tree: Tree, first: Int[Tensor, "batch"], horizon: int
) -> tuple[Int[Tensor, "batch horizon"], Int[Tensor, "batch"]]:
    """As `results.principal_line`."""
    line, length = torch.zeros(len(first), horizon, dtype=torch.long), torch.zeros_like(first)
    kernels_results.principal_line(arrays_of(tree), first.numpy(), line.numpy(), length.numpy())
    return line, length


def compiled_best_values(tree: Tree, discount: float) -> Float[Tensor, "batch actions"]:
    """As `dynamic_programming.best_values`."""
    q = torch.zeros_like(tree.total[:, 0])
    kernels_results.best_values(arrays_of(tree), float(discount), q.numpy())
    return q


class CompiledEngine:
    """As `tensors.TensorEngine`. `tree` is changed in place: the arrays here are the tensors' own memory."""

    def __init__(self, tree: Tree, rule: Rule, root: Root, limits: Limits) -> None:
        self.tree, self.limits = tree, limits
        self.rule = rule
        self.stuck = torch.zeros_like(tree.size, dtype=torch.bool)
        self.arrays = arrays_of(tree)
        self.root = kernels.RootArrays(*(field.contiguous().numpy() for field in root))
        batch, actions = tree.child.shape[0], tree.child.shape[2]
        self._arrival = Arrival(*(torch.zeros_like(tree.size) for _ in Arrival._fields))
        self._arrays_of_arrival = tuple(part.numpy() for part in self._arrival)
        self._place = torch.zeros_like(tree.size)
        self._place_array, self._stuck_array = self._place.numpy(), self.stuck.numpy()
        self._mask, self._sign = np.ones((batch, actions), dtype=bool), np.ones(batch)
        self.no_key = torch.zeros_like(tree.size)
        self._no_key_array = self.no_key.numpy()

    def choose(self, slot: Int[Tensor, "batch"], simulation: int) -> Int[Tensor, "batch"]:
        action = torch.empty_like(slot)
        kernels.choose(self.arrays, self.rule, self.root, simulation, slot.numpy(), action.numpy())
        return action

    def descend(self, simulation: int) -> Arrival:
        kernels.descend(self.arrays, self.rule, self.root, simulation, *self._arrays_of_arrival)
        return self._arrival

    def find(self, arrival: Arrival, key: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
        found = torch.empty_like(key)
        kernels.find(self.arrays, arrival.slot.numpy(), arrival.action.numpy(), key.numpy(), found.numpy())
        return found

    def update(self, arrival: Arrival, key: Int[Tensor, "batch"], step: Step, leaf: Leaf) -> Int[Tensor, "batch"]:
        found = kernels.LeafArrays(
            _array(step.reward),
            _array(step.obs),
            _array(step.terminated),
            _array(leaf.logits),
            _array(leaf.value),
            self._mask if leaf.mask is None else _array(leaf.mask),
            self._sign if leaf.sign is None else _array(leaf.sign),
        )
        known = arrival is self._arrival  # spares the views: they cost as much as the kernel
        slot, action, depth = self._arrays_of_arrival[:3] if known else (part.numpy() for part in arrival[:3])
        kernels.update(
            self.arrays,
            found,
            self.limits.horizon,
            self.limits.discount,
            slot,
            action,
            depth,
            self._no_key_array if key is self.no_key else key.numpy(),
            self._stuck_array,
            self._place_array,
        )
        return self._place


def _array(x: Tensor) -> Any:
    return (x.detach() if x.requires_grad else x).contiguous().numpy()
