"""`evaluate_plans` against returns worked out by hand."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from planners import CEM, MPC, Box, FunctionDynamics, Problem, Step, evaluate_plans
from planners.problem import _marked
from planners.risk import cvar, worst

G = torch.Generator().manual_seed(0)


def counter(reward, termination=None) -> FunctionDynamics:
    """x' = x + u: the observation is the sum of the actions so far."""
    return FunctionDynamics(lambda x, u: x + u, reward, termination)


def plans(*rows: list[float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float64).unsqueeze(-1)


def evaluate(problem: Problem, actions: Tensor, start: float = 0.0):
    return evaluate_plans(problem, torch.full((len(actions), 1), start, dtype=torch.float64), actions, generator=G)


def next_obs(x, u, next_x):
    return next_x[:, 0]


def test_discount_and_terminal_value():
    problem = Problem(counter(next_obs), discount=0.5, terminal_value=lambda x: 10 * x[:, 0])
    # Observations 1, 3, 4: rewards 1 + 3/2 + 4/4, and 40/8 for the last state.
    assert evaluate(problem, plans([1, 2, 1])).scores.tolist() == [[1 + 1.5 + 1 + 5]]


def test_the_reward_reads_state_action_and_next_state():
    problem = Problem(counter(lambda x, u, next_x: 100 * x[:, 0] + 10 * u[:, 0] + next_x[:, 0]))
    assert evaluate(problem, plans([2, 1]), start=1.0).scores.tolist() == [[100 + 20 + 3 + 300 + 10 + 4]]


def test_nothing_counts_after_the_end():
    ends = counter(next_obs, lambda x, u, next_x: next_x[:, 0] >= 3)
    problem = Problem(ends, terminal_value=lambda x: 1000 * x[:, 0])
    # The step that ends the episode counts; later rewards and the terminal value do not, negative ones neither.
    result = evaluate(problem, plans([1, 2, 5, 5], [3, -9, -9, -9], [0, 0, 0, 1]))
    assert result.scores.tolist() == [[1 + 3, 3, 1 + 1000]]
    assert result.valid.all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["reward", "observation", "terminal value"])
def test_what_is_not_finite_while_alive_is_invalid(bad, where):
    def transition(x, u):
        return torch.where(u == 7, bad, x + u) if where == "observation" else x + u

    def reward(x, u, next_x):
        return torch.where(u[:, 0] == 7, bad, torch.ones_like(u[:, 0])) if where == "reward" else u[:, 0] * 0 + 1

    def value(x):
        return torch.where(x[:, 0] == 7, bad, x[:, 0] * 0) if where == "terminal value" else torch.zeros_like(x[:, 0])

    problem = Problem(FunctionDynamics(transition, reward), terminal_value=value)
    result = evaluate(problem, plans([0, 0], [0, 7], [1, 1]))
    assert result.scores.tolist() == [[2.0, -math.inf, 2.0]]
    assert result.valid.tolist() == [[True, False, True]]


def test_what_is_not_finite_after_the_end_does_not_count():
    def reward(x, u, next_x):
        return torch.where(x[:, 0] >= 3, torch.nan, next_x[:, 0])

    problem = Problem(counter(reward, lambda x, u, next_x: next_x[:, 0] >= 3), terminal_value=lambda x: x[:, 0] / 0)
    result = evaluate(problem, plans([3, 1], [1, 1]))
    assert result.scores[0, 0] == 3.0
    assert result.valid.tolist() == [[True, False]]  # the second lives to meet 2 / 0


def test_an_end_on_the_bad_step_itself_does_not_excuse_it():
    bad = counter(lambda x, u, next_x: next_x[:, 0] * torch.nan, lambda x, u, next_x: next_x[:, 0] >= 0)
    assert evaluate(Problem(bad), plans([1, 1])).valid.tolist() == [[False]]


class World(NamedTuple):
    obs: Tensor
    slope: Tensor


class Worlds:
    """A randomised world by particle: the reward is the particle's index times the action."""

    def reset(self, obs):
        return World(obs, torch.zeros(len(obs), dtype=obs.dtype))

    def observe(self, state):
        return state.obs

    def assign(self, state, particles, *, generator):
        return World(state.obs, (torch.arange(len(state.obs)) % particles).to(state.obs))

    def step(self, state, action, *, generator=None):
        reward = state.slope * action[:, 0]
        return state, Step(state.obs, reward, torch.zeros(len(action), dtype=torch.bool))


def score(risk, *actions: list[float]) -> list[list[float]]:
    dynamics = Worlds()
    problem = Problem(dynamics, particles=3, risk=risk)
    start = dynamics.reset(torch.zeros(1, 1, dtype=torch.float64))
    return evaluate_plans(problem, start, plans(*actions), generator=G).scores.tolist()


def test_particles_are_the_fastest_rows_and_every_plan_meets_all_of_them():
    seen = []

    def risk(returns, valid):
        seen.append(returns)
        return returns.mean(-1)

    assert score(risk, [1.0], [10.0]) == [[1.0, 10.0]]
    assert seen[0].tolist() == [[[0.0, 1.0, 2.0], [0.0, 10.0, 20.0]]]


def test_risk_acts_on_returns_and_not_on_steps():
    # Returns of both plans by particle: 0, 0, 0. The worst of each step would be 0 - 2 = -2.
    assert score(worst, [1.0, -1.0]) == [[0.0]]
    assert score(cvar(0.5), [1.0, 1.0]) == [[(0 * 1 + 2 * 0.5) / 1.5]]


