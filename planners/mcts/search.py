"""Monte-Carlo tree search: from the current state s, estimate Q(s, a), the best return after each action a.

A simulation follows a rule from the root to an edge that leads to no node yet, takes that step in the model, asks the
evaluator for the value of what it finds, stores it as a node and adds

    r_t + discount r_t+1 + ... + discount^k V(leaf)

to the edges on the way. Rewards and values are those of one side throughout; where the other side is to move (`sign`),
the rules choose for it. With a stochastic model every edge is drawn anew on the way down, and outcomes that were seen
before lead to their node.
"""

from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from planners.dynamics import Step
from planners.mcts.evaluators import Evaluator, Leaf
from planners.mcts.outcomes import outcome_key, same_observation
from planners.mcts.policies import GUMBEL, PUCT, Edges, Rule, halving_schedule, improved_policy, sigma
from planners.mcts.tensors import Arrival, Limits, Root, TensorEngine, edges_of, fill
from planners.mcts.tree import NONE, Tree, blank, children, clear_last, flat_states, subtree, take_nodes
from planners.planner import Plan
from planners.problem import Problem
from planners.risk import mean
from planners.rows import map_rows, where_rows


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
    """Mean return after each action, in the sense of the model's rewards; NaN where it was never taken."""
    weights: Float[Tensor, "batch actions"]
    """The policy that the search recommends: shares of visits, or Gumbel's improved policy. Learn from or sample it."""
    value: Float[Tensor, "batch"]
    """Mean return of the root over all simulations."""
    nodes: Int[Tensor, "batch"]
    """Size of the tree."""
    full: Bool[Tensor, "batch"]
    """The tree has no free slot: what was found last is counted but not stored. Give more `capacity`."""
    simulations: Int[Tensor, "batch"]
    """Simulations of this plan."""


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
    def nodes(self) -> int: ...


NoiseSource = Callable[[Tensor, Generator], Tensor]
"""(mask [batch, actions], generator) -> noise [batch, actions]."""


def start_memory(settings: Settings, start: Any) -> SearchMemory:
    """Trees without a node."""
    tree = blank(start, settings.actions, settings.nodes)
    none = torch.full_like(tree.size, NONE)
    noise = tree.total.new_zeros(len(none), settings.actions)
    return SearchMemory(tree, none, none.clone(), noise, torch.zeros_like(none, dtype=torch.bool))


def plan_search(
    settings: Settings,
    rule: Rule,
    noise_of: NoiseSource | None,
    evaluator: Evaluator,
    problem: Problem,
    start: Any,
    memory: SearchMemory,
    generator: Generator,
    stop: Callable[[], bool],
) -> Plan:
    """Simulate from `start`, in the subtree that `memory` holds of it, if any."""
    check_problem(problem)
    with torch.no_grad():
        state = problem.dynamics.assign(start, 1, generator=generator)
        obs = problem.dynamics.observe(state)
        luck, seeds = _streams(settings.simulations + 1, generator)
        memory = _reach(problem, memory, obs)
        memory = _plant(memory, state, obs, evaluator, luck.manual_seed(seeds[-1]))
        memory = _draw_noise(memory, noise_of, generator)
        tree, priors = memory.tree, memory.tree.logits[:, 0].clone()
        root = _root(settings, rule, memory)
        if rule.kind == PUCT and noise_of is not None:
            tree.logits[:, 0] = _mixed(priors, memory.noise, tree.mask[:, 0])
        engine = engine_of(settings, tree)(tree, rule, root, Limits(settings.horizon, problem.discount))
        states = flat_states(tree.states)
        arrive = _arrive_drawn if settings.stochastic else _arrive
        done = 0
        while done < settings.simulations and not stop():
            luck.manual_seed(seeds[done])
            arrival, state, key, step = arrive(problem, states, engine, done, luck)
            leaf = evaluator.evaluate(state, step.obs, generator=luck)
            place = engine.update(arrival, key, step, leaf)
            map_rows(partial(_put, place), states, state)
            done += 1
        _check_masks(engine.stuck)
        tree.logits[:, 0] = priors
        clear_last(tree)
        memory = memory._replace(choice=_decide(rule, memory, root, done))
        return _result(settings, rule, memory, obs, done)


def advance_search(problem: Problem, memory: SearchMemory, action: Tensor, start: Any) -> SearchMemory:
    """Note the executed action. Which of its outcomes has happened is told by the next state that is seen."""
    with torch.no_grad():
        memory = _reach(problem, memory, problem.dynamics.observe(start))
        return memory._replace(pending=torch.where(memory.tree.size > 0, action, NONE))


