"""The iterations of iLQR, each batch element for itself: expand, solve backwards, search along the step."""

from enum import IntEnum
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from planners.box import Box
from planners.ilqr_model import LocalModel, local_model
from planners.ilqr_passes import Policy, Trajectory, roll, solve_backwards
from planners.problem import Problem
from planners.rows import map_rows, repeat_rows, where_rows

FACTOR, LEAST, MOST = 1.6, 1e-6, 1e10
"""Regularisation changes by growing powers of FACTOR. Below LEAST it is 0, above MOST iLQR gives up."""
ACCEPT = 0.1
"""A step must bring at least this share of the improvement that the model expects of it."""
LENGTHS = 10 ** torch.linspace(0, -3, 11, dtype=torch.float64)


class Reason(IntEnum):
    """Why the iterations of a batch element ended."""

    RUNNING = 0
    CONVERGED = 1
    ITERATIONS = 2
    STOPPED = 3
    STUCK = 4
    DERIVATIVES = 5
    INVALID = 6

    @property
    def sentence(self) -> str:
        """The reason in words."""
        return _SENTENCES[self]


_SENTENCES = {
    Reason.RUNNING: "The iterations go on.",
    Reason.CONVERGED: "The improvement that the local model still expects is below the tolerance.",
    Reason.ITERATIONS: "The budget of iterations is used up.",
    Reason.STOPPED: "The planner was asked to stop.",
    Reason.STUCK: "No step improves the return, however short and however regularised: the model has jumps or wrong "
    "derivatives there, or the precision of its numbers is reached.",
    Reason.DERIVATIVES: "The derivatives along the trajectory are not finite.",
    Reason.INVALID: "The trajectory to start from meets a reward or observation that is not finite.",
}


class Rules(NamedTuple):
    """What `ILQR` was told of how to iterate."""

    box: Box | None
    second_order: bool
    tolerance: float

    def clamp(self, actions: Tensor) -> Tensor:
        """The nearest actions in the box."""
        return actions if self.box is None else self.box.clamp(actions)


class Search(NamedTuple):
    """Where the iterations stand; batch leading, but for the model's leading time."""

    best: Trajectory
    model: LocalModel | None
    """None: the trajectory has moved since."""
    gains: Float[Tensor, "batch horizon act dx"]
    feedforward: Float[Tensor, "batch horizon act"]
    regularization: Float[Tensor, "batch"]
    growth: Float[Tensor, "batch"]
    """The factor by which regularisation changed last."""
    expected: Float[Tensor, "batch"]
    iterations: Int[Tensor, "batch"]
    reason: Int[Tensor, "batch"]

    @property
    def running(self) -> Tensor:
        """Elements that have no reason to end yet."""
        return self.reason == Reason.RUNNING

    def end(self, where: Tensor, reason: Reason) -> "Search":
        """Running elements end with `reason` where `where` says so."""
        return self._replace(reason=torch.where(self.running & where, int(reason), self.reason))


def begin(problem: Problem, start: Any, actions: Tensor, fallback: Tensor) -> Search:
    """Roll `actions` [batch, horizon, act] out; where that is invalid, `fallback`."""
    horizon = actions.shape[1]
    best = roll(problem, start, lambda t, _: actions[:, t], horizon)
    if not bool(best.cost.isfinite().all()):
        other = roll(problem, start, lambda t, _: fallback[:, t], horizon)
        best = where_rows(other.cost < best.cost, other, best)
    dynamics: Any = problem.dynamics
    size = dynamics.difference(start, start).shape[1]
    zero = torch.zeros_like(best.cost)
    reason = torch.where(best.cost.isfinite(), int(Reason.RUNNING), int(Reason.INVALID))
    return Search(
        best=best,
        model=None,
        gains=zero.new_zeros(*actions.shape, size),
        feedforward=zero.new_zeros(actions.shape),
        regularization=zero,
        growth=torch.ones_like(zero),
        expected=zero,
        iterations=torch.zeros_like(reason),
        reason=reason,
    )


def iterate(problem: Problem, start: Any, search: Search, rules: Rules) -> Search:
    """Expand, solve backwards, and take the best acceptable step; or see that there is none to take."""
    best, model = search.best, search.model
    if model is None:
        model = local_model(problem, best.states, best.actions, best.alive, second_order=rules.second_order)
    search = search.end(~model.finite(), Reason.DERIVATIVES)
    search, policy = _solve(search, model, rules)
    search = search.end(policy.failed, Reason.STUCK)

    # What an element that has ended knows of its own last model stays.
    expected = torch.where(search.running, -(policy.linear + policy.quadratic), search.expected)
    search = _with_policy(search._replace(model=model, expected=expected), policy, search.running)
    precision = 10 * torch.finfo(best.actions.dtype).eps if rules.tolerance else 0.0
    threshold = max(rules.tolerance, precision) * (1 + best.cost.abs())
    search = search.end(torch.maximum(expected, policy.residual) <= threshold, Reason.CONVERGED)
    if not bool(search.running.any()):
        return search
    return _step(problem, start, search, policy, rules)


