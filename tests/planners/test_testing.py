"""The kit passes what obeys the laws, and says which law a planted bug breaks."""

import dataclasses
import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from planners import CEM, Box, Evaluation, FunctionDynamics, Problem, RandomShooting, Step, evaluate_plans
from planners.sampling import random_shooting
from planners.testing import check_dynamics, check_planner, cliff_reference, lq_reference, riccati
from planners.testing.laws import require_same

G = torch.Generator().manual_seed(0)
START = torch.randn(6, 2, generator=G, dtype=torch.float64)
ACTIONS = torch.randn(3, 6, 2, generator=G, dtype=torch.float64)
BOX = Box([-1.0, 0.0], [1.0, 3.0])


def transition(x, u):
    return 0.9 * x + 0.1 * u


def reward(x, u, next_x):
    return -next_x.square().sum(-1) - 0.1 * u.square().sum(-1)


def ends(x, u, next_x):
    return next_x[:, 0] > 1.5


class ParticleState(NamedTuple):
    obs: Tensor
    particle: Tensor


class Particles:
    """A well-behaved stochastic model: a step's noise is drawn by row and used by particle."""

    def reset(self, obs):
        if obs.dim() != 2:
            raise ValueError("obs: expected [rows, obs]")
        return ParticleState(obs, torch.arange(len(obs)))

    def observe(self, state):
        return state.obs

    def assign(self, state, particles, *, generator):
        return state._replace(particle=torch.arange(len(state.obs)) % particles)

    def step(self, state, action, *, generator=None):
        obs = transition(state.obs, action)
        if generator is not None:
            obs = obs + self.noise(state, generator)
        step = Step(obs, reward(state.obs, action, obs), ends(state.obs, action, obs))
        return state._replace(obs=obs), step

    def noise(self, state, generator):
        return torch.randn(state.obs.shape, generator=generator, dtype=state.obs.dtype)[state.particle]


# ---------------------------------------------------------------------------------------------- dynamics that are right


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("termination", [None, ends])
def test_function_dynamics_pass(dtype, termination):
    check_dynamics(FunctionDynamics(transition, reward, termination), START.to(dtype), ACTIONS.to(dtype))


def test_function_dynamics_with_noise_pass_but_for_shared_noise():
    def noise(x, u, generator):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    dynamics = FunctionDynamics(transition, reward, noise=noise)
    check_dynamics(dynamics, START, ACTIONS, shared_noise=False)
    with pytest.raises(AssertionError, match="Rows of one particle share its member, world and noise"):
        check_dynamics(dynamics, START, ACTIONS)


@pytest.mark.parametrize("particles", [1, 2, 3])
def test_noise_by_particle_passes(particles):
    dynamics = Particles()
    check_dynamics(dynamics, dynamics.reset(START), ACTIONS, particles=particles)


def test_dynamics_without_a_mean_transition_and_without_reset_pass():
    class Partial(Particles):
        def reset(self, obs):
            raise ValueError("obs: an observation does not determine the state")

        def step(self, state, action, *, generator=None):
            if generator is None:
                raise ValueError("generator: this model has no mean transition")
            return super().step(state, action, generator=generator)

    check_dynamics(Partial(), Particles().reset(START), ACTIONS)


def test_arguments_that_do_not_fit_are_named():
    dynamics = FunctionDynamics(transition, reward)
    with pytest.raises(ValueError, match="start: expected rows in multiples of particles=4"):
        check_dynamics(dynamics, START, ACTIONS, particles=4)
    with pytest.raises(ValueError, match=r"actions: expected shape \[steps, 6, act\], got \[6, 2\]"):
        check_dynamics(dynamics, START, ACTIONS[0])


# ---------------------------------------------------------------------------------------------- dynamics that are wrong


def leaking(x, u):
    return transition(x, u) + 1e-3 * x.mean(0)


def nan_leaking(x, u):
    return transition(x, u) + 0 * x.sum()


def writing(x, u):
    x += u
    return x.clone()


@pytest.mark.parametrize(
    ("functions", "law"),
    [
        ({"transition": leaking}, "never depends on the contents of other rows .* other contents"),
        ({"transition": nan_leaking}, "never depends on the contents of other rows .* NaN"),
        ({"transition": writing}, "Inputs are not written to"),
        ({"transition": lambda x, u: x + torch.randn_like(x)}, "drew from the global random stream of torch"),
        ({"reward": lambda x, u, y: x[:, 0] - x[:, 0].max()}, "never depends on the contents of other rows"),
    ],
)
def test_planted_bugs_in_functions(functions, law):
    dynamics = FunctionDynamics(**{"transition": transition, "reward": reward, **functions})
    with pytest.raises(AssertionError, match=law):
        check_dynamics(dynamics, START.clone(), ACTIONS)


