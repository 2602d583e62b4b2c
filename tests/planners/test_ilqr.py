"""iLQR and DDP: linear-quadratic problems in one step, optimality conditions in a box, quadratic convergence, ends."""

import pytest
import torch
from torch import Tensor

from planners import ILQR, Box, FunctionDynamics, Problem, Reason, Step, evaluate_plans, lqr
from planners.ilqr_model import LocalModel
from planners.ilqr_passes import solve_backwards
from planners.risk import worst
from planners.testing import check_planner, lq_reference
from tests.planners.ilqr_cases import PENDULUM, generator, random, solve, swing, upright

# torch's own, as forward mode is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("box", [Box(-20.0, 20.0, dim=1), None])
def test_a_linear_quadratic_problem_takes_one_step(box, discount: float) -> None:
    problem, start, _, value = lq_reference(12, discount=discount)
    plan = solve(ILQR(box, 12, action_dim=1), problem, start)
    torch.testing.assert_close(plan.value, value, rtol=0, atol=1e-9)
    assert plan.info.iterations.tolist() == [1] * 4
    assert plan.info.reason.tolist() == [Reason.CONVERGED] * 4
    assert bool((plan.info.expected.abs() < 1e-12).all())


def test_gains_and_plan_equal_the_regulator() -> None:
    A, B = torch.eye(3, dtype=torch.float64) + 0.1 * random(3, 3, seed=1), random(3, 2, seed=2)
    Q, R, N = torch.eye(3).double(), 0.5 * torch.eye(2).double(), 0.1 * random(3, 2, seed=3)
    q, r, c, final = random(3, seed=4), random(2, seed=5), random(3, seed=6), 2 * torch.eye(3).double()

    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return -(0.5 * ((x @ Q) * x).sum(1) + 0.5 * ((u @ R) * u).sum(1) + ((x @ N) * u).sum(1) + x @ q + u @ r)

    dynamics = FunctionDynamics(lambda x, u: x @ A.T + u @ B.T + c, reward)
    problem = Problem(dynamics, 0.95, terminal_value=lambda x: -0.5 * ((x @ final) * x).sum(1))
    start = random(2, 3, seed=7)
    plan = solve(ILQR(None, 8, action_dim=2), problem, start)
    best = lqr(A, B, Q, R, N=N, q=q, r=r, c=c, P_final=final, horizon=8, discount=0.95)
    value = 0.5 * ((start @ best.P[0]) * start).sum(1) + start @ best.p[0] + best.s[0]
    torch.testing.assert_close(-plan.value, value, rtol=0, atol=1e-9)
    torch.testing.assert_close(plan.info.gains, best.K.expand(2, -1, -1, -1), rtol=0, atol=1e-9)
    expected = (best.K @ plan.info.states[:, :-1, :, None])[..., 0] + best.k
    torch.testing.assert_close(plan.actions, expected, rtol=0, atol=1e-9)


def projected_gradient(problem: Problem, start: Tensor, actions: Tensor, box: Box) -> Tensor:
    """How far a gradient step of the return moves the actions within the box: 0 where the KKT conditions hold."""
    actions = actions.detach().requires_grad_()
    value = evaluate_plans(problem, start, actions.unsqueeze(1), generator=generator()).scores.sum()
    (gradient,) = torch.autograd.grad(value, actions)
    return box.clamp(actions.detach() + gradient) - actions.detach()


@pytest.mark.parametrize("second_order", [False, True])
def test_a_solution_in_a_box_meets_the_optimality_conditions(second_order: bool) -> None:
    box = Box(-1.5, 2.0, dim=1)
    planner = ILQR(box, 40, second_order=second_order, tolerance=1e-14)
    start = torch.tensor([[0.7, 0.0], [2.5, 0.5], [-1.0, 1.0]], dtype=torch.float64)
    plan = solve(planner, PENDULUM, start)
    assert plan.info.reason.tolist() == [Reason.CONVERGED] * 3
    assert float(projected_gradient(PENDULUM, start, plan.actions, box).abs().max()) < 1e-6
    clamped = (plan.actions == box.low) | (plan.actions == box.high)
    assert 0 < int(clamped.sum()) < clamped.numel()
    # Where an action is held by a bound, feedback can't move it.
    gains = plan.info.gains[clamped.all(2)]  # [some, act, obs]; one action here
    assert len(gains) > 0
    assert bool((gains == 0).all())


