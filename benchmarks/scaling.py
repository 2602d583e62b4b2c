"""Row scaling: how costs grow with members of an ensemble, environments and runs; none may grow faster than linearly.

- members: one gradient step of an ensemble of 1 to 32 networks of 4 x 200 on batches of 256; and one step of 20,000
  rollouts, each row by one member: the same work whatever their number.
- environments: one step of 1 to 64 copies of HalfCheetah-v5 with random actions, in this process or in one each.
- runs: one update of 1 to 64 runs of SAC on the axis of runs, with the networks of row sac_update.

Of each size, the cost of one member, environment or run is quoted over that at the smallest size.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness import CORE_SHARE, Unit, alternate, timed
from benchmarks.model_rollout import unit as rollout_unit
from benchmarks.runs_batched import one_core, updates
from benchmarks.workload import ACT, HIDDEN, OBS, transitions
from mbrl.data.collect import Collector
from mbrl.envs.vector import make_vector_env
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble

MEMBERS, ENVS, RUNS = (1, 2, 4, 8, 16, 32), (1, 4, 16, 64), (1, 4, 16, 64)
TARGET = 1.0
STATES, STEPS = 20_000, 5


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: the two smallest sizes of each."""
    end = 2 if small else None
    share = 0.0 if small else CORE_SHARE
    with one_core():
        curves = {
            "members, gradient step": _curve(_fits, MEMBERS[:end], rounds, share, steps=STEPS),
            "members, 20,000 rollouts": _curve(_rollouts, MEMBERS[:end], rounds, share),
            "runs, update": _curve(_updates, RUNS[:end], rounds, share),
        }
    with ExitStack() as stack:
        for kind in ("sync", "async"):
            made = {n: stack.enter_context(_Envs(n, kind)) for n in ENVS[:end]}
            # The time of other processes is not this one's.
            allowed = share if kind == "sync" else 0.0
            curves[f"{kind} environments, step"] = _curve(made.__getitem__, ENVS[:end], rounds, allowed, steps=STEPS)
    for name, curve in curves.items():
        points = ", ".join(f"{n}: {point['ms']:.3g} ms ({point['share']:.2f})" for n, point in curve.items())
        worst = max(point["share"] for point in curve.values())
        print(f"scaling: {name}: {points}; worst {worst:.2f}, target {TARGET}: {'met' if _met(curve) else 'MISSED'}")
    return {"unit": "ms, and cost of one over that at the smallest size", "curves": curves, "target": TARGET}


def _curve(
    work: Callable[[int], Callable[[], object]],
    sizes: tuple[int, ...],
    rounds: int,
    core_share: float,
    *,
    steps: int = 1,
) -> dict[str, dict[str, float]]:
    """Milliseconds by size, and what one item costs over what it costs at the smallest size."""
    contestants: dict[str, Unit] = {str(n): timed(work(n)) for n in sizes}
    readings = alternate(contestants, rounds=rounds, core_share=core_share)
    first = str(sizes[0])
    curve = {}
    for n in map(str, sizes):
        items = int(n) / int(first)
        ratio, noise = readings.ratio(n, first), readings.noise(n)
        curve[n] = {
            "ms": round(readings.wall(n).median * 1e3 / steps, 4),
            "share": round(ratio.median / items, 4),
            "share_low": round(ratio.low / items, 4),
            "noise": round(noise.high - noise.low, 4),
        }
    return curve


def _met(curve: dict[str, dict[str, float]]) -> bool:
    """Whether no size costs more than the smallest, item by item, by more than the spread of its readings."""
    return all(point["share_low"] <= TARGET for point in curve.values())


def _fits(members: int) -> Callable[[], object]:
    ensemble = GaussianEnsemble(OBS, ACT, members=members, hidden=HIDDEN, learned_reward=True)
    return partial(fit, ensemble, transitions(256), seed=0, steps=STEPS, holdout=0.0, batch_size=256)


def _rollouts(members: int) -> Callable[[], object]:
    ensemble = GaussianEnsemble(OBS, ACT, members=members, hidden=HIDDEN, learned_reward=True)
    fit(ensemble, transitions(512), seed=0, steps=1, holdout=0.0)
    return rollout_unit(EnsembleDynamics(ensemble, propagation="ts1"), STATES)


def _updates(runs: int) -> Callable[[], object]:
    return updates(range(runs), 1)


class _Envs:
    """Copies of HalfCheetah-v5, of which a call takes a few steps."""

    def __init__(self, count: int, kind: Any) -> None:
        self._env = make_vector_env("HalfCheetah-v5", count, kind=kind, as_registered=True)
        self._collector = Collector(self._env, seed=0)
        self._actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, count, ACT)).astype(np.float32)

    def __call__(self) -> None:
        for action in self._actions:
            self._collector.step(action)

    def __enter__(self) -> "_Envs":
        return self

    def __exit__(self, *_: object) -> None:
        self._env.close()
