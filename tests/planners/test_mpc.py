"""MPC: batches of environments, episode starts, replanning, seeds, invalid plans, and stable-baselines3's calling."""

import time
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from planners import (
    CEM,
    ICEM,
    ILQR,
    MPC,
    MPPI,
    Box,
    FunctionDynamics,
    InvalidPlanError,
    Polished,
    Problem,
    RandomShooting,
)
from planners.latency import Deadline, Latency
from planners.rows import leaves
from planners.sampling.proposals import Proposals

BOX = Box(-1.0, 1.0, dim=1)
PLANNER = CEM(BOX, 4, population=30, elites=4, iterations=2)
OBS = np.array([[0.5, -0.5], [1.0, 2.0], [-1.0, 0.3]])


def transition(x, u):
    return 0.9 * x + 0.1 * u


def reward(x, u, next_x):
    return -next_x.square().sum(-1)


PROBLEM = Problem(FunctionDynamics(transition, reward))
BROKEN = Problem(FunctionDynamics(transition, lambda x, u, y: torch.where(x[:, 0] > 0.9, torch.nan, y[:, 0])))


def rollout(mpc, obs, starts):
    """Actions of a few steps, each from the observation that the model predicts."""
    actions, state = [], None
    for start in starts:
        action, state = mpc.predict(obs, state, start)
        actions.append(action)
        obs = np.asarray(transition(torch.as_tensor(obs), torch.as_tensor(action)))
    return np.stack(actions)


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


