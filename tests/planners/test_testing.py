"""The kit passes what obeys the laws, and says which law a planted bug breaks."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from planners import Box, FunctionDynamics, Step, evaluate_plans
from planners.testing import check_dynamics, cliff_reference, lq_reference, riccati
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
    with pytest.raises(ValueError, match=r"actions: expected shape \[steps, 6, act\].* got torch.float64 \[6, 2\]"):
        check_dynamics(dynamics, START, ACTIONS[0])


# ---------------------------------------------------------------------------------------------- dynamics that are wrong


def leaking(x, u):
    return transition(x, u) + 1e-3 * x.mean(0)


def nan_leaking(x, u):
    return transition(x, u) + 0 * x.sum()


@pytest.mark.parametrize(
    ("functions", "law"),
    [
        ({"transition": leaking}, "never depends on the contents of other rows .* other contents"),
        ({"transition": nan_leaking}, "never depends on the contents of other rows .* NaN"),
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


@pytest.mark.parametrize("draws", [1, 2])
def test_planted_unroll_that_is_not_the_steps(draws):
    class Wrong(Particles):
        def unroll(self, state, actions, *, generator=None):
            for _ in range(draws):  # once is the right number of draws, for the last of the steps alone
                after, step = self.step(state, actions[0], generator=generator)
            steps = [step] * len(actions)
            return after, Step(*(torch.stack(parts) for parts in zip(*steps, strict=True)))

    with pytest.raises(AssertionError, match="unroll equals the steps one by one"):
        check_dynamics(Wrong(), Particles().reset(START), ACTIONS)


def test_planted_end_of_an_endless_model():
    class Wrong(FunctionDynamics):
        endless = True

    dynamics = Wrong(transition, reward, lambda x, u, y: y[:, 0] == y[:, 0])
    with pytest.raises(AssertionError, match="An endless model never terminates"):
        check_dynamics(dynamics, START, ACTIONS)
