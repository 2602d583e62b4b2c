"""The laws of planners, checked on a planner that is given: on the user's problem and on small probes."""

from typing import Any

import torch
from torch import Tensor

from planners.box import Box
from planners.dynamics import FunctionDynamics
from planners.planner import Plan, Planner
from planners.problem import Problem, evaluate_plans
from planners.rows import first_leaf
from planners.testing.discrete import check_discrete
from planners.testing.laws import (
    copy,
    named_leaves,
    no_global_randomness,
    require,
    require_rows,
    require_same,
    seeded,
    with_nan_rows,
    with_other_rows,
)
from planners.testing.references import cliff_reference, hazard


def check_planner(planner: Planner[Any], problem: Problem, start: Any, *, seed: int = 0) -> None:
    """Check the laws of `Planner`.

    On `problem`: shapes of Plan, memory and info; bounds (where the planner has a `box`); inputs are not written to;
    the same generator state gives the same plan and nothing else is drawn from; other batch elements' contents never
    change an element's plan; a plan that is stopped at once after `advance` is the old one shifted by one step; `value`
    is the score of `actions` where the problem is deterministic. On probes with the planner's box and horizon: it
    improves on its start, rewards after an end count for nothing, candidates with a NaN or infinite reward or
    observation never win, and an element without a valid candidate has `valid` False and `value` -inf and leaves its
    neighbours and its own memory intact. Planners of discrete actions meet like probes (`testing.discrete`), with
    as many actions as their field `actions` says, or two.

    Args:
        planner: the part to check. With a budget of dozens of candidates or more: the probes need no luck then.
        problem: what it is for.
        start: states [batch, ...] of the problem's dynamics, at least two and not all alike.
        seed: of the generators that the checks use.

    Raises:
        AssertionError: a law is broken; the message says which, where and by how much.
        ValueError: `start` has fewer than two elements.
    """
    batch = len(first_leaf(start))
    if batch < 2:
        raise ValueError(f"start: expected a batch of at least 2 states, got {batch}")
    plan = _check_plan(planner, problem, start, seed)
    _check_neighbours(planner, problem, start, plan, seed)
    _check_action(planner, problem, start, plan)
    _check_shift(planner, problem, start, plan, seed)
    if not plan.actions.is_floating_point():
        check_discrete(planner, getattr(planner, "actions", 2), plan.value, seed)
        return
    box = _box(planner, plan)
    horizon, like = plan.actions.shape[1], plan.actions
    _check_refines(planner, box, like, seed)
    _check_end(planner, box, horizon, like, seed)
    for bad in ("reward NaN", "reward inf", "observation NaN", "observation inf"):
        _check_invalid(planner, box, like, bad, seed)
    _check_all_invalid(planner, box, like, seed)


def _plan(planner: Planner[Any], problem: Problem, start: Any, seed: int, memory: Any = None) -> Plan:
    generator = seeded(seed, first_leaf(start).device)
    if memory is None:
        memory = planner.init(problem, start, generator=generator)
    return planner.plan(problem, start, memory, generator=generator)


def _stopped(planner: Planner[Any], problem: Problem, start: Any, memory: Any, seed: int) -> Plan:
    generator = seeded(seed, first_leaf(start).device)
    return planner.plan(problem, start, memory, generator=generator, stop=lambda: True)


def _check_plan(planner: Planner[Any], problem: Problem, start: Any, seed: int) -> Plan:
    generator = seeded(seed, first_leaf(start).device)
    batch = len(first_leaf(start))
    with no_global_randomness("init"):
        memory = planner.init(problem, start, generator=generator)
    require(hasattr(memory, "_fields"), f"Memory is a NamedTuple of tensors: init returned a {type(memory).__name__}.")
    require_rows(memory, batch, "memory")
    before, again, asked = copy((start, memory)), generator.clone_state(), 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return False

    with no_global_randomness("plan"):
        plan = planner.plan(problem, start, memory, generator=generator, stop=stop)
    require(asked > 0, "A plan is anytime: `stop` must be asked between iterations, and it was never called.")
    require_same("Inputs are not written to", "(start, memory) of plan", (start, memory), before, exact=True)
    _check_fields(planner, plan, batch)
    require_rows(plan.memory, batch, "memory", like=memory)
    second = planner.plan(problem, start, memory, generator=again)
    require_same("The same generator state gives the same plan", "plan", _result(second), _result(plan), exact=True)
    _check_value(problem, start, plan, seed)
    return plan


def _result(plan: Plan) -> tuple[Any, ...]:
    return plan.actions, plan.value, plan.valid, plan.memory