def test_the_first_bad_row_of_a_users_function_is_shown() -> None:
    def reward(x: torch.Tensor, u: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(y[:, 0] > 4.5, torch.nan, y[:, 0])

    dynamics = FunctionDynamics(lambda x, u: x + 1, reward)
    mpc = MPC(CEM(Box(-1.0, 1.0, dim=1), horizon=6, population=20, elites=4), Problem(dynamics))
    with pytest.raises(InvalidPlanError, match=r"step 2 of the plan: obs \[4\.0\].*next_obs \[5\.0\], reward nan"):
        mpc.act(np.array([2.0]))


def test_a_delayed_action_is_planned_for_the_state_in_which_it_is_executed():
    """What is executed after a delay is what MPC without one does from the state that is reached then."""
    mpc = MPC(PLANNER, PROBLEM, seed=3, delay=2)
    obs, state, executed, reached = OBS, None, [], [OBS]
    for _ in range(5):
        action, state = mpc.predict(obs, state)
        executed.append(action)
        obs = np.asarray(transition(torch.as_tensor(obs), torch.as_tensor(action)))
        reached.append(obs)
    np.testing.assert_array_equal(executed[0], np.zeros((3, 1)))
    np.testing.assert_array_equal(executed[1], np.zeros((3, 1)))
    plain, now = MPC(PLANNER, PROBLEM, seed=3), None
    for step in range(3):
        expected, now = plain.predict(reached[step + 2], now)
        np.testing.assert_array_equal(executed[step + 2], expected)


def test_an_episode_that_begins_empties_its_queue_alone():
    mpc = MPC(PLANNER, PROBLEM, delay=2)
    _, state = mpc.predict(OBS)
    for _ in range(3):
        _, state = mpc.predict(OBS, state)
    action, after = mpc.predict(OBS, state, [False, True, False])
    np.testing.assert_array_equal(action[1], [0.0])
    np.testing.assert_array_equal(after.queue[1, 0], [0.0])
    np.testing.assert_array_equal(after.queue[0, 0], state.queue[0, 1])
    assert float(after.queue[1, 1].abs()) > 0


def test_a_delay_needs_a_mean_to_predict_with():
    class Partial(FunctionDynamics):
        def step(self, state, action, *, generator=None):
            if generator is None:
                raise ValueError("generator: this model has no mean transition")
            return super().step(state, action, generator=generator)

    mpc = MPC(PLANNER, Problem(Partial(transition, reward)), delay=1)
    with pytest.raises(ValueError, match=r"delay: expected 0, for the model has no mean transition .*, got 1"):
        mpc.predict(OBS)


class SlowClock:
    """Seconds that pass with every model step and with nothing else."""

    def __init__(self, per_step: float) -> None:
        self.now, self.per_step, self.steps = 0.0, per_step, 0

    def __call__(self) -> float:
        return self.now

    def transition(self, x, u):
        self.now += self.per_step
        self.steps += 1
        return transition(x, u)


@pytest.mark.parametrize(
    ("seconds", "reserve", "iterations"),
    [
        *[(0.1, 0.0, 1), (4.5, 0.0, 1), (8.5, 0.0, 2), (13.0, 0.0, 3), (1e3, 0.0, 9)],
        *[(0.1, 4.0, 1), (8.5, 4.0, 1), (13.0, 4.0, 2), (15.9, 4.0, 2), (16.1, 4.0, 3), (1e3, 4.0, 9)],
        *[(13.0, None, 2), (16.1, None, 3), (1e3, None, 9)],
        *[(13.0, 1e3, 1)],
    ],
)
def test_a_deadline_stops_before_the_iteration_that_would_be_late(seconds, reserve, iterations):
    """An iteration of 4 model steps takes 4 s on this clock; the first one runs in any case."""
    clock = SlowClock(1.0)
    planner = CEM(BOX, 4, population=20, elites=4, iterations=9, min_variance=0.0)
    problem = Problem(FunctionDynamics(clock.transition, reward))
    start = torch.as_tensor(OBS)
    memory = planner.init(problem, start, generator=torch.Generator())
    problem.dynamics.step(
        start, torch.zeros(3, 1, dtype=start.dtype)
    )  # what is checked at the first step takes one more
    began, stop = clock(), Deadline(clock(), seconds, clock, reserve)
    plan = planner.plan(problem, start, memory, generator=torch.Generator(), stop=stop)
    assert plan.info.iterations.tolist() == [iterations] * 3
    assert 4 * iterations <= max(seconds, 4.0)
    assert stop.stopped == (None if iterations == 9 else began + 4 * iterations)
    if reserve != 0.0:  # there is time for the rollout of the mean
        assert clock() - began <= max(seconds, 8.0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, as forward mode is loaded
@pytest.mark.parametrize("milliseconds", [25.0, 47.0, 100.0])
@pytest.mark.parametrize(
    "planner",
    [
        CEM(BOX, 4, population=20, elites=4, iterations=90, min_variance=0.0),
        MPPI(BOX, 4, population=20, iterations=90),
        ICEM(BOX, 4, population=20, iterations=90),
        Polished(CEM(BOX, 4, population=20, elites=4, iterations=90, min_variance=0.0), ILQR(BOX, 4)),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_deadlines_are_kept_and_used(planner, milliseconds, monkeypatch):
    """A model step takes 1 ms on this clock, so that CEM's iteration, and the rollout of its mean, take 4 ms."""
    clock = SlowClock(1e-3)
    monkeypatch.setattr("planners.mpc.time", SimpleNamespace(perf_counter=clock))
    mpc = MPC(planner, Problem(FunctionDynamics(clock.transition, reward)), deadline_ms=milliseconds)
    state = None
    for _ in range(5):
        before = clock()
        _, state = mpc.predict(OBS, state)
    assert milliseconds - 4.0 <= 1e3 * (clock() - before)
    first = type(planner) is Polished  # which does not know yet what it takes to finish
    assert mpc.latency.summary().missed <= first


def test_a_plan_under_a_deadline_is_the_best_so_far_and_its_latency_is_collected():
    slow = SlowClock(0.0)

    def dawdle(x, u):
        time.sleep(10e-3)  # a step; an iteration takes four: long enough for a busy machine
        return slow.transition(x, u)

    planner = CEM(BOX, 4, population=20, elites=4, iterations=1000, min_variance=0.0)
    mpc = MPC(planner, Problem(FunctionDynamics(dawdle, reward)), deadline_ms=300.0)
    state = None
    for _ in range(4):
        _, state = mpc.predict(OBS, state)
        assert 1 <= int(state.plan.info.iterations[0]) <= 7
    summary = mpc.latency.summary()
    assert summary.plans == 4
    assert 40 < summary.p50_ms <= summary.p95_ms <= summary.p99_ms


def test_latency_counts_what_ended_after_its_deadline():
    latency = Latency()
    assert np.isnan(latency.summary().p50_ms)
    for seconds, deadline in ((0.01, 0.02), (0.03, 0.02), (0.05, None)):
        latency.record(seconds, deadline)
    assert latency.summary() == pytest.approx((3, 30.0, 48.0, 49.6, 1))
    latency.reset()
    assert latency.summary().plans == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deadline_ms": 0.0}, "deadline_ms: expected a positive"),
        ({"delay": -1}, "delay: expected 0 steps or more"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, got -1"),
        ({"seed": 0.5}, r"seed: expected a whole number of at least 0, got 0\.5"),
    ],
)
def test_bad_timing_and_seeds_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MPC(PLANNER, PROBLEM, **options)


POLICY = torch.nn.Linear(2, 1, dtype=torch.float64)


def networks() -> Problem:
    """Dynamics, reward and terminal value with parameters that require gradients."""
    net, value = (torch.nn.Linear(width, 2, dtype=torch.float64) for width in (3, 2))
    for network in (net, value):
        torch.nn.init.constant_(network.weight, 0.1)
    dynamics = FunctionDynamics(
        lambda x, u: x + 0.1 * net(torch.cat([x, u], 1)).tanh(), lambda x, u, y: -value(y).square().sum(1)
    )
    return Problem(dynamics, terminal_value=lambda x: -value(x).square().sum(1))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, as forward mode is loaded
@pytest.mark.parametrize(
    "planner",
    [
        PLANNER,
        ICEM(BOX, 4),
        MPPI(BOX, 4, population=20, min_std=0.1, proposals=Proposals(lambda obs, generator: POLICY(obs), 2)),
        ILQR(BOX, 4, iterations=3),
        Polished(PLANNER, ILQR(BOX, 4, iterations=3)),
    ],
    ids=lambda planner: type(planner).__name__,
)
def test_plans_of_networks_carry_no_gradients(planner) -> None:
    """Else a warm start would hold the graphs of all plans before it."""
    problem, start = networks(), torch.as_tensor(OBS)
    mpc = MPC(planner, problem, delay=1)
    for _ in range(2):
        action = mpc.act_from(start)
    assert not any(leaf.requires_grad for leaf in (action, *leaves(mpc._state)))
    generator = torch.Generator()
    plan = planner.plan(problem, start, planner.init(problem, start, generator=generator), generator=generator)
    assert not any(leaf.requires_grad for leaf in leaves(plan))
    state, _ = problem.dynamics.step(start, plan.actions[:, 0])
    assert state.requires_grad  # whoever steps the model alone may differentiate
    assert not planner.action(problem, plan, torch.ones(3, dtype=torch.long), state).requires_grad


def test_an_mpc_asks_for_no_gradients() -> None:
    """In whatever its planner asks of the model, and in predictions of its own."""
    grads = []

    class Watched(FunctionDynamics):
        def step(self, state, action, *, generator=None):
            grads.append(torch.is_grad_enabled())
            return super().step(state, action, generator=generator)

    MPC(PLANNER, Problem(Watched(transition, reward)), delay=1).act(OBS)
    assert len(grads) > 1
    assert not any(grads)
