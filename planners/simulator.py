"""MuJoCo itself as `Dynamics`: the model that makes no error, many simulations at once on a thread pool.

A state is the whole physics state of each row, so that a plan starts from where an environment stands, in the middle of
an episode too. A control step is `frame_skip` substeps, computed as Gymnasium's MuJoCo environments compute them, so
that rewards and observations equal theirs. Derived fields such as `xpos` are those that `mj_step` leaves, one substep
behind the state, as those environments read them.

With `worlds`, particles are worlds: the uncertainty of a plan is over masses, friction or gains, and a risk measure
ranges over it (domain randomisation). A problem with one particle is about the nominal model, as is all that belongs to
no plan's particle.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import mujoco
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Generator, Tensor

from planners.cores import effective_cores
from planners.derivatives import Expansion
from planners.dynamics import Reward, Step
from planners.simulator_engine import FULL, make_engine
from planners.simulator_models import load_model
from planners.simulator_tangent import Tangent, expand_simulator

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
    """Which particle of a plan the row is: it lives in world `particle % number of worlds`. -1: of no plan, or the only
    particle: it lives in the nominal model."""
    ok: Bool[Tensor, "rows"]
    """False: the simulation diverged earlier, and the row stays invalid."""
    carried: Float[Tensor, "rows carried"]
    """The fields `carry`, side by side, as the last step left them; empty for most tasks."""


class Simulator:
    """A MuJoCo model as `Dynamics`. Deterministic: it makes no draws, with a generator or without.

    A row diverges where its state or action is not finite, MuJoCo warns or raises, its time does not grow, or its
    result is not finite. MuJoCo would reset such a simulation in silence to its default pose, whose reward may be
    high. Here the row gets reward NaN, which planners score -inf, it keeps the physics and observation it had before,
    and `ok` is False ever after. `diverged` counts these rows.

    Args:
        model: a compiled model (copied), a path to a model file, or XML as a string.
        outcome: `outcome(before, action, after)` -> reward [rows] and terminated [rows]. `before` has the state fields
            `time`, `qpos`, `qvel` and `act`, and those of `carry`; `after` has those of `fields` too.
        observe: `observe(after)` -> observations [rows, obs].
        frame_skip: substeps of a control step.
        threads: of MuJoCo; 0: one for each CPU core that the process may use. Results do not depend on it.
        fields: further MuJoCo fields that the functions read, such as "xpos" or "sensordata".
        carry: those of `fields` that `outcome` reads in `before` too.
        state_from_obs: positions [rows, nq] and velocities [rows, nv] of an observation; None: it does not tell them.
            Raises ValueError for observations that do not.
        reward: `reward(obs, action, next_obs)` -> [rows], for derivatives alone, in place of an outcome that torch
            can't differentiate.
        derivatives: of steps, as `ILQR` needs them: "differences" of the steps themselves; or "transition_fd", by
            MuJoCo's mjd_transitionFD, several times as fast, but with implicitfast in place of RK4, and without
            `fields`.
        worlds: models that differ from `model` in numbers only (`randomize_models` makes them): with two particles or
            more, particle i of a plan lives in world `i % len(worlds)`. `model` stays the nominal one: a plan's only
            particle lives in it, and so do rows that no plan has assigned. None: all rows do.

    Raises:
        ValueError: the model does not compile, a number is out of range, MuJoCo has no such field, or worlds differ
            in more than numbers.
    """

    def __init__(
        self,
        model: Any,
        outcome: Outcome,
        observe: Observe,
        frame_skip: int = 1,
        threads: int = 0,
        *,
        fields: tuple[str, ...] = (),
        carry: tuple[str, ...] = (),
        state_from_obs: StateFromObs | None = None,
        worlds: Sequence[Any] | None = None,
        reward: Reward | None = None,
        derivatives: Literal["differences", "transition_fd"] = "differences",
    ) -> None:
        if frame_skip < 1:
            raise ValueError(f"frame_skip: expected at least 1, got {frame_skip}")
        if threads < 0:
            raise ValueError(f"threads: expected 0 (one for each CPU core) or more, got {threads}")
        if not set(carry) <= set(fields):
            raise ValueError(f"carry: expected some of fields={fields}, got {carry}")
        if derivatives not in ("differences", "transition_fd"):
            raise ValueError(f'derivatives: expected "differences" or "transition_fd", got {derivatives!r}')
        if derivatives == "transition_fd" and fields:
            raise ValueError(f'derivatives: transition_fd knows no fields, got fields={fields}; use "differences"')
        if worlds is not None and len(worlds) == 0:
            raise ValueError("worlds: expected at least one model, or None for the model itself, got none")
        self.model = copy.deepcopy(load_model(model))
        self.models = [self.model]  # the nominal one first
        self.models.extend(copy.deepcopy(load_model(world)) for world in worlds or ())
        self.outcome = outcome
        self.observe_fields = observe
        self.frame_skip = frame_skip
        self.threads = threads or effective_cores()
        self.fields = fields
        self.carry = carry
        self.state_from_obs = state_from_obs
        self.reward = reward
        self.derivatives = derivatives
        self.tangent = Tangent(self.model)
        self.diverged = 0
        self._slices = {name: _component(self.model, bit) for name, bit in _STATE_FIELDS.items()}
        self._widths = [part.stop - part.start for part in self._slices.values()]  # they come first, in this order
        self._widths.append(mujoco.mj_stateSize(self.model, FULL) - sum(self._widths))
        self._checked = False
        data = mujoco.MjData(self.model)
        self._default = _state_of(self.model, data)  # what rows that can't be stepped are replaced by
        self._engine = make_engine(self.models, frame_skip, self.threads, fields)
        self._carry_shapes = [getattr(data, name).shape for name in carry]

    def state_of(self, env: Any) -> SimState:
        """The state of a Gymnasium MuJoCo environment as it stands, one row: exact in the middle of an episode.

        Args:
            env: the environment, or an `MjData` of your own.

        Raises:
            ValueError: `env` is no MuJoCo environment, or its model is another one.
        """
        inner = getattr(env, "unwrapped", env)
        data = inner if isinstance(inner, mujoco.MjData) else getattr(inner, "data", None)
        model = getattr(inner, "model", None)
        if not isinstance(data, mujoco.MjData) or not isinstance(model, mujoco.MjModel):
            raise ValueError(f"env: expected a Gymnasium MuJoCo environment with model and data, got {env}")
        sizes, expected = _sizes(model), _sizes(self.model)
        if sizes != expected:
            raise ValueError(f"env: expected a model with {expected}, got {sizes}; make the simulator from this env")
        physics = torch.from_numpy(_state_of(model, data))[None]
        derived = {name: torch.from_numpy(np.array(getattr(data, name)))[None] for name in self.fields}
        return self._state(physics, derived)

    def at(self, physics: Float[Tensor, "rows nstate"], world: Int[Tensor, "rows"] | None = None) -> SimState:
        """The states with these physics (mjSTATE_INTEGRATION, float64), with derived fields as `mj_forward` has them.

        Args:
            physics: finite numbers; `SimState.physics` with positions and velocities replaced, say.
            world: particles of the rows; None: -1, the nominal model.
        """
        if world is None:
            world = _nowhere(len(physics))
        arrays = self._engine.forward(physics.numpy(), self._worlds(world)) if self.fields else []
        derived = {name: torch.from_numpy(array) for name, array in zip(self.fields, arrays, strict=True)}
        return self._state(physics, derived)._replace(world=world)

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
        carried = self.at(physics).carried if self.carry else torch.empty(len(obs), 0, dtype=torch.float64)
        ok = torch.ones(len(obs), dtype=torch.bool)
        return SimState(physics, obs, _nowhere(len(obs)), ok, carried)

    def observe(self, state: SimState) -> Float[Tensor, "rows obs"]:
        return state.obs

    def assign(self, state: SimState, particles: int, *, generator: Generator) -> SimState:
        rows = len(state.world)
        return state._replace(world=_nowhere(rows) if particles == 1 else torch.arange(rows) % particles)

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
        physics, derived, ok = self._advance(state, action)
        after = {**self._read(physics), **derived}
        reward, terminated = self.outcome(self._before(state), action, after)
        obs, carried = self.observe_fields(after), self._carried(derived, state.carried)
        self._check(reward, terminated, obs, state)
        if ok is None and _finite(reward, obs):
            return SimState(physics, obs, state.world, state.ok, carried), Step(obs, reward, terminated)
        ok = (state.ok if ok is None else state.ok & ok) & reward.isfinite() & obs.isfinite().all(1)
        self.diverged += int((state.ok & ~ok).sum())
        good = ok[:, None]
        physics, obs = torch.where(good, physics, state.physics), torch.where(good, obs, state.obs)
        step = Step(obs, torch.where(ok, reward, torch.nan), terminated & ok)
        return SimState(physics, obs, state.world, ok, torch.where(good, carried, state.carried)), step

    def difference(self, state: SimState, reference: SimState) -> Float[Tensor, "rows dx"]:
        """The tangent vectors (dq, dv, da) from `reference` to `state`, whose time and observation don't count."""
        return self.tangent.difference(state.physics, reference.physics)

    def retract(self, reference: SimState, dx: Float[Tensor, "rows dx"]) -> SimState:
        """The states that tangent vectors lead to, with derived fields as `mj_forward` has them."""
        physics = self.tangent.move(reference.physics, dx)
        fine = physics.isfinite().all(1)
        moved = self.at(torch.where(fine[:, None], physics, reference.physics), reference.world)
        return moved._replace(ok=reference.ok & fine)

    def expand(self, state: SimState, action: Float[Tensor, "rows act"]) -> Expansion:
        """Derivatives of the step and of its reward, by differences in tangent space: see `expand_simulator`."""
        return expand_simulator(self, state, action)

    def _advance(self, state: SimState, action: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Physics and derived fields after the substeps, and which rows came through them; None: all did."""
        physics, world = state.physics, self._worlds(state.world)
        runs = None
        if not (bool(state.ok.all()) and _finite(physics, action)):
            runs = state.ok & physics.isfinite().all(1) & action.isfinite().all(1)
            physics = torch.where(runs[:, None], physics, torch.from_numpy(self._default))
            action = torch.where(runs[:, None], action, 0.0)
        after, arrays, fine = self._engine.advance(physics.numpy(), action.numpy(), world)
        derived = {name: torch.from_numpy(array) for name, array in zip(self.fields, arrays, strict=True)}
        if runs is not None and fine is not None:
            runs = runs & torch.from_numpy(fine)
        elif fine is not None:
            runs = torch.from_numpy(fine)
        return torch.from_numpy(after), derived, runs

    def _state(self, physics: Tensor, derived: Fields) -> SimState:
        rows = len(physics)
        obs = self.observe_fields({**self._read(physics), **derived})
        carried = self._carried(derived, torch.empty(rows, 0, dtype=torch.float64))
        return SimState(physics, obs, _nowhere(rows), torch.ones(rows, dtype=torch.bool), carried)

    def _worlds(self, particle: Tensor) -> NDArray[np.int64]:
        """Which of `models` each row lives in."""
        number = particle.numpy()
        return np.where(number < 0, 0, 1 + number % max(1, len(self.models) - 1)) % len(self.models)

    def _read(self, physics: Tensor) -> dict[str, Tensor]:
        time, qpos, qvel, act, _ = physics.split(self._widths, 1)
        return {"time": time[:, 0], "qpos": qpos, "qvel": qvel, "act": act}

    def _before(self, state: SimState) -> dict[str, Tensor]:
        before = self._read(state.physics)
        if self.carry:
            parts = state.carried.split([math.prod(shape) for shape in self._carry_shapes], 1)
            for name, part, shape in zip(self.carry, parts, self._carry_shapes, strict=True):
                before[name] = part.unflatten(1, shape)
        return before

    def _carried(self, derived: Fields, none: Tensor) -> Tensor:
        """The fields of `carry` side by side; `none` where there are none to carry."""
        return torch.cat([derived[name].flatten(1) for name in self.carry], 1) if self.carry else none

    def _check(self, reward: Tensor, terminated: Tensor, obs: Tensor, state: SimState) -> None:
        if self._checked:
            return
        rows = len(state.obs)
        for name, value, shape, dtype in (
            ("outcome's reward", reward, (rows,), torch.float64),
            ("outcome's terminated", terminated, (rows,), torch.bool),
            ("observe", obs, tuple(state.obs.shape), torch.float64),
        ):
            what = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != dtype:
                raise ValueError(f"{name}: expected {dtype} of shape {list(shape)}, got {what}")
        self._checked = True


def _nowhere(rows: int) -> Tensor:
    """The `world` of rows that are in none: they live in the nominal model."""
    return torch.full((rows,), -1)


def _finite(*tensors: Tensor) -> bool:
    """Whether all numbers are finite; huge ones may be taken for infinite, so a False has to be looked into.

    A sum is not finite where a term is not: one pass, and nothing as large as the tensor is made.
    """
    return all(math.isfinite(float(tensor.sum())) for tensor in tensors)


def _component(model: Any, bit: mujoco.mjtState) -> slice:
    """Where a component stands in the full state: components follow each other in the order of their bits."""
    start = mujoco.mj_stateSize(model, FULL & (int(bit) - 1))
    return slice(start, start + mujoco.mj_stateSize(model, int(bit)))


def _state_of(model: Any, data: Any) -> NDArray[np.float64]:
    state = np.empty(mujoco.mj_stateSize(model, FULL))
    mujoco.mj_getState(model, data, state, FULL)
    return state


def _sizes(model: Any) -> str:
    return f"nq={model.nq}, nv={model.nv}, nu={model.nu}, na={model.na}"
