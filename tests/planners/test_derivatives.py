"""Expansions by differences and by torch agree with each other, and with derivatives known by hand."""

import pytest
import torch
from torch import Tensor

from planners import FunctionDynamics, Problem
from planners.derivatives import (
    MAX_ROWS,
    curvature,
    curvature_differences,
    expand_autodiff,
    expand_differences,
    expand_value,
)
from planners.ilqr_model import local_model
from planners.testing import check_smooth

# torch's own, as forward mode is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X, U = random(3, 2, seed=0), random(3, 1, seed=1)


def transition(x: Tensor, u: Tensor) -> Tensor:
    return torch.stack([x[:, 0] + 0.1 * x[:, 1] * u[:, 0], torch.sin(x[:, 0]) + 0.5 * u[:, 0] ** 2], 1)


def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
    return x[:, 0] ** 3 - u[:, 0] ** 2 * x[:, 1] + 0.3 * next_x[:, 0] * x[:, 1]


DYNAMICS = FunctionDynamics(transition, reward)


def test_differences_equal_automatic_differentiation() -> None:
    for got, expected in zip(expand_differences(DYNAMICS, X, U), expand_autodiff(DYNAMICS, X, U), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    check_smooth(FunctionDynamics(transition, reward, derivatives="differences"), X, U)


def test_single_precision_takes_wider_differences() -> None:
    single = expand_differences(DYNAMICS, X.float(), U.float())
    for got, expected in zip(single, expand_autodiff(DYNAMICS, X, U), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-2, atol=1e-2)


def test_second_derivatives_of_the_transition_by_hand() -> None:
    zero, tenth = torch.zeros(3, dtype=torch.float64), torch.full((3,), 0.1, dtype=torch.float64)
    expected = torch.zeros(3, 2, 3, 3, dtype=torch.float64)
    expected[:, 0, 1, 2] = expected[:, 0, 2, 1] = tenth
    expected[:, 1, 0, 0], expected[:, 1, 2, 2] = -torch.sin(X[:, 0]), zero + 1
    torch.testing.assert_close(curvature(DYNAMICS, X, U), expected)
    torch.testing.assert_close(curvature_differences(DYNAMICS, X, U), expected, rtol=1e-5, atol=1e-5)


def test_gauss_newton_leaves_out_what_it_says() -> None:
    """J' H J, where the transition's own curvature is missing: exact where the reward is linear in the next state's
    bent part, short of it by that part."""
    full = expand_autodiff(DYNAMICS, X, U)
    short = expand_differences(DYNAMICS, X, U, reward=reward)
    torch.testing.assert_close(short.reward_gradient, full.reward_gradient, rtol=1e-7, atol=1e-7)
    missing = 0.3 * X[:, 1, None, None] * curvature(DYNAMICS, X, U)[:, 0]
    torch.testing.assert_close(short.reward_hessian + missing, full.reward_hessian, rtol=1e-6, atol=1e-6)


def test_many_rows_in_parts_are_the_same_rows() -> None:
    x, u = random(MAX_ROWS // 3 + 5, 2, seed=2), random(MAX_ROWS // 3 + 5, 1, seed=3)
    whole = expand_autodiff(DYNAMICS, x, u)
    for part, rows in zip(whole, expand_autodiff(DYNAMICS, x[-7:], u[-7:]), strict=True):
        torch.testing.assert_close(part[-7:], rows, rtol=1e-13, atol=1e-13)


def test_a_value_is_expanded_with_or_without_torch() -> None:
    matrix = random(2, 2, seed=4)

    def value(x: Tensor) -> Tensor:
        return ((x @ matrix) * x).sum(1) + torch.sin(x[:, 0])

    def black_box(x: Tensor) -> Tensor:
        return torch.from_numpy(value(x).detach().numpy())

    gradient = X @ (matrix + matrix.T) + torch.stack([torch.cos(X[:, 0]), 0 * X[:, 0]], 1)
    hessian = (matrix + matrix.T).repeat(3, 1, 1)
    hessian[:, 0, 0] -= torch.sin(X[:, 0])
    for function, tolerance in ((value, 1e-12), (black_box, 1e-5)):
        got = expand_value(DYNAMICS, function, X)
        torch.testing.assert_close(got, (gradient, hessian), rtol=tolerance, atol=tolerance)


def test_the_local_model_has_discounts_and_ends() -> None:
    states, actions = random(2, 4, 2, seed=5), random(2, 3, 1, seed=6)
    alive = torch.tensor([[True, True, True, True], [True, True, False, False]])
    problem = Problem(DYNAMICS, 0.5, terminal_value=lambda x: x.square().sum(1))
    model = local_model(problem, states, actions, alive, second_order=True)
    one = expand_autodiff(DYNAMICS, states[:, 1], actions[:, 1])
    torch.testing.assert_close(model.gradient[1], -0.5 * one.reward_gradient)
    torch.testing.assert_close(model.hessian[1], -0.5 * one.reward_hessian)
    torch.testing.assert_close(model.jacobian[1], torch.cat([one.state_jacobian, one.action_jacobian], 2))
    assert model.curvature is not None
    for part in (model.jacobian, model.gradient, model.hessian, model.curvature):
        assert not bool(part[2, 1].any())  # after the end of the second row
        assert bool(part[2, 0].any())
    torch.testing.assert_close(model.final_gradient[0], -0.125 * 2 * states[0, 3])
    torch.testing.assert_close(model.final_hessian[0], -0.25 * torch.eye(2, dtype=torch.float64))
    assert not bool(model.final_gradient[1].any())
    assert model.finite().tolist() == [True, True]


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"transition": lambda x, u: transition(x, u).detach()}, "transition function.* cut off from its inputs"),
        ({"transition": lambda x, u: torch.tensor(x.numpy() + u.numpy())}, "transition function.* requires grad"),
        ({"reward": lambda x, u, y: torch.tensor(y.numpy().sum(1))}, "reward function"),
        ({"reward": lambda x, u, y: y.detach().sum(1)}, "reward function.* cut off from its inputs"),
    ],
)
def test_functions_that_torch_cannot_differentiate_are_named(functions, message) -> None:
    dynamics = FunctionDynamics(**{"transition": transition, "reward": reward, **functions})
    with pytest.raises(ValueError, match=f"derivatives: torch can't differentiate the {message}"):
        dynamics.expand(X, U)
    dynamics = FunctionDynamics(**{"transition": transition, "reward": reward, **functions}, derivatives="differences")
    assert bool(dynamics.expand(X, U).state_jacobian.isfinite().all())


def test_a_reward_that_is_constant_nearby_is_no_error() -> None:
    dynamics = FunctionDynamics(transition, lambda x, u, y: (y[:, 0] > 0).to(y))
    assert not bool(dynamics.expand(X, U).reward_gradient.any())


def test_an_unknown_kind_of_derivatives_is_named() -> None:
    with pytest.raises(ValueError, match="derivatives: expected"):
        FunctionDynamics(transition, reward, derivatives="magic")  # type: ignore[arg-type]
