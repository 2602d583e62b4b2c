"""MPC: batches of environments, episode starts, replanning, seeds, invalid plans, and stable-baselines3's calling."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from planners import (
    CEM,
    MPC,
    UCT,
    Box,
    FunctionDynamics,
    InvalidPlanError,
    Problem,
    RandomShooting,
)
from planners.finite import FiniteMDP
from tests.planners.mpc_cases import BOX, BROKEN, OBS, PLANNER, PROBLEM, rollout


def test_single_and_batched_observations_keep_their_shape_and_type():
    for dtype in (np.float32, np.float64):
        mpc = MPC(PLANNER, PROBLEM)
        action, state = mpc.predict(OBS.astype(dtype))
        assert action.shape == (3, 1)
        assert action.dtype == dtype
        assert isinstance(action, np.ndarray)
        assert state.tick.tolist() == [1, 1, 1]
        single, _ = mpc.predict(OBS[0].astype(dtype))
        assert single.shape == (1,)


def test_act_is_predict_with_a_state_of_its_own_until_reset():
    mpc, other = MPC(PLANNER, PROBLEM, seed=3), MPC(PLANNER, PROBLEM, seed=3)
    first = mpc.act(OBS)
    expected, state = other.predict(OBS)
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(mpc.act(OBS), other.predict(OBS, state)[0])
    mpc.reset()
    np.testing.assert_array_equal(mpc.act(OBS), first)
    mpc.reset()
    np.testing.assert_array_equal(mpc.act_from(torch.as_tensor(OBS)).numpy(), first)


def test_a_plan_is_a_function_of_seed_and_tick():
    mpc = MPC(PLANNER, PROBLEM, seed=1)
    action, state = mpc.predict(OBS)
    torch.manual_seed(0)
    mpc.predict(OBS + 1.0)  # an evaluation in between
    again, second = mpc.predict(OBS, state)
    np.testing.assert_array_equal(mpc.predict(OBS)[0], action)
    np.testing.assert_array_equal(MPC(PLANNER, PROBLEM, seed=1).predict(OBS, state)[0], again)
    assert second.tick.tolist() == [2, 2, 2]
    assert not np.array_equal(MPC(PLANNER, PROBLEM, seed=2).predict(OBS)[0], action)
    later = state._replace(tick=state.tick + 1)
    assert not np.array_equal(mpc.predict(OBS, later)[0], again)


def test_planning_never_draws_from_the_global_random_streams():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    MPC(PLANNER, PROBLEM).predict(OBS)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_an_environment_that_starts_anew_forgets_and_the_others_do_not():
    mpc = MPC(PLANNER, PROBLEM)
    _, state = mpc.predict(OBS)
    _, state = mpc.predict(OBS * 0.9, state, np.array([False, False, False]))
    on, _ = mpc.predict(OBS, state, np.array([False, False, False]))
    mixed, new = mpc.predict(OBS, state, np.array([False, True, False]))
    np.testing.assert_array_equal(mixed[[0, 2]], on[[0, 2]])
    # Without its warm start the second plans as at the first call with this tick.
    fresh, _ = mpc.predict(OBS, state, np.array([True, True, True]))
    np.testing.assert_array_equal(mixed[1], fresh[1])
    assert not np.array_equal(mixed[1], on[1])
    assert new.age.tolist() == [1, 1, 1]


def test_neighbours_never_change_an_action():
    other = OBS.copy()
    other[1:] = OBS[[0, 1]]
    starts = [None, [False, True, False], [False, False, False]]
    one, two = (rollout(MPC(PLANNER, PROBLEM, replan_every=2), obs, starts) for obs in (OBS, other))
    np.testing.assert_array_equal(one[:, 0], two[:, 0])
    assert not np.array_equal(one[:, 1], two[:, 1])


def test_replan_every_executes_the_plan_open_loop_whatever_is_observed():
    mpc = MPC(PLANNER, PROBLEM, replan_every=3)
    action, state = mpc.predict(OBS)
    planned = state.plan.actions.numpy()
    np.testing.assert_array_equal(action, planned[:, 0])
    for age in (1, 2):
        action, state = mpc.predict(OBS * (7 + age), state)
        np.testing.assert_array_equal(action, planned[:, age])
        assert state.age.tolist() == [age + 1] * 3
    _, state = mpc.predict(OBS, state)
    assert state.age.tolist() == [1, 1, 1]
    assert not np.array_equal(state.plan.actions.numpy(), planned)


def test_environments_replan_each_at_its_own_time():
    mpc = MPC(PLANNER, PROBLEM, replan_every=3)
    _, state = mpc.predict(OBS)
    _, state = mpc.predict(OBS, state, [False, True, False])
    assert state.age.tolist() == [2, 1, 2]
    _, state = mpc.predict(OBS, state)
    assert state.age.tolist() == [3, 2, 3]
    before = state.plan.actions
    _, state = mpc.predict(OBS, state)
    assert state.age.tolist() == [1, 3, 1]
    assert torch.equal(state.plan.actions[1], before[1])
    assert not torch.equal(state.plan.actions[0], before[0])


def test_the_warm_start_of_open_loop_steps_is_shifted_once_a_step():
    mpc = MPC(RandomShooting(BOX, 4, population=30), PROBLEM, replan_every=3)
    _, state = mpc.predict(OBS)
    planned = state.plan.actions
    for age in (1, 2, 3):
        torch.testing.assert_close(state.memory.mean[:, : 4 - age], planned[:, age:])
        if age < 3:
            _, state = mpc.predict(OBS, state)


def test_who_does_not_replan_keeps_a_shifted_warm_start_while_others_replan():
    mpc = MPC(PLANNER, PROBLEM, replan_every=3)
    _, state = mpc.predict(OBS)
    before = state.memory.mean
    _, state = mpc.predict(OBS, state, [False, True, False])
    torch.testing.assert_close(state.memory.mean[[0, 2], :-1], before[[0, 2], 1:], rtol=0, atol=0)
    assert not torch.equal(state.memory.mean[1, :-1], before[1, 1:])


def test_an_invalid_plan_raises_and_shows_the_observation():
    with pytest.raises(InvalidPlanError, match=r"batch element 1 met .*obs \[1.0, 2.0\].*on_invalid"):
        MPC(PLANNER, BROKEN).predict(OBS)


def test_an_invalid_plan_holds_the_last_action_where_asked():
    mpc = MPC(PLANNER, BROKEN, on_invalid="hold")
    action, state = mpc.predict(OBS * 0.5)
    held, state = mpc.predict(OBS, state)
    assert held[1] == action[1]
    assert held[0] != action[0]
    assert state.plan.valid.tolist() == [True, False, True]
    # At the start of an episode there is no last action: the planner's initial one.
    fresh, _ = mpc.predict(OBS, state, [False, True, False])
    assert fresh[1] == 0.0
    assert np.isfinite(mpc.predict(OBS * 0.5, state)[0]).all()


def test_a_held_action_is_the_callers_no_more():
    """Whoever rescales the action that was returned does not change what is held."""
    broken = []
    model = FunctionDynamics(lambda x, u: x, lambda x, u, n: torch.full_like(x[:, 0], math.nan) if broken else u[:, 0])
    mpc = MPC(RandomShooting(Box(-1.0, 1.0, dim=1), horizon=3, population=8), Problem(model), on_invalid="hold")
    action = mpc.act(np.zeros(1))
    kept = action.copy()
    assert kept > 0.1
    action *= 10
    broken.append(True)
    assert np.array_equal(mpc.act(np.zeros(1)), kept)


def test_an_invalid_plan_is_not_held_longer_than_it_has_to():
    broken = [True]
    model = FunctionDynamics(lambda x, u: x, lambda x, u, n: torch.full_like(x[:, 0], math.nan) if broken else u[:, 0])
    planner = RandomShooting(Box(-1.0, 1.0, dim=1), horizon=5, population=50)
    mpc = MPC(planner, Problem(model), replan_every=5, on_invalid="hold")
    assert mpc.act(np.zeros(1)) == 0
    broken.clear()
    assert mpc.act(np.zeros(1)) > 0.1


def test_the_number_of_a_state_is_an_observation():
    model = FiniteMDP(torch.eye(3)[:, None].expand(3, 2, 3).clone(), torch.zeros(3, 2, 3))
    assert MPC(UCT(2, simulations=4), Problem(model)).act(2).shape == ()


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="replan_every: expected 1 to the planner's horizon of 4, got 5"):
        MPC(PLANNER, PROBLEM, replan_every=5)
    with pytest.raises(ValueError, match="replan_every: expected 1 to the planner's horizon of 4, got 0"):
        MPC(PLANNER, PROBLEM, replan_every=0)
    with pytest.raises(ValueError, match="horizon: expected at least 1, got 0"):
        MPC(CEM(BOX, 0), PROBLEM)
    with pytest.raises(ValueError, match='on_invalid: expected "raise" or "hold", got \'ignore\''):
        MPC(PLANNER, PROBLEM, on_invalid="ignore")


def test_inputs_of_the_wrong_size_are_named():
    mpc = MPC(PLANNER, PROBLEM)
    _, state = mpc.predict(OBS)
    with pytest.raises(ValueError, match="episode_start: expected 3 flags, one a row of obs, got 2"):
        mpc.predict(OBS, state, [True, False])
    with pytest.raises(ValueError, match="obs: expected 3 rows as in the last call, got 2; start anew"):
        mpc.predict(OBS[:2], state)


class Point(gym.Env):
    """The model as an environment of ten steps."""

    observation_space = gym.spaces.Box(-10, 10, (2,), np.float64)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1, 2), 0
        return self.x, {}

    def step(self, action):
        self.x, self.t = 0.9 * self.x + 0.1 * action, self.t + 1
        return self.x, -float((self.x**2).sum()), False, self.t == 10, {}


def test_stable_baselines3_evaluates_an_mpc_as_it_stands():
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    from stable_baselines3.common.env_util import make_vec_env

    def run(policy):
        env = make_vec_env(Point, n_envs=2, seed=0)
        return evaluation.evaluate_policy(policy, env, n_eval_episodes=4, return_episode_rewards=True, warn=False)

    returns, lengths = run(MPC(PLANNER, PROBLEM))
    again, _ = run(MPC(PLANNER, PROBLEM))
    assert lengths == [10] * 4
    assert returns == again
    assert np.mean(returns) > np.mean(run(MPC(RandomShooting(BOX, 1, population=1), PROBLEM, seed=1))[0])


def test_integer_observations_are_read_as_numbers() -> None:
    dynamics = FunctionDynamics(lambda x, u: x + u, lambda x, u, y: -(y**2).sum(-1))
    mpc = MPC(CEM(Box(-1.0, 1.0, dim=1), horizon=2, population=20, elites=4), Problem(dynamics))
    assert np.array_equal(mpc.act([2]), mpc.predict(np.array([2.0], dtype=np.float32))[0])


def test_a_terminal_value_that_is_not_finite_is_named() -> None:
    dynamics = FunctionDynamics(lambda x, u: x + 1, lambda x, u, y: -(y[:, 0] ** 2))
    problem = Problem(dynamics, terminal_value=lambda obs: obs[:, 0] * torch.nan)
    mpc = MPC(CEM(Box(-1.0, 1.0, dim=1), horizon=6, population=20, elites=4), problem)
    with pytest.raises(InvalidPlanError, match=r"not finite: terminal_value, nan of obs \[8\.0\]"):
        mpc.act(np.array([2.0]))


def test_the_first_bad_row_of_a_users_function_is_shown() -> None:
    def reward(x: torch.Tensor, u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(y[:, 0] > 4.5, torch.nan, y[:, 0])

    dynamics = FunctionDynamics(lambda x, u: x + 1, reward)
    mpc = MPC(CEM(Box(-1.0, 1.0, dim=1), horizon=6, population=20, elites=4), Problem(dynamics))
    with pytest.raises(InvalidPlanError, match=r"step 2 of the plan: obs \[4\.0\].*next_obs \[5\.0\], reward nan"):
        mpc.act(np.array([2.0]))