def check_problem(problem: Problem) -> None:
    """Raise ValueError for what a tree search does not do."""
    if problem.particles != 1 or problem.risk is not mean:
        raise ValueError(
            f"problem: tree search maximises the mean over outcomes that it draws itself, got {problem.particles} "
            "particles and another risk measure than the mean, or both; use particles=1 and risk=mean with "
            "stochastic=True, or a sampling planner for risk over particles"
        )


def _streams(count: int, generator: Generator) -> tuple[Generator, list[int]]:
    """A generator and the seeds that it takes: one stream a simulation.

    How many numbers a simulation draws depends on how deep the trees are; the next one must not notice.
    """
    seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=generator.device)
    return Generator(generator.device), seeds.tolist()


def _reach(problem: Problem, memory: SearchMemory, obs: Tensor) -> SearchMemory:
    """The subtree of the outcome whose observation is `obs`; no tree where there is none. A copy."""
    tree, pending = memory.tree, memory.pending
    root = torch.zeros_like(pending)
    moved = (pending >= 0) & (tree.size > 0)
    slot = torch.where(moved, children(tree, root, pending.clamp(min=0)), torch.where(tree.size > 0, root, NONE))
    found = torch.full_like(slot, NONE)
    rows = torch.arange(len(slot), device=slot.device)
    while bool((slot >= 0).any()):
        seen = problem.dynamics.observe(take_nodes(tree.states, slot.clamp(min=0)))
        here = (slot >= 0) & same_observation(seen, obs)
        found = torch.where(here, slot, found)
        slot = torch.where(here | ~moved | (slot < 0), NONE, tree.sibling[rows, slot.clamp(min=0)])
    same = found == 0
    tree = map_rows(lambda x: x.clone(), tree) if bool(same.all()) else subtree(tree, found)
    none = torch.full_like(pending, NONE)
    return memory._replace(
        tree=tree, pending=none, choice=torch.where(same, memory.choice, none), noisy=memory.noisy & same
    )


def _plant(memory: SearchMemory, state: Any, obs: Tensor, evaluator: Evaluator, generator: Generator) -> SearchMemory:
    """Evaluate the root where there is none. Roots hold the state as it is, not as the model foresaw it."""
    tree = memory.tree
    first = torch.zeros_like(tree.size)
    map_rows(
        partial(_put, first + torch.arange(len(first), device=first.device) * tree.slots),
        flat_states(tree.states),
        state,
    )
    missing = tree.size == 0
    if not bool(missing.any()):
        return memory
    leaf = evaluator.evaluate(state, obs, generator=generator)
    _check_leaf(leaf, tree.mask[:, 0])
    full = fill(leaf)
    _check_masks(missing & ~full.mask.any(1))
    good = full.good & obs.isfinite().all(1)
    tree.raw[:, 0] = torch.where(missing, full.value, tree.raw[:, 0])
    tree.sign[:, 0] = torch.where(missing, full.sign, tree.sign[:, 0])
    tree.logits[:, 0] = torch.where(missing[:, None], full.logits, tree.logits[:, 0])
    tree.mask[:, 0] = torch.where(missing[:, None], full.mask & good[:, None], tree.mask[:, 0])
    return memory._replace(tree=tree._replace(size=torch.where(missing, 1, tree.size)))


def _check_leaf(leaf: Leaf, like: Tensor) -> None:
    rows, actions = like.shape
    for name, got, shape in (
        ("logits", leaf.logits, [rows, actions]),
        ("value", leaf.value, [rows]),
        ("mask", leaf.mask, [rows, actions]),
        ("sign", leaf.sign, [rows]),
    ):
        if got is None and name in ("mask", "sign"):
            continue
        if not isinstance(got, Tensor) or list(got.shape) != shape or (got.dtype == torch.bool) != (name == "mask"):
            kind = "bool" if name == "mask" else "floating-point"
            seen = f"{got.dtype} {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
            raise ValueError(f"evaluator: expected {kind} {name} of shape {shape}, got {seen}")


def _check_masks(stuck: Tensor) -> None:
    if bool(stuck.any()):
        row = int(stuck.nonzero()[0, 0])
        raise ValueError(
            f"mask: expected a valid action in every state, got none in a state of batch element {row}; "
            "where nothing can be done any more, the model must say that it is terminated"
        )