def test_planted_write_into_the_input():
    class Wrong(Particles):
        def step(self, state, action, *, generator=None):
            result = super().step(state, action, generator=generator)
            action.clamp_(-0.5, 0.5)
            return result

    with pytest.raises(AssertionError, match=r"Inputs are not written to: \(state, action\) of step 0"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS.clone())


def test_planted_generator_that_the_model_keeps_for_itself():
    own = torch.Generator().manual_seed(1)

    class Wrong(Particles):
        def noise(self, state, generator):
            return torch.randn(3, 2, generator=own, dtype=torch.float64)[state.particle]

    with pytest.raises(AssertionError, match="The same generator state gives the same result"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS)


def test_planted_draws_for_living_rows_only():
    class Wrong(Particles):
        def noise(self, state, generator):
            living = state.obs[:, 0] < 0.5
            noise = torch.zeros_like(state.obs)
            noise[living] = 0.1 * torch.randn(int(living.sum()), 2, generator=generator, dtype=torch.float64)
            return noise

    with pytest.raises(AssertionError, match=r"contents of other rows|number of draws"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS, shared_noise=False)


def test_planted_draw_that_depends_on_the_contents_and_is_not_used():
    class Wrong(Particles):
        def noise(self, state, generator):
            noise = super().noise(state, generator)
            torch.rand(int((state.obs[:, 0] > 0).sum()), generator=generator)
            return noise

    with pytest.raises(AssertionError, match="The number of draws depends on the number of rows alone"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS)


def test_planted_particles_in_blocks():
    class Wrong(Particles):
        def assign(self, state, particles, *, generator):
            return state._replace(particle=torch.arange(len(state.obs)) * particles // len(state.obs))

    with pytest.raises(AssertionError, match="assign makes row i the particle i % 3"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS, particles=3)


def test_planted_observation_of_the_step_before():
    class Wrong(Particles):
        def step(self, state, action, *, generator=None):
            next_state, step = super().step(state, action, generator=generator)
            return next_state, step._replace(obs=state.obs)

    with pytest.raises(AssertionError, match=r"observe\(state\) equals Step.obs"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS)


def test_planted_live_view():
    class Wrong(Particles):
        buffer = torch.zeros(6, 2, dtype=torch.float64)

        def step(self, state, action, *, generator=None):
            next_state, step = super().step(state, action, generator=generator)
            self.buffer.copy_(next_state.obs)
            return next_state._replace(obs=self.buffer), step._replace(obs=self.buffer)

    with pytest.raises(AssertionError, match="A state is a value: a later step must not write"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS)


@pytest.mark.parametrize(
    ("field", "change", "law"),
    [
        ("reward", lambda x: x[:, None], "Step.reward is one floating-point number a row"),
        ("terminated", lambda x: x.float(), "Step.terminated is one bool a row"),
        ("obs", lambda x: x.float(), "Step.obs has the shape and dtype of observe"),
    ],
)
def test_planted_shapes_and_types(field, change, law):
    class Wrong(Particles):
        def step(self, state, action, *, generator=None):
            next_state, step = super().step(state, action, generator=generator)
            return next_state, step._replace(**{field: change(getattr(step, field))})

    with pytest.raises(AssertionError, match=law):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS)


def test_planted_state_that_changes_its_type():
    class Wrong(Particles):
        def step(self, state, action, *, generator=None):
            next_state, step = super().step(state, action, generator=generator)
            return next_state._replace(particle=next_state.particle.int()), step

    with pytest.raises(AssertionError, match=r"state.particle was torch.int64 \[6\] on cpu, now it is torch.int32"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS)


def test_planted_reset_that_takes_anything():
    class Wrong(Particles):
        def reset(self, obs):
            return ParticleState(obs, torch.arange(len(obs)))

    with pytest.raises(AssertionError, match="reset refuses wrong shapes with ValueError"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS)


# ---------------------------------------------------------------------------------------------- planners that are right

