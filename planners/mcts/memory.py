"""What tree search keeps from one plan to the next, what it tells about a plan, and what it is told."""

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from planners.mcts.tree import NONE, Tree, blank


class SearchMemory(NamedTuple):
    """The trees, and what belongs to their roots."""

    tree: Tree
    pending: Int[Tensor, "batch"]
    """The action that was executed in the root's state; NONE: none yet."""
    choice: Int[Tensor, "batch"]
    """The action that was chosen at the root; NONE: no simulation has begun there."""
    noise: Float[Tensor, "batch actions"]
    """Exploration noise of the root."""
    noisy: Bool[Tensor, "batch"]
    """`noise` was drawn for this root."""


class SearchInfo(NamedTuple):
    """What was found at the root."""

    visits: Int[Tensor, "batch actions"]
    q: Float[Tensor, "batch actions"]
    """Return after each action, in the sense of the model's rewards: the mean, or the best one (`backup="max"`). NaN
    where the action was never taken, can't be, or was found to be invalid."""
    weights: Float[Tensor, "batch actions"]
    """The policy that the search recommends: shares of visits, or Gumbel's improved policy. Learn from or sample it."""
    value: Float[Tensor, "batch"]
    """Mean return of the root over all simulations but those through actions found to be invalid."""
    nodes: Int[Tensor, "batch"]
    """Size of the tree."""
    full: Bool[Tensor, "batch"]
    """The tree has no free slot: what was found last is counted but not stored. Give more `capacity`."""
    simulations: Int[Tensor, "batch"]
    """Simulations of this plan."""
    length: Int[Tensor, "batch"]
    """How many of the plan's actions the search has taken, one after the other: `MPC` executes no others."""


class Settings(Protocol):
    """What every tree search is told (`planners.mcts.UCT` documents the fields)."""

    @property
    def actions(self) -> int: ...
    @property
    def simulations(self) -> int: ...
    @property
    def horizon(self) -> int: ...
    @property
    def rollout(self) -> int: ...
    @property
    def stochastic(self) -> bool: ...
    @property
    def reuse(self) -> bool: ...
    @property
    def capacity(self) -> int | None: ...
    @property
    def compiled(self) -> bool | None: ...
    @property
    def backup(self) -> str: ...
    @property
    def nodes(self) -> int: ...


def start_memory(settings: Settings, start: Any) -> SearchMemory:
    """Trees without a node."""
    tree = blank(start, settings.actions, settings.nodes)
    none = torch.full_like(tree.size, NONE)
    noise = tree.total.new_zeros(len(none), settings.actions)
    return SearchMemory(tree, none, none.clone(), noise, torch.zeros_like(none, dtype=torch.bool))
