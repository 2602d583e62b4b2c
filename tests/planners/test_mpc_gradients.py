"""Plans of networks carry no gradients, whoever makes them."""

import pytest
import torch

from planners import (
    ICEM,
    ILQR,
    MPC,
    MPPI,
    FunctionDynamics,
    Polished,
    Problem,
)
from planners.rows import leaves
from planners.sampling.proposals import Proposals
from tests.planners.mpc_cases import BOX, OBS, PLANNER, reward, transition

POLICY = torch.nn.Linear(2, 1, dtype=torch.float64)


def networks() -> Problem:
    """Dynamics, reward and terminal value with parameters that require gradients."""
    net, value = (torch.nn.Linear(width, 2, dtype=torch.float64) for width in (3, 2))
    for network in (net, value):
        torch.nn.init.constant_(network.weight, 0.1)
    dynamics = FunctionDynamics(
        lambda x, u: x + 0.1 * net(torch.cat([x, u], 1)).tanh(), lambda x, u, y: -value(y).square().sum(1)
    )
    return Problem(dynamics, terminal_value=lambda x: -value(x).square().sum(1))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, as forward mode is loaded
@pytest.mark.parametrize(
    "planner",
    [
        PLANNER,
        ICEM(BOX, 4),
        MPPI(BOX, 4, population=20, min_std=0.1, proposals=Proposals(lambda obs, generator: POLICY(obs), 2)),
        ILQR(BOX, 4, iterations=3),
        Polished(PLANNER, ILQR(BOX, 4, iterations=3)),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_plans_of_networks_carry_no_gradients(planner) -> None:
    """Else a warm start would hold the graphs of all plans before it."""
    problem, start = networks(), torch.as_tensor(OBS)
    mpc = MPC(planner, problem, delay=1)
    for _ in range(2):
        action = mpc.act_from(start)
    assert not any(leaf.requires_grad for leaf in (action, *leaves(mpc._state)))
    generator = torch.Generator()
    plan = planner.plan(problem, start, planner.init(problem, start, generator=generator), generator=generator)
    assert not any(leaf.requires_grad for leaf in leaves(plan))
    state, _ = problem.dynamics.step(start, plan.actions[:, 0])
    assert state.requires_grad  # whoever steps the model alone may differentiate
    assert not planner.action(problem, plan, torch.ones(3, dtype=torch.long), state).requires_grad


def test_an_mpc_asks_for_no_gradients() -> None:
    """In whatever its planner asks of the model, and in predictions of its own."""
    grads = []

    class Watched(FunctionDynamics):
        def step(self, state, action, *, generator=None):
            grads.append(torch.is_grad_enabled())
            return super().step(state, action, generator=generator)

    MPC(PLANNER, Problem(Watched(transition, reward)), delay=1).act(OBS)
    assert len(grads) > 1
    assert not any(grads)
