"""MuJoCo's tangent space against MuJoCo's own functions, and derivatives of steps against differences and by hand."""

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from planners import ILQR, Box, FunctionDynamics, Problem
from planners.simulator import SimState, Simulator
from planners.testing import check_planner, check_smooth

# torch's own, as forward mode is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

SLIDER = """
<mujoco>
  <option timestep="0.02" integrator="{integrator}" gravity="0 0 0"/>
  <worldbody><body>
    <joint name="x" type="slide" axis="1 0 0" damping="0.5"/>
    <geom size="0.1" mass="2"/>
  </body></worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1" ctrllimited="true"/></actuator>
</mujoco>"""
BALLS = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body><freejoint/><geom size="0.1" mass="1"/>
      <body pos="0.3 0 0"><joint type="ball" damping="0.1"/><geom size="0.1" pos="0.1 0 0" mass="1"/>
        <body pos="0.3 0 0"><joint name="end" axis="0 1 0"/><geom size="0.1" pos="0.1 0 0" mass="1"/></body>
      </body>
    </body>
  </worldbody>
  <actuator><general joint="end" dyntype="filter" dynprm="0.1" gainprm="2"/></actuator>
</mujoco>"""


def never(reward: Tensor) -> tuple[Tensor, Tensor]:
    return reward, torch.zeros(len(reward), dtype=torch.bool)


def observe(after) -> Tensor:
    return torch.cat([after["qpos"], after["qvel"]], 1)


def to_origin(before, action: Tensor, after) -> tuple[Tensor, Tensor]:
    value = after["qpos"].square().sum(1) + before["qvel"].square().sum(1) * after["qpos"][:, 0]
    return never(-value - 0.1 * action.square().sum(1))


def slider(integrator: str = "Euler", outcome=to_origin, **options) -> Simulator:
    return Simulator(SLIDER.format(integrator=integrator), outcome, observe, 2, 1, **options)


def balls(**options) -> Simulator:
    return Simulator(BALLS, to_origin, observe, 2, 1, **options)


def states(model: Simulator, rows: int, seed: int = 0) -> SimState:
    """Random states, away from the default pose."""
    rng = np.random.default_rng(seed)
    data = mujoco.MjData(model.model)
    physics = []
    for _ in range(rows):
        mujoco.mj_resetData(model.model, data)
        mujoco.mj_integratePos(model.model, data.qpos, rng.normal(size=model.model.nv), 1.0)
        data.qvel[:] = rng.normal(size=model.model.nv)
        if model.model.na:
            data.act[:] = rng.normal(size=model.model.na)
        mujoco.mj_forward(model.model, data)
        full = np.empty(mujoco.mj_stateSize(model.model, int(mujoco.mjtState.mjSTATE_INTEGRATION)))
        mujoco.mj_getState(model.model, data, full, int(mujoco.mjtState.mjSTATE_INTEGRATION))
        physics.append(torch.from_numpy(full))
    return model.at(torch.stack(physics))


def test_moves_and_differences_are_mujocos() -> None:
    model = balls()
    m, state = model.model, states(model, 4)
    for scale in (0.7, 1e-9, 0.0):  # turns of less than half a circle, where the difference is the shortest way
        dx = scale * torch.randn(4, model.tangent.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        moved = model.retract(state, dx)
        back = model.difference(moved, state)
        for row in range(4):
            old, new = (s.physics[row, 1 : 1 + m.nq].numpy().copy() for s in (state, moved))
            expected = old.copy()
            mujoco.mj_integratePos(m, expected, dx[row, : m.nv].numpy(), 1.0)
            np.testing.assert_allclose(new, expected, rtol=0, atol=1e-14)
            velocity = np.zeros(m.nv)
            mujoco.mj_differentiatePos(m, velocity, 1.0, old, new)
            np.testing.assert_allclose(back[row, : m.nv].numpy(), velocity, rtol=0, atol=1e-14)
        torch.testing.assert_close(back, dx, rtol=0, atol=1e-13)
    assert model.tangent.size == 2 * 10 + 1
    np.testing.assert_array_equal(moved.physics[:, 0].numpy(), state.physics[:, 0].numpy())


@pytest.mark.parametrize("make", [slider, balls])
def test_the_laws_of_smooth_models_hold(make) -> None:
    model = make()
    action = torch.tensor([[0.3], [-0.6]], dtype=torch.float64)
    check_smooth(model, states(model, 2), action, gauss_newton=True)


def test_derivatives_of_a_linear_system_by_hand() -> None:
    """m a = u - c v by implicit Euler in the damping: v' = (v + h u/m) / (1 + h c/m), x' = x + h v', twice."""
    model, h, mass, damping = slider(), 0.02, 2.0, 0.5
    shrink = 1 / (1 + h * damping / mass)
    A = np.array([[1, h * shrink], [0, shrink]])
    B = np.array([[h * h * shrink / mass], [h * shrink / mass]])
    state, action = states(model, 2), torch.tensor([[0.3], [1.0]], dtype=torch.float64)  # 1: the limit of the range
    expansion = model.expand(state, action)
    for row in range(2):
        np.testing.assert_allclose(expansion.state_jacobian[row].numpy(), A @ A, rtol=0, atol=1e-8)
        np.testing.assert_allclose(expansion.action_jacobian[row].numpy(), A @ B + B, rtol=0, atol=1e-8)
    # The reward in (x, v, u), with x' linear in them: Gauss and Newton's Hessian is exact but for v^2 x'.
    x, v = state.physics[:, 1], state.physics[:, 2]
    reached = model.step(state, action)[0].physics[:, 1]
    row = torch.from_numpy(np.concatenate([A @ A, A @ B + B], 1)[0])
    unit = torch.eye(3, dtype=torch.float64)
    for i in range(2):
        gradient = -(2 * reached[i] + v[i] ** 2) * row - 2 * v[i] * reached[i] * unit[1] - 0.2 * action[i] * unit[2]
        torch.testing.assert_close(expansion.reward_gradient[i], gradient, rtol=0, atol=1e-7)
        cross = torch.outer(unit[1], row)
        hessian = -2 * torch.outer(row, row) - 2 * v[i] * (cross + cross.T)
        hessian -= 2 * reached[i] * torch.outer(unit[1], unit[1]) + 0.2 * torch.outer(unit[2], unit[2])
        torch.testing.assert_close(expansion.reward_hessian[i], hessian, rtol=0, atol=1e-7)
    assert bool((x != reached).all())