def relax(problem: Problem, search: Search, rules: Rules) -> Search:
    """The policies of elements that have ended, about their trajectories, with as little regularisation as they need.

    What the search for a step added takes feedback to nothing. Where any was stopped, no time is left for another pass.
    """
    ended = sum(search.reason == reason for reason in (Reason.CONVERGED, Reason.STUCK, Reason.ITERATIONS)) > 0
    again = ended & (search.regularization > 0)
    if not bool(again.any()) or bool((search.reason == Reason.STOPPED).any()):
        return search
    best, zero = search.best, torch.zeros_like(search.regularization)
    model = search.model or local_model(problem, best.states, best.actions, best.alive, second_order=rules.second_order)
    afresh = search._replace(
        regularization=zero,
        growth=torch.ones_like(zero),
        reason=torch.where(again, int(Reason.RUNNING), search.reason),
    )
    _, policy = _solve(afresh, model, rules)
    return _with_policy(search, policy, again & ~policy.failed)


def _with_policy(search: Search, policy: Policy, rows: Tensor) -> Search:
    """The elements `rows` have this policy."""
    new = rows[:, None, None]
    return search._replace(
        gains=torch.where(new[..., None], policy.gains.transpose(0, 1), search.gains),
        feedforward=torch.where(new, policy.feedforward.transpose(0, 1), search.feedforward),
    )


def _solve(search: Search, model: LocalModel, rules: Rules) -> tuple[Search, Policy]:
    """The backward pass, with as much regularisation as each element needs."""
    bounds = None
    if rules.box is not None:
        # Bounds as the actions hold them: one that is on a bound is so exactly.
        actions = search.best.actions.transpose(0, 1)
        bounds = tuple((b.to(actions).double() - actions.double())[..., None] for b in (rules.box.low, rules.box.high))
    while True:
        wanted = search.running & (search.regularization < MOST)
        policy = solve_backwards(model, search.regularization, bounds, wanted)  # type: ignore[arg-type]
        again = policy.failed & wanted
        if not bool(again.any()):
            return search, policy
        search = _regularize(search, again, up=True)


def _step(problem: Problem, start: Any, search: Search, policy: Policy, rules: Rules) -> Search:
    """Try all step lengths, and go where it is best among those that are acceptable."""
    best, running = search.best, search.running
    rows, count = len(running), len(LENGTHS)
    lengths = LENGTHS.to(best.cost.device)
    tried = _roll_policy(problem, start, best, policy, lengths, rules)
    cost = tried.cost.view(rows, count)
    promised = -(lengths * policy.linear[:, None] + lengths**2 * policy.quadratic[:, None])
    actual = best.cost[:, None] - cost
    acceptable = (actual > 0) & (actual >= ACCEPT * promised)
    cost, index = torch.where(acceptable, cost, torch.inf).min(1)
    better = running & cost.isfinite()
    index = torch.arange(rows, device=index.device) * count + index
    chosen: Trajectory = map_rows(lambda x: x[index], tried)
    search = _regularize(search, running & ~better, up=True)
    search = _regularize(search, better, up=False)
    search = search._replace(
        best=where_rows(better, chosen, best),
        model=None if bool(better.any()) else search.model,
        iterations=search.iterations + better.long(),
    )
    return search.end(~better & (search.regularization >= MOST), Reason.STUCK)


def _roll_policy(
    problem: Problem, start: Any, best: Trajectory, policy: Policy, lengths: Tensor, rules: Rules
) -> Trajectory:
    """Rollouts with steps of all lengths, the length fastest: [rows * lengths, ...]."""
    dynamics: Any = problem.dynamics
    count = len(lengths)
    base = best.actions.double().transpose(0, 1)[:, :, None] + lengths[:, None] * policy.feedforward[:, :, None]
    nominal, gains = repeat_rows(best.states, count), policy.gains.mT.contiguous()

    def choose(t: int, state: Any) -> Tensor:
        dx = dynamics.difference(state, map_rows(lambda x: x[:, t], nominal)).double()
        action = torch.baddbmm(base[t], dx.view(-1, count, dx.shape[1]), gains[t])
        return rules.clamp(action.flatten(0, 1).to(best.actions.dtype))

    return roll(problem, repeat_rows(start, count), choose, len(base))


def _regularize(search: Search, rows: Tensor, *, up: bool) -> Search:
    """More regularisation, or less, for the elements `rows`: the faster, the more often in a row."""
    old = search.regularization
    if up:
        growth = (search.growth * FACTOR).clamp(min=FACTOR)
        new = (old * growth).clamp(min=LEAST)
    else:
        growth = (search.growth / FACTOR).clamp(max=1 / FACTOR)
        new = torch.where(old * growth < LEAST, 0.0, old * growth)
    return search._replace(regularization=torch.where(rows, new, old), growth=torch.where(rows, growth, search.growth))
