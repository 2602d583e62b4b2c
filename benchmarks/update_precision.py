"""Row update_precision: updates whose products between hidden layers are in bfloat16, against the same in float32.

SAC as in row sac_update (batch 256, 2 x 256), eager and compiled, and CQL (batch 256, 3 x 256, ten actions of each of
three kinds), all with the draw of batch and noise. The processor decides: without products in bfloat16 these updates
are slower.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.harness import CORE_SHARE, alternate, timed
from benchmarks.sac_update import BATCH, CAPACITY, DISCOUNT, HIGH, LOW
from benchmarks.workload import ACT, OBS, transitions
from mbrl.data.buffer import ReplayBuffer
from mbrl.learners.cql import CQLLearner
from mbrl.learners.precision import in_bfloat16
from mbrl.learners.sac import SACLearner
from mbrl.pipelines.recorder import NullRecorder
from mbrl.pipelines.updates import Mode, Updates
from mbrl.processors import Precision
from mbrl.seeding import generator
from mbrl.types import TransitionBatch

WORKLOADS: dict[str, tuple[Callable[..., Any], Mode, int]] = {
    "sac": (SACLearner, "eager", 20),
    "sac_compiled": (SACLearner, "compile", 20),
    "cql": (CQLLearner, "eager", 2),
}
"""Learner, how its updates are run, and how many of them a unit of work has."""
PRECISIONS: tuple[Precision, ...] = ("full", "bfloat16")


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: one update each, to see that it runs."""
    buffer = ReplayBuffer(CAPACITY, OBS, ACT)
    buffer.extend_rows(transitions(CAPACITY))
    contestants, counts = {}, {}
    for name, (kind, mode, count) in WORKLOADS.items():
        counts[name] = 1 if small else count
        for precision in PRECISIONS:
            made = updates(kind(OBS, LOW, HIGH), buffer, mode, precision)
            contestants[f"{name} {precision}"] = timed(partial(made.run, counts[name], 0))
    readings = alternate(contestants, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
    figures = {}
    for name, (kind, *_) in WORKLOADS.items():
        full, rough = (readings.wall(f"{name} {precision}").median * 1e3 / counts[name] for precision in PRECISIONS)
        gain, noise = readings.ratio(f"{name} full", f"{name} bfloat16"), readings.noise(f"{name} full")
        print(
            f"update_precision: {name}: {rough:.4g} ms/update; float32: {full:.4g}; ratio {gain.median:.3g} "
            f"({gain.low:.3g} to {gain.high:.3g}); noise {noise.low:.3g} to {noise.high:.3g}"
        )
        figures[name] = {
            "bfloat16_ms": rough,
            "float32_ms": full,
            "ratio": gain._asdict(),
            "noise": noise._asdict(),
            "gradients_apart": apart(kind(OBS, LOW, HIGH), buffer),
        }
    return {"unit": "ms/update", "figures": figures, "rounds": len(readings.rounds), "dropped_rounds": readings.dropped}


def updates(learner: Any, buffer: ReplayBuffer, mode: Mode, precision: Precision) -> Updates:
    """Updates as a training loop runs them."""
    agent = SimpleNamespace(learner=learner, state=learner.init([generator(0, "init")]), updates=0)
    return Updates(
        agent,
        lambda n: batch_of(buffer, n),
        seed=0,
        batch_size=BATCH,
        recorder=NullRecorder(),
        mode=mode,
        precision=precision,
    )


def batch_of(buffer: ReplayBuffer, n: int) -> TransitionBatch:
    """The batch of update n, of one run."""
    batch = buffer.sample(BATCH, generator=generator(0, "batch", 0, n), discount=DISCOUNT)
    return TransitionBatch(*(x[None] for x in batch))


def apart(learner: Any, buffer: ReplayBuffer) -> float:
    """The largest difference of a critic's gradient between the two, as a share of its norm.

    Raises:
        RuntimeError: it is more than bfloat16 explains.
    """
    state, batch, noise = (
        learner.init([generator(0, "init")]),
        batch_of(buffer, 0),
        learner.noise(BATCH, [generator(1)]),
    )
    exact, rough = (each.critic_gradients(state, batch, noise)[0] for each in (learner, in_bfloat16(learner)))
    worst = max(float(torch.dist(a, b) / a.norm()) for a, b in zip(exact, rough, strict=True))
    if not 0 < worst < 0.1:
        raise RuntimeError(f"gradients in bfloat16 are {worst} of their norm from those in float32")
    return worst
