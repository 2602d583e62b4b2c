"""Search trees as a struct of arrays: one tree for each batch element, node n of element b in slot [b, n].

A node is a state from which there is something to decide: terminal states, states beyond the horizon and what finds no
free slot are evaluated and never stored. Statistics live on edges, the pairs of a node s and an action a,

    N(s, a) visits   and   Q(s, a) = total(s, a) / N(s, a),   the mean return after taking a in s,

so that an edge of a stochastic model may lead to several nodes, one for each outcome, and an edge without a node counts
all the same. A node was visited 1 + sum over a of N(s, a) times: the first visit evaluated it.
"""

from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from planners.rows import first_leaf, map_rows

State = TypeVar("State")
NONE = -1
"""In place of a node or an action that does not exist."""


class Tree(NamedTuple):
    """The trees of a batch. Statistics are float64 whatever the model computes in: they sum thousands of returns.

    The root is slot 0, parents come before their children, and the last slot holds no node: it takes what rows that
    store nothing write.
    """

    states: Any
    """The model's states, [batch, slots, ...]."""
    parent: Int[Tensor, "batch slots"]
    action: Int[Tensor, "batch slots"]
    """The action that led here from the parent."""
    sibling: Int[Tensor, "batch slots"]
    """The next node that the same action of the same parent led to: another outcome."""
    key: Int[Tensor, "batch slots"]
    """What tells outcomes of the same edge apart (`outcomes.outcome_key`)."""
    reward: Float[Tensor, "batch slots"]
    """Reward of the step that led here."""
    raw: Float[Tensor, "batch slots"]
    """The evaluator's value of the node."""
    sign: Float[Tensor, "batch slots"]
    """1 where the side to move maximises returns, -1 where it minimises them."""
    logits: Float[Tensor, "batch slots actions"]
    """Logarithm of the prior probabilities; 0 where `mask` is False."""
    mask: Bool[Tensor, "batch slots actions"]
    """Actions that can be taken: allowed by the evaluator, and not found to be invalid."""
    visits: Int[Tensor, "batch slots actions"]
    total: Float[Tensor, "batch slots actions"]
    """Sum of the returns after the action."""
    child: Int[Tensor, "batch slots actions"]
    """The first of the nodes that the action leads to."""
    size: Int[Tensor, "batch"]
    """Nodes; 0: there is not even a root."""

    @property
    def slots(self) -> int:
        return self.parent.shape[1]


def blank(start: Any, actions: int, capacity: int) -> Tree:
    """Trees without a node, with room for `capacity` nodes, for states like `start` [batch, ...]."""
    like = first_leaf(start)
    batch, slots, device = len(like), capacity + 1, like.device

    def full(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.full((batch, *shape), value, dtype=dtype, device=device)

    number, real = torch.long, torch.float64
    return Tree(
        states=map_rows(lambda x: x.new_zeros(batch, slots, *x.shape[1:]), start),
        parent=full(NONE, number, slots),
        action=full(NONE, number, slots),
        sibling=full(NONE, number, slots),
        key=full(0, number, slots),
        reward=full(0, real, slots),
        raw=full(0, real, slots),
        sign=full(1, real, slots),
        logits=full(0, real, slots, actions),
        mask=full(False, torch.bool, slots, actions),
        visits=full(0, number, slots, actions),
        total=full(0, real, slots, actions),
        child=full(NONE, number, slots, actions),
        size=full(0, number),
    )


def flat_states(states: State) -> State:
    """A view of all trees' states one after the other: [batch, slots, ...] -> [batch * slots, ...]."""
    return map_rows(lambda x: x.flatten(0, 1), states)


def take_nodes(states: State, slot: Int[Tensor, "batch"]) -> State:
    """The states in the given slots, one of each tree: [batch, slots, ...] -> [batch, ...]."""
    rows = torch.arange(len(slot), device=slot.device)
    return map_rows(lambda x: x[rows, slot], states)


def clear_last(tree: Tree) -> None:
    """Empty the last slot, in place, of what rows that stored nothing have written there."""
    map_rows(lambda x: x[:, -1].zero_(), tuple(tree[:-1]))
    for pointer in (tree.parent, tree.action, tree.sibling, tree.child):
        pointer[:, -1] = NONE
    tree.sign[:, -1] = 1


def children(tree: Tree, slot: Int[Tensor, "batch"], action: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    """The first node that an action leads to, or NONE."""
    rows = torch.arange(len(slot), device=slot.device)
    return tree.child[rows, slot, action]


def subtree(tree: Tree, root: Int[Tensor, "batch"]) -> Tree:
    """What hangs below the node `root` of each tree, with it as the root; a tree without a node where it is NONE.

    Costs O(slots log horizon) for each tree: nodes below `root` are found by doubling the distance to the ancestor.
    """
    index = torch.arange(tree.slots, device=root.device)
    keep = (index == root[:, None]) & (root >= 0)[:, None]
    ancestor, used = tree.parent.clamp(min=0), index < tree.size[:, None]
    for _ in range(tree.slots.bit_length()):
        keep = keep | (keep.gather(1, ancestor) & used)
        ancestor = ancestor.gather(1, ancestor)
    order = (~keep).byte().argsort(dim=1, stable=True)  # kept nodes first, parents before their children still
    place = torch.where(keep, keep.cumsum(1) - 1, NONE)
    size = keep.sum(1)
    free = index >= size[:, None]

    def move(x: Tensor) -> Tensor:
        wide = (...,) + (None,) * (x.dim() - 2)
        return x.gather(1, order[wide].expand_as(x)).masked_fill(free[wide], 0)

    def renumber(pointer: Tensor) -> Tensor:
        pointer = pointer.gather(1, order[(...,) + (None,) * (pointer.dim() - 2)].expand_as(pointer))
        flat = pointer.flatten(1)
        flat = torch.where(flat >= 0, place.gather(1, flat.clamp(min=0)), NONE)
        return torch.where(free[(...,) + (None,) * (pointer.dim() - 2)], NONE, flat.view_as(pointer))

    moved = Tree._make([*[map_rows(move, field) for field in tree[:-1]], size])
    return moved._replace(
        action=moved.action.index_fill(1, index[:1], NONE),
        parent=renumber(tree.parent),
        sibling=renumber(tree.sibling).index_fill(1, index[:1], NONE),
        child=renumber(tree.child),
    )
