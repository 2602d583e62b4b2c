"""iLQR between replans: what its gains are, and what it does with them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from planners import ILQR, MPC, Box, FunctionDynamics, Problem, Reason
from tests.planners.ilqr_cases import PENDULUM, generator, solve, swing

# torch's own, as forward mode is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


def test_feedback_holds_an_unstable_system_between_replans() -> None:
    """A pendulum that is pushed at every step: open loop falls, feedback stays, though the plan is as old."""
    start, horizon = torch.tensor([[0.3, 0.0]], dtype=torch.float64), 30
    end = []
    for feedback in (True, False):
        planner = ILQR(Box(-8.0, 8.0, dim=1), horizon, iterations=20, feedback=feedback)
        mpc, state = MPC(planner, PENDULUM, replan_every=horizon), start
        for _ in range(horizon):
            state = swing(state, mpc.act_from(state)) + 0.01
        end.append(float(state[0, 0].abs()))
    assert end[0] < 0.15
    assert end[1] > 0.6


def test_feedback_is_about_the_state_that_was_planned_from() -> None:
    """A model whose `assign` deals a hidden part: at the state of the plan, the action is the plan's."""

    class Dealt(FunctionDynamics):
        def assign(self, state: Tensor, particles: int, *, generator: torch.Generator) -> Tensor:
            return torch.cat([state[:, :2], torch.full_like(state[:, 2:], 1.5)], -1)

    def moved(x: Tensor, u: Tensor) -> Tensor:
        return torch.cat([x[:, :1] + 0.1 * x[:, 1:2], x[:, 1:2] + 0.1 * u / x[:, 2:], x[:, 2:]], -1)

    problem = Problem(Dealt(moved, lambda x, u, n: -(n[:, :2] ** 2).sum(-1) - 0.01 * u[:, 0] ** 2))
    planner, start = ILQR(Box(-9.0, 9.0, dim=1), horizon=20), torch.tensor([[1.0, 0.0, 0.7]], dtype=torch.float64)
    plan = planner.plan(problem, start, planner.init(problem, start, generator=generator()), generator=generator())
    action = planner.action(problem, plan, torch.zeros(1, dtype=torch.long), start)
    torch.testing.assert_close(action, plan.actions[:, 0])


def test_feedback_stays_in_the_box_and_ignores_what_is_not_finite() -> None:
    planner, start = ILQR(Box(-1.0, 1.0, dim=1), 10), torch.tensor([[0.3, 0.0]] * 3, dtype=torch.float64)
    plan = solve(planner, PENDULUM, start)
    age = torch.zeros(3, dtype=torch.long)
    state = start + torch.tensor([[0.0, 0.0], [9.0, 9.0], [torch.nan, 0.0]], dtype=torch.float64)
    action = planner.action(PENDULUM, plan, age, state)
    torch.testing.assert_close(action[0], plan.actions[0, 0])
    assert action[1].tolist() == [-1.0]
    torch.testing.assert_close(action[2], plan.actions[2, 0])


@pytest.mark.parametrize("bound", [0.1, 0.2, 0.3, 0.7])
def test_a_bound_that_single_precision_rounds_is_a_bound(bound: float) -> None:
    """Actions that lie on it do so exactly: as many iterations, and the gains, of the bound that they can hold."""

    def push(x: Tensor, u: Tensor) -> Tensor:
        return torch.stack([x[:, 0] + 0.1 * x[:, 1], x[:, 1] + 0.1 * u[:, 0]], 1)

    problem = Problem(FunctionDynamics(push, lambda x, u, n: -(n**2).sum(1) - 0.01 * (u**2).sum(1)))
    start, held = torch.tensor([[1.0, 0.0]]), float(np.float32(bound))
    given, rounded = (solve(ILQR(Box(-b, b, dim=1), horizon=40), problem, start) for b in (bound, held))
    assert given.info.reason.tolist() == [Reason.CONVERGED]
    assert float(given.info.gains.abs().max()) > 1.0
    torch.testing.assert_close(given.actions, rounded.actions, rtol=0, atol=1e-6)
    torch.testing.assert_close(given.info.gains, rounded.info.gains)


def test_steps_that_are_refused_leave_the_feedback_of_the_trajectory() -> None:
    """A cost with a kink: no step helps at the end, and regularisation, which grows in vain, takes later gains to 0."""
    reward = lambda x, u, n: -n.square().sum(1) - 0.3 * u.abs().sum(1)  # noqa: E731
    problem = Problem(FunctionDynamics(lambda x, u: x + 0.1 * u, reward))
    start, box = torch.tensor([[2.0]], dtype=torch.float64), Box(-1.0, 1.0, dim=1)
    stuck = solve(ILQR(box, horizon=20, iterations=500), problem, start)
    assert stuck.info.reason.tolist() == [Reason.STUCK]
    assert float(stuck.info.regularization) > 1e9
    once = solve(ILQR(box, horizon=20, iterations=1), problem, start, stuck.actions)
    assert float(once.info.gains.abs().max()) > 1.0
    torch.testing.assert_close(once.info.gains, stuck.info.gains)
    torch.testing.assert_close(once.info.feedforward, stuck.info.feedforward)
