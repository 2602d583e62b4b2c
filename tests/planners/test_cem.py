"""CEM against the Riccati optimum, and the laws of its sampling and of its updates."""

import math
from dataclasses import replace

import pytest
import torch

from planners import CEM, Box, FunctionDynamics, Knots, Problem, RandomShooting, evaluate_plans
from planners.sampling import search
from planners.sampling.noise import truncated_normal
from planners.testing import lq_reference

BOX = Box([-1.0, 0.0], [1.0, 3.0])
START = torch.tensor([[0.5, -0.5], [1.0, 2.0], [-1.0, 0.3]], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transition(x, u):
    return 0.9 * x + 0.1 * u


def reward(x, u, next_x):
    return -next_x.square().sum(-1) - 0.1 * u.square().sum(-1)


def noise(x, u, g):
    return 0.1 * torch.randn(x.shape, generator=g, dtype=x.dtype)


PROBLEM = Problem(FunctionDynamics(transition, reward))
NOISY = Problem(FunctionDynamics(transition, reward, noise=noise), particles=4)


def make_plan(planner, problem, start, seed=0, memory=None):
    g = generator(seed)
    if memory is None:
        memory = planner.init(problem, start, generator=g)
    return planner.plan(problem, start, memory, generator=g)


def memory_of(planner, mean, variance):
    return planner.init(PROBLEM, START, generator=generator())._replace(mean=mean, variance=variance)


def test_knots_that_no_step_reads_keep_no_element_going():
    """It stops after the first iteration that leaves a small variance on all knots that matter."""
    planner = CEM(Box(-1.0, 1.0, 1), 20, 100, 10, iterations=60, knots=Knots(6, "zero"))
    toy = Problem(FunctionDynamics(lambda x, u: x, lambda x, u, y: -(u[:, 0] - 0.3).square()))
    start = torch.zeros(1, 1)
    plan = make_plan(planner, toy, start)
    before = make_plan(replace(planner, iterations=int(plan.info.iterations[0]) - 1), toy, start)
    assert plan.memory.variance[:, :5].max() < planner.min_variance <= before.memory.variance[:, :5].max()
    assert plan.memory.variance[:, 5].max() > planner.min_variance  # no step of the window reads it


@pytest.fixture
def populations(monkeypatch):
    """The (candidates, scores) of every iteration, and last those of the mean."""
    seen = []

    def evaluate(problem, start, actions, *, generator):
        result = evaluate_plans(problem, start, actions, generator=generator)
        seen.append((actions, result.scores))
        return result

    monkeypatch.setattr(search, "evaluate_plans", evaluate)
    return seen


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_linear_dynamics_and_quadratic_reward_reach_the_riccati_optimum(discount):
    problem, start, box, best = lq_reference(12, discount=discount)
    planner = CEM(box, 12, population=400, elites=40, iterations=40, min_variance=1e-9)
    plan = make_plan(planner, problem, start)
    assert bool((plan.value <= best + 1e-12).all())
    assert bool((best - plan.value <= 1e-3 * best.abs()).all()), (plan.value, best)


@pytest.mark.parametrize("problem", [PROBLEM, NOISY], ids=["deterministic", "noisy"])
def test_one_plan_of_2n_iterations_equals_two_of_n(problem):
    whole = CEM(BOX, 4, population=40, elites=6, iterations=6)
    half = CEM(BOX, 4, population=40, elites=6, iterations=3)
    start, g, h = START, generator(), generator()
    memory = whole.init(problem, start, generator=generator())
    at_once = whole.plan(problem, start, memory, generator=g)
    first = half.plan(problem, start, memory, generator=h)
    second = half.plan(problem, start, first.memory, generator=h)
    assert not torch.equal(first.actions, at_once.actions)
    torch.testing.assert_close(second.actions, at_once.actions, rtol=0, atol=0)
    torch.testing.assert_close(second.memory.variance, at_once.memory.variance, rtol=0, atol=0)
    if problem is PROBLEM:
        torch.testing.assert_close(second.value, at_once.value, rtol=0, atol=0)


def test_samples_stay_within_the_bounds_and_two_standard_deviations(populations):
    planner = CEM(BOX, 4, population=200, elites=20, iterations=1)
    mean = BOX.center + torch.tensor([0.3, -0.7], dtype=torch.float64) * torch.ones(3, 4, 1, dtype=torch.float64)
    variance = torch.full_like(mean, 0.04)
    make_plan(planner, PROBLEM, START, memory=memory_of(planner, mean, variance))
    away = (populations[0][0] - mean[:, None]).abs()
    assert float(away.max()) <= 2 * 0.2 * (1 + 1e-12)
    assert float(away.max()) > 1.9 * 0.2


def test_the_variance_is_capped_by_the_distance_to_the_bounds(populations):
    planner = CEM(BOX, 4, population=200, elites=20, iterations=1)
    mean = torch.tensor([0.8, 0.5], dtype=torch.float64) * torch.ones(3, 4, 1, dtype=torch.float64)
    make_plan(planner, PROBLEM, START, memory=memory_of(planner, mean, torch.full_like(mean, 100.0)))
    candidates = populations[0][0]
    # Two capped standard deviations reach the nearer bound and no farther, on either side.
    assert float(candidates[..., 0].max()) <= 1.0
    assert float(candidates[..., 0].min()) >= 0.6 - 1e-12
    assert float(candidates[..., 1].min()) >= 0.0
    assert float(candidates[..., 1].max()) <= 1.0 + 1e-12
    assert float(candidates[..., 0].max()) > 0.99


def test_one_iteration_by_hand(populations):
    planner = CEM(BOX, 4, population=30, elites=5, iterations=1, alpha=0.25)
    plan = make_plan(planner, PROBLEM, START)
    candidates, scores = populations[0]
    for i in range(3):
        elites = candidates[i][scores[i].sort(descending=True).indices[:5]]
        variance = 0.25 * (0.5 * BOX.range / 2) ** 2 + 0.75 * elites.var(0, correction=0)
        torch.testing.assert_close(plan.actions[i], 0.25 * BOX.center + 0.75 * elites.mean(0))
        torch.testing.assert_close(plan.memory.variance[i], variance)
    torch.testing.assert_close(plan.value, populations[1][1][:, 0])


def test_an_affine_reward_gives_the_same_plan():
    planner = CEM(BOX, 4, population=60, elites=8, iterations=4)
    # Powers of two, so that rounding is the same as well.
    affine = Problem(FunctionDynamics(transition, lambda x, u, y: 4.0 * reward(x, u, y) + 8.0))
    plan, other = make_plan(planner, PROBLEM, START), make_plan(planner, affine, START)
    torch.testing.assert_close(other.actions, plan.actions, rtol=0, atol=1e-12)
    torch.testing.assert_close(other.value, 4 * plan.value + 4 * 8.0)


def test_below_two_valid_candidates_the_gaussian_stays():
    planner = CEM(BOX, 2, population=40, elites=6, iterations=3)
    broken = Problem(FunctionDynamics(transition, lambda x, u, y: torch.where(x[:, 0] > 0.9, torch.nan, y[:, 0])))
    memory = planner.init(broken, START, generator=generator())
    plan = make_plan(planner, broken, START, memory=memory)
    assert plan.valid.tolist() == [True, False, True]
    assert plan.value[1] == -math.inf
    torch.testing.assert_close(plan.memory.mean[1], memory.mean[1])
    torch.testing.assert_close(plan.memory.variance[1], memory.variance[1])
    assert not torch.equal(plan.memory.mean[0], memory.mean[0])


def test_invalid_candidates_are_left_out_of_the_elites(populations):
    # Five of six elites would be invalid: a sum over -inf or NaN would show.
    rare = Problem(FunctionDynamics(transition, lambda x, u, y: torch.where(u[:, 0] < 0.35, torch.nan, -u[:, 0])))
    planner = CEM(BOX, 1, population=40, elites=20, iterations=1, alpha=0.0)
    plan = make_plan(planner, rare, START)
    candidates, scores = populations[0]
    for i in range(3):
        chosen = candidates[i][scores[i].isfinite()]
        assert 2 <= len(chosen) < 20
        torch.testing.assert_close(plan.actions[i], chosen.mean(0))


def test_the_best_candidate_is_returned_where_the_mean_is_invalid():
    # Valid at both sides of a forbidden middle, so that the mean of the elites lies in it.
    forbidden = Problem(
        FunctionDynamics(transition, lambda x, u, y: torch.where(u[:, 0].abs() < 0.2, torch.nan, y[:, 1]))
    )
    planner = CEM(Box(-1, 1, dim=2), 1, population=40, elites=40, iterations=1, alpha=0.0)
    plan = make_plan(planner, forbidden, START)
    scores = evaluate_plans(forbidden, START, plan.actions[:, None], generator=generator()).scores[:, 0]
    assert plan.valid.all()
    torch.testing.assert_close(plan.value, scores)


def test_elements_stop_by_themselves_and_neighbours_that_go_on_change_nothing():
    """One element's variance vanishes at once where its neighbours allow it; its score is drawn all the same."""
    planner = CEM(BOX, 3, population=40, elites=4, iterations=20, min_variance=0.02)
    plan = make_plan(planner, NOISY, START)
    assert bool((plan.info.iterations < 20).all())
    start = START.clone()
    start[1:] = torch.nan  # never valid, so never done
    other = make_plan(planner, NOISY, start)
    assert other.info.iterations.tolist()[1:] == [20, 20]
    for field in ("actions", "value", "valid"):
        torch.testing.assert_close(getattr(other, field)[0], getattr(plan, field)[0], rtol=0, atol=0)


def test_stop_is_asked_between_iterations():
    asked = iter([False, False, True])
    planner = CEM(BOX, 3, population=40, elites=4, iterations=20)
    memory = planner.init(PROBLEM, START, generator=generator())
    plan = planner.plan(PROBLEM, START, memory, generator=generator(), stop=lambda: next(asked))
    assert plan.info.iterations.tolist() == [2, 2, 2]


def test_advance_shifts_the_mean_and_resets_the_variance():
    planner = CEM(BOX, 3, population=40, elites=4, initial_std=0.25)
    plan = make_plan(planner, PROBLEM, START)
    memory = planner.advance(PROBLEM, plan.memory, plan.actions[:, 0], START)
    torch.testing.assert_close(memory.mean[:, :2], plan.memory.mean[:, 1:])
    torch.testing.assert_close(memory.mean[:, 2], BOX.center.expand(3, 2))
    torch.testing.assert_close(memory.variance, (0.25 * BOX.range / 2).square().expand(3, 3, 2))


def test_truncated_normal_has_the_moments_of_a_normal_cut_at_two():
    x = truncated_normal((200_000,), generator=generator(), device=torch.device("cpu"), dtype=torch.float64)
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    variance = 1 - 4 * density / math.erf(math.sqrt(2))
    assert float(x.abs().max()) <= 2.0
    assert abs(float(x.mean())) < 0.01
    assert abs(float(x.var()) - variance) < 0.01
    assert abs(float((x.abs() < 1).double().mean()) - math.erf(math.sqrt(0.5)) / math.erf(math.sqrt(2))) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon: expected at least 1, got 0"),
        ({"population": 0}, "population: expected at least 1, got 0"),
        ({"elites": 0}, "elites: expected at least 1, got 0"),
        ({"iterations": 0}, "iterations: expected at least 1, got 0"),
        ({"elites": 41}, "elites: expected at most the population of 40, got 41"),
        ({"alpha": 1.0}, "alpha: expected a number in"),
        ({"alpha": -0.1}, "alpha: expected a number in"),
        ({"initial_std": 0.0}, "initial_std: expected a positive number"),
        (
            {"initial_std": 0.03},
            r"min_variance: expected at most initial_std squared \(0\.0009\), or no iteration would run",
        ),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CEM(BOX, **{"horizon": 4, "population": 40, "elites": 4, **options})


def test_random_shooting_keeps_the_best_and_refuses_bad_settings():
    planner = RandomShooting(BOX, 3, population=50, iterations=2)
    plan = make_plan(planner, PROBLEM, START)
    again = make_plan(planner, PROBLEM, START, seed=1, memory=plan.memory)
    assert bool((again.value >= plan.value).all())
    for name in ("horizon", "population", "iterations"):
        with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
            RandomShooting(BOX, **{"horizon": 3, "population": 5, "iterations": 1, name: 0})
