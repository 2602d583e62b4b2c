"""A plan that iLQR polishes is never worse than the sampler's, and goes where neither gets alone."""

import pytest
import torch
from torch import Tensor

from planners import CEM, ILQR, MPC, Box, FunctionDynamics, Polished, Problem
from planners.planner import Plan
from planners.risk import worst
from planners.testing import check_planner

# torch's own, as forward mode is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

BOX = Box(-1.0, 1.0, dim=1)


def two_valleys(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
    """A small hill at 1, near the start at 0.5, and a higher one at -2, narrower than what CEM resolves at once."""
    low, high = torch.exp(-((next_x[:, 0] - 1) ** 2)), 3 * torch.exp(-((next_x[:, 0] + 2) ** 2))
    return low + high - 0.001 * u[:, 0] ** 2


PROBLEM = Problem(FunctionDynamics(lambda x, u: x + u, two_valleys))
START = torch.tensor([[0.5], [0.4]], dtype=torch.float64)


def solve(planner, problem: Problem = PROBLEM, start: Tensor = START) -> Plan:
    generator = torch.Generator().manual_seed(0)
    return planner.plan(problem, start, planner.init(problem, start, generator=generator), generator=generator)


def test_polish_finds_the_floor_of_the_right_valley() -> None:
    sampler, refiner = CEM(BOX, 8, population=100, elites=10, iterations=3), ILQR(BOX, 8, iterations=50)
    coarse, local, both = solve(sampler), solve(refiner), solve(Polished(sampler, refiner))
    assert bool((local.value < 9).all())  # stuck on the small hill: eight steps on its top
    assert bool((coarse.value > 14).all())
    assert bool((both.value > coarse.value + 0.01).all())
    again = refiner.plan(
        PROBLEM,
        START,
        refiner.init(PROBLEM, START, generator=torch.Generator())._replace(actions=both.actions),
        generator=torch.Generator(),
    )
    torch.testing.assert_close(both.value, again.value, rtol=0, atol=1e-7)  # nothing is left to gain
    torch.testing.assert_close(both.info.gain, both.value - coarse.value, rtol=0, atol=1e-12)
    assert both.info.kept.tolist() == [True, True]


def test_a_refinement_that_scores_less_is_thrown_away() -> None:
    """Polish sees the mean; the worst of the noisy particles may like the sampler's plan more."""

    def noise(x: Tensor, u: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    problem = Problem(FunctionDynamics(lambda x, u: x + u, two_valleys, noise=noise), particles=5, risk=worst)
    start = torch.linspace(-3, 1, 12, dtype=torch.float64)[:, None]
    sampler = CEM(BOX, 4, population=60, elites=6, iterations=4)
    plan = solve(Polished(sampler, ILQR(BOX, 4)), problem, start)
    assert set(plan.info.kept.tolist()) == {True, False}
    assert bool((plan.info.gain >= 0).all())
    assert bool((plan.info.ilqr.gains[~plan.info.kept] == 0).all())
    assert bool((plan.info.ilqr.gains[plan.info.kept] != 0).any())


def test_the_next_plan_starts_from_the_polished_one() -> None:
    planner = Polished(CEM(BOX, 8, population=20, elites=4, iterations=1), ILQR(BOX, 8))
    mpc, state = MPC(planner, PROBLEM, seed=0), torch.tensor([[0.5]], dtype=torch.float64)
    for _ in range(8):
        state = state + mpc.act_from(state)
    torch.testing.assert_close(state, torch.tensor([[-2.0]], dtype=torch.float64), rtol=0, atol=0.01)


def test_the_laws_of_planners_hold() -> None:
    planner = Polished(CEM(BOX, 4, population=40, elites=6, iterations=2), ILQR(BOX, 4))
    check_planner(planner, PROBLEM, START)


def test_parts_that_do_not_fit_are_refused() -> None:
    sampler = CEM(BOX, 4)
    with pytest.raises(ValueError, match="ilqr: expected the planner's horizon of 4, got 5"):
        Polished(sampler, ILQR(BOX, 5))
    with pytest.raises(ValueError, match="ilqr: expected the planner's box"):
        Polished(sampler, ILQR(Box(-1.0, 2.0, dim=1), 4))
    with pytest.raises(ValueError, match="ilqr: expected the planner's box"):
        Polished(sampler, ILQR(None, 4, 1))
