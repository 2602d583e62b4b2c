"""`check_planner` passes what obeys the laws, and says which law a planted bug breaks."""

import dataclasses

import pytest
import torch

from planners import CEM, Box, Evaluation, FunctionDynamics, Problem, RandomShooting, evaluate_plans
from planners.sampling import search
from planners.testing import check_planner

G = torch.Generator().manual_seed(0)
START = torch.randn(6, 2, generator=G, dtype=torch.float64)
BOX = Box([-1.0, 0.0], [1.0, 3.0])


def transition(x, u):
    return 0.9 * x + 0.1 * u


def reward(x, u, next_x):
    return -next_x.square().sum(-1) - 0.1 * u.square().sum(-1)


def ends(x, u, next_x):
    return next_x[:, 0] > 1.5


def noise(x, u, generator):
    return 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


# ---------------------------------------------------------------------------------------------- planners that are right

PLANNERS = [
    CEM(BOX, 5, population=60, elites=8, iterations=3),
    RandomShooting(BOX, 5, population=60, iterations=2),
    CEM(BOX, 1, population=40, elites=10, iterations=2),
]
PROBLEMS = {
    "deterministic": Problem(FunctionDynamics(transition, reward, ends)),
    "particles": Problem(FunctionDynamics(transition, reward, noise=noise), particles=3, discount=0.9),
}


@pytest.mark.parametrize("planner", PLANNERS, ids=lambda p: f"{type(p).__name__}-{p.horizon}")
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shipped_planners_pass(planner, problem, dtype):
    check_planner(planner, problem, problem.dynamics.reset(START.to(dtype)))


def test_one_element_is_not_enough():
    with pytest.raises(ValueError, match="start: expected a batch of at least 2 states, got 1"):
        check_planner(PLANNERS[0], PROBLEMS["deterministic"], START[:1])


# ---------------------------------------------------------------------------------------------- planners that are wrong


def fails(planner, law):
    problem = PROBLEMS["deterministic"]
    with pytest.raises(AssertionError, match=law):
        check_planner(planner, problem, START)


def shooting(**methods):
    """Random shooting with some methods replaced; `self.right` is the original."""
    kind = dataclasses.dataclass(frozen=True)(type("Wrong", (RandomShooting,), methods))
    return kind(BOX, 5, population=60, iterations=2)


def altered(change):
    """Random shooting whose plans are altered at the end: `change(plan) -> plan`."""

    def plan(self, *args, **kwargs):
        return change(RandomShooting.plan(self, *args, **kwargs))

    return shooting(plan=plan)


def with_evaluation(monkeypatch, evaluate):
    monkeypatch.setattr(search, "evaluate_plans", evaluate)
    return RandomShooting(BOX, 5, population=60, iterations=2)


def test_planted_rewards_after_the_end(monkeypatch):
    class Endless:
        def __init__(self, dynamics):
            self.dynamics = dynamics

        def assign(self, state, particles, *, generator):
            return self.dynamics.assign(state, particles, generator=generator)

        def step(self, state, action, *, generator=None):
            state, step = self.dynamics.step(state, action, generator=generator)
            return state, step._replace(terminated=torch.zeros_like(step.terminated))

    def evaluate(problem, *args, **kwargs):
        return evaluate_plans(dataclasses.replace(problem, dynamics=Endless(problem.dynamics)), *args, **kwargs)

    planner = with_evaluation(monkeypatch, evaluate)
    with pytest.raises(AssertionError, match="Rewards after an end count for nothing"):
        check_planner(planner, Problem(FunctionDynamics(transition, reward)), START)


def test_planted_preference_for_invalid_candidates(monkeypatch):
    def evaluate(*args, **kwargs):
        scores, valid = evaluate_plans(*args, **kwargs)
        return Evaluation(torch.where(valid, scores, -1e-10), valid)

    fails(with_evaluation(monkeypatch, evaluate), "Invalid candidates score -inf and never win")


def test_planted_nan_scores_that_argmax_ranks_first(monkeypatch):
    def evaluate(*args, **kwargs):
        scores, valid = evaluate_plans(*args, **kwargs)
        return Evaluation(torch.where(valid, scores, torch.nan), valid)

    fails(with_evaluation(monkeypatch, evaluate), "never win")


