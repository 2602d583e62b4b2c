"""MuJoCo itself as `Dynamics`: the model that makes no error, many simulations at once on a thread pool.

A state is the whole physics state of each row, so that a plan starts from where an environment stands, in the middle of
an episode too. A control step is `frame_skip` substeps, computed as Gymnasium's MuJoCo environments compute them, so
that rewards and observations equal theirs. Derived fields such as `xpos` are those that `mj_step` leaves, one substep
behind the state, as those environments read them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import mujoco
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray
from torch import Generator, Tensor

from planners.cores import effective_cores
from planners.dynamics import Step

_FULL = mujoco.mjtState.mjSTATE_INTEGRATION
_STATE_FIELDS = {
    "time": mujoco.mjtState.mjSTATE_TIME,
    "qpos": mujoco.mjtState.mjSTATE_QPOS,
    "qvel": mujoco.mjtState.mjSTATE_QVEL,
    "act": mujoco.mjtState.mjSTATE_ACT,
}

Fields = Mapping[str, Tensor]
"""MuJoCo fields by name, each [rows, ...] in float64: `time`, `qpos`, `qvel`, `act`, and what `fields` names."""
Outcome = Callable[[Fields, Tensor, Fields], tuple[Tensor, Tensor]]
Observe = Callable[[Fields], Tensor]
StateFromObs = Callable[[Tensor], tuple[Tensor, Tensor]]


class SimState(NamedTuple):
    """The state of simulations, rows leading, on the CPU."""

    physics: Float[Tensor, "rows nstate"]
    """MuJoCo's mjSTATE_INTEGRATION, float64."""
    obs: Float[Tensor, "rows obs"]
    """What the environment would observe: not a function of `physics` everywhere."""
    world: Int[Tensor, "rows"]
    """Which particle of a plan the row is."""
    ok: Bool[Tensor, "rows"]
    """False: the simulation diverged earlier, and the row stays invalid."""


