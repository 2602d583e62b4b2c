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
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from planners.dynamics import Step
from planners.mcts.dynamic_programming import best_values
from planners.mcts.evaluators import Evaluator, Leaf
from planners.mcts.memory import SearchMemory, Settings
from planners.mcts.model import take_step
from planners.mcts.outcomes import outcome_key
from planners.mcts.policies import PUCT, Rule
from planners.mcts.results import decide, principal_line, result_of
from planners.mcts.roots import NoiseSource, check_masks, draw_noise, mixed_priors, plant, reach, root_of
from planners.mcts.tensors import Arrival, Limits, Root, TensorEngine
from planners.mcts.tree import NONE, Tree, clear_last, flat_states
from planners.planner import Plan, never
from planners.problem import Problem
from planners.risk import mean
from planners.rows import first_leaf, map_rows, where_rows

CHUNK = 32
"""Simulations of a native model between two questions whether to stop."""


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
        if not obs.is_floating_point():
            raise ValueError(
                f"obs: expected a floating-point type, which values and weights have too, got {obs.dtype}; convert the "
                "states, or what `observe` returns"
            )
        # Streams of their own for each simulation's descent and for its evaluation: how many numbers a descent draws
        # depends on how deep the trees of the batch are, and what comes after it must not notice.
        shape = (2, settings.simulations + 1)
        seeds = torch.randint(2**63 - 1, shape, generator=generator, device=generator.device).tolist()
        luck = Generator(generator.device).manual_seed(seeds[0][-1])
        memory = reach(memory, state)
        memory = plant(memory, state, obs, evaluator, luck)
        memory = draw_noise(memory, noise_of, generator)
        root, priors = root_of(settings, rule, memory), memory.tree.logits[:, 0].clone()
        if rule.kind == PUCT and noise_of is not None:
            memory.tree.logits[:, 0] = mixed_priors(priors, memory.noise, memory.tree.mask[:, 0])
        done = _simulate(settings, rule, evaluator, problem, memory.tree, root, seeds, luck, stop)
        memory.tree.logits[:, 0] = priors
        clear_last(memory.tree)
        best = _best_values(settings, problem, memory.tree) if settings.backup == "max" else None
        memory = memory._replace(choice=decide(rule, memory, root, best, done))
        return result_of(rule, memory, _line(settings, memory), best, obs, done)


def _simulate(
    settings: Settings,
    rule: Rule,
    evaluator: Evaluator,
    problem: Problem,
    tree: Tree,
    root: Root,
    seeds: list[list[int]],
    luck: Generator,
    stop: Callable[[], bool],
) -> int:
    """Run simulations until all are done or `stop` says so; returns how many.

    Args:
        seeds: of the simulations' descents, and of their evaluations; behind them one of the root's, and one of a
            native search.
        luck: any generator of the right device; its state does not matter.
    """
    compiled, limits, done = use_compiled(settings, tree), Limits(settings.horizon, float(problem.discount)), 0
    if compiled:
        from planners.mcts.native import NativeSearch, native_functions

        if (functions := native_functions(problem, evaluator, settings.stochastic)) is not None:
            luck.manual_seed(seeds[1][-1])  # evaluating the roots has moved it, or not, as neighbours needed
            native = NativeSearch(functions, tree, rule, root, limits, settings.stochastic, luck)
            while done < settings.simulations and not stop():
                end = settings.simulations if stop is never else min(done + CHUNK, settings.simulations)
                native.simulate(done, end)
                done = end
            check_masks(native.stuck)
            return done
    engine = _engine(compiled)(tree, rule, root, limits)
    states, arrive = flat_states(tree.states), _arrive_drawn if settings.stochastic else _arrive
    while done < settings.simulations and not stop():
        luck.manual_seed(seeds[0][done])
        arrival, state, key, step = arrive(problem, states, engine, done, luck)
        if settings.stochastic:
            luck.manual_seed(seeds[1][done])
        leaf = evaluator.evaluate(state, step.obs, generator=luck)
        place = engine.update(arrival, key, step, leaf)
        map_rows(partial(_put, place), states, state)
        done += 1
    check_masks(engine.stuck)
    return done


def _best_values(settings: Settings, problem: Problem, tree: Tree) -> Tensor:
    if not use_compiled(settings, tree):
        return best_values(tree, problem.discount)
    from planners.mcts.compiled import compiled_best_values

    return compiled_best_values(tree, problem.discount)


def _line(settings: Settings, memory: SearchMemory) -> tuple[Tensor, Tensor]:
    if not use_compiled(settings, memory.tree):
        return principal_line(memory.tree, memory.choice, settings.horizon)
    from planners.mcts.compiled import compiled_line

    return compiled_line(memory.tree, memory.choice, settings.horizon)


def advance_search(problem: Problem, memory: SearchMemory, action: Tensor, start: Any) -> SearchMemory:
    """Note the executed action. Which of its outcomes has happened is told by the next state that is seen."""
    with torch.no_grad():
        # As in `plan_search`: states in trees have been assigned. Dynamics that draw there find no subtree again.
        state = problem.dynamics.assign(start, 1, generator=Generator(first_leaf(start).device).manual_seed(0))
        memory = reach(memory, state)
        return memory._replace(pending=torch.where(memory.tree.size > 0, action, NONE))


def check_problem(problem: Problem) -> None:
    """Raise ValueError for what a tree search does not do."""
    if problem.particles != 1 or problem.risk is not mean:
        raise ValueError(
            f"problem: tree search maximises the mean over outcomes that it draws itself, got {problem.particles} "
            "particles and another risk measure than the mean, or both; use particles=1 and risk=mean with "
            "stochastic=True, or a sampling planner for risk over particles"
        )


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


def _engine(compiled: bool) -> type[Engine]:
    if not compiled:
        return TensorEngine
    from planners.mcts.compiled import CompiledEngine

    return CompiledEngine


def use_compiled(settings: Settings, tree: Tree) -> bool:
    """Whether to run compiled code: on the CPU, where numba is installed, unless the settings say no.

    Raises:
        ValueError: compiled code was asked for and can't be had.
    """
    here = tree.size.device.type == "cpu"
    if settings.compiled is None:
        return here and _numba_installed()
    if settings.compiled and not here:
        raise ValueError(f"compiled: expected states on the CPU, got {tree.size.device}; use compiled=False there")
    if settings.compiled and not _numba_installed():
        raise ValueError("compiled: expected numba (the extra `fast`), which is not installed; or use compiled=False")
    return settings.compiled


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
    state, step = take_step(problem, map_rows(partial(_take, arrival.place), states), arrival.action, None)
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
    state, step = take_step(problem, state, arrival.action, generator)
    return state, outcome_key(state, step), step
