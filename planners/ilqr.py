"""iLQR and DDP: find a locally best action sequence, and how to correct it, from derivatives of the model:

    maximise over u:  sum over t < T of discount^t r(x_t, u_t)  +  discount^T V(x_T),   x_t+1 = f(x_t, u_t),

for the mean transition f. Each iteration expands the problem about the trajectory that it has, solves the resulting
linear-quadratic problem backwards in time for u_t + k_t + K_t (x - x_t), and rolls that policy out with several lengths
of the step k at once. iLQR expands f to first order, DDP to second.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from planners.box import Box
from planners.checks import check_sizes
from planners.ilqr_search import Reason, Rules, begin, iterate, relax
from planners.planner import Plan, never
from planners.problem import Problem
from planners.risk import mean
from planners.rows import first_leaf, map_rows


class ILQRMemory(NamedTuple):
    actions: Float[Tensor, "batch horizon act"]
    """The trajectory to start from."""


class ILQRInfo(NamedTuple):
    """The trajectory, its feedback, and how the iterations went."""

    states: Any
    """Nominal states, [batch, horizon + 1, ...]."""
    gains: Float[Tensor, "batch horizon act dx"]
    """Feedback of the last backward pass: u = actions + gains difference(x, states). 0 before the first one. Where the
    search for a step ended with regularisation, of one more pass with as little of it as will do."""
    feedforward: Float[Tensor, "batch horizon act"]
    """The step of that backward pass."""
    iterations: Int[Tensor, "batch"]
    """Steps taken."""
    reason: Int[Tensor, "batch"]
    """Why no further ones were: `Reason(int(reason[i])).sentence`."""
    expected: Float[Tensor, "batch"]
    """Improvement that the last local model expected of its full step."""
    values: Float[Tensor, "batch iterations+1"]
    """Return before the first and after each iteration; -inf where it is invalid."""
    regularization: Float[Tensor, "batch"]


@dataclass(frozen=True)
class ILQR:
    """iLQR, or DDP, with bounds on the actions. For models that are `Smooth`: it plans on their mean transition.

    Everything is decided by batch element: regularisation, the length of steps, when to end and why (`info.reason`).
    It never raises for want of convergence. Between replans, `action` adds the feedback of the plan. An end is taken
    where the trajectory has it: later steps have no cost, and derivatives don't see that the end could be moved.

    Source: Tassa, Mansard, Todorov (2014), "Control-limited differential dynamic programming",
    https://doi.org/10.1109/ICRA.2014.6907001, and Tassa, Erez, Todorov (2012), section II,
    https://doi.org/10.1109/IROS.2012.6386025. Deviations: all step lengths are tried at once and the best acceptable
    one is taken; the cost to go follows the plain model, not the regularised one; regularisation starts at 0.

    Args:
        box: action bounds; None: none.
        horizon: steps of the trajectory.
        action_dim: number of action dimensions; needed only without a box.
        iterations: at most; `stop` is asked in between.
        second_order: with second derivatives of the dynamics (DDP). Converges quadratically near a solution, but costs
            more an iteration; the dynamics need a method `curvature`, as `FunctionDynamics` has.
        tolerance: an element has converged where the improvement that its model expects is below this times one plus
            its cost; never below ten times the precision of the dynamics' numbers.
        feedback: whether `action` corrects for the deviation from the nominal states.

    Raises:
        ValueError: a number is out of range, or `action_dim` is missing or disagrees with the box.
    """

    box: Box | None
    horizon: int
    action_dim: int | None = None
    iterations: int = 100
    second_order: bool = False
    tolerance: float = 1e-9
    feedback: bool = True

    def __post_init__(self) -> None:
        check_sizes(horizon=self.horizon, iterations=self.iterations)
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance: expected 0 or more, got {self.tolerance}")
        if self.box is None and (self.action_dim is None or self.action_dim < 1):
            raise ValueError(f"action_dim: expected the number of actions, for there is no box, got {self.action_dim}")
        if self.box is not None and self.action_dim not in (None, self.box.dim):
            raise ValueError(f"action_dim: expected {self.box.dim} as in the box, or None, got {self.action_dim}")

    def init(self, problem: Problem, start: Any, *, generator: Generator) -> ILQRMemory:
        like = first_leaf(start)
        return ILQRMemory(self._initial(like).repeat(len(like), self.horizon, 1))

    @torch.no_grad()
    def plan(
        self,
        problem: Problem,
        start: Any,
        memory: ILQRMemory,
        *,
        generator: Generator,
        stop: Callable[[], bool] = never,
    ) -> Plan:
        self._check(problem)
        start = problem.dynamics.assign(start, 1, generator=generator)
        rules = Rules(self.box, self.second_order, self.tolerance)
        fallback = self._initial(memory.actions).expand_as(memory.actions)
        search = begin(problem, start, memory.actions, fallback)
        costs = [search.best.cost]
        for _ in range(self.iterations):
            if stop():
                search = search.end(search.running, Reason.STOPPED)
            if not bool(search.running.any()):
                break
            search = iterate(problem, start, search, rules)
            costs.append(search.best.cost)
        search = relax(problem, search.end(search.running, Reason.ITERATIONS), rules)
        costs += costs[-1:] * (self.iterations + 1 - len(costs))
        best = search.best
        info = ILQRInfo(
            best.states,
            search.gains,
            search.feedforward,
            search.iterations,
            search.reason,
            search.expected,
            -torch.stack(costs, 1),
            search.regularization,
        )
        value = (-best.cost).to(best.actions)
        return Plan(best.actions, value, best.cost.isfinite(), ILQRMemory(best.actions), info)

    def advance(self, problem: Problem, memory: ILQRMemory, action: Tensor, start: Any) -> ILQRMemory:
        return ILQRMemory(torch.cat([memory.actions[:, 1:], memory.actions[:, -1:]], 1))

    @torch.no_grad()
    def action(self, problem: Problem, plan: Plan, age: Tensor, state: Any) -> Tensor:
        rows = torch.arange(len(age), device=age.device)
        action = plan.actions[rows, age]
        if not self.feedback:
            return action
        dynamics: Any = problem.dynamics
        state = dynamics.assign(state, 1, generator=torch.Generator(age.device).manual_seed(0))  # as plans are made
        nominal = map_rows(lambda x: x[rows, age], plan.info.states)
        change = plan.info.gains[rows, age] @ dynamics.difference(state, nominal).double()[:, :, None]
        corrected = action + torch.where(change.isfinite(), change, 0.0)[:, :, 0]
        corrected = corrected.to(action)
        return corrected if self.box is None else self.box.clamp(corrected)

    def _initial(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.action_dim or 0) if self.box is None else self.box.center.to(like)

    def _check(self, problem: Problem) -> None:
        if problem.particles != 1:
            raise ValueError(
                f"particles: expected 1, for iLQR plans on the mean transition, got {problem.particles}; "
                "use CEM, iCEM or MPPI for uncertain models"
            )
        if problem.risk is not mean:
            raise ValueError("risk: expected mean, for iLQR plans on the mean transition; use CEM, iCEM or MPPI")
        wanted = ["difference", "retract", "expand", *(["curvature"] if self.second_order else [])]
        missing = [name for name in wanted if not hasattr(problem.dynamics, name)]
        if missing:
            raise ValueError(
                f"dynamics: expected derivatives, but {type(problem.dynamics).__name__} has no {', '.join(missing)}; "
                'wrap functions as FunctionDynamics, with derivatives="differences" where torch can\'t differentiate '
                "them" + ("; or leave second_order away" if missing == ["curvature"] else "; or use CEM, iCEM or MPPI")
            )