def _draw_noise(memory: SearchMemory, noise_of: NoiseSource | None, generator: Generator) -> SearchMemory:
    """Noise belongs to the root: planning on from the same one keeps it."""
    if noise_of is None:
        return memory
    noise = noise_of(memory.tree.mask[:, 0], generator)
    noise = torch.where(memory.noisy[:, None], memory.noise, noise)
    return memory._replace(noise=noise, noisy=torch.ones_like(memory.noisy))


def gumbel_noise(scale: float) -> NoiseSource:
    """Gumbel noise times `scale`, independent for each action."""

    def draw(mask: Tensor, generator: Generator) -> Tensor:
        uniform = torch.rand(mask.shape, generator=generator, device=mask.device, dtype=torch.float64)
        return -scale * (-uniform.clamp(min=1e-300).log()).log()

    return draw


def dirichlet_noise(concentration: float, fraction: float) -> NoiseSource:
    """A draw of the symmetric Dirichlet distribution over the valid actions, times `fraction`."""

    def draw(mask: Tensor, generator: Generator) -> Tensor:
        seed = torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
        # Torch's own gamma distribution takes no generator.
        gamma = np.random.default_rng(int(seed)).gamma(concentration, size=tuple(mask.shape))
        share = torch.where(mask, torch.from_numpy(gamma + 1e-300).to(mask.device), 0.0)
        return fraction * share / share.sum(1, keepdim=True).clamp(min=1e-300)

    return draw


