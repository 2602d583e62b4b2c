"""Probes for planners of discrete actions: small trees whose best action is known."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from planners.dynamics import FunctionDynamics
from planners.planner import Plan, Planner
from planners.problem import Problem
from planners.testing.laws import named_leaves, require, require_same, seeded, with_nan_rows


def check_discrete(planner: Planner[Any], actions: int, like: Tensor, seed: int) -> None:
    """The probes of `check_planner` for `actions` discrete actions; an `evaluator` of the planner is left out of them.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    if is_dataclass(planner) and any(field.name == "evaluator" for field in fields(planner)):
        planner = replace(planner, evaluator=None)
    _check_pays(planner, actions, like, seed)
    _check_end(planner, actions, like, seed)
    for bad in (torch.nan, torch.inf):
        for in_reward in (True, False):
            _check_invalid(planner, actions, like, seed, bad, in_reward)
    _check_all_invalid(planner, actions, like, seed)


def _plan(planner: Planner[Any], problem: Problem, start: Tensor, seed: int) -> Plan:
    generator = seeded(seed, start.device)
    return planner.plan(problem, start, planner.init(problem, start, generator=generator), generator=generator)


def _check_pays(planner: Planner[Any], actions: int, like: Tensor, seed: int) -> None:
    """One step, after which the episode ends: the last action pays 1, the others nothing."""

    def pays(x: Tensor, a: Tensor, next_x: Tensor) -> Tensor:
        return (a == actions - 1).to(x)

    plan = _plan(planner, Problem(FunctionDynamics(_count, pays, _after(1))), like.new_zeros(2, 3), seed)
    require(
        bool((plan.actions[:, 0] == actions - 1).all()),
        f"The best action is found: only action {actions - 1} pays, the first ones are {plan.actions[:, 0].tolist()}.",
    )
    require_same("Plan.value is the return after the action", "value", plan.value, torch.ones_like(plan.value))


def _check_end(planner: Planner[Any], actions: int, like: Tensor, seed: int) -> None:
    """Action 0 ends the episode with 0.5 and riches that come too late; the others go on to a second and last step."""

    def transition(x: Tensor, a: Tensor) -> Tensor:
        jumped = ((x[:, 0] == 0) & (a == 0)).to(x)
        return torch.stack([x[:, 0] + 1, torch.maximum(x[:, 1], jumped), x[:, 2]], 1)

    def reward(x: Tensor, a: Tensor, next_x: Tensor) -> Tensor:
        return torch.where(next_x[:, 1] == 0, 1.0, torch.where(x[:, 1] == 0, 0.5, 100.0)).to(x)

    def ends(x: Tensor, a: Tensor, next_x: Tensor) -> Tensor:
        return (next_x[:, 1] == 1) | (next_x[:, 0] >= 2)

    plan = _plan(planner, Problem(FunctionDynamics(transition, reward, ends)), like.new_zeros(2, 3), seed)
    law = "Rewards after an end count for nothing"
    require(bool((plan.actions[:, 0] != 0).all()), f"{law}: ending the episode pays 0.5 and staying 2; it was ended.")
    require(bool((plan.value <= 2).all()), f"{law}: no return is above 2, Plan.value is {plan.value.tolist()}.")


def _hazard(bad: float, in_reward: bool, actions: int) -> Problem:
    """Action 0 meets something that is not finite, every action where the last column says so; the others cost 1."""

    def transition(x: Tensor, a: Tensor) -> Tensor:
        hit = (a == 0) | (x[:, 2] != 0)
        seen = torch.zeros_like(x[:, 1]) if in_reward else torch.where(hit, bad, 0.0)
        return torch.stack([x[:, 0] + 1, seen.to(x), x[:, 2]], 1)

    def reward(x: Tensor, a: Tensor, next_x: Tensor) -> Tensor:
        hit = (a == 0) | (x[:, 2] != 0)
        return torch.where(hit, bad if in_reward else 1.0, -1.0).to(x)

    return Problem(FunctionDynamics(transition, reward, _after(2)))


def _check_invalid(planner: Planner[Any], actions: int, like: Tensor, seed: int, bad: float, in_reward: bool) -> None:
    if actions < 2:
        return
    plan = _plan(planner, _hazard(bad, in_reward, actions), like.new_zeros(2, 3), seed)
    require(
        bool(plan.valid.all()) and bool((plan.actions[:, 0] != 0).all()),
        f"Invalid candidates never win ({bad} in the {'reward' if in_reward else 'observation'} after action 0): valid "
        f"{plan.valid.tolist()}, value {plan.value.tolist()}, first actions {plan.actions[:, 0].tolist()}.",
    )


def _check_all_invalid(planner: Planner[Any], actions: int, like: Tensor, seed: int) -> None:
    problem, start = _hazard(torch.nan, True, actions), like.new_zeros(3, 3)
    well = _plan(planner, problem, start, seed)
    start[1, 2] = 1.0
    plan = _plan(planner, problem, start, seed)
    require(
        not bool(plan.valid[1]) and float(plan.value[1]) == -torch.inf,
        "Where every candidate of an element is invalid, valid is False and value -inf: "
        f"valid {bool(plan.valid[1])} and value {float(plan.value[1])}.",
    )
    for path, leaf in named_leaves(plan.memory, "memory"):
        require(
            not leaf.is_floating_point() or bool(leaf.isfinite().all()),
            f"An invalid element leaves its memory usable: {path} holds NaN or inf.",
        )
    neighbours = torch.tensor([True, False, True], device=like.device)
    law = "An invalid element never changes its neighbours' plans"
    for other in (plan, _plan(planner, problem, with_nan_rows(start, neighbours), seed)):
        for name in ("actions", "value", "valid"):
            require_same(law, name, getattr(other, name), getattr(well, name), rows=neighbours)


def _count(x: Tensor, a: Tensor) -> Tensor:
    return torch.cat([x[:, :1] + 1, x[:, 1:]], 1)


def _after(steps: int) -> Any:
    def ends(x: Tensor, a: Tensor, next_x: Tensor) -> Tensor:
        return next_x[:, 0] >= steps

    return ends
