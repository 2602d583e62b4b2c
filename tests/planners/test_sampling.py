"""Sampling planners beyond CEM: iCEM, MPPI, predictive sampling; plans on knots, proposals, diagnostics."""

import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from planners import (
    CEM,
    ICEM,
    MPPI,
    Box,
    FunctionDynamics,
    Knots,
    PredictiveSampling,
    Problem,
    Proposals,
    RandomShooting,
    evaluate_plans,
)
from planners.finite import FiniteMDP
from planners.sampling import search
from planners.sampling.mppi import softmax_weights, weights_of_size
from planners.testing import check_planner, lq_reference

BOX = Box([-1.0, -0.5], [1.0, 2.0])
START = torch.tensor([[0.5, -0.5], [1.0, 2.0], [-1.0, 0.3], [0.2, 0.1]], dtype=torch.float64)


def transition(x, u):
    return 0.9 * x + 0.1 * u


def reward(x, u, next_x):
    return -next_x.square().sum(-1) - 0.1 * u.square().sum(-1)


def noise(x, u, g):
    return 0.1 * torch.randn(x.shape, generator=g, dtype=x.dtype)


def jumpy(obs, generator):
    return torch.rand(len(obs), 2, generator=generator, dtype=obs.dtype) * BOX.range + BOX.low


PROBLEM = Problem(FunctionDynamics(transition, reward), discount=0.95)
NOISY = Problem(FunctionDynamics(transition, reward, noise=noise), particles=3)
PLANNERS = {
    "icem": ICEM(BOX, 5, population=40, elites=8),
    "icem linear": ICEM(BOX, 6, population=40, elites=6, knots=Knots(3, "linear")),
    "mppi": MPPI(BOX, 5, population=60, temperature=0.3),
    "mppi of a size": MPPI(BOX, 5, population=60, iterations=3, effective_samples=5.0, beta=1.0),
    "mppi as TD-MPC2": MPPI(BOX, 3, 60, 4, temperature=0.5, elites=10, min_std=0.05, proposals=Proposals(jumpy, 6)),
    "predictive sampling": PredictiveSampling(BOX, 5, population=40, iterations=2),
    "predictive sampling zero": PredictiveSampling(BOX, 7, population=40, iterations=2, knots=Knots(3, "zero")),
    "cem cubic": CEM(BOX, 6, 40, 6, 3, knots=Knots(3, "cubic")),
    "cem linear": CEM(BOX, 7, 40, 6, 3, knots=Knots(3, "linear")),
    "random shooting cubic": RandomShooting(BOX, 6, 60, 2, knots=Knots(3, "cubic")),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_plan(planner, problem, start, seed=0, memory=None):
    g = generator(seed)
    if memory is None:
        memory = planner.init(problem, start, generator=g)
    return planner.plan(problem, start, memory, generator=g)


@pytest.fixture
def populations(monkeypatch):
    """The (candidates, scores) of every iteration."""
    seen = []

    def evaluate(problem, start, actions, *, generator):
        result = evaluate_plans(problem, start, actions, generator=generator)
        seen.append((actions, result.scores))
        return result

    monkeypatch.setattr(search, "evaluate_plans", evaluate)
    return seen


@pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS)
@pytest.mark.parametrize("problem", [PROBLEM, NOISY], ids=["deterministic", "noisy"])
def test_the_laws_of_planners_hold(planner, problem):
    check_planner(planner, problem, START)


@pytest.mark.parametrize(
    ("planner", "gap"),
    [
        (lambda box: ICEM(box, 12, population=200, elites=20, iterations=40, beta=0.5, decay=1.0), 5e-3),
        (lambda box: MPPI(box, 12, 400, 40, effective_samples=10.0, initial_std=0.2, min_std=1e-3), 5e-3),
        (lambda box: PredictiveSampling(box, 12, 200, 40, initial_std=0.03), 5e-2),
        (lambda box: CEM(box, 12, 200, 20, 20, min_variance=1e-9, knots=Knots(8, "linear")), 2e-2),
    ],
    ids=["icem", "mppi", "predictive sampling", "cem linear"],
)
def test_linear_dynamics_and_quadratic_reward_come_near_the_riccati_optimum(planner, gap):
    problem, start, box, best = lq_reference(12)
    plan = make_plan(planner(box), problem, start)
    assert bool((plan.value <= best + 1e-12).all())
    assert bool((best - plan.value <= gap * best.abs()).all()), ((best - plan.value) / best.abs()).tolist()


