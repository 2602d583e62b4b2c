"""MPC in time: actions that are executed late, deadlines, and what is told of latency."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from planners import (
    CEM,
    ICEM,
    ILQR,
    MPC,
    MPPI,
    FunctionDynamics,
    Polished,
    Problem,
)
from planners.latency import Deadline, Latency
from tests.planners.mpc_cases import BOX, OBS, PLANNER, PROBLEM, reward, transition


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
