"""iLQR on the models of this library: the mean of a learned ensemble, and MuJoCo itself."""

import pytest
import torch
from torch import Tensor

from mbrl.envs import make_env, simulator
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from planners import CEM, ILQR, MPC, Box, Polished, Problem, Reason
from planners.derivatives import curvature_differences
from planners.rows import map_rows, repeat_rows
from planners.testing import check_planner, check_smooth

# torch's own, as forward mode is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

BOX = Box([-1.0, -0.5], [1.0, 2.0])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return -(next_obs - 0.5).square().sum(-1) - 0.01 * action.square().sum(-1)


def learned(dtype: torch.dtype, *, learned_reward: bool = False) -> EnsembleDynamics:
    """An ensemble that nothing was taught: smooth, and of no symmetry."""
    ensemble = GaussianEnsemble(3, 2, members=3, hidden=(16, 16), learned_reward=learned_reward, dtype=dtype)
    return EnsembleDynamics(ensemble, reward=None if learned_reward else reward)


@pytest.mark.parametrize("learned_reward", [False, True])
def test_the_mean_of_an_ensemble_is_smooth(learned_reward: bool) -> None:
    dynamics = learned(torch.float64, learned_reward=learned_reward)
    state = dynamics.reset(torch.randn(4, 3, generator=generator(), dtype=torch.float64))
    action = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    check_smooth(dynamics, state, action)
    torch.testing.assert_close(
        dynamics.curvature(state, action), curvature_differences(dynamics, state, action), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("second_order", [False, True])
def test_ilqr_on_an_ensemble_finds_a_stationary_plan(second_order: bool) -> None:
    dynamics = learned(torch.float64)
    problem, start = Problem(dynamics), dynamics.reset(torch.randn(3, 3, generator=generator(), dtype=torch.float64))
    planner = ILQR(BOX, 8, second_order=second_order, tolerance=1e-12)
    plan = planner.plan(problem, start, planner.init(problem, start, generator=generator()), generator=generator())
    assert plan.info.reason.tolist() == [Reason.CONVERGED] * 3
    actions = plan.actions.clone().requires_grad_()
    state, value = start, torch.zeros(3, dtype=torch.float64)
    for t in range(8):
        state, step = dynamics.step(state, actions[:, t])
        value = value + step.reward
    torch.testing.assert_close(value.detach(), plan.value)
    (gradient,) = torch.autograd.grad(value.sum(), actions)
    moved = BOX.clamp(plan.actions + gradient) - plan.actions
    assert float(moved.abs().max()) < 1e-5


def test_the_laws_of_planners_hold_on_an_ensemble() -> None:
    dynamics = learned(torch.float32)
    start = dynamics.reset(torch.randn(4, 3, generator=generator()))
    check_planner(ILQR(BOX, 4), Problem(dynamics, 0.95), start)
    sampler = CEM(BOX, 4, population=40, elites=6, iterations=2)
    check_planner(Polished(sampler, ILQR(BOX, 4)), Problem(dynamics, 0.95, particles=6), start)


@pytest.mark.parametrize("derivatives", ["differences", "transition_fd"])
def test_ilqr_raises_the_return_of_the_simulator(derivatives) -> None:
    """A cheetah that stands still learns to move within ten iterations; a batch plans as each alone."""
    env = make_env("HalfCheetah-v5")
    model = simulator(env, threads=1)
    model.derivatives = derivatives
    env.reset(seed=0)
    start = repeat_rows(model.state_of(env), 2)
    problem, planner = Problem(model), ILQR(Box.from_space(env.action_space), 10, iterations=5)
    plan = planner.plan(problem, start, planner.init(problem, start, generator=generator()), generator=generator())
    assert bool((plan.value > plan.info.values[:, 0] + 1).all())
    # Differences amplify the last bits, in which products of different rows may differ.
    torch.testing.assert_close(plan.actions[0], plan.actions[1], rtol=0, atol=1e-4)
    assert bool((plan.info.values.diff(dim=1) >= 0).all())
    assert model.diverged == 0
    env.close()


def test_feedback_balances_the_simulated_pendulum_between_replans() -> None:
    env = make_env("InvertedPendulum-v5")
    model = simulator(env, threads=1)
    env.reset(seed=1)
    start = model.state_of(env)

    def upright(before, action: Tensor, after) -> tuple[Tensor, Tensor]:
        value = -(after["qpos"].square().sum(1)) - 0.1 * after["qvel"].square().sum(1) - 0.01 * action[:, 0] ** 2
        return value, torch.zeros(len(value), dtype=torch.bool)

    model.outcome = upright
    end = []
    for feedback in (True, False):
        planner = ILQR(Box.from_space(env.action_space), 25, iterations=10, feedback=feedback)
        mpc, state = MPC(planner, Problem(model), replan_every=25), start
        push = torch.zeros(1, model.tangent.size, dtype=torch.float64)
        push[0, 3] = 0.05  # a gust at every step
        for _ in range(25):
            action = mpc.act_from(state)
            state, _ = model.step(model.retract(state, push), action)
        end.append(float(model.difference(state, map_rows(torch.zeros_like, state))[0, 1].abs()))
    assert end[0] < 0.1
    assert end[1] > 3 * end[0]
    env.close()