def _mixed(log_prior: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of (1 - fraction) prior + noise, where `noise` sums to the fraction."""
    fraction = noise.sum(1, keepdim=True)
    return torch.where(mask, ((1 - fraction) * log_prior.exp() + noise).log(), 0.0)


def _root(settings: Settings, rule: Rule, memory: SearchMemory) -> Root:
    tree, considered = memory.tree, getattr(settings, "considered", 0)
    base = tree.visits[:, 0].clone()
    if rule.kind != GUMBEL:
        return Root(memory.noise, base, base[:, :0])
    table = [halving_schedule(min(considered, n), settings.simulations) for n in range(settings.actions + 1)]
    turns = torch.tensor(table, dtype=torch.long, device=base.device)
    return Root(memory.noise, base, turns[tree.mask[:, 0].sum(1)])


class Engine(Protocol):
    """`tensors.TensorEngine` documents the parts."""

    tree: Tree
    no_key: Tensor
    stuck: Tensor

    def __init__(self, tree: Tree, rule: Rule, root: Root, limits: Limits) -> None: ...
    def choose(self, slot: Tensor, simulation: int) -> Tensor: ...
    def descend(self, simulation: int) -> Arrival: ...
    def find(self, arrival: Arrival, key: Tensor) -> Tensor: ...
    def update(self, arrival: Arrival, key: Tensor, step: Step, leaf: Leaf) -> Tensor: ...


def engine_of(settings: Settings, tree: Tree) -> type[Engine]:
    """The compiled engine on the CPU, where numba is installed; else the one on tensors.

    Raises:
        ValueError: compiled code was asked for and can't be had.
    """
    here = tree.size.device.type == "cpu"
    if settings.compiled is False or (settings.compiled is None and not (here and _numba_installed())):
        return TensorEngine
    if not here:
        raise ValueError(f"compiled: expected states on the CPU, got {tree.size.device}; use compiled=False there")
    if not _numba_installed():
        raise ValueError(
            'compiled: expected numba to be installed; `pip install "mbrl-planners[fast]"`, or use compiled=False'
        )
    from planners.mcts.compiled import CompiledEngine

    return CompiledEngine


@cache
def _numba_installed() -> bool:
    return find_spec("numba") is not None


def _take(place: Tensor, states: Tensor) -> Tensor:
    return states.index_select(0, place)


def _put(place: Tensor, states: Tensor, values: Tensor) -> Tensor:
    return states.index_copy_(0, place, values)


def _arrive(
    problem: Problem, states: Any, engine: Engine, simulation: int, generator: Generator
) -> tuple[Arrival, Any, Tensor, Step]:
    """Descend to an edge that leads to no node, and take its step: the next state, its key and the step."""
    arrival = engine.descend(simulation)
    state, step = problem.dynamics.step(map_rows(partial(_take, arrival.place), states), arrival.action)
    return arrival, state, engine.no_key, step


def _arrive_drawn(
    problem: Problem, states: Any, engine: Engine, simulation: int, generator: Generator
) -> tuple[Arrival, Any, Tensor, Step]:
    """As `_arrive`, drawing the outcome of every step on the way."""
    slot = torch.zeros_like(engine.tree.size)
    offsets = torch.arange(len(slot), device=slot.device) * engine.tree.slots
    arrival = Arrival(slot, engine.choose(slot, simulation), slot, offsets)
    state, key, step = _draw_step(problem, states, arrival, generator)
    found = engine.find(arrival, key)
    while bool((inside := found >= 0).any()):
        slot = torch.where(inside, found, arrival.slot)
        action = torch.where(inside, engine.choose(slot, simulation), arrival.action)
        arrival = Arrival(slot, action, arrival.depth + inside, slot + offsets)
        drawn = _draw_step(problem, states, arrival, generator)
        state, key, step = where_rows(inside, drawn, (state, key, step))
        found = torch.where(inside, engine.find(arrival, key), NONE)
    return arrival, state, key, step


def _draw_step(problem: Problem, states: Any, arrival: Arrival, generator: Generator) -> tuple[Any, Tensor, Step]:
    state = map_rows(partial(_take, arrival.place), states)
    state, step = problem.dynamics.step(state, arrival.action, generator=generator)
    return state, outcome_key(state, step), step


def _decide(rule: Rule, memory: SearchMemory, root: Root, done: int) -> Tensor:
    """The action to execute: that of the rule after simulations, what was decided before without any."""
    edges = edges_of(memory.tree, torch.zeros_like(memory.choice))
    if rule.kind == GUMBEL and done:
        since = torch.where(edges.mask, edges.visits - root.base, NONE)
        most = since == since.amax(1, keepdim=True)
        scores = root.noise + edges.logits + sigma(rule, edges)
        return scores.masked_fill(~most, -torch.inf).argmax(1)
    favourite = _favourite(edges)
    return favourite if done else torch.where(memory.choice >= 0, memory.choice, favourite)


def _favourite(edges: Edges) -> Tensor:
    """The most visited valid action, the better one of equals; without visits, the one with the highest prior."""
    visits = torch.where(edges.mask, edges.visits, NONE)
    most = visits.amax(1, keepdim=True)
    merit = torch.where(most > 0, edges.q, edges.logits)
    return merit.masked_fill((visits != most) | ~edges.mask, -torch.inf).argmax(1)


def _result(settings: Settings, rule: Rule, memory: SearchMemory, obs: Tensor, done: int) -> Plan:
    tree, choice = memory.tree, memory.choice
    rows = torch.arange(len(choice), device=choice.device)
    visits, total, mask = tree.visits[:, 0], tree.total[:, 0], tree.mask[:, 0]
    edges = edges_of(tree, torch.zeros_like(choice))
    valid = mask.any(1)
    q = torch.where(visits > 0, total / visits.clamp(min=1), torch.nan)
    value = torch.where(visits[rows, choice] > 0, q[rows, choice], tree.raw[:, 0])
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
        value=(tree.sign[:, 0] * edges.value).to(obs),
        nodes=tree.size.clone(),
        full=tree.size >= tree.slots - 1,
        simulations=torch.full_like(choice, done),
    )
    value = torch.where(valid, value, -torch.inf).to(obs)
    return Plan(principal_line(tree, choice, settings.horizon), value, valid, memory, info)


def principal_line(tree: Tree, first: Tensor, horizon: int) -> Int[Tensor, "batch horizon"]:
    """`first`, and from there on the most visited actions, along the most visited outcomes.

    In the last node, where nothing was visited yet, it is the action with the highest prior; beyond it, 0.
    """
    counts = 1 + tree.visits.sum(2)
    index = torch.arange(tree.slots, device=first.device)
    used = index < tree.size[:, None]
    slot, action = torch.zeros_like(first), first
    line = torch.zeros(len(first), horizon, dtype=torch.long, device=first.device)
    inside = tree.size > 0
    for t in range(horizon):
        line[:, t] = torch.where(inside, action, 0)
        outcomes = used & (tree.parent == slot[:, None]) & (tree.action == action[:, None]) & inside[:, None]
        inside = outcomes.any(1)
        if not bool(inside.any()):
            break
        slot = torch.where(outcomes, counts, NONE).argmax(1)
        action = _favourite(edges_of(tree, slot))
    return line
