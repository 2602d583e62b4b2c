"""What a search makes of its trees: the action to execute, the plan, and what is told about it."""

import torch
from jaxtyping import Int
from torch import Tensor

from planners.mcts.memory import SearchInfo, SearchMemory
from planners.mcts.policies import GUMBEL, Edges, Rule, improved_policy, sigma
from planners.mcts.tensors import Root, edges_of
from planners.mcts.tree import NONE, Tree
from planners.planner import Plan


def decide(rule: Rule, memory: SearchMemory, root: Root, best: Tensor | None, done: int) -> Tensor:
    """The action to execute: that of the rule after simulations, what was decided before without any.

    Args:
        best: Q of the root's actions, to choose by them; None: choose by visits.
    """
    edges = edges_of(memory.tree, torch.zeros_like(memory.choice))
    favourite = _favourite(edges)
    if best is not None and done:
        tried = edges.mask & (edges.visits > 0)
        chosen = (memory.tree.sign[:, :1] * best).masked_fill(~tried, -torch.inf).argmax(1)
        return torch.where(tried.any(1), chosen, favourite)  # nothing else is known where all that was tried is invalid
    if rule.kind == GUMBEL and done:
        since = torch.where(edges.mask, edges.visits - root.base, NONE)
        most = since == since.amax(1, keepdim=True)
        scores = root.noise + edges.logits + sigma(rule, edges)
        return scores.masked_fill(~most, -torch.inf).argmax(1)
    return favourite if done else torch.where(memory.choice >= 0, memory.choice, favourite)


def _favourite(edges: Edges) -> Tensor:
    """The most visited valid action, the better one of equals; without visits, the one with the highest prior."""
    visits = torch.where(edges.mask, edges.visits, NONE)
    most = visits.amax(1, keepdim=True)
    merit = torch.where(most > 0, edges.q, edges.logits)
    return merit.masked_fill((visits != most) | ~edges.mask, -torch.inf).argmax(1)


def result_of(
    rule: Rule, memory: SearchMemory, line: tuple[Tensor, Tensor], best: Tensor | None, obs: Tensor, done: int
) -> Plan:
    """The plan of a search with this `principal_line`, and with `best` as Q of the root's actions; None: the means."""
    tree, choice, (actions, length) = memory.tree, memory.choice, line
    rows = torch.arange(len(choice), device=choice.device)
    visits, total, mask = tree.visits[:, 0], tree.total[:, 0], tree.mask[:, 0]
    edges = edges_of(tree, torch.zeros_like(choice))
    valid = mask.any(1)
    known = mask & (visits > 0)  # what was found to be invalid was visited before, and its mean is no return of a plan
    q = torch.where(known, total / visits.clamp(min=1) if best is None else best, torch.nan)
    mean = (tree.raw[:, 0] + torch.where(known, total, 0.0).sum(1)) / (1 + torch.where(known, visits, 0).sum(1))
    value = torch.where(known[rows, choice], q[rows, choice], tree.raw[:, 0])
    if rule.kind == GUMBEL:
        weights = improved_policy(rule, edges)
    else:
        counts = torch.where(mask, visits, 0).double()
        sums = counts.sum(1, keepdim=True)
        weights = torch.where(sums > 0, counts / sums.clamp(min=1), edges.logits.exp() * mask)
    info = SearchInfo(
        visits=visits.clone(),
        q=q.to(obs),
        weights=weights.to(obs),
        value=mean.to(obs),
        nodes=tree.size.clone(),
        full=tree.size >= tree.slots - 1,
        simulations=torch.full_like(choice, done),
        length=length,
    )
    value = torch.where(valid, value, -torch.inf).to(obs)
    return Plan(actions, value, valid, memory, info)


def principal_line(
    tree: Tree, first: Tensor, horizon: int
) -> tuple[Int[Tensor, "batch horizon"], Int[Tensor, "batch"]]:
    """`first`, and from there on the most visited actions, along the most visited outcomes; and how many were visited.

    In the last node, where nothing was visited yet, it is the action with the highest prior; beyond it, 0.
    """
    counts = 1 + tree.visits.sum(2)
    index = torch.arange(tree.slots, device=first.device)
    used = index < tree.size[:, None]
    rows = torch.arange(len(first), device=first.device)
    slot, action, length = torch.zeros_like(first), first, torch.zeros_like(first)
    line = torch.zeros(len(first), horizon, dtype=torch.long, device=first.device)
    inside = tree.size > 0
    for t in range(horizon):
        line[:, t] = torch.where(inside, action, 0)
        length += inside & (tree.visits[rows, slot, action] > 0)
        outcomes = used & (tree.parent == slot[:, None]) & (tree.action == action[:, None]) & inside[:, None]
        inside = outcomes.any(1)
        if not bool(inside.any()):
            break
        slot = torch.where(outcomes, counts, NONE).argmax(1)
        action = _favourite(edges_of(tree, slot))
    return line, length