def _check_fields(planner: Planner[Any], plan: Plan, batch: int) -> None:
    require(isinstance(plan, Plan), f"plan returns a Plan: it returned a {type(plan).__name__}.")
    discrete = plan.actions.dtype == torch.long
    require(
        plan.actions.dim() == (2 if discrete else 3) and len(plan.actions) == batch and plan.actions.shape[1] > 0,
        f"Plan.actions is [batch, horizon, act], or long [batch, horizon]: expected a batch of {batch}, "
        f"got {plan.actions.dtype} {list(plan.actions.shape)}.",
    )
    for name, field, kind in (("value", plan.value, "floating-point"), ("valid", plan.valid, "bool")):
        right = field.is_floating_point() if name == "value" else field.dtype == torch.bool
        require(
            right and field.shape == (batch,),
            f"Plan.{name} is one {kind} number an element: expected [{batch}], got {field.dtype} {list(field.shape)}.",
        )
    require(hasattr(plan.info, "_fields"), f"Plan.info is a NamedTuple of tensors, it is a {type(plan.info).__name__}.")
    require_rows(plan.info, batch, "info")
    require(
        bool((plan.value.isfinite() == plan.valid).all()) and not bool((plan.value == torch.inf).any()),
        f"Plan.value is finite where the plan is valid and -inf elsewhere: {plan.value.tolist()}, valid "
        f"{plan.valid.tolist()}.",
    )
    require(
        bool(plan.actions.isfinite().all()), "Actions are finite, in invalid plans too: Plan.actions holds NaN or inf."
    )
    if not discrete:
        _require_bounds("Plan.actions", plan.actions, getattr(planner, "box", None))


def _require_bounds(name: str, actions: Tensor, box: Box | None) -> None:
    if box is None:
        return
    over = torch.maximum(box.low.to(actions) - actions, actions - box.high.to(actions))
    require(
        bool((over <= 0).all()),
        f"Actions stay within the box: {name} leaves {box} by {float(over.max()):.3g}.",
    )


def _check_value(problem: Problem, start: Any, plan: Plan, seed: int) -> None:
    """Where two generators give the same score, the problem has no luck in it, and the score is the value."""
    if not plan.actions.is_floating_point():
        return
    device = plan.actions.device
    one, two = (
        evaluate_plans(problem, start, plan.actions.unsqueeze(1), generator=seeded(seed + k, device)) for k in (1, 2)
    )
    if torch.equal(one.scores, two.scores):
        expected = torch.where(plan.valid, one.scores[:, 0], -torch.inf)
        require_same("Plan.value is the score of Plan.actions", "value", plan.value, expected.to(plan.value))


def _check_neighbours(planner: Planner[Any], problem: Problem, start: Any, plan: Plan, seed: int) -> None:
    index = torch.arange(len(plan.value), device=plan.value.device)
    for half in (0, 1):
        keep = index % 2 == half
        other = _plan(planner, problem, with_other_rows(start, keep, 1), seed)
        law = "Other batch elements' contents never change an element's plan"
        require_same(law, "plan", _result(other), _result(plan), rows=keep)


def _check_action(planner: Planner[Any], problem: Problem, start: Any, plan: Plan) -> None:
    batch, horizon = plan.actions.shape[:2]
    first = torch.zeros(batch, dtype=torch.long, device=plan.actions.device)
    action = planner.action(problem, plan, first, start)
    require_same(
        "The action at age 0, in the state planned from, is the plan's first", "action", action, plan.actions[:, 0]
    )
    ages = torch.arange(batch, device=plan.actions.device) % horizon
    action = planner.action(problem, plan, ages, start)
    require(
        action.shape == plan.actions[:, 0].shape,
        f"action gives one action an element: expected {list(plan.actions[:, 0].shape)}, got {list(action.shape)}.",
    )
    if action.is_floating_point():
        _require_bounds("action", action, getattr(planner, "box", None))


def _check_shift(planner: Planner[Any], problem: Problem, start: Any, plan: Plan, seed: int) -> None:
    """The plan that a memory holds is what `plan` returns when it is stopped at once."""
    old = _stopped(planner, problem, start, plan.memory, seed)
    again = _stopped(planner, problem, start, old.memory, seed)
    require_same("plan refines and never shifts", "actions", again.actions, old.actions)
    before, action = copy(plan.memory), plan.actions[:, 0]
    with no_global_randomness("advance"):
        memory = planner.advance(problem, plan.memory, action, start)
    require_same("Inputs are not written to", "memory of advance", plan.memory, before, exact=True)
    require_rows(memory, len(plan.value), "memory", like=plan.memory)
    generator = seeded(seed, first_leaf(start).device)
    state = problem.dynamics.assign(start, 1, generator=generator)
    state, _ = problem.dynamics.step(state, action, generator=generator)
    new = _stopped(planner, problem, state, memory, seed)
    law = "advance shifts the warm start by one step: plan, stopped at once, must return the old actions one step later"
    require_same(law, "actions", new.actions[:, :-1], old.actions[:, 1:])
    if new.actions.is_floating_point():
        _require_bounds("the shifted plan", new.actions, getattr(planner, "box", None))


