"""Row simulator_plan: control steps of MuJoCo inside a planner, in microseconds each.

`evaluate_plans` on the simulator of HalfCheetah-v5 and Hopper-v5, 256 sequences x 30 steps, one thread. The peer is a
bare `mujoco.rollout` of the same states and controls: it computes no reward and no observation, sees no divergence and
carries no states from step to step. The floor is `mujoco.batch.Batch.step` in a loop, which does nothing either.
Times are those of the process, not of the clock: one thread is at work, and neighbours on a busy machine count less.

Also here: how a step's time changes with the population and the horizon, and by the clock with the threads.
"""

import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import mujoco
import mujoco.rollout
import numpy as np
import torch
from mujoco.batch import Batch
from torch import Tensor

from benchmarks.harness import Cost, alternate
from benchmarks.report import compare
from mbrl.envs import make_env, simulator
from planners import Problem, evaluate_plans
from planners.rows import repeat_rows
from planners.simulator import SimState, Simulator
from planners.simulator_engine import FULL

ENVS = ("HalfCheetah-v5", "Hopper-v5")
SIZES = {"population": 256, "horizon": 30}
SMALL = {"population": 8, "horizon": 3}
TARGET = 0.9
POPULATIONS = (30, 100, 300, 1_000, 3_000, 10_000)
HORIZONS = (5, 10, 20, 50, 100)


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row for both environments; `small`: with tiny sizes, to see that it runs."""
    sizes = SMALL if small else SIZES
    records, scaling = {}, {}
    for env_id in ENVS:
        model, start = begin(env_id)
        actions = draw(model, **sizes)
        checked = agree(model, start, actions)
        contestants = {
            "ours": by_process(ours(model, start, actions)),
            "floor": by_process(bare_batch(model, start, actions)),
            "peer": by_process(bare_rollout(model, start, actions)),
        }
        readings = alternate(contestants, rounds=rounds)
        records[env_id] = compare(
            f"simulator_plan of {env_id}",
            readings,
            unit="us/control step",
            scale=1e6 / (sizes["population"] * sizes["horizon"]),
            target=TARGET,
            peer_versions={"mujoco": metadata.version("mujoco")},
            notes={"largest_difference_from_rollout": checked},
        )
        if not small and env_id == ENVS[0]:
            scaling[env_id] = curves(env_id, model, start)
    return {"sizes": sizes, "by_environment": records, "scaling_us_per_step": scaling}


def by_process(work: Callable[[], object]) -> Callable[[], Cost]:
    """A unit of work, timed by what the process used."""

    def unit() -> Cost:
        began = time.process_time()
        work()
        used = time.process_time() - began
        return Cost(used, used)

    return unit


def begin(env_id: str, threads: int = 1) -> tuple[Simulator, SimState]:
    """A simulator, and the state of its environment a little after the beginning of an episode."""
    env = make_env(env_id)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(5):
        env.step(env.action_space.sample())
    model = simulator(env, threads=threads)
    return model, model.state_of(env)


def draw(model: Simulator, population: int, horizon: int) -> Tensor:
    """Uniform plans: [1, population, horizon, act]."""
    stream = torch.Generator().manual_seed(1)
    return 2 * torch.rand(1, population, horizon, model.model.nu, generator=stream, dtype=torch.float64) - 1


def ours(model: Simulator, start: SimState, actions: Tensor) -> Callable[[], object]:
    problem, stream = Problem(model), torch.Generator()
    return lambda: evaluate_plans(problem, start, actions, generator=stream)


def bare_rollout(model: Simulator, start: SimState, actions: Tensor) -> Callable[[], Tensor]:
    """The same steps by `mujoco.rollout`: states after every substep, [population, substeps, nstate]."""
    mj, full = model.model, mujoco.mjtState.mjSTATE_FULLPHYSICS
    data = mujoco.MjData(mj)
    mujoco.mj_setState(mj, data, start.physics[0].numpy(), FULL)
    state = np.empty(mujoco.mj_stateSize(mj, full))
    mujoco.mj_getState(mj, data, state, full)
    states, warm = np.tile(state, (actions.shape[1], 1)), np.tile(data.qacc_warmstart, (actions.shape[1], 1))
    controls = np.repeat(actions[0].numpy(), model.frame_skip, axis=1)
    pool = mujoco.rollout.Rollout(nthread=0 if model.threads == 1 else model.threads)
    datas = [mujoco.MjData(mj) for _ in range(model.threads)]
    return lambda: torch.from_numpy(pool.rollout(mj, datas, states, controls, initial_warmstart=warm)[0])


def bare_batch(model: Simulator, start: SimState, actions: Tensor) -> Callable[[], None]:
    """The same steps by MuJoCo's batch, without reading anything."""
    population, horizon = actions.shape[1:3]
    batch, controls = Batch(model.model, population, model.threads), actions[0].transpose(0, 1).contiguous().numpy()
    ctrl, first = batch.bind("ctrl"), start.physics.numpy()

    def work() -> None:
        batch.state[:] = first
        for t in range(horizon):
            ctrl[:] = controls[t]
            batch.step(None, model.frame_skip)

    return work


def agree(model: Simulator, start: SimState, actions: Tensor) -> float:
    """The largest difference between positions and velocities of our steps and of `mujoco.rollout`.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    expected = bare_rollout(model, start, actions)()[:, model.frame_skip - 1 :: model.frame_skip]
    state, size, worst = repeat_rows(start, actions.shape[1]), 1 + model.model.nq + model.model.nv, 0.0
    for t in range(actions.shape[2]):
        state, _ = model.step(state, actions[0, :, t])
        worst = max(worst, float((state.physics[:, :size] - expected[:, t, :size]).abs().max()))
    if not worst < 1e-9:
        raise RuntimeError(f"states differ by {worst} from those of mujoco.rollout: the simulator is wrong")
    return worst


def curves(env_id: str, model: Simulator, start: SimState) -> dict[str, dict[int, float]]:
    """Microseconds a control step, by population (10 steps), by horizon (100 plans), and by threads (256 x 10)."""
    return {
        "population": {n: time_of(model, start, draw(model, n, 10)) for n in POPULATIONS},
        "horizon": {n: time_of(model, start, draw(model, 100, n)) for n in HORIZONS},
        "threads": {n: time_of(*begin(env_id, n), draw(model, 256, 10), clock=time.perf_counter) for n in (1, 2)},
    }


def time_of(
    model: Simulator, start: SimState, actions: Tensor, clock: Callable[[], float] = time.process_time
) -> float:
    work, times = ours(model, start, actions), []
    work()
    for _ in range(3):
        began = clock()
        work()
        times.append(clock() - began)
    return round(1e6 * statistics.median(times) / (actions.shape[1] * actions.shape[2]), 1)
