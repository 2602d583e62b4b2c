"""`FunctionDynamics` at its border, and expansions against derivatives worked out by hand."""

import numpy as np
import pytest
import torch

from planners import MPC, Box, FunctionDynamics, Problem, RandomShooting, evaluate_plans
from planners.derivatives import expand_autodiff
from planners.testing import check_smooth

# torch's own, as forward mode is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

X = torch.tensor([[0.3, -0.2], [1.0, 0.5], [-0.7, 0.1]], dtype=torch.float64)
U = torch.tensor([[0.4], [-0.3], [0.9]], dtype=torch.float64)


def transition(x, u):
    return x + 0.1 * u


def reward(x, u, next_x):
    return -next_x.square().sum(-1)


def test_step_without_noise_is_the_function():
    dynamics = FunctionDynamics(transition, reward, lambda x, u, next_x: next_x[:, 0] > 0.9)
    state, step = dynamics.step(X, U)
    torch.testing.assert_close(state, X + 0.1 * U)
    torch.testing.assert_close(step.obs, state)
    torch.testing.assert_close(step.reward, -(X + 0.1 * U).square().sum(-1))
    assert step.terminated.tolist() == [False, True, False]


def test_episodes_never_terminate_without_a_termination():
    assert FunctionDynamics(transition, reward).step(X, U)[1].terminated.tolist() == [False] * 3


def test_who_marks_ends_in_a_step_marks_them_in_no_other():
    class Fenced(FunctionDynamics):
        """Ends beyond 1."""

        def step(self, state, action, *, generator=None):
            state, step = super().step(state, action, generator=generator)
            step.terminated[state[:, 0] > 1] = True
            return state, step

    problem = Problem(Fenced(lambda x, u: x + u, lambda x, u, next_x: torch.ones_like(x[:, 0])))
    jump_or_stay = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).view(1, 2, 3, 1)
    for actions, scores in ((jump_or_stay, [[1.0, 3.0]]), (0 * jump_or_stay, [[3.0, 3.0]])):
        assert evaluate_plans(problem, torch.zeros(1, 1), actions, generator=torch.Generator())[0].tolist() == scores
    dynamics = FunctionDynamics(transition, reward)
    dynamics.step(X, U)[1].terminated.fill_(True)
    dynamics.unroll(X, U.expand(2, 3, 1), generator=torch.Generator())[1].terminated.fill_(True)
    assert not dynamics.step(X, U)[1].terminated.any()
    assert not dynamics.unroll(X, U.expand(2, 3, 1), generator=torch.Generator())[1].terminated.any()


def test_noise_is_added_with_a_generator_only_and_rewards_see_it():
    dynamics = FunctionDynamics(
        transition, reward, noise=lambda x, u, g: torch.randn(x.shape, generator=g, dtype=x.dtype)
    )
    torch.testing.assert_close(dynamics.step(X, U)[0], transition(X, U))
    state, step = dynamics.step(X, U, generator=torch.Generator().manual_seed(3))
    expected = torch.randn(X.shape, generator=torch.Generator().manual_seed(3), dtype=X.dtype)
    torch.testing.assert_close(state - transition(X, U), expected)
    torch.testing.assert_close(step.reward, -state.square().sum(-1))


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"noise": lambda x, u, g: x[0]}, r"noise: expected shape \[3, 2\], got \[2\]"),
        ({"transition": lambda x, u: x[0]}, r"transition: expected shape \[3, 2\], got \[2\]"),
        ({"transition": lambda x, u: x.float()}, "transition: expected dtype torch.float64, got torch.float32"),
        ({"transition": lambda x, u: x.numpy()}, r"transition: expected a tensor of shape \[3, 2\], got ndarray"),
        ({"reward": lambda x, u, y: y}, r"reward: expected shape \[3\], got \[3, 2\]"),
        ({"reward": lambda x, u, y: y.sum(-1, keepdim=True)}, r"reward: expected shape \[3\], got \[3, 1\]"),
        ({"reward": lambda x, u, y: y.sum()}, r"reward: expected shape \[3\], got \[\]"),
        ({"termination": lambda x, u, y: y > 0}, r"termination: expected shape \[3\], got \[3, 2\]"),
        ({"termination": lambda x, u, y: y[:, 0]}, "termination: expected dtype torch.bool, got torch.float64"),
    ],
)
def test_a_function_that_returns_the_wrong_thing_is_named(functions, message):
    dynamics = FunctionDynamics(**{"transition": transition, "reward": reward, **functions})
    with pytest.raises(ValueError, match=message):
        dynamics.step(X, U, generator=torch.Generator())