def _box(planner: Planner[Any], plan: Plan) -> Box:
    box = getattr(planner, "box", None)
    return box if isinstance(box, Box) else Box(-1.0, 1.0, dim=plan.actions.shape[2])


def _check_refines(planner: Planner[Any], box: Box, like: Tensor, seed: int) -> None:
    """A point that the actions push about, to be brought to the origin: any planner can do better than its start."""
    center, span = box.center.to(like), box.range.to(like)

    def transition(x: Tensor, u: Tensor) -> Tensor:
        return x + (u - center) / span

    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return -next_x.square().sum(-1)

    problem = Problem(FunctionDynamics(transition, reward))
    start = torch.linspace(1.0, 2.0, 2).to(like)[:, None].repeat(1, box.dim)
    memory = planner.init(problem, start, generator=seeded(seed, like.device))
    held = _stopped(planner, problem, start, memory, seed)
    plan = _plan(planner, problem, start, seed, memory)
    _check_fields(planner, plan, 2)
    _check_value(problem, start, plan, seed)
    _check_shift(planner, problem, start, plan, seed)
    require(
        bool((plan.value > held.value).all()),
        f"plan refines what memory holds: where going to the origin pays, its value went from {held.value.tolist()} "
        f"to {plan.value.tolist()}.",
    )


def _check_end(planner: Planner[Any], box: Box, horizon: int, like: Tensor, seed: int) -> None:
    problem, start, _, best = cliff_reference(horizon, box, dtype=like.dtype, device=like.device)
    plan = _plan(planner, problem, start, seed)
    law = "Rewards after an end count for nothing"
    require(
        bool((plan.value <= best * (1 + 1e-5)).all()),
        f"{law}: the return cannot be above {float(best[0])}, Plan.value is {plan.value.tolist()}.",
    )
    stayed = plan.actions[:, 0, 0] <= box.center[0].to(plan.actions)
    require(
        bool(stayed.all()),
        f"{law}: ending the episode pays 0.5 and staying {float(best[0])}; the planner ended it.",
    )
    require_same(law, "value", plan.value, best)


def _check_invalid(planner: Planner[Any], box: Box, like: Tensor, bad: str, seed: int) -> None:
    law = f"Invalid candidates score -inf and never win ({bad})"
    problem, start = hazard(box, bad), like.new_zeros(2, 4)
    memory = planner.init(problem, start, generator=seeded(seed, like.device))
    held = _stopped(planner, problem, start, memory, seed)
    plan = _plan(planner, problem, start, seed, memory)
    _check_fields(planner, plan, 2)
    require(
        bool(plan.valid.all()) and bool((plan.actions[:, 0, 0] <= box.center[0].to(like)).all()),
        f"{law}: half of the box is valid, but the plan has valid {plan.valid.tolist()}, value "
        f"{plan.value.tolist()} and first actions {plan.actions[:, 0].tolist()}.",
    )
    _check_value(problem, start, plan, seed)
    require(
        bool((plan.value > held.value).all()),
        f"{law}: low actions are valid and pay, but the value went from {held.value.tolist()} "
        f"to {plan.value.tolist()}.",
    )


def _check_all_invalid(planner: Planner[Any], box: Box, like: Tensor, seed: int) -> None:
    problem, start = hazard(box, "reward NaN"), like.new_zeros(3, 4)
    well = _plan(planner, problem, start, seed)
    start[1, 3] = 1.0
    plan = _plan(planner, problem, start, seed)
    law = "Where every candidate of an element is invalid, valid is False and value -inf"
    _check_fields(planner, plan, 3)
    require(
        not bool(plan.valid[1]) and float(plan.value[1]) == -torch.inf,
        f"{law}: valid {bool(plan.valid[1])} and value {float(plan.value[1])}.",
    )
    neighbours = torch.tensor([True, False, True], device=like.device)
    law = "An invalid element never changes its neighbours' plans"
    require_same(law, "plan", _result(plan), _result(well), rows=neighbours)
    nan_start = with_nan_rows(start, neighbours)
    require_same(law, "plan", _result(_plan(planner, problem, nan_start, seed)), _result(well), rows=neighbours)
    for path, leaf in named_leaves(plan.memory, "memory"):
        require(
            not leaf.is_floating_point() or bool(leaf.isfinite().all()),
            f"An invalid element leaves its memory usable: {path} holds NaN or inf.",
        )
