"""How a search chooses among the actions of a node: UCT, PUCT and Gumbel MuZero's rules, on tensors.

With visits N(a), mean returns q(a) and prior probabilities p(a), N = 1 + sum over a of N(a), all seen from the side to
move, and q^ the scaled q, a node chooses the action that maximises

    UCT      q^(a) + 2 C sqrt(2 ln N / N(a)),                                  unvisited actions first;
    PUCT     q^(a) + p(a) sqrt(N) / (1 + N(a)) * (c1 + ln((N + c2 + 1) / c2));
    Gumbel   p'(a) - N(a) / N  with  p' = softmax(ln p + sigma(q)),            and at the root, by sequential halving,
             g(a) + ln p(a) + sigma(q(a))  among the actions whose turn it is, g Gumbel noise.

`kernels.py` holds the same rules for one node at a time.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

UCT, PUCT, GUMBEL = 0, 1, 2


class Rule(NamedTuple):
    """Which rule, and its numbers."""

    kind: int
    """UCT, PUCT or GUMBEL."""
    exploration: float = 0.0
    """C of UCT, c1 of PUCT."""
    base: float = 1.0
    """c2 of PUCT."""
    normalise: bool = True
    """UCT and PUCT: scale q to [0, 1] between the lowest and the highest of the visited actions and of the node."""
    visit_offset: float = 50.0
    """Gumbel: sigma(q) = (visit_offset + max N) * value_scale * (q scaled to [0, 1])."""
    value_scale: float = 0.1


class Edges(NamedTuple):
    """The edges of one node of each tree."""

    visits: Int[Tensor, "batch actions"]
    q: Float[Tensor, "batch actions"]
    """Mean returns, for the side to move; 0 where an action was not visited."""
    value: Float[Tensor, "batch"]
    """Mean return of the node, its own evaluation included, for the side to move."""
    raw: Float[Tensor, "batch"]
    """The evaluator's value, for the side to move."""
    logits: Float[Tensor, "batch actions"]
    mask: Bool[Tensor, "batch actions"]


def choose(rule: Rule, edges: Edges) -> Int[Tensor, "batch"]:
    """The action of every node; 0 where none is valid."""
    scores = (_uct, _puct, _gumbel)[rule.kind](rule, edges)
    return scores.masked_fill(~edges.mask, -torch.inf).argmax(1)


def _uct(rule: Rule, edges: Edges) -> Tensor:
    count = 1 + edges.visits.sum(1, keepdim=True)
    bonus = 2 * rule.exploration * (2 * count.double().log() / edges.visits.clamp(min=1)).sqrt()
    return torch.where(edges.visits > 0, _scaled(rule, edges) + bonus, torch.inf)


def _puct(rule: Rule, edges: Edges) -> Tensor:
    count = 1 + edges.visits.sum(1, keepdim=True).double()
    weight = count.sqrt() * (rule.exploration + ((count + rule.base + 1) / rule.base).log())
    return _scaled(rule, edges) + edges.logits.exp() * weight / (1 + edges.visits)


def _gumbel(rule: Rule, edges: Edges) -> Tensor:
    return improved_policy(rule, edges) - edges.visits / (1 + edges.visits.sum(1, keepdim=True))


def _scaled(rule: Rule, edges: Edges) -> Tensor:
    """q for UCT and PUCT. Unvisited actions get the lowest of the visited, or the node's value if nothing is scaled."""
    visited = (edges.visits > 0) & edges.mask
    if not rule.normalise:
        return torch.where(visited, edges.q, edges.value[:, None])
    low = torch.minimum(torch.where(visited, edges.q, torch.inf).amin(1), edges.value)
    high = torch.maximum(torch.where(visited, edges.q, -torch.inf).amax(1), edges.value)
    span = torch.where(high > low, high - low, 1.0)
    return torch.where(visited, (edges.q - low[:, None]) / span[:, None], 0.0)


def sigma(rule: Rule, edges: Edges) -> Float[Tensor, "batch actions"]:
    """Gumbel MuZero's transform of completed q values, on the scale of logits.

    Unvisited actions count as the mixed value `(raw + sum N * (sum p q / sum p)) / (1 + sum N)`, the inner sums over
    visited actions. Source: Danihelka et al. (2022), equation 33 and appendix D, https://openreview.net/forum?id=bERaNdoegnO.
    """
    visited, count = (edges.visits > 0) & edges.mask, edges.visits.sum(1)
    prior = torch.where(visited, edges.logits.exp(), 0.0)
    weight = prior.sum(1)
    mean = (prior * edges.q).sum(1) / torch.where(weight > 0, weight, 1.0)
    mixed = (edges.raw + count * mean) / (1 + count)
    q = torch.where(visited, edges.q, mixed[:, None])
    low = torch.where(edges.mask, q, torch.inf).amin(1, keepdim=True)
    high = torch.where(edges.mask, q, -torch.inf).amax(1, keepdim=True)
    scaled = (q - low) / torch.where(high > low, high - low, 1.0)
    most = torch.where(edges.mask, edges.visits, 0).amax(1, keepdim=True)
    return torch.where(edges.mask, (rule.visit_offset + most) * rule.value_scale * scaled, 0.0)


def improved_policy(rule: Rule, edges: Edges) -> Float[Tensor, "batch actions"]:
    """softmax(ln p + sigma(q)) over the valid actions; 0 everywhere where none is valid."""
    scores = (edges.logits + sigma(rule, edges)).masked_fill(~edges.mask, -torch.inf)
    weights = (scores - scores.amax(1, keepdim=True)).exp()
    return torch.where(edges.mask, weights / weights.sum(1, keepdim=True), 0.0)


def halve(
    rule: Rule,
    edges: Edges,
    noise: Float[Tensor, "batch actions"],
    since: Int[Tensor, "batch actions"],
    turn: Int[Tensor, "batch"],
) -> Int[Tensor, "batch"]:
    """The root's action in sequential halving: the best of those that were visited `turn` times in this plan.

    Args:
        noise: Gumbel noise of the root.
        since: visits since the plan began.
        turn: the schedule's entry for this simulation (`halving_schedule`).
    """
    due = edges.mask & (since == turn[:, None])
    # Where an invalid action has upset the schedule, the least visited ones take over.
    least = torch.where(edges.mask, since, torch.iinfo(torch.long).max).amin(1, keepdim=True)
    due = torch.where(due.any(1, keepdim=True), due, edges.mask & (since == least))
    return (noise + edges.logits + sigma(rule, edges)).masked_fill(~due, -torch.inf).argmax(1)


def halving_schedule(considered: int, simulations: int) -> list[int]:
    """For each simulation, how often the action that is to be visited has been visited before.

    Sequential halving (Karnin et al. 2013) spends `simulations / ceil(log2 considered)` on each phase and halves the
    actions between phases, down to two. Entry i is all that simulation i needs: among the actions with that many visits
    the best one is next, so actions drop out by never being the best again.
    """
    if considered <= 1:
        return list(range(simulations))
    phases = math.ceil(math.log2(considered))
    schedule: list[int] = []
    remaining, done = considered, 0
    while len(schedule) < simulations:
        for _ in range(max(1, simulations // (phases * remaining))):
            schedule += [done] * remaining
            done += 1
        remaining = max(2, remaining // 2)
    return schedule[:simulations]
