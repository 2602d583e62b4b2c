"""Row runs_batched: 1, 4 and 16 independent runs of SAC on the axis of runs, against as many processes, on one core.

A unit of work is one update of every run, as in row sac_update: each run draws its own batch and noise. The processes
are forked from this one, share one core and are all told to start at once. The figure is the time for one update of
one run: what is saved is Python's and the dispatcher's share, which all runs have in common.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.harness import CORE_SHARE, Cost, Unit, alternate, timed
from benchmarks.sac_update import BATCH, DISCOUNT, HIGH, LOW
from benchmarks.workload import ACT, OBS, transitions
from mbrl.data.buffer import ReplayBuffer
from mbrl.learners.sac import SACLearner, SACState
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves, map_rows

RUNS = (1, 4, 16)
CAPACITY = 100_000
TARGET = 1.0


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: few updates, to see that it runs."""
    difference = agree(20)
    counts = {runs: max(1, (4 if small else 32) // runs) for runs in RUNS}
    with one_core(), ExitStack() as stack:
        contestants: dict[str, Unit] = {}
        for runs, count in counts.items():
            contestants[f"processes {runs}"] = stack.enter_context(processes(runs, count))
        for runs, count in counts.items():
            contestants[f"axis {runs}"] = timed(updates(range(runs), count))
        readings = alternate(contestants, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
    figures = {}
    for runs, count in counts.items():
        scale = 1e3 / (runs * count)
        one, other = (readings.wall(f"{kind} {runs}") for kind in ("axis", "processes"))
        ratio, noise = readings.ratio(f"processes {runs}", f"axis {runs}"), readings.noise(f"axis {runs}")
        met = "met" if ratio.median >= TARGET else "MISSED"
        print(
            f"runs_batched: {runs} runs: {one.median * scale:.4g} ms/update of a run, {1e3 / (one.median * scale):.4g} "
            f"updates/s in all\n  processes: {other.median * scale:.4g} ms/update; ratio {ratio.median:.3g} "
            f"({ratio.low:.3g} to {ratio.high:.3g}), target {TARGET}: {met}; noise {noise.low:.3g} to {noise.high:.3g}"
        )
        figures[str(runs)] = {
            "axis_ms": one.median * scale,
            "processes_ms": other.median * scale,
            "ratio": ratio._asdict(),
            "noise": noise._asdict(),
        }
    return {
        "unit": "ms/update of a run",
        "figures": figures,
        "rounds": len(readings.rounds),
        "dropped_rounds": readings.dropped,
        "target": TARGET,
        "largest_difference_from_separate_runs": difference,
    }


def updates(runs: range, count: int) -> Callable[[], None]:
    """What makes `count` updates of runs with these numbers, on the axis of runs."""
    buffer = ReplayBuffer(CAPACITY, OBS, ACT)
    buffer.extend_rows(transitions(CAPACITY))
    learner = SACLearner(OBS, LOW, HIGH)
    state = learner.init([generator(0, "init", run) for run in runs])
    done = 0

    def work() -> None:
        nonlocal done
        for n in range(done, done + count):
            update(learner, state, buffer, runs, n)
        done += count

    return work


def update(learner: SACLearner, state: SACState, buffer: ReplayBuffer, runs: range, n: int) -> None:
    """Update number n of these runs; the metrics are read, as a loop does."""
    drawn = [buffer.sample(BATCH, generator=generator(0, "batch", run, n), discount=DISCOUNT) for run in runs]
    batch = TransitionBatch(*(torch.stack(column) for column in zip(*drawn, strict=True)))
    noise = learner.noise(BATCH, [generator(0, "noise", run, n) for run in runs])
    metrics = learner.update(state, batch, noise)[1]
    torch.cat(list(metrics.values())).tolist()


@contextmanager
def one_core() -> Iterator[None]:
    """This process, and those that it starts meanwhile, share one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def processes(runs: int, count: int) -> Iterator[Unit]:
    """One process a run. The unit of work: all of them make `count` updates."""
    context = get_context("fork")
    pairs = [context.Pipe() for _ in range(runs)]
    workers = [context.Process(target=_serve, args=(pair[1], i, count)) for i, pair in enumerate(pairs)]
    for worker in workers:
        worker.start()

    def unit() -> Cost:
        began = time.perf_counter()
        for ours, _ in pairs:
            ours.send(True)
        cpu = sum(ours.recv() for ours, _ in pairs)
        return Cost(time.perf_counter() - began, cpu)

    try:
        yield unit
    finally:
        for (ours, _), worker in zip(pairs, workers, strict=True):
            ours.send(False)
            worker.join(60)


def _serve(pipe: Connection, run: int, count: int) -> None:
    work = updates(range(run, run + 1), count)
    while pipe.recv():
        began = time.process_time()
        work()
        pipe.send(time.process_time() - began)


def agree(count: int) -> float:
    """Updates of four runs on the axis, and of each alone, in float64; the largest difference of a parameter.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    runs, learner = range(4), SACLearner(OBS, LOW, HIGH, dtype=torch.float64)
    buffer = ReplayBuffer(1_000, OBS, ACT, dtype=torch.float64)
    buffer.extend_rows(transitions(1_000))
    together = learner.init([generator(0, "init", run) for run in runs])
    for n in range(count):
        update(learner, together, buffer, runs, n)
    worst = 0.0
    for run in runs:
        alone = learner.init([generator(0, "init", run)])
        for n in range(count):
            update(learner, alone, buffer, range(run, run + 1), n)
        own = map_rows(lambda x, run=run: x[run : run + 1] if len(x) > 1 else x, together)
        pairs = zip(leaves(own), leaves(alone), strict=True)
        worst = max(worst, *(float((a - b).abs().max()) for a, b in pairs))
    if not worst < 1e-9:
        raise RuntimeError(f"after {count} updates runs on the axis differ from runs of their own by {worst}")
    return worst