PLANNERS = [
    CEM(BOX, 5, population=60, elites=8, iterations=3),
    RandomShooting(BOX, 5, population=60, iterations=2),
    CEM(BOX, 1, population=40, elites=10, iterations=2),
]
PROBLEMS = {
    "deterministic": Problem(FunctionDynamics(transition, reward, ends)),
    "particles": Problem(Particles(), particles=3, discount=0.9),
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
    monkeypatch.setattr(random_shooting, "evaluate_plans", evaluate)
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

    fails(with_evaluation(monkeypatch, evaluate), "valid is False and value -inf: valid False and value nan")


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
        check_planner(planner, PROBLEMS["particles"], Particles().reset(START))


def test_planted_actions_outside_the_box():
    fails(altered(lambda plan: plan._replace(actions=plan.actions * 1.5)), "Actions stay within the box")


def test_planted_warm_start_that_is_not_shifted():
    def advance(self, problem, memory, action, start):
        return memory

    fails(shooting(advance=advance), "advance shifts the warm start by one step")


def test_planted_warm_start_that_is_shifted_by_plan():
    def plan(self, problem, start, memory, *, generator, stop):
        shifted = type(memory)(torch.cat([memory.actions[:, 1:], memory.actions[:, -1:]], 1))
        return RandomShooting.plan(self, problem, start, shifted, generator=generator, stop=stop)

    fails(shooting(plan=lambda self, *a, stop=lambda: False, **k: plan(self, *a, stop=stop, **k)), "never shifts")


def test_planted_warm_start_that_is_forgotten():
    def advance(self, problem, memory, action, start):
        return type(memory)(self.box.center.to(action).expand_as(memory.actions).clone())

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
        memory.actions.copy_(plan.actions)
        return plan

    fails(shooting(plan=plan), r"Inputs are not written to: \(start, memory\) of plan.1.actions")


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
    fails(altered(lambda plan: plan._replace(memory=type(plan.memory)(plan.actions[:1]))), "Rows lead everywhere")


# ----------------------------------------------------------------------------------------------- the reference problems


def test_riccati_gains_attain_the_cost_to_go_and_nothing_near_them_does_better():
    A = torch.tensor([[1.0, 0.1], [-0.2, 0.9]], dtype=torch.float64)
    B = torch.tensor([[0.0], [0.3]], dtype=torch.float64)
    Q, R = torch.eye(2, dtype=torch.float64), torch.full((1, 1), 0.5, dtype=torch.float64)
    P, gains = riccati(A, B, Q, R, 4, 0.9)

    def cost(nudge: Tensor) -> float:
        x, total = torch.tensor([1.0, -1.0], dtype=torch.float64), 0.0
        for t, K in enumerate(gains):
            u = -K @ x + nudge[t]
            x = A @ x + B @ u
            total += 0.9**t * float(x @ Q @ x + u @ R @ u)
        return total

    x = torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert math.isclose(cost(torch.zeros(4, dtype=torch.float64)), float(x @ P @ x), rel_tol=1e-12)
    for t in range(4):
        for sign in (1, -1):
            assert cost(sign * 0.05 * torch.eye(4, dtype=torch.float64)[t]) > float(x @ P @ x)


def test_one_step_of_riccati_by_hand():
    # minimise (x + u)^2 + u^2: u = -x/2, cost x^2/2
    one = torch.ones(1, 1, dtype=torch.float64)
    P, gains = riccati(one, one, one, one, 1)
    assert P.tolist() == [[0.5]]
    assert gains.tolist() == [[[0.5]]]


def test_the_cliff_pays_to_stay_and_the_fall_pays_half():
    problem, start, _, value = cliff_reference(4, BOX)
    stay, fall = torch.zeros(4, 2, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64)
    result = evaluate_plans(problem, start, torch.stack([stay, fall])[None].repeat(2, 1, 1, 1), generator=G)
    assert result.scores.tolist() == [[4.0, 0.5]] * 2
    assert value.tolist() == [4.0, 4.0]


def test_no_plan_beats_the_reference():
    problem, start, _, value = lq_reference(6, discount=0.9)
    plans = torch.randn(4, 500, 6, 1, generator=G, dtype=torch.float64)
    assert bool((evaluate_plans(problem, start, plans, generator=G).scores < value[:, None]).all())


def test_differences_are_told_by_path_and_row():
    state = ParticleState(torch.zeros(3, 2), torch.arange(3))
    other = state._replace(obs=torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(AssertionError, match=r"A law: state.obs differs in row 2: \[0.0, 1.0\] against \[0.0, 0.0\]"):
        require_same("A law", "state", other, state)
    require_same("A law", "state", other, state, rows=torch.tensor([True, True, False]))