def test_planted_infinite_rewards_that_win(monkeypatch):
    def evaluate(problem, *args, **kwargs):
        scores, valid = evaluate_plans(problem, *args, **kwargs)
        return Evaluation(torch.where(valid, scores, torch.inf), valid)

    fails(with_evaluation(monkeypatch, evaluate), r"Plan.value is finite|Invalid candidates")


def test_planted_first_reward_left_out(monkeypatch):
    def evaluate(problem, start, actions, *, generator):
        later = evaluate_plans(problem, start, actions[:, :, 1:], generator=generator)
        return Evaluation(later.scores, later.valid)

    fails(with_evaluation(monkeypatch, evaluate), "Plan.value is the score of Plan.actions")


def test_planted_scores_averaged_over_the_batch(monkeypatch):
    def evaluate(*args, **kwargs):
        scores, valid = evaluate_plans(*args, **kwargs)
        return Evaluation(scores.mean(0).expand_as(scores), valid)

    planner = with_evaluation(monkeypatch, evaluate)
    with pytest.raises(AssertionError, match="Other batch elements' contents never change an element's plan"):
        check_planner(planner, PROBLEMS["particles"], START)


def test_planted_actions_outside_the_box():
    fails(altered(lambda plan: plan._replace(actions=plan.actions * 1.5)), "Actions stay within the box")


def test_planted_warm_start_that_is_not_shifted():
    def advance(self, problem, memory, action, start):
        return memory

    fails(shooting(advance=advance), "advance shifts the warm start by one step")


def test_planted_warm_start_that_is_shifted_by_plan():
    def plan(self, problem, start, memory, *, generator, stop):
        shifted = memory._replace(mean=torch.cat([memory.mean[:, 1:], memory.mean[:, -1:]], 1))
        return RandomShooting.plan(self, problem, start, shifted, generator=generator, stop=stop)

    fails(shooting(plan=lambda self, *a, stop=lambda: False, **k: plan(self, *a, stop=stop, **k)), "never shifts")


def test_planted_warm_start_that_is_forgotten():
    def advance(self, problem, memory, action, start):
        return memory._replace(mean=self.box.center.to(action).expand_as(memory.mean).clone())

    fails(shooting(advance=advance), "advance shifts the warm start by one step")


def test_planted_global_random_stream():
    def plan(self, problem, start, memory, *, generator, **options):
        generator.manual_seed(int(torch.randint(1000, ())))
        return RandomShooting.plan(self, problem, start, memory, generator=generator, **options)

    fails(shooting(plan=plan), "plan drew from the global random stream of torch")


def test_planted_generator_that_the_planner_keeps_for_itself():
    own = torch.Generator().manual_seed(0)

    def plan(self, problem, start, memory, *, generator, **options):
        return RandomShooting.plan(self, problem, start, memory, generator=own, **options)

    fails(shooting(plan=plan), "The same generator state gives the same plan")


def test_planted_write_into_the_memory():
    def plan(self, problem, start, memory, *, generator, **options):
        plan = RandomShooting.plan(self, problem, start, memory, generator=generator, **options)
        memory.mean.copy_(plan.actions)
        return plan

    fails(shooting(plan=plan), r"Inputs are not written to: \(start, memory\) of plan.1.mean")


def test_planted_value_of_another_candidate():
    fails(altered(lambda plan: plan._replace(value=plan.value + 0.1)), "Plan.value is the score of Plan.actions")


def test_planted_valid_that_is_always_true():
    fails(altered(lambda plan: plan._replace(valid=plan.valid | True)), "Plan.value is finite where the plan is valid")


def test_planted_stop_that_is_never_asked():
    def plan(self, problem, start, memory, *, generator, stop=None):
        return RandomShooting.plan(self, problem, start, memory, generator=generator)

    fails(shooting(plan=plan), "`stop` must be asked")


def test_planted_shapes():
    fails(altered(lambda plan: plan._replace(value=plan.value[:, None])), "Plan.value is one floating-point number")
    fails(altered(lambda plan: plan._replace(actions=plan.actions.flatten(1))), "Plan.actions is")
    fails(altered(lambda plan: plan._replace(info=None)), "Plan.info is a NamedTuple")
    fails(
        altered(lambda plan: plan._replace(memory=plan.memory._replace(mean=plan.actions[:1]))), "Rows lead everywhere"
    )
