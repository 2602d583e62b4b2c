"""Substeps of many MuJoCo simulations at once: physics in, physics and derived fields out, and whether all went well.

Two engines do the same. `BatchEngine` is the fast one, on `mujoco.batch.Batch`. `DataEngine` steps an `MjData` for each
row and then calls `mj_rnePostConstraint`, as Gymnasium does, for the fields that only this function computes.

MuJoCo resets a diverged simulation in silence to its default pose. What tells is a warning, an error, or a time that
does not grow. MuJoCo prints, and appends to a file in the working directory, where a warning counter rises from 0, and
a reset zeroes the counters. So they stand at 1 before each step, and any other number tells that something happened.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

FULL = int(mujoco.mjtState.mjSTATE_INTEGRATION)
POST_CONSTRAINT = frozenset({"cacc", "cfrc_int", "cfrc_ext"})
"""Fields of `mj_rnePostConstraint`, which `mj_step` does not call without a sensor that needs it."""

Floats = NDArray[np.float64]


class Advanced(NamedTuple):
    """Rows after their substeps. Nothing here is a view of what the next call changes."""

    physics: Floats
    """[rows, nstate]."""
    derived: list[Floats]
    """Of each field [rows, ...], as `mj_step` leaves them: one substep behind the state."""
    fine: NDArray[np.bool_] | None
    """[rows]; None: all rows came through, the usual case."""


class Engine(Protocol):
    """Simulations of a list of models (the nominal one, and worlds) that give `MjData` the same layout."""

    def advance(self, physics: Floats, ctrl: Floats, world: NDArray[np.int64]) -> Advanced:
        """Substeps of every row, from finite physics [rows, nstate] with controls [rows, nu]."""

    def forward(self, physics: Floats, world: NDArray[np.int64]) -> list[Floats]:
        """The derived fields of states, as `mj_forward` computes them."""


def make_engine(models: Sequence[Any], frame_skip: int, threads: int, fields: tuple[str, ...]) -> Engine:
    """The fastest engine whose fields are exact.

    Raises:
        ValueError: MuJoCo has no such field, or the models differ in more than numbers.
    """
    known = [name for name in fields if isinstance(getattr(mujoco.MjData(models[0]), name, None), np.ndarray)]
    if len(known) < len(fields):
        missing = next(name for name in fields if name not in known)
        raise ValueError(f"fields: expected names of MjData's arrays, such as xpos or sensordata, got {missing!r}")
    if len(models) > 1:  # MuJoCo's batch knows what has to agree; one of its own, for it then holds other models
        _same_layout(lambda: Batch(models[0], len(models), 1).set_models(models))
    kind = DataEngine if POST_CONSTRAINT & set(fields) else BatchEngine
    return kind(models, frame_skip, threads, fields)


class BatchEngine:
    """On MuJoCo's own batch of simulations, which grows to the most rows it has met.

    See `make_engine` for the arguments.
    """

    def __init__(self, models: Sequence[Any], frame_skip: int, threads: int, fields: tuple[str, ...]) -> None:
        self._models, self._frame_skip, self._threads, self._fields = models, frame_skip, threads, fields
        self._make(len(models))

    def advance(self, physics: Floats, ctrl: Floats, world: NDArray[np.int64]) -> Advanced:
        rows = self._load(physics, world)
        self._ctrl[:rows] = ctrl
        raised = self._call(lambda batch, ids: batch.step(ids, self._frame_skip), rows)
        batch = self._batch
        after = batch.state[:rows].copy()
        derived = [np.array(batch.bind(name)[:rows]) for name in self._fields]
        quiet = batch.warning[:rows, :, 1] == 1
        grew = after[:, 0] > physics[:, 0]
        if not len(raised) and quiet.all() and grew.all():
            return Advanced(after, derived, None)
        batch.warning[:] = 1
        fine = quiet.all(1) & grew
        fine[raised] = False
        return Advanced(after, derived, fine)

    def forward(self, physics: Floats, world: NDArray[np.int64]) -> list[Floats]:
        rows = self._load(physics, world)
        self._call(lambda batch, ids: batch.forward(ids), rows)
        self._batch.warning[:] = 1
        return [np.array(self._batch.bind(name)[:rows]) for name in self._fields]

    def _load(self, physics: Floats, world: NDArray[np.int64]) -> int:
        rows = len(physics)
        if self._batch.nsim < rows:
            self._make(rows)
        if len(self._models) > 1 and not np.array_equal(world, self._world[:rows]):
            self._world[:rows] = world
            self._batch.set_models([self._models[w] for w in self._world.tolist()])
        self._batch.state[:rows] = physics
        return rows

    def _call(self, function: Any, rows: int) -> NDArray[np.int32]:
        try:
            function(self._batch, self._ids[:rows])
        except SimulationError as error:
            return error.ids
        return self._ids[:0]

    def _make(self, rows: int) -> None:
        self._batch = batch = Batch(self._models[0], rows, self._threads)
        for name in self._fields:
            batch.bind(name)  # derived fields are filled from the first call after this
        batch.warning[:] = 1
        self._ids, self._ctrl = np.arange(rows, dtype=np.int32), batch.bind("ctrl")
        self._world = np.zeros(rows, dtype=np.int64)  # of each simulation of the batch


class DataEngine:
    """On one `MjData` for each thread and world, with `mj_rnePostConstraint` after the substeps.

    See `make_engine` for the arguments.
    """

    def __init__(self, models: Sequence[Any], frame_skip: int, threads: int, fields: tuple[str, ...]) -> None:
        self._models, self._frame_skip, self._threads, self._fields = models, frame_skip, threads, fields
        self._data = [[mujoco.MjData(model) for model in models] for _ in range(threads)]
        self._shapes = [getattr(self._data[0][0], name).shape for name in fields]
        self._pool: ThreadPoolExecutor | None = None  # made when there is work for more than one thread

    def advance(self, physics: Floats, ctrl: Floats, world: NDArray[np.int64]) -> Advanced:
        after, fine = np.empty_like(physics), np.ones(len(physics), dtype=bool)
        derived = self._empty(len(physics))

        def work(data: list[Any], rows: range) -> None:
            for row in rows:
                fine[row] = self._step(data[world[row]], world[row], physics[row], ctrl[row], after[row])
                for name, values in zip(self._fields, derived, strict=True):
                    values[row] = getattr(data[world[row]], name)

        self._share(work, len(physics))
        return Advanced(after, derived, None if fine.all() else fine)

    def forward(self, physics: Floats, world: NDArray[np.int64]) -> list[Floats]:
        derived = self._empty(len(physics))

        def work(data: list[Any], rows: range) -> None:
            for row in rows:
                model, one = self._models[world[row]], data[world[row]]
                mujoco.mj_setState(model, one, physics[row], FULL)
                mujoco.mj_forward(model, one)
                mujoco.mj_rnePostConstraint(model, one)
                for name, values in zip(self._fields, derived, strict=True):
                    values[row] = getattr(one, name)

        self._share(work, len(physics))
        return derived

    def _step(self, data: Any, world: int, physics: Floats, ctrl: Floats, after: Floats) -> bool:
        """Write the state after the substeps into `after`; whether they went well."""
        model = self._models[world]
        mujoco.mj_setState(model, data, physics, FULL)
        data.ctrl[:] = ctrl
        data.warning.number[:] = 1
        try:
            mujoco.mj_step(model, data, nstep=self._frame_skip)
            mujoco.mj_rnePostConstraint(model, data)
        except mujoco.FatalError:
            after[:] = physics
            return False
        mujoco.mj_getState(model, data, after, FULL)
        return bool((data.warning.number == 1).all()) and data.time > physics[0]

    def _share(self, work: Any, rows: int) -> None:
        """Give each thread a stretch of rows; MuJoCo lets the others run while it steps."""
        threads = min(self._threads, rows)
        if threads <= 1:
            work(self._data[0], range(rows))
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)
        cuts = [rows * i // threads for i in range(threads + 1)]
        jobs = [self._pool.submit(work, self._data[i], range(cuts[i], cuts[i + 1])) for i in range(threads)]
        for job in jobs:
            job.result()

    def _empty(self, rows: int) -> list[Floats]:
        return [np.empty((rows, *shape)) for shape in self._shapes]


def _same_layout(check: Any) -> None:
    try:
        check()
    except (ValueError, TypeError, mujoco.FatalError) as error:
        raise ValueError(
            f"worlds: expected models that differ in numbers only (masses, friction, gains ...), for MuJoCo says: "
            f"{error}; compile them from one specification"
        ) from error
