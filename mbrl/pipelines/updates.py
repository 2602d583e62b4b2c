"""The updates of a learner inside a training loop: which are due, how they are run, and what they report.

Update number n draws its batch from a generator seeded (seed, "batch", run, n) and its noise from one seeded
(seed, "noise", run, n): what it does depends on the state, the buffers and n alone. As a CUDA graph, a block of updates
draws all its batches, and all its noise, from generators seeded with the number of its first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from mbrl.learners.fast import LARGEST, GraphedUpdates, blocks, check_parity, compiled
from mbrl.learners.precision import in_bfloat16
from mbrl.pipelines.recorder import Recorder
from mbrl.processors import Precision, warn_of_slow_bfloat16
from mbrl.seeding import generator
from mbrl.types import Learner, Metrics, NonFiniteUpdate, TransitionBatch
from planners.rows import leaves

Mode = Literal["eager", "compile", "graph"]
Draw = Callable[[int], TransitionBatch]
"""The batch of update n, [runs, batch_size, ...]."""
DrawBlock = Callable[[int, int], TransitionBatch]
"""`draw_block(first, count)`: batches of `count` updates numbered from `first`, [count, runs, batch_size, ...]."""
Run = Callable[[int, int], list[Metrics]]
"""`run(first, count)`: `count` updates numbered from `first`; the metrics of each."""

ROUNDED = 1e-3
"""What a compiled update may differ by in bfloat16, as a share of a tensor's norm: sums that are rounded differ as in
float32. SAC's differ by 1e-5, CQL's by up to 1.5e-4 (Hopper-v5), where both are 1e-2 from float64."""
_HELP = "Often a smaller learning rate helps, or rewards of the order of 1"


class Trained(Protocol):
    """What an agent shows to the loop that trains it."""

    learner: Any
    state: Any
    updates: int
    """How many its state has had."""


class UpdateSettings(Protocol):
    """What settings of a training loop say of its updates."""

    @property
    def batch_size(self) -> int: ...
    @property
    def updates(self) -> Mode: ...
    @property
    def precision(self) -> Precision: ...


def due(steps: int, num_envs: int, *, after: int, every: int, ratio: float) -> int:
    """How many updates follow the step that led to `steps` real steps, of which the last took `num_envs`.

    The first `after` steps are followed by none; from then on every `every` steps by `every * ratio`, so that there
    are `ratio` a step in all. Depends on nothing but the arguments: a run goes on at another ratio without a rush.
    """
    total, before = (math.floor(ratio * max(0, n // every * every - after)) for n in (steps, steps - num_envs))
    return total - before


def stacked(batch: TransitionBatch, count: int) -> TransitionBatch:
    """Rows [count * batch_size, ...] as batches of `count` updates of one run, [count, 1, batch_size, ...]."""
    return TransitionBatch(*(x.view(count, 1, -1, *x.shape[1:]) for x in batch))


def runner(
    mode: Mode,
    agent: Trained,
    draw: Draw,
    draw_block: DrawBlock | None,
    *,
    seed: int,
    batch_size: int,
    precision: Precision = "full",
) -> Run:
    """What runs an agent's updates: eagerly, compiled, or as captured CUDA graphs; in float32, or partly in bfloat16.

    Raises:
        ValueError: there is no such way on the agent's device, or none that fits how batches are drawn.
    """
    state, device = agent.state, leaves(agent.state)[0].device
    if precision == "bfloat16":
        warn_of_slow_bfloat16(device)
    learner = in_bfloat16(agent.learner) if precision == "bfloat16" else agent.learner
    actor_every = getattr(getattr(learner, "config", None), "actor_every", 1)

    def update(chosen: Learner[Any], state: Any, n: int, actor: bool) -> Metrics:
        noise = learner.noise(batch_size, [generator(seed, "noise", 0, n, device=device)])
        return chosen.update(state, draw(n), noise, actor=actor)[1]

    def several(chosen: Learner[Any], first: int, count: int) -> list[Metrics]:
        return [update(chosen, state, n, (n + 1) % actor_every == 0) for n in range(first, first + count)]

    if mode == "eager":
        return partial(several, learner)
    if mode == "compile":
        fast, unchecked = compiled(learner, device), [True]

        def checked(first: int, count: int) -> list[Metrics]:
            if unchecked:  # every second update is one of the actor too, however seldom those are in training
                check_parity(
                    lambda copy, i: update(learner, copy, first + i, i % 2 == 0),
                    lambda own, i: update(fast, own, first + i, i % 2 == 0),
                    state,
                    tolerance=ROUNDED if precision == "bfloat16" else None,
                )
                unchecked.clear()
            return several(fast, first, count)

        return checked
    if mode != "graph":
        raise ValueError(f"updates: expected 'eager', 'compile' or 'graph', got {mode!r}")
    graphs = GraphedUpdates(learner, state, seed=seed, actor_every=actor_every)
    if draw_block is None:
        raise ValueError(
            "updates: expected 'eager' or 'compile', as batches here depend on the parameters of the moment, so that "
            "they can't be drawn for several updates at once, got 'graph'"
        )
    draw_several = draw_block

    def replay(first: int, count: int) -> list[Metrics]:
        metrics: list[Metrics] = []
        for size in blocks(count):
            start = first + len(metrics)
            metrics += graphs.run(draw_several(start, size), start)
        return metrics

    return replay


class Updates:
    """Runs the updates of an agent, stops at the first that is not finite, and keeps the means of what they report.

    On the CPU every update is looked at, elsewhere up to `LARGEST` that are due at once together: one copy from the
    device, which keeps no more batches than that.

    Args:
        agent: its state is updated in place, and its updates are counted.
        draw: `draw(n)` gives the batch of update n.
        draw_block: gives the batches of several; None: they can't be drawn at once.
        seed: of the noise.
        batch_size: rows of a batch.
        recorder: is given the batch of an update that is not finite.
        mode: see `runner`.
        precision: "bfloat16": see `mbrl.learners.precision.in_bfloat16`.
    """

    def __init__(
        self,
        agent: Trained,
        draw: Draw,
        draw_block: DrawBlock | None = None,
        *,
        seed: int,
        batch_size: int,
        recorder: Recorder,
        mode: Mode = "eager",
        precision: Precision = "full",
    ) -> None:
        self.agent, self._draw, self._draw_block, self._recorder = agent, draw, draw_block, recorder
        self._drawn: dict[int, TransitionBatch] = {}
        self._singly = leaves(agent.state)[0].device.type == "cpu" and mode != "graph"
        block = self._remember_block if draw_block else None
        self._run = runner(mode, agent, self._remember, block, seed=seed, batch_size=batch_size, precision=precision)
        self._sums: dict[str, list[float]] = {}
        self._steps = 0

    @classmethod
    def of(
        cls,
        config: UpdateSettings,
        agent: Trained,
        draw: Draw,
        draw_block: DrawBlock | None = None,
        *,
        seed: int,
        recorder: Recorder,
    ) -> Self:
        """The updates that settings ask for; other arguments as of the class."""
        return cls(
            agent,
            draw,
            draw_block,
            seed=seed,
            batch_size=config.batch_size,
            recorder=recorder,
            mode=config.updates,
            precision=config.precision,
        )

    def run(self, count: int, steps: int) -> None:
        """Run the next `count` updates, after `steps` real steps.

        Raises:
            NonFiniteUpdate: one of them gave a number that is not finite. The message says which number, update and
                step, and where the batch is.
        """
        self._steps = steps
        block = 1 if self._singly else LARGEST
        for done in range(0, count, block):
            self._drawn.clear()
            first, size = self.agent.updates, min(block, count - done)
            self._take(self._run(first, size), first)
            self.agent.updates = first + size

    def metrics(self) -> dict[str, float]:
        """Means, over the updates since this was last asked, of what they reported; nothing where there were none."""
        means = {name: total / number for name, (total, number) in self._sums.items()}
        self._sums = {}
        return means

    def state_dict(self) -> dict[str, Tensor]:
        """The means under way.

        Raises:
            NonFiniteUpdate: the agent's parameters are not finite: a bad gradient shows in the next loss only, and a
                checkpoint would be spoiled by then.
        """
        tensors = leaves(self.agent.state)
        for i, tensor in enumerate(tensors):
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NonFiniteUpdate(
                    f"state: expected finite parameters, got some that are not (tensor {i} of {len(tensors)}, of shape "
                    f"{list(tensor.shape)}) after update {self.agent.updates - 1} and {self._steps} real steps; no "
                    f"checkpoint of them is saved. {_HELP}"
                )
        return {name: torch.tensor(sums, dtype=torch.float64) for name, sums in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the means that `state_dict` gave."""
        self._sums = {name: sums.tolist() for name, sums in state.items()}

    def _remember(self, n: int) -> TransitionBatch:
        self._drawn[n] = self._draw(n)
        return self._drawn[n]

    def _remember_block(self, first: int, count: int) -> TransitionBatch:
        assert self._draw_block is not None
        drawn = self._draw_block(first, count)
        self._drawn |= {first + i: TransitionBatch(*(x[i] for x in drawn)) for i in range(count)}
        return drawn

    def _take(self, metrics: list[Metrics], first: int) -> None:
        """Check the metrics of a block of updates, and add them to the means."""
        names = [(first + i, name) for i, one in enumerate(metrics) for name in one]
        if not names:
            return
        values = torch.cat([value for one in metrics for value in one.values()]).tolist()  # one copy
        runs = len(values) // len(names)
        for i, (n, name) in enumerate(names):
            value = sum(values[i * runs : (i + 1) * runs]) / runs
            if not math.isfinite(value):
                raise NonFiniteUpdate(self._report(n, name, value))
            sums = self._sums.setdefault(name, [0.0, 0.0])
            sums[0] += value
            sums[1] += 1

    def _report(self, n: int, name: str, value: float) -> str:
        batch = self._drawn.get(n) or self._draw(n)
        path = self._recorder.keep(f"not-finite-update-{n}", dict(zip(batch._fields, batch, strict=True)))
        where = f"; its batch is in {path}" if path else ""
        return (
            f"{name}: expected a finite number, got {value} in update {n} after {self._steps} real steps{where}. The "
            f"last checkpoint is from before it. {_HELP}"
        )


_FULL = ("allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What errors of a full memory say that are not `torch.OutOfMemoryError`: of the CPU, of the driver, of cuBLAS."""


@contextmanager
def memory_explained(buffers: Mapping[str, int]) -> Iterator[None]:
    """Say which buffer to make smaller where the device, or this machine, runs out of memory.

    Args:
        buffers: bytes by the setting that decides them: {"buffer_size": 180_000_000}.

    Raises:
        MemoryError: instead of torch's error; the message names each buffer with its size.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in _FULL):
            raise
        sizes = sorted(buffers.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name}: {size / 1e6:.1f} MB" for name, size in sizes)
        raise MemoryError(
            f"out of memory. What the settings take: {listed}. Make {sizes[0][0]} smaller (a batch that is too large "
            f"is batch_size's). torch says: {str(error).splitlines()[0]}"
        ) from error
