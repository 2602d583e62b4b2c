"""Values of a finished tree by dynamic programming: the best action's, not the mean over what was explored.

Means of returns count every simulation that tried a bad action. From the leaves to the root, this puts

    V(s) = max over a of Q(s, a)
    Q(s, a) = (returns of outcomes that are not stored + sum over nodes s' of n(s') (r + discount V(s'))) / N(s, a)

where n(s') counts how often the outcome s' occurred. A node with an untried action keeps its mean. Source: the
maximising backups of MaxUCT and DP-UCT, Keller and Helmert (2013), https://doi.org/10.1609/icaps.v23i1.13557.
Deviation: made once, after the simulations, which follow the means: a maximum over noisy values is too high while
visits are few.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from planners.mcts.tree import Tree


def best_values(tree: Tree, discount: float) -> Float[Tensor, "batch actions"]:
    """Q of the root's actions; 0 where they were not visited."""
    batch, slots, actions = tree.visits.shape
    used = torch.arange(slots, device=tree.size.device) < tree.size[:, None]
    count = (1 + tree.visits.sum(2)).double()
    mean = (tree.raw + tree.total.sum(2)) / count
    parent = tree.parent.clamp(min=0)
    levels = _levels(tree, used)
    total = tree.total.clone()
    for depth in range(int(levels.amax()), 0, -1):
        value = _best(tree, total, mean)
        here = used & (levels == depth)
        change = torch.where(here, discount * count * (value - mean), 0.0)
        edge = parent * actions + tree.action.clamp(min=0)
        total.view(batch, -1).scatter_add_(1, edge, change)
    return total[:, 0] / tree.visits[:, 0].clamp(min=1)


def _best(tree: Tree, total: Tensor, mean: Tensor) -> Tensor:
    q = tree.sign[..., None] * total / tree.visits.clamp(min=1)
    tried = (tree.visits > 0) & tree.mask
    best = tree.sign * q.masked_fill(~tried, -torch.inf).amax(2)
    return torch.where((tried == tree.mask).all(2) & tree.mask.any(2), best, mean)


def _levels(tree: Tree, used: Tensor) -> Tensor:
    """The depth of every node; 0 for free slots."""
    ancestor = torch.where(used, tree.parent, 0).clamp(min=0)
    level = (ancestor.new_ones(()) * (tree.parent >= 0) * used).long()
    for _ in range(tree.slots.bit_length()):
        level = level + level.gather(1, ancestor)
        ancestor = ancestor.gather(1, ancestor)
    return level