def test_as_many_knots_as_steps_are_the_steps(populations):
    for planner in (ICEM(BOX, 4, 30, 5), ICEM(BOX, 4, 30, 5, knots=Knots(4, "zero"))):
        make_plan(planner, PROBLEM, START)
    half = len(populations) // 2
    for (one, _), (other, _) in zip(populations[:half], populations[half:], strict=True):
        torch.testing.assert_close(other, one)


def test_a_batch_element_that_begins_later_has_a_phase_of_its_own():
    planner = PredictiveSampling(BOX, 6, 20, knots=Knots(3, "zero"))
    plan = make_plan(planner, PROBLEM, START)
    memory = planner.advance(PROBLEM, plan.memory, plan.actions[:, 0], START)
    fresh = planner.init(PROBLEM, START, generator=generator())
    memory = memory._replace(
        phase=torch.tensor([1, 0, 1, 0]),
        mean=torch.where(torch.tensor([True, False, True, False])[:, None, None], memory.mean, fresh.mean),
    )
    held = planner.plan(PROBLEM, START, memory, generator=generator(), stop=lambda: True)
    torch.testing.assert_close(held.actions[0, :-1], plan.actions[0, 1:])
    torch.testing.assert_close(held.actions[1], BOX.center.expand(6, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Knots(0, "zero"), "count: expected at least 1"),
        (lambda: Knots(1, "linear"), "count: expected at least 2"),
        (lambda: Knots(3, "quintic"), "order: expected"),
        (lambda: CEM(BOX, 3, 20, 4, knots=Knots(4)), "knots: expected at most the horizon"),
        (lambda: CEM(Discrete(3), 3), "box: expected planners.Box, got Discrete.*tree search"),
        (lambda: CEM(BOX, 3, min_variance=-1.0), "min_variance: expected at least 0"),
        (lambda: Proposals(jumpy, 0), "plans: expected at least 1"),
        (
            lambda: make_plan(CEM(BOX, 3, 20, 4, proposals=Proposals(lambda o, g: o[:, 0], 2)), PROBLEM, START),
            r"policy: expected actions of shape \[8, 2\], got \[8\]",
        ),
        (lambda: ICEM(BOX, 3, beta=-1.0), "beta: expected at least 0"),
        (lambda: ICEM(BOX, 3, beta=math.nan), "beta: expected at least 0"),
        (lambda: ICEM(BOX, 3, decay=0.5), "decay: expected at least 1"),
        (lambda: ICEM(BOX, 3, elites=10, keep=11), "keep: expected 0 to the elites of 10"),
        (lambda: ICEM(BOX, 3, keep=2.0), r"keep: expected 0 to the elites of 10, a whole number, got 2\.0"),
        (lambda: CEM(BOX, 3, elites=0.1 * 400), r"elites: expected a whole number of at least 1, got 40\.0"),
        (lambda: CEM(BOX, 3, population=400.0), r"population: expected a whole number of at least 1, got 400\.0"),
        (lambda: MPPI(BOX, 3.0), r"horizon: expected a whole number of at least 1, got 3\.0"),
        (lambda: RandomShooting(BOX, 3, 20, True), "iterations: expected a whole number of at least 1, got True"),
        (lambda: MPPI(BOX, 3, elites=8.0), r"elites: expected 1 to the population of 512, a whole number, got 8\.0"),
        (lambda: Proposals(jumpy, 2.0), r"plans: expected a whole number of at least 1, got 2\.0"),
        (lambda: ICEM(BOX, 3, population=5), "elites: expected at most the population of 5, got 10"),
        (lambda: MPPI(BOX, 3, temperature=0.0), "temperature: expected a positive number"),
        (lambda: MPPI(BOX, 3, population=8), "effective_samples: expected 1 to 8"),
        (lambda: MPPI(BOX, 3, population=8, elites=9, temperature=1.0), "elites: expected 1 to the population"),
        (lambda: MPPI(BOX, 3, min_std=-1.0), "min_std: expected a positive number"),
        (
            lambda: MPPI(BOX, 3, initial_std=0.1, min_std=0.5),
            r"min_std: expected at most initial_std \(0\.1\), got 0\.5",
        ),
        (lambda: PredictiveSampling(BOX, 3, initial_std=math.nan), "initial_std: expected a positive number"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_numpy_are_whole_too():
    assert CEM(BOX, np.int64(3), population=np.int32(40), elites=np.int64(4)).elites == 4


@pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS)
def test_states_of_integers_are_refused(planner):
    """Actions have the type of the states' first tensor: they would be whole numbers."""
    chain = FiniteMDP(torch.eye(3).repeat(2, 1, 1).transpose(0, 1).contiguous(), torch.ones(3, 2, 3))
    for problem, start in ((Problem(chain), chain.reset(torch.zeros(2, 1))), (PROBLEM, START.long())):
        with pytest.raises(ValueError, match=r"start: expected states .*floating.* got torch.int64; .*tree search"):
            make_plan(planner, problem, start)


# iCEM


def test_icem_draws_fewer_each_time_keeps_elites_and_adds_the_mean_at_the_end(populations):
    planner = ICEM(BOX, 4, population=40, elites=10, iterations=4, keep=3)
    plan = make_plan(planner, PROBLEM, START)
    assert [len(actions[0]) for actions, _ in populations] == [40 + 3, 32 + 3, 25 + 3, 20 + 3 + 1]
    for (before, scores), (after, _) in itertools.pairwise(populations):
        best = search.take_plans(before, scores.topk(3, dim=1).indices)
        drawn = len(after[0]) - 3 - (after is populations[-1][0])
        torch.testing.assert_close(after[:, drawn : drawn + 3], best, rtol=0, atol=0)
    top = torch.stack([scores.amax(1) for _, scores in populations]).amax(0)
    torch.testing.assert_close(plan.value, top, rtol=0, atol=0)


def test_icem_tries_its_elites_again_a_step_later(populations):
    planner = ICEM(BOX, 4, population=40, elites=10, iterations=1, keep=3)
    plan = make_plan(planner, PROBLEM, START)
    memory = planner.advance(PROBLEM, plan.memory, plan.actions[:, 0], START)
    make_plan(planner, PROBLEM, START, memory=memory)
    (first, scores), (second, _) = populations
    best = search.take_plans(first, scores.topk(3, dim=1).indices)
    torch.testing.assert_close(second[:, 40:43, :3], best[:, :, 1:], rtol=0, atol=0)
    torch.testing.assert_close(second[:, 40:43, 3], best[:, :, 3], rtol=0, atol=0)
    torch.testing.assert_close(second[:, 43], torch.cat([plan.memory.mean[:, 1:], plan.memory.mean[:, -1:]], 1))


def test_invalid_elites_are_not_kept():
    rare = Problem(FunctionDynamics(transition, lambda x, u, y: torch.where(u[:, 0] < 0.1, torch.nan, -u[:, 0])))
    plan = make_plan(ICEM(BOX, 2, population=20, elites=10, iterations=1, keep=10), rare, START)
    assert plan.valid.all()
    good = evaluate_plans(rare, START, plan.memory.kept, generator=generator()).valid
    mean = (plan.memory.kept == plan.memory.mean[:, None]).all(-1).all(-1)
    assert bool((good | mean).all())
    assert bool(mean.any())


# MPPI


def test_softmax_weights_by_hand():
    scores = torch.tensor([[0.0, math.log(2.0), -math.inf], [-math.inf] * 3], dtype=torch.float64)
    weights = softmax_weights(scores, torch.ones(2, 1, dtype=torch.float64))
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 2 / 3, 0], [0, 0, 0]], dtype=torch.float64))
    sharp = softmax_weights(scores[:1], torch.full((1, 1), 0.5, dtype=torch.float64))
    torch.testing.assert_close(sharp, torch.tensor([[1 / 5, 4 / 5, 0]], dtype=torch.float64))