@pytest.mark.parametrize("second_order", [False, True])
def test_an_element_in_a_box_does_not_depend_on_its_neighbours(second_order: bool) -> None:
    """The first stays within its bounds, the others don't: it takes the same bits with them as alone."""
    problem, planner = NONLINEAR["unicycle"][0], ILQR(Box(-2.0, 2.0, dim=2), 20, second_order=second_order)
    start = torch.tensor([[0.1, 0.02, 0.0], [3.0, -2.0, 2.0], [0.05, 0.0, 0.1], [-2.0, 3.0, -1.0]], dtype=torch.float64)
    plan = solve(planner, problem, start)
    clamped = (plan.actions.abs() == 2).flatten(1).any(1)
    assert clamped.tolist() == [False, True, False, True]
    for i in range(4):
        alone = solve(planner, problem, start[i : i + 1])
        assert torch.equal(alone.actions[0], plan.actions[i])
        assert torch.equal(alone.info.gains[0], plan.info.gains[i])
        assert torch.equal(alone.info.feedforward[0], plan.info.feedforward[i])
        assert alone.info.iterations[0] == plan.info.iterations[i]


def cart_pole(x: Tensor, u: Tensor) -> Tensor:
    """A pole on a cart, hanging at angle pi; masses 1 and 0.3, length 0.5; 0.05 s a step."""
    position, angle, speed, turn = x.unbind(1)
    sin, cos = torch.sin(angle), torch.cos(angle)
    push = (5 * u[:, 0] + 0.15 * turn**2 * sin) / 1.3
    spin = (9.81 * sin - cos * push) / (0.5 * (4 / 3 - 0.3 * cos**2 / 1.3))
    speed_now = speed + 0.05 * (push - 0.15 * spin * cos / 1.3)
    turn_now = turn + 0.05 * spin
    return torch.stack([position + 0.05 * speed_now, angle + 0.05 * turn_now, speed_now, turn_now], 1)