class Simulator:
    """A MuJoCo model as `Dynamics`. Deterministic: it makes no draws, with a generator or without.

    A row diverges where its state or action is not finite, MuJoCo warns or raises, its time does not grow, or its
    result is not finite. MuJoCo would reset such a simulation in silence to its default pose, whose reward may be
    high. Here the row gets reward NaN, which planners score -inf, it keeps the physics and observation it had before,
    and `ok` is False ever after. `diverged` counts these rows.

    Args:
        model: the compiled model; copied.
        outcome: `outcome(before, action, after)` -> reward [rows] and terminated [rows]. `before` has the state fields
            `time`, `qpos`, `qvel` and `act` only; `after` has those of `fields` too.
        observe: `observe(after)` -> observations [rows, obs].
        frame_skip: substeps of a control step.
        threads: of MuJoCo; 0: one for each CPU core that the process may use. Results do not depend on it.
        fields: further MuJoCo fields that the functions read, such as "xpos".
        state_from_obs: positions [rows, nq] and velocities [rows, nv] of an observation; None: it does not tell them.
            Raises ValueError for observations that do not.

    Raises:
        ValueError: `frame_skip` or `threads` is out of range, or MuJoCo has no such field.
    """

    def __init__(
        self,
        model: Any,
        outcome: Outcome,
        observe: Observe,
        frame_skip: int,
        threads: int = 0,
        *,
        fields: tuple[str, ...] = (),
        state_from_obs: StateFromObs | None = None,
    ) -> None:
        if frame_skip < 1:
            raise ValueError(f"frame_skip: expected at least 1, got {frame_skip}")
        if threads < 0:
            raise ValueError(f"threads: expected 0 (one for each CPU core) or more, got {threads}")
        self.model = model
        self.outcome = outcome
        self.observe_fields = observe
        self.frame_skip = frame_skip
        self.threads = threads or effective_cores()
        self.fields = fields
        self.state_from_obs = state_from_obs
        self.diverged = 0
        self._slices = {name: _component(model, bit) for name, bit in _STATE_FIELDS.items()}
        self._widths = [part.stop - part.start for part in self._slices.values()]  # they come first, in this order
        self._widths.append(mujoco.mj_stateSize(model, int(_FULL)) - sum(self._widths))
        self._checked = False
        data = mujoco.MjData(model)
        self._default = _state_of(model, data)  # what rows that can't be stepped are replaced by
        self._batch = self._make_batch(1)

    def state_of(self, env: Any) -> SimState:
        """The state of a Gymnasium MuJoCo environment as it stands, one row: exact in the middle of an episode.

        Raises:
            ValueError: `env` is no MuJoCo environment, or its model is another one.
        """
        inner = getattr(env, "unwrapped", env)
        data, model = getattr(inner, "data", None), getattr(inner, "model", None)
        if not isinstance(data, mujoco.MjData) or not isinstance(model, mujoco.MjModel):
            raise ValueError(f"env: expected a Gymnasium MuJoCo environment with model and data, got {env}")
        sizes, expected = _sizes(model), _sizes(self.model)
        if sizes != expected:
            raise ValueError(f"env: expected a model with {expected}, got {sizes}; make the simulator from this env")
        physics = torch.from_numpy(_state_of(model, data))[None]
        derived = {name: torch.from_numpy(np.array(getattr(data, name)))[None] for name in self.fields}
        obs = self.observe_fields({**self._read(physics), **derived})
        return SimState(physics, obs, torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool))

    def reset(self, obs: Float[Tensor, "rows obs"]) -> SimState:
        """The states that observations determine, at time 0 and with a cold constraint solver.

        Raises:
            ValueError: observations do not determine the state of this model, or have the wrong shape.
        """
        if self.state_from_obs is None:
            raise ValueError(
                "obs: an observation does not determine the state of this simulation; start from "
                "simulator.state_of(env) and plan with mpc.act_from(...)"
            )
        if obs.dim() != 2:
            raise ValueError(f"obs: expected shape [rows, obs], got {list(obs.shape)}; a single one is obs[None]")
        obs = obs.detach().to("cpu", torch.float64)
        qpos, qvel = self.state_from_obs(obs)
        physics = torch.from_numpy(self._default).repeat(len(obs), 1)
        physics[:, self._slices["qpos"]] = qpos
        physics[:, self._slices["qvel"]] = qvel
        ok = torch.ones(len(obs), dtype=torch.bool)
        return SimState(physics, obs, torch.zeros(len(obs), dtype=torch.long), ok)

    def observe(self, state: SimState) -> Float[Tensor, "rows obs"]:
        return state.obs

    def assign(self, state: SimState, particles: int, *, generator: Generator) -> SimState:
        return state._replace(world=torch.arange(len(state.world)) % particles)

    def step(
        self, state: SimState, action: Float[Tensor, "rows act"], *, generator: Generator | None = None
    ) -> tuple[SimState, Step]:
        """Advance every row by `frame_skip` substeps with `action` as the controls, clamped by MuJoCo where limited.

        Raises:
            ValueError: `action` has the wrong shape, or a function returned something of the wrong shape.
        """
        rows = len(state.physics)
        if action.shape != (rows, self.model.nu):
            raise ValueError(f"action: expected shape {[rows, self.model.nu]}, got {list(action.shape)}")
        action = action.detach().to("cpu", torch.float64)
        runs = self._runnable(state, action)
        physics, derived, ok = self._advance(state.physics, action, runs)
        after = {**self._read(physics), **derived}
        reward, terminated = self.outcome(self._read(state.physics), action, after)
        obs = self.observe_fields(after)
        self._check(reward, terminated, obs, state)
        if ok is None and _finite(reward, obs):
            return SimState(physics, obs, state.world, state.ok), Step(obs, reward, terminated)
        ok = (state.ok if ok is None else state.ok & ok) & reward.isfinite() & obs.isfinite().all(1)
        self.diverged += int((state.ok & ~ok).sum())
        good = ok[:, None]
        physics, obs = torch.where(good, physics, state.physics), torch.where(good, obs, state.obs)
        step = Step(obs, torch.where(ok, reward, torch.nan), terminated & ok)
        return SimState(physics, obs, state.world, ok), step

    def _runnable(self, state: SimState, action: Tensor) -> Bool[Tensor, "rows"] | None:
        """Which rows can be stepped; None: all of them, which is cheap to see."""
        if bool(state.ok.all()) and _finite(state.physics, action):
            return None
        return state.ok & state.physics.isfinite().all(1) & action.isfinite().all(1)

    def _advance(
        self, physics: Tensor, action: Tensor, runs: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Copies of the states and derived fields after the substeps, and which rows came through; None: all did."""
        rows = len(physics)
        if self._batch.nsim < rows:
            self._batch = self._make_batch(rows)
        batch, before = self._batch, physics.numpy()
        if runs is None:
            batch.state[:rows], self._ctrl[:rows] = before, action.numpy()
        else:
            batch.state[:rows] = np.where(runs.numpy()[:, None], before, self._default)
            self._ctrl[:rows] = torch.where(runs[:, None], action, 0.0).numpy()
        raised = np.zeros(0, dtype=np.int32)
        try:
            batch.step(self._ids[:rows], self.frame_skip)
        except SimulationError as error:
            raised = error.ids
        after = batch.state[:rows].copy()
        derived = {name: torch.from_numpy(np.array(batch.bind(name)[:rows])) for name in self.fields}
        quiet = batch.warning[:rows, :, 1] == 1
        time = self._slices["time"].start
        grew = after[:, time] > before[:, time]
        if runs is None and not len(raised) and quiet.all() and grew.all():
            return torch.from_numpy(after), derived, None
        batch.warning[:] = 1
        fine = quiet.all(1) & grew
        fine[raised] = False
        fine = torch.from_numpy(fine)
        return torch.from_numpy(after), derived, fine if runs is None else fine & runs

    def _make_batch(self, rows: int) -> Batch:
        batch = Batch(self.model, rows, self.threads)
        for name in self.fields:
            batch.bind(name)  # derived fields are filled from the first call after this
        # MuJoCo prints, and appends to a file in the working directory, where a counter rises from 0; a reset zeroes
        # the counters. So they stand at 1 before each step, and any other number tells that something happened.
        batch.warning[:] = 1
        self._ids, self._ctrl = np.arange(rows, dtype=np.int32), batch.bind("ctrl")
        return batch

    def _read(self, physics: Tensor) -> dict[str, Tensor]:
        time, qpos, qvel, act, _ = physics.split(self._widths, 1)
        return {"time": time[:, 0], "qpos": qpos, "qvel": qvel, "act": act}

    def _check(self, reward: Tensor, terminated: Tensor, obs: Tensor, state: SimState) -> None:
        if self._checked:
            return
        rows = len(state.obs)
        for name, value, shape, dtype in (
            ("outcome's reward", reward, (rows,), torch.float64),
            ("outcome's terminated", terminated, (rows,), torch.bool),
            ("observe", obs, tuple(state.obs.shape), torch.float64),
        ):
            if tuple(value.shape) != shape or value.dtype != dtype:
                raise ValueError(
                    f"{name}: expected {dtype} of shape {list(shape)}, got {value.dtype} {list(value.shape)}"
                )
        self._checked = True


def _finite(*tensors: Tensor) -> bool:
    """Whether all numbers are finite; huge ones may be taken for infinite, so a False has to be looked into.

    A sum is not finite where a term is not: one pass, and nothing as large as the tensor is made.
    """
    return all(math.isfinite(float(tensor.sum())) for tensor in tensors)


def _component(model: Any, bit: mujoco.mjtState) -> slice:
    """Where a component stands in the full state: components follow each other in the order of their bits."""
    start = mujoco.mj_stateSize(model, int(_FULL) & (int(bit) - 1))
    return slice(start, start + mujoco.mj_stateSize(model, int(bit)))


def _state_of(model: Any, data: Any) -> NDArray[np.float64]:
    state = np.empty(mujoco.mj_stateSize(model, int(_FULL)))
    mujoco.mj_getState(model, data, state, int(_FULL))
    return state


def _sizes(model: Any) -> str:
    return f"nq={model.nq}, nv={model.nv}, nu={model.nu}, na={model.na}"