def test_noise_is_checked_where_the_first_step_had_none():
    narrow = FunctionDynamics(
        lambda x, u: x + u, lambda x, u, y: y.sum(1), noise=lambda x, u, g: torch.randn(len(x), 1, generator=g)
    )
    start = torch.zeros(2, 3)
    narrow.step(start, start)
    with pytest.raises(ValueError, match=r"noise: expected shape \[2, 3\], got \[2, 1\]"):
        narrow.unroll(start, torch.zeros(4, 2, 3), generator=torch.Generator())


def test_the_check_comes_before_planning_goes_wrong():
    problem = Problem(FunctionDynamics(transition, lambda x, u, next_x: next_x))
    with pytest.raises(ValueError, match=r"reward: expected shape \[6\], got \[6, 2\]"):
        evaluate_plans(problem, X, torch.zeros(3, 2, 4, 1, dtype=X.dtype), generator=torch.Generator())


def test_reset_refuses_a_single_observation():
    with pytest.raises(ValueError, match=r"obs: expected shape \[rows, obs\], got \[2\]; a single one is obs\[None\]"):
        FunctionDynamics(transition, reward).reset(X[0])


def pendulum() -> FunctionDynamics:
    def swing(x, u):
        return torch.stack([x[:, 0] + 0.1 * x[:, 1], x[:, 1] + 0.1 * (torch.sin(x[:, 0]) + u[:, 0])], -1)

    return FunctionDynamics(swing, lambda x, u, y: torch.cos(x[:, 0]) - 0.5 * u[:, 0] ** 2 * x[:, 1] + y[:, 0])


def test_expansion_equals_the_derivatives_by_hand():
    expansion = expand_autodiff(pendulum(), X, U)
    angle, speed, u = X[:, 0], X[:, 1], U[:, 0]
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)

    def matrix(*rows):
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    torch.testing.assert_close(expansion.state_jacobian, matrix((one, 0.1 * one), (0.1 * torch.cos(angle), one)))
    torch.testing.assert_close(expansion.action_jacobian, matrix((zero,), (0.1 * one,)))
    gradient = torch.stack([1 - torch.sin(angle), 0.1 - 0.5 * u**2, -u * speed], -1)
    torch.testing.assert_close(expansion.reward_gradient, gradient)
    hessian = matrix((-torch.cos(angle), zero, zero), (zero, zero, -u), (zero, -u, -speed))
    torch.testing.assert_close(expansion.reward_hessian, hessian)


def test_function_dynamics_obeys_the_laws_of_smooth_models():
    check_smooth(pendulum(), X, U)


def test_the_laws_of_smooth_models_notice_wrong_derivatives():
    class Wrong(FunctionDynamics):
        def expand(self, state, action):
            expansion = super().expand(state, action)
            return expansion._replace(**{self.field: getattr(expansion, self.field) * 2})

    wrong = Wrong(pendulum().transition, pendulum().reward)
    for field in ("state_jacobian", "action_jacobian", "reward_gradient", "reward_hessian"):
        wrong.field = field
        with pytest.raises(AssertionError, match=f"{field} differs from central differences"):
            check_smooth(wrong, X, U)


def test_the_laws_of_smooth_models_notice_a_wrong_tangent_space():
    class Wrong(FunctionDynamics):
        def retract(self, reference, dx):
            return reference - dx

    with pytest.raises(AssertionError, match="retract inverts difference"):
        check_smooth(Wrong(pendulum().transition, pendulum().reward), X, U)


def test_the_laws_of_smooth_models_need_float64():
    with pytest.raises(ValueError, match="action: expected float64"):
        check_smooth(pendulum(), X.float(), U.float())


@pytest.mark.parametrize("name", ["transition", "reward, termination or noise"])
def test_a_function_that_works_in_place_is_named(name):
    """All steps of a plan would be the same tensor, and the caller's observation be written over."""

    def in_place(x, *others):
        x += 1.0
        return x if name == "transition" else x.sum(-1)

    functions = (in_place, reward) if name == "transition" else (transition, in_place)
    planner = RandomShooting(Box(-1.0, 1.0, dim=1), horizon=3, population=8)
    with pytest.raises(ValueError, match=f"^{name}: expected a new tensor, got one that was written into"):
        MPC(planner, Problem(FunctionDynamics(*functions))).act(np.zeros(2))


def test_a_network_may_say_in_which_type_it_computes():
    network = torch.nn.Linear(3, 2)

    def moved(x, u):
        return network(torch.cat([x, u], -1))

    planner = RandomShooting(Box(-1.0, 1.0, dim=1), horizon=3, population=8)
    model = FunctionDynamics(moved, lambda x, u, n: n.sum(-1), dtype=torch.float32, device="cpu")
    assert MPC(planner, Problem(model)).act(np.zeros(2)).dtype == np.float32  # from float64