def balance(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
    pole = 2 * (1 - torch.cos(next_x[:, 1])) + 0.05 * next_x[:, 3] ** 2
    return -(pole + 0.5 * next_x[:, 0] ** 2 + 0.05 * next_x[:, 2] ** 2 + 0.05 * u[:, 0] ** 2)


def unicycle(x: Tensor, u: Tensor) -> Tensor:
    px, py, heading = x.unbind(1)
    moved = [px + 0.1 * u[:, 0] * torch.cos(heading), py + 0.1 * u[:, 0] * torch.sin(heading), heading + 0.1 * u[:, 1]]
    return torch.stack(moved, 1)


def to_origin(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
    return -(next_x[:, :2].square().sum(1) + 0.1 * next_x[:, 2] ** 2 + 0.05 * u.square().sum(1))


NONLINEAR = {
    "pendulum": (PENDULUM, 1, [2.0, 0.5]),
    "cart-pole": (Problem(FunctionDynamics(cart_pole, balance)), 1, [0.3, 0.6, 0.0, 0.0]),
    "unicycle": (Problem(FunctionDynamics(unicycle, to_origin)), 2, [1.0, 1.0, 0.5]),
}


def gaps(planner: ILQR, name: str) -> list[float]:
    """How far the return is from its last value, after each iteration; down to the rounding."""
    problem, _, x = NONLINEAR[name]
    info = solve(planner, problem, torch.tensor([x], dtype=torch.float64)).info
    assert info.reason.tolist() == [Reason.CONVERGED]
    values = info.values[0, : int(info.iterations) + 1]
    return [gap for gap in (values[-1] - values).tolist() if gap > 1e-13]


@pytest.mark.parametrize("name", NONLINEAR)
def test_ddp_converges_quadratically_at_the_end(name: str) -> None:
    planner = ILQR(None, 30, NONLINEAR[name][1], second_order=True, tolerance=1e-15)
    *_, before, last = gaps(planner, name)
    # The distance to the solution is the root of the gap: a constant times its square is the next one.
    assert before < 1e-2
    assert last < 10 * before**2
    assert last < 1e-3 * before


def test_ilqr_converges_slower_where_the_dynamics_bend() -> None:
    """Dynamics of first order leave a constant factor; a second-order term that is wrong or missing shows here."""
    first, second = (gaps(ILQR(None, 30, 1, second_order=s, tolerance=1e-15), "pendulum") for s in (False, True))
    assert len(second) < len(first)
    assert first[-1] > 1e-3 * first[-2]


def test_a_stopped_or_exhausted_plan_says_so() -> None:
    start = torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    planner = ILQR(None, 20, 1, iterations=2)
    assert solve(planner, PENDULUM, start).info.reason.tolist() == [Reason.ITERATIONS]
    memory = planner.init(PENDULUM, start, generator=generator())
    plan = planner.plan(PENDULUM, start, memory, generator=generator(), stop=lambda: True)
    assert plan.info.reason.tolist() == [Reason.STOPPED]
    assert plan.info.iterations.tolist() == [0]
    assert all(reason.sentence.endswith(".") for reason in Reason)


def test_an_element_that_fails_has_a_reason_and_spoils_no_neighbour() -> None:
    def transition(x: Tensor, u: Tensor) -> Tensor:
        return x + 0.1 * u + 0 * x.sqrt() ** 0  # the derivative is infinite at 0, and NaN below

    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return -(next_x - 1).square().sum(1) - 0.1 * u.square().sum(1) + 0 * x.sqrt().sum(1)

    problem = Problem(FunctionDynamics(transition, reward))
    start = torch.tensor([[2.0], [0.0], [-1.0], [torch.nan], [3.0]], dtype=torch.float64)
    planner = ILQR(Box(-1.0, 1.0, dim=1), 6)
    plan = solve(planner, problem, start)
    failed = [Reason.DERIVATIVES, Reason.INVALID, Reason.INVALID]
    assert plan.info.reason.tolist() == [Reason.CONVERGED, *failed, Reason.CONVERGED]
    assert plan.valid.tolist() == [True, True, False, False, True]
    assert plan.value[2] == -torch.inf
    assert bool(plan.actions.isfinite().all())
    assert bool(plan.info.gains.isfinite().all())
    well = solve(planner, problem, start[[0, 0, 0, 0, 4]])
    for row in (0, 4):
        torch.testing.assert_close(plan.actions[row], well.actions[row], rtol=0, atol=1e-12)
        assert plan.info.iterations[row] == well.info.iterations[row]


def test_an_invalid_warm_start_is_replaced() -> None:
    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return torch.where(next_x[:, 0] < 5, -next_x.square().sum(1), torch.nan)

    problem = Problem(FunctionDynamics(lambda x, u: x + u, reward))
    start, planner = torch.ones(1, 1, dtype=torch.float64), ILQR(Box(-2.0, 2.0, dim=1), 6)
    plan = solve(planner, problem, start, torch.full((1, 6, 1), 2.0, dtype=torch.float64))
    assert plan.valid.tolist() == [True]
    torch.testing.assert_close(plan.value, torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-8)


def test_elements_converge_on_their_own() -> None:
    start = torch.tensor([[2.0, 0.5], [0.1, 0.0], [-2.5, 1.0]], dtype=torch.float64)
    planner = ILQR(Box(-1.5, 1.5, dim=1), 20)
    together = solve(planner, PENDULUM, start)
    for row in range(3):
        alone = solve(planner, PENDULUM, start[row : row + 1])
        torch.testing.assert_close(together.actions[row], alone.actions[0], rtol=0, atol=1e-7)
        assert together.info.iterations[row] == alone.info.iterations[0]
    assert len(set(together.info.iterations.tolist())) > 1


def test_nothing_counts_after_an_end() -> None:
    """The model goes on and pays for large states; the episode ends at 1 on the way there."""

    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return -u.square().sum(1) + torch.where(x[:, 0] < 1, 1.0, 100 * x[:, 0])

    dynamics = FunctionDynamics(lambda x, u: x + 0.3 + 0.1 * u, reward, lambda x, u, next_x: next_x[:, 0] >= 1)
    problem = Problem(dynamics, terminal_value=lambda x: 1000 * x[:, 0])
    start = torch.tensor([[0.5], [-9.0]], dtype=torch.float64)
    plan = solve(ILQR(Box(-1.0, 1.0, dim=1), 5), problem, start)
    # One step more would pay, but derivatives don't see the end: 0.5 -> 0.8 -> 1.1.
    torch.testing.assert_close(plan.value[0], torch.tensor(2.0, dtype=torch.float64))
    assert bool((plan.info.gains[0, 2:] == 0).all())
    # The other element never ends, and goes for the last value.
    torch.testing.assert_close(plan.actions[1], torch.ones(5, 1, dtype=torch.float64))


def test_single_precision_reaches_its_own_limit() -> None:
    start = torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    planner = ILQR(Box(-8.0, 8.0, dim=1), 20)
    exact, single = (solve(planner, PENDULUM, start.to(dtype)) for dtype in (torch.float64, torch.float32))
    assert single.actions.dtype == torch.float32
    assert single.info.reason.tolist() == [Reason.CONVERGED]
    torch.testing.assert_close(single.value.double(), exact.value, rtol=1e-5, atol=0)


def test_functions_that_torch_cannot_differentiate_are_differenced() -> None:
    def black_box(x: Tensor, u: Tensor) -> Tensor:
        return torch.from_numpy(swing(x, u).detach().numpy().copy())

    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    problem = Problem(FunctionDynamics(black_box, upright, derivatives="differences"))
    for second_order in (False, True):
        planner = ILQR(Box(-4.0, 4.0, dim=1), 10, second_order=second_order, tolerance=1e-7)
        plan, exact = solve(planner, problem, start), solve(planner, PENDULUM, start)
        torch.testing.assert_close(plan.value, exact.value, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r'differentiate the transition function.* pass derivatives="differences"'):
        solve(planner, Problem(FunctionDynamics(black_box, upright)), start)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_laws_of_planners_hold(dtype: torch.dtype, second_order: bool) -> None:
    def transition(x: Tensor, u: Tensor) -> Tensor:
        return x + 0.1 * torch.sin(x) + 0.1 * torch.cat([u, u[:, :1]], 1)

    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return -next_x.square().sum(1) - 0.01 * u.square().sum(1)

    problem = Problem(FunctionDynamics(transition, reward), 0.95, terminal_value=lambda x: -x.square().sum(1))
    planner = ILQR(Box([-1.0, -0.5], [1.0, 2.0]), 5, second_order=second_order)
    check_planner(planner, problem, random(4, 3, dtype=dtype))


class NoDerivatives:
    """Dynamics as a sampling planner needs them, no more."""

    def reset(self, obs: Tensor) -> Tensor:
        return obs

    observe = reset

    def assign(self, state: Tensor, particles: int, *, generator: torch.Generator) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor, *, generator: object = None) -> tuple[Tensor, Step]:
        return state, Step(state, state[:, 0], torch.zeros(len(state), dtype=torch.bool))


def test_problems_that_are_not_for_ilqr_are_refused() -> None:
    start, planner = torch.ones(1, 2, dtype=torch.float64), ILQR(Box(-1.0, 1.0, dim=1), 3)
    with pytest.raises(ValueError, match=r"particles: expected 1, .* got 5; use CEM"):
        solve(planner, Problem(PENDULUM.dynamics, particles=5), start)
    with pytest.raises(ValueError, match="risk: expected mean"):
        solve(planner, Problem(PENDULUM.dynamics, risk=worst), start)
    with pytest.raises(
        ValueError, match=r"dynamics: .* NoDerivatives has no difference, retract, expand; wrap functions"
    ):
        solve(planner, Problem(NoDerivatives()), start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon: expected at least 1, got 0"),
        ({"iterations": 0}, "iterations: expected at least 1, got 0"),
        ({"tolerance": -1.0}, "tolerance: expected 0 or more"),
        ({"box": None}, "action_dim: expected the number of actions, for there is no box, got None"),
        ({"action_dim": 3}, "action_dim: expected 1 as in the box, or None, got 3"),
    ],
)
def test_bad_hyperparameters_are_named(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        ILQR(**{"box": Box(-1.0, 1.0, dim=1), "horizon": 3, **arguments})


def test_regularisation_bends_the_gains_and_not_the_cost_to_go() -> None:
    """Two steps by the textbook: gains from the regularised blocks, V from the plain ones with the full formula."""
    jacobian, gradient = random(2, 1, 3, 5, seed=1), random(2, 1, 5, seed=2)
    root = random(2, 1, 5, 5, seed=3)
    hessian, alive = root @ root.mT + torch.eye(5).double(), torch.ones(3, 1, dtype=torch.bool)
    V, v = torch.eye(3).double()[None], random(1, 3, seed=4)
    model = LocalModel(jacobian, gradient, hessian, v, V, None, alive)
    policy = solve_backwards(model, torch.full((1,), 0.7).double(), None, torch.ones(1, dtype=torch.bool))
    V, v = V[0], v[0]
    for t in (1, 0):
        F, C, c = jacobian[t, 0], hessian[t, 0], gradient[t, 0]
        Q, q = C + F.T @ V @ F, c + F.T @ v
        Quu, Qux, qu = Q[3:, 3:], Q[3:, :3], q[3:]
        regular = Quu + 0.7 * torch.eye(2).double()
        K, k = -torch.linalg.solve(regular, Qux), -torch.linalg.solve(regular, qu)
        torch.testing.assert_close(policy.gains[t, 0], K)
        torch.testing.assert_close(policy.feedforward[t, 0], k)
        V = Q[:3, :3] + Qux.T @ K + K.T @ Qux + K.T @ Quu @ K
        v = q[:3] + Qux.T @ k + K.T @ qu + K.T @ Quu @ k


def test_no_step_is_taken_that_does_not_pay() -> None:
    """Derivatives of the wrong sign promise what does not come: iLQR stays where it is, and says so."""

    class Wrong(FunctionDynamics):
        def expand(self, state, action):  # type: ignore[no-untyped-def]
            expansion = super().expand(state, action)
            return expansion._replace(reward_gradient=-expansion.reward_gradient)

    problem = Problem(Wrong(lambda x, u: x + u, lambda x, u, y: -y.square().sum(1)))
    start = torch.ones(1, 1, dtype=torch.float64)
    plan = solve(ILQR(Box(-2.0, 2.0, dim=1), 3), problem, start)
    assert plan.info.reason.tolist() == [Reason.STUCK]
    assert plan.info.iterations.tolist() == [0]
    assert not bool(plan.actions.any())
    assert bool((plan.info.values == -3).all())