@pytest.mark.parametrize("target", [1.5, 4.0, 60.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_temperature_is_found_whatever_the_scale_of_the_reward(target, scale):
    scores = scale * torch.randn(5, 100, generator=generator(), dtype=torch.float64) - 7 * scale
    scores[:, ::10] = -math.inf
    size = 1 / weights_of_size(scores, target).square().sum(1)
    torch.testing.assert_close(size, torch.full_like(size, target), rtol=1e-4, atol=0)


def test_a_size_that_cannot_be_had_gives_the_nearer_end():
    ties = torch.zeros(1, 4, dtype=torch.float64)
    torch.testing.assert_close(weights_of_size(ties, 2.0), torch.full_like(ties, 0.25))
    two = torch.tensor([[1.0, 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    torch.testing.assert_close(
        weights_of_size(two, 3.0), torch.tensor([[0.5, 0.5, 0, 0]], dtype=torch.float64), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("worst", [-1e2, -1e5, -1e8])
def test_one_plan_that_is_far_worse_changes_nothing(worst):
    scores = torch.rand(1, 512, generator=generator(), dtype=torch.float64)
    target = weights_of_size(scores, 10.0)
    scores[0, 7] = worst
    weights = weights_of_size(scores, 10.0)
    torch.testing.assert_close(1 / weights.square().sum(), torch.tensor(10.0, dtype=torch.float64), rtol=1e-4, atol=0)
    keep = torch.arange(512) != 7
    torch.testing.assert_close(weights[:, keep], target[:, keep], rtol=0.02, atol=1e-4)


def test_of_tied_plans_as_many_count_as_there_are_elites():
    flat = Problem(FunctionDynamics(transition, lambda x, u, y: 0 * y[:, 0]))
    plan = make_plan(MPPI(BOX, 4, population=100, temperature=1.0, elites=10), flat, START)
    torch.testing.assert_close(plan.info.effective_samples, torch.full((4,), 10.0, dtype=torch.float64))


def test_one_update_by_hand(populations):
    plan = make_plan(MPPI(BOX, 4, population=30, temperature=0.2, elites=7, min_std=0.05), PROBLEM, START)
    candidates, scores = populations[0]
    for i in range(len(START)):
        order = scores[i].sort(descending=True).indices[:7]
        weights = torch.softmax(scores[i][order] / 0.2, 0)[:, None, None]
        mean = (weights * candidates[i][order]).sum(0)
        variance = (weights * (candidates[i][order] - mean).square()).sum(0)
        torch.testing.assert_close(plan.memory.mean[i], mean)
        low, high = ((s * BOX.range / 2).square() for s in (0.05, 0.5))
        torch.testing.assert_close(plan.memory.variance[i], variance.maximum(low).minimum(high))


# Predictive sampling, proposals, diagnostics


def test_predictive_sampling_never_becomes_worse():
    planner = PredictiveSampling(BOX, 5, population=3, iterations=1)
    memory, value = planner.init(PROBLEM, START, generator=generator()), torch.full((4,), -math.inf)
    for seed in range(10):
        plan = make_plan(planner, PROBLEM, START, seed, memory)
        assert bool((plan.value >= value).all())
        memory, value = plan.memory, plan.value


@pytest.mark.parametrize("knots", [None, Knots(4, "zero")])
def test_a_policy_that_knows_the_way_is_followed(knots):
    """The reward asks for actions at 0.4 exactly: noise does not find that, the policy proposes it."""
    exact = Problem(FunctionDynamics(transition, lambda x, u, y: -(u - 0.4).abs().sum(-1)))
    policy = Proposals(lambda obs, g: torch.full((len(obs), 2), 0.4, dtype=obs.dtype), plans=1)
    plan = make_plan(PredictiveSampling(BOX, 4, 20, knots=knots, proposals=policy), exact, START)
    torch.testing.assert_close(plan.actions, torch.full_like(plan.actions, 0.4), rtol=0, atol=1e-12)
    assert float(make_plan(PredictiveSampling(BOX, 4, 20, knots=knots), exact, START).value.max()) < -0.1


def test_a_policy_sees_the_states_that_its_own_actions_lead_to(populations):
    def policy(obs, g):
        return 0.5 * obs

    make_plan(CEM(BOX, 3, 5, 2, 2, proposals=Proposals(policy, 2)), PROBLEM, START)
    x = START
    for t in range(3):
        expected = BOX.clamp(0.5 * x)
        torch.testing.assert_close(populations[1][0][:, 5, t], expected)
        x = transition(x, 0.5 * x)


def test_proposals_that_are_not_finite_spoil_nothing():
    broken = Proposals(lambda obs, g: torch.full((len(obs), 2), torch.nan, dtype=obs.dtype), plans=3)
    plan = make_plan(MPPI(BOX, 4, 40, temperature=0.3, proposals=broken), PROBLEM, START)
    assert bool(plan.valid.all())
    assert bool(plan.actions.isfinite().all())
    assert bool(plan.memory.mean.isfinite().all())
    assert bool(plan.info.elite_spread.isfinite().all())


def test_a_policy_of_another_type_that_refuses_what_is_not_finite_is_followed():
    def policy(obs, generator):
        assert bool(obs.isfinite().all())
        return torch.ones(len(obs), 2, dtype=torch.float32)

    def leaves(x, u):  # the first row's first step is its last
        return torch.where(x > 0.45, torch.nan, x + 0.1 * u)

    problem = Problem(FunctionDynamics(leaves, reward))
    plan = make_plan(CEM(BOX, 3, 20, 4, proposals=Proposals(policy, 2)), problem, START[[0, 3]])
    assert plan.actions.dtype == START.dtype
    assert plan.valid.tolist() == [False, True]


def test_a_proposal_becomes_the_nearest_sequence_of_knots(populations):
    """Zero-order knots: each holds the mean of the policy's actions over its steps."""
    policy = Proposals(lambda obs, g: 0.5 * obs, plans=1)
    make_plan(PredictiveSampling(BOX, 6, 5, knots=Knots(3, "zero"), proposals=policy), PROBLEM, START)
    x, actions = START, []
    for _ in range(6):
        actions.append(0.5 * x)
        x = transition(x, actions[-1])
    held = torch.stack(actions, 1).view(4, 3, 2, 2).mean(2).repeat_interleave(2, dim=1)
    torch.testing.assert_close(populations[0][0][:, -1], BOX.clamp(held))


def test_terminal_values_count():
    """With nothing to gain on the way, the last observation's value decides."""
    problem = Problem(
        FunctionDynamics(lambda x, u: x + u, lambda x, u, y: 0 * y[:, 0]),
        terminal_value=lambda obs: -(obs - 1.0).square().sum(-1),
    )
    start = torch.zeros(1, 2, dtype=torch.float64)
    plan = make_plan(ICEM(BOX, 3, 100, 10, 10), problem, start)
    torch.testing.assert_close(plan.actions.sum(1), torch.ones(1, 2, dtype=torch.float64), rtol=0, atol=0.05)


def test_diagnostics_say_how_many_counted_and_what_lies_on_a_bound():
    to_the_bound = Problem(FunctionDynamics(transition, lambda x, u, y: u.sum(-1)))
    plan = make_plan(ICEM(BOX, 4, 40, 8, 3, initial_std=30.0), to_the_bound, START)
    torch.testing.assert_close(plan.info.effective_samples, torch.full((4,), 8.0, dtype=torch.float64))
    assert bool((plan.info.at_bound > 0.9).all())
    assert bool((plan.info.elite_spread > 0).all())
    assert plan.info.iterations.tolist() == [3] * 4
    best = make_plan(PredictiveSampling(BOX, 4, 40), PROBLEM, START)
    torch.testing.assert_close(best.info.effective_samples, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(best.info.elite_spread, torch.zeros(4, dtype=torch.float64))
    sized = make_plan(MPPI(BOX, 4, 40, effective_samples=6.0), PROBLEM, START)
    torch.testing.assert_close(
        sized.info.effective_samples, torch.full((4,), 6.0, dtype=torch.float64), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    "planner",
    [
        CEM(BOX, 4, 20, 4, 3),
        ICEM(BOX, 4, 40, 8, 3),
        MPPI(BOX, 4, 30, 2, temperature=0.3),
        MPPI(BOX, 4, 30, 2, temperature=0.3, score_mean=False, proposals=Proposals(jumpy, 5)),
        PredictiveSampling(BOX, 4, 20, 2),
        RandomShooting(BOX, 4, 20, 2),
    ],
    ids=["cem", "icem", "mppi", "mppi not scored", "predictive sampling", "random shooting"],
)
def test_every_sequence_that_is_rolled_out_is_counted(planner, populations):
    plan = make_plan(planner, PROBLEM, START)
    assert plan.info.sequences.tolist() == [sum(actions.shape[1] for actions, _ in populations)] * 4
    populations.clear()
    held = planner.plan(PROBLEM, START, plan.memory, generator=generator(), stop=lambda: True)
    assert held.info.sequences.tolist() == [sum(actions.shape[1] for actions, _ in populations)] * 4 == [1] * 4


def test_a_plan_that_is_not_scored_has_the_weighted_score_of_the_candidates(populations):
    plan = make_plan(MPPI(BOX, 4, 30, temperature=0.3, score_mean=False), PROBLEM, START)
    ((_, scores),) = populations
    weights = torch.softmax(scores / 0.3, 1)
    torch.testing.assert_close(plan.value, (weights * scores).sum(1))
    scored = make_plan(MPPI(BOX, 4, 30, temperature=0.3), PROBLEM, START)
    torch.testing.assert_close(scored.actions, plan.actions, rtol=0, atol=0)
    broken = Problem(FunctionDynamics(transition, lambda x, u, y: y[:, 0] * torch.nan))
    assert not make_plan(MPPI(BOX, 4, 30, temperature=0.3, score_mean=False), broken, START).valid.any()