def test_one_invalid_particle_makes_the_plan_invalid_whatever_the_risk_measure_says():
    class Broken(Worlds):
        def step(self, state, action, *, generator=None):
            state, step = super().step(state, action)
            return state, step._replace(reward=torch.where((state.slope == 2) & (action[:, 0] == 1), torch.nan, 1.0))

    dynamics = Broken()
    problem = Problem(dynamics, particles=3, risk=lambda returns, valid: returns.amax(-1))
    start = dynamics.reset(torch.zeros(1, 1, dtype=torch.float64))
    result = evaluate_plans(problem, start, plans([1.0], [2.0]), generator=G)
    assert result.scores.tolist() == [[-math.inf, 1.0]]
    assert result.valid.tolist() == [[False, True]]


def test_batch_elements_start_from_their_own_states():
    problem = Problem(counter(next_obs))
    start = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    actions = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]], dtype=torch.float64).unsqueeze(-1)
    assert evaluate_plans(problem, start, actions, generator=G).scores.tolist() == [[3.0, 0.0], [23.0, 20.0]]


def test_numbers_out_of_range_and_wrong_shapes_are_named():
    dynamics = counter(next_obs)
    for discount in (0.0, 1.1, -1.0):
        with pytest.raises(ValueError, match="discount: expected a number in"):
            Problem(dynamics, discount=discount)
    with pytest.raises(ValueError, match="particles: expected at least 1, got 0"):
        Problem(dynamics, particles=0)
    with pytest.raises(ValueError, match=r"risk: expected scores of shape \[1, 1\]"):
        evaluate(Problem(dynamics, risk=lambda returns, valid: returns.mean()), plans([1]))
    with pytest.raises(ValueError, match=r"terminal_value: expected shape \[2\], one number a row, got \[2, 1\]"):
        evaluate(Problem(dynamics, terminal_value=lambda x: x), plans([1], [1]))


@pytest.mark.parametrize(
    ("shape", "name"), [((0, 2, 3, 1), "batch"), ((1, 0, 3, 1), "plans"), ((1, 2, 0, 1), "horizon")]
)
def test_no_plans_and_plans_without_steps_are_named(shape, name):
    dynamics = FunctionDynamics(lambda x, u: x + u, lambda x, u, y: y[:, 0])
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        evaluate_plans(Problem(dynamics), torch.zeros(shape[0], 1), torch.zeros(shape), generator=torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("size", [1, 2, 17, 300])
def test_an_observation_that_is_not_finite_shows_in_its_own_row_alone(size, bad, dtype):
    reward, obs = torch.linspace(-3, 3, 7, dtype=dtype), torch.randn(7, size, generator=G, dtype=dtype)
    for column in {0, size // 2, size - 1}:
        broken = obs.clone()
        broken[4, column] = bad
        marked = _marked(Step(broken, reward, reward > 9))
        assert not marked[4].isfinite()
        keep = torch.arange(7) != 4
        torch.testing.assert_close(marked[keep], reward[keep], rtol=0, atol=0)


def test_a_subclass_with_a_step_of_its_own_is_asked_for_ends():
    class Ends(FunctionDynamics):
        def step(self, state, action, *, generator=None):
            state, step = super().step(state, action, generator=generator)
            return state, step._replace(terminated=step.obs[:, 0] > 0.5)

    problem = Problem(Ends(lambda x, u: x + u, lambda x, u, y: y[:, 0]))
    actions = torch.ones(1, 1, 5, 1)
    assert evaluate_plans(problem, torch.zeros(1, 1), actions, generator=G).scores.item() == 1.0


def test_a_model_that_never_ends_is_taken_at_its_word():
    """And one that does not say so is asked at every step."""
    plain = FunctionDynamics(lambda x, u: x + u, lambda x, u, y: y[:, 0])
    asked = FunctionDynamics(lambda x, u: x + u, lambda x, u, y: y[:, 0], lambda x, u, y: y[:, 0] > 1.0)
    assert plain.endless
    assert not asked.endless
    start, actions = torch.zeros(1, 1), torch.tensor([[[[1.0], [1.0], [1.0]]]])
    assert evaluate_plans(Problem(plain), start, actions, generator=G).scores.item() == 6.0
    assert evaluate_plans(Problem(asked), start, actions, generator=G).scores.item() == 3.0


def test_finer_values_and_rewards_do_not_change_the_type_of_scores():
    """A terminal value from numpy, say."""
    model = FunctionDynamics(lambda x, u: x, lambda x, u, n: u[:, 0])
    problem = Problem(model, terminal_value=lambda obs: obs[:, 0].double())
    mpc = MPC(CEM(Box(-1.0, 1.0, dim=1), horizon=3, population=20, elites=4, iterations=2), problem)
    assert mpc.act(np.zeros(1, np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dynamics": lambda x, u: x}, "dynamics: expected a model, got .*wrap functions as FunctionDynamics"),
        ({"particles": 2.5}, "particles: expected a whole number of at least 1, got 2.5"),
    ],
)
def test_what_is_no_problem_is_named(arguments, message):
    model = FunctionDynamics(lambda x, u: x, lambda x, u, n: u[:, 0])
    with pytest.raises(ValueError, match=f"^{message}"):
        Problem(**{"dynamics": model, **arguments})