@pytest.mark.parametrize("make", [slider, balls])
def test_transition_fd_agrees_with_differences_of_steps(make) -> None:
    slow, fast = make(), make(derivatives="transition_fd")
    state, action = states(slow, 3), torch.tensor([[0.3], [-0.6], [1.0]], dtype=torch.float64)
    for got, expected in zip(fast.expand(state, action), slow.expand(state, action), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_transition_fd_replaces_an_integrator_that_it_cannot_differentiate() -> None:
    slow, fast = slider("RK4"), slider("RK4", derivatives="transition_fd")
    state, action = states(slow, 2), torch.tensor([[0.3], [-0.6]], dtype=torch.float64)
    for got, expected in zip(fast.expand(state, action), slow.expand(state, action), strict=True):
        torch.testing.assert_close(got, expected, rtol=0.02, atol=1e-3)


def test_worlds_have_derivatives_of_their_own() -> None:
    heavy = mujoco.MjModel.from_xml_string(SLIDER.format(integrator="Euler").replace('mass="2"', 'mass="4"'))
    light = mujoco.MjModel.from_xml_string(SLIDER.format(integrator="Euler"))
    for derivatives in ("differences", "transition_fd"):
        model = slider(worlds=[light, heavy], derivatives=derivatives)
        state = model.assign(states(model, 2), 2, generator=torch.Generator())
        push = model.expand(state, torch.zeros(2, 1, dtype=torch.float64)).action_jacobian[:, 1, 0]
        torch.testing.assert_close(push[0] / push[1], torch.tensor(2.0, dtype=torch.float64), rtol=0.02, atol=0)


def test_a_reward_of_observations_stands_in_for_the_outcome() -> None:
    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        value = next_obs[:, 0].square() + obs[:, 1].square() * next_obs[:, 0]
        return -value - 0.1 * action.square().sum(1)

    def opaque(before, action: Tensor, after) -> tuple[Tensor, Tensor]:
        return never(to_origin(before, action, after)[0].detach())

    plain = slider()
    state, action = states(plain, 2), torch.tensor([[0.3], [-0.6]], dtype=torch.float64)
    expected = plain.expand(state, action)
    with_fields = {"fields": ("xpos",)}  # then the observation of a moved state needs mj_forward
    for options in ({}, {"derivatives": "transition_fd"}, with_fields):
        model = slider(outcome=opaque, reward=reward, **options)
        for got, wanted in zip(model.expand(state, action), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="outcome: expected a reward that torch can differentiate"):
        slider(outcome=opaque).expand(state, action)


def test_fields_count_in_the_reward() -> None:
    """xpos is a substep old: its slope is that of the position before the last substep."""

    def outcome(before, action: Tensor, after) -> tuple[Tensor, Tensor]:
        return never(-after["xpos"][:, 1, 0].square())

    model = slider(outcome=outcome, fields=("xpos",))
    check_smooth(model, states(model, 2), torch.tensor([[0.3], [-0.6]], dtype=torch.float64), gauss_newton=True)


def test_a_row_that_failed_has_no_derivatives_and_spoils_no_neighbour() -> None:
    for derivatives in ("differences", "transition_fd"):
        model = slider(derivatives=derivatives)
        state, action = states(model, 3), torch.zeros(3, 1, dtype=torch.float64)
        broken = state._replace(ok=torch.tensor([True, False, True]))
        expansion, whole = model.expand(broken, action), model.expand(state, action)
        assert bool(expansion.state_jacobian[1].isnan().all())
        for got, expected in zip(expansion, whole, strict=True):
            torch.testing.assert_close(got[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("derivatives", ["differences", "transition_fd"])
def test_ilqr_brings_the_slider_to_rest(derivatives) -> None:
    def outcome(before, action: Tensor, after) -> tuple[Tensor, Tensor]:
        return never(-(after["qpos"][:, 0] ** 2) - 0.1 * after["qvel"][:, 0] ** 2 - 0.001 * action[:, 0] ** 2)

    model = slider(outcome=outcome, derivatives=derivatives)
    problem, start = Problem(model), states(model, 2)
    planner = ILQR(Box(-1.0, 1.0, dim=1), 40)
    plan = planner.plan(
        problem, start, planner.init(problem, start, generator=torch.Generator()), generator=torch.Generator()
    )
    # The same system as plain matrices, differentiated by torch.
    shrink = 1 / (1 + 0.02 * 0.5 / 2)
    A = torch.tensor([[1, 0.02 * shrink], [0, shrink]], dtype=torch.float64)
    B = torch.tensor([0.02 * 0.02 * shrink / 2, 0.02 * shrink / 2], dtype=torch.float64)

    def transition(x: Tensor, u: Tensor) -> Tensor:
        for _ in range(2):
            x = x @ A.T + u * B
        return x

    plain = Problem(
        FunctionDynamics(transition, lambda x, u, y: -(y[:, 0] ** 2) - 0.1 * y[:, 1] ** 2 - 0.001 * u[:, 0] ** 2)
    )
    x0 = start.physics[:, 1:3]
    expected = planner.plan(
        plain, x0, planner.init(plain, x0, generator=torch.Generator()), generator=torch.Generator()
    )
    torch.testing.assert_close(plan.value, expected.value, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(plan.info.gains, expected.info.gains, rtol=1e-4, atol=1e-4)


def test_the_laws_of_planners_hold_on_the_simulator() -> None:
    model = slider()
    check_planner(ILQR(Box(-1.0, 1.0, dim=1), 3, iterations=30), Problem(model), states(model, 2))


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match='derivatives: expected "differences" or "transition_fd", got \'magic\''):
        slider(derivatives="magic")
    with pytest.raises(ValueError, match=r"derivatives: transition_fd knows no fields, got fields=\('xpos',\)"):
        slider(derivatives="transition_fd", fields=("xpos",))
