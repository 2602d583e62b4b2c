"""One update, three ways to run it: as it is written, with its gradients compiled, or many of them as one CUDA graph.

The eager update is the reference. The other two are made from it and not beside it, so every learner whose pure parts
are methods called `..._gradients` has them, and `check_parity` holds them against it before they are used.

- `compiled(learner)`: the same learner; its `..._gradients` are traced with their backward passes and compiled. Adam
  and Polyak averages stay as they are: torch's fused kernels do not go through its compiler.
- `GraphedUpdates(learner, ...)`: many whole updates, captured once and replayed as one launch. Batches are copied into
  fixed memory; noise is drawn inside, by generators that are registered with the graph, one a run.

The capture follows torch 2.13's notes on CUDA graphs, https://docs.pytorch.org/docs/stable/notes/cuda.html.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mbrl.learners.relu_network import whole_batches
from mbrl.seeding import derive
from mbrl.types import Learner, Metrics, TransitionBatch
from planners.rows import leaves, map_rows, with_leaves

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""By the state's type: what a tensor may differ by after one update, as a share of its norm. Compiled sums run over the
rows one by one: those of CQL's 7,680 round to 1e-6, and to twice that in Adam's squares (measured on Hopper-v5)."""
OUTLIER = 1e-2
"""What a quarter of the updates may differ by, likewise."""
ROUGH = 0.1
"""What blocks of many updates may differ by, likewise: float32 drifts apart in them."""
CHECKED = 20
"""Updates that a fast way is tried on before it is used."""
SHORT = 2
"""Updates in a block at most that is held to `TOLERANCE`."""
LARGEST = 40
"""Updates in one graph at most: a multiple of the usual `actor_every`, so that one graph serves all blocks."""
KINDS = 8
"""Graphs for blocks of one size at most. Where the actor's turns would make it more, updates are replayed singly."""


class ParityError(RuntimeError):
    """A fast way to run updates does not do what the eager update does."""


def compiled(learner: Learner[Any], device: torch.device | str = "cpu") -> Any:
    """The learner with its `..._gradients` compiled, each when it is called first with tensors of new shapes.

    Raises:
        ValueError: the learner has no such methods, or there is no compiler for the device.
    """
    names = [name for name in dir(type(learner)) if name.endswith("_gradients")]
    if not names:
        raise ValueError(
            f"updates: expected 'eager', as {type(learner).__name__} has no methods called ..._gradients that could be "
            "compiled, got 'compile'"
        )
    _check_compiler(torch.device(device))
    fast = copy.copy(learner)
    for name in names:
        object.__setattr__(fast, name, _Compiled(getattr(learner, name)))  # learners are frozen
    return fast


class _Compiled:
    """A function of trees of tensors, compiled anew for tensors of other shapes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._made: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        tensors = leaves(arguments)
        key = tuple((t.shape, t.dtype) for t in tensors)
        if key not in self._made:
            from torch.fx.experimental.proxy_tensor import make_fx  # takes a second to import

            # The trace has the operations of the backward pass too: the compiler would stop at autograd.grad.
            with whole_batches():
                traced = make_fx(lambda *flat: self._function(*with_leaves(arguments, flat)))(*tensors)
            self._made[key] = torch.compile(traced, fullgraph=True, dynamic=False)
        return self._made[key](*tensors)


def _check_compiler(device: torch.device) -> None:
    """Say what is missing before torch does: its own message comes from deep inside its compiler."""
    if device.type == "cuda" and find_spec("triton") is None:
        raise ValueError(
            "updates: expected 'eager' or 'graph', got 'compile', which needs triton here (pip install it)"
        )
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch looks for it
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(
            f"updates: expected 'eager', got 'compile', which needs a C++ compiler, and there is no {compiler} here; "
            "install one (apt install g++), or name it in the variable CXX"
        )


Replay = Callable[[], Tensor]
"""Runs what was captured, and returns what it returned: always the same memory."""


def cuda_graph(body: Callable[[], Tensor], warm_up: Callable[[], object], generators: list[torch.Generator]) -> Replay:
    """Capture `body` as a CUDA graph. Capturing runs nothing.

    Args:
        body: reads and writes tensors that stay where they are.
        warm_up: does the like on other tensors; run once before, as libraries make their workspaces at the first call.
        generators: all random numbers come from them, and replays go on from the states that they have then.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.device(generators[0].device):
        side, here = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            warm_up()
        here.wait_stream(side)
        with torch.cuda.graph(graph):
            result = body()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class _Block(NamedTuple):
    """Captured updates."""

    replay: Replay
    batches: TransitionBatch
    """The memory that they read."""
    names: list[list[str]]
    """Of the metrics of each, whose values `replay` returns one after the other."""


class GraphedUpdates:
    """Blocks of updates on a CUDA device, each kind of block captured once and replayed as one launch.

    The first replay is the first update of the state: the warm-up before a capture updates a copy. A run's noise in a
    block depends on the seed, the run, and the number of the block's first update alone.

    Args:
        learner: whose updates these are.
        state: what is updated, always in the same tensors.
        seed: of the noise.
        actor_every: critic updates per update of the actor.
        capture: how; another than `cuda_graph` lets tests do without the device.

    Raises:
        ValueError: the state is not on a CUDA device.
    """

    def __init__(
        self, learner: Learner[Any], state: Any, *, seed: int, actor_every: int = 1, capture: Any = cuda_graph
    ) -> None:
        self.learner, self.state, self.seed, self.actor_every = learner, state, seed, actor_every
        runs, device = len(leaves(state)[0]), leaves(state)[0].device
        if capture is cuda_graph and device.type != "cuda":
            raise ValueError(
                f"updates: expected 'eager' or 'compile' on {device}, got 'graph', which needs a CUDA device "
                "(device='cuda')"
            )
        self._capture = capture
        self._generators = [torch.Generator(device) for _ in range(runs)]
        self._blocks: dict[tuple[bool, ...], _Block] = {}
        self._checked = False

    def run(self, batches: TransitionBatch, first: int) -> list[Metrics]:
        """Updates numbered from `first`, one for each batch of [count, runs, batch_size, ...]; the metrics of each.

        Raises:
            ParityError: a block of a new kind does not do what the eager updates do.
        """
        count = len(batches.reward)
        if count > 1 and min(count + 1, self.actor_every // math.gcd(count, self.actor_every)) > KINDS:
            singly = [map_rows(lambda x, i=i: x[i : i + 1], batches) for i in range(count)]
            return [metrics for i, batch in enumerate(singly) for metrics in self.run(batch, first + i)]
        turns = tuple((first + i + 1) % self.actor_every == 0 for i in range(count))
        if turns not in self._blocks:
            self._blocks[turns] = self._captured(batches, turns)
        block = self._blocks[turns]
        map_rows(Tensor.copy_, block.batches, batches)
        self._seed(first)
        return unpack(block.names, block.replay().clone())

    def _seed(self, number: int) -> None:
        for run, generator in enumerate(self._generators):
            generator.manual_seed(derive(self.seed, "graph", run, number))

    def _captured(self, batches: TransitionBatch, turns: tuple[bool, ...]) -> _Block:
        """Updates, of which those of `turns` are the actor's too, captured and held against the eager ones."""
        short = len(turns) <= SHORT
        if not short and not self._checked:  # a block of one update of each kind tells what many would blur
            kinds = (True,) if self.actor_every == 1 else (False, True)
            self._captured(map_rows(lambda x: x[: len(kinds)], batches), kinds)
            self._checked = True
        static, spare = map_rows(torch.clone, batches), map_rows(torch.clone, self.state)
        names: list[list[str]] = []

        def body() -> Tensor:
            metrics = self._updates(self.state, static, turns)
            names[:] = [list(one) for one in metrics]
            return torch.cat([value for one in metrics for value in one.values()])

        replay = self._capture(body, lambda: self._updates(spare, static, turns), self._generators)

        def eager(state: Any, i: int) -> None:
            for number, (to, x) in enumerate(zip(static, batches, strict=True), 1):
                to.copy_(x.roll(i * number, 2))  # other batches each time, as fields part: was one captured with them?
            self._seed(i)
            self._updates(state, static, turns)

        def graph(state: Any, i: int) -> None:
            self._seed(i)
            replay()

        tolerance, outlier = (None, OUTLIER) if short else (ROUGH, math.inf)
        tries = max(4, -(-CHECKED // len(turns)))
        check_parity(eager, graph, self.state, updates=tries, tolerance=tolerance, outlier=outlier)
        return _Block(replay, static, names)

    def _updates(self, state: Any, batches: TransitionBatch, turns: tuple[bool, ...]) -> list[Metrics]:
        """The eager updates of a block, with noise from the graph's generators."""
        metrics = []
        for i, actor in enumerate(turns):
            batch = TransitionBatch(*(x[i] for x in batches))
            noise = self.learner.noise(batch.reward.shape[1], self._generators)
            metrics.append(self.learner.update(state, batch, noise, actor=actor)[1])
        return metrics


def blocks(count: int, largest: int = LARGEST) -> list[int]:
    """How `count` updates are cut into blocks: into few sizes, as each size is captured for itself."""
    whole, rest = divmod(count, largest)
    return [largest] * whole + [rest] * (rest > 0)


def unpack(names: list[list[str]], values: Float[Tensor, "all_runs"]) -> list[Metrics]:
    """Metrics, one dict an update, of their values one after the other."""
    columns = iter(values.split(len(values) // sum(map(len, names))))
    return [{name: next(columns) for name in one} for one in names]


def check_parity(
    reference: Callable[[Any, int], object],
    fast: Callable[[Any, int], object],
    state: Any,
    *,
    updates: int = CHECKED,
    together: bool = True,
    tolerance: float | None = None,
    outlier: float = OUTLIER,
) -> float:
    """Compare two ways to make the same updates, on `state`, which is left as it was.

    In float32 two correct ways part within a few updates: Adam's first step turns the sign of a rounded gradient into a
    whole step, and a row beside the kink of a ReLU falls on either side. So both start every call from the same state,
    and a quarter of the calls may differ by more, up to `outlier`.

    Args:
        reference: `reference(state, i)` makes update i (or several of them, a block), in place.
        fast: likewise; it is given `state` itself, and the reference a copy.
        state: where both start.
        updates: how often they are called.
        together: False: let the two go their own ways and compare what comes out at the end, as float64 allows.
        tolerance: largest difference of a tensor, as a share of its norm; None: `TOLERANCE` of the state's type.
        outlier: what a quarter of the calls may differ by.

    Returns:
        The difference that was judged.

    Raises:
        ParityError: it is above the tolerance, or a number of either state is not finite.
    """
    before, copied = map_rows(torch.clone, state), map_rows(torch.clone, state)
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in leaves(state)) else torch.float32
    allowed = TOLERANCE[dtype] if tolerance is None else tolerance
    found: list[list[float]] = []
    for i in range(updates):
        with whole_batches():  # as the fast way has them: sums over blocks are rounded in another order
            reference(copied, i)
        fast(state, i)
        found.append([_difference(a, b) for a, b in zip(leaves(copied), leaves(state), strict=True)])
        if math.inf in found[-1]:
            break
        if together:
            map_rows(Tensor.copy_, state, copied)
    map_rows(Tensor.copy_, state, before)
    columns = list(zip(*(found if together else found[-1:]), strict=True))
    usual = [sorted(each)[3 * (len(each) - 1) // 4] for each in columns]
    for differences, limit in ((usual, allowed), ([max(each) for each in columns], max(outlier, allowed))):
        worst = max(differences)
        if worst > limit or worst == math.inf:
            raise ParityError(
                f"updates: the fast way differs from the eager one by {worst:.1e} of the norm of tensor "
                f"{differences.index(worst)} of the state (allowed: {limit:.0e}), so it is not used; take "
                "updates='eager', and report this with the versions of torch and of the driver"
            )
    return max(usual)


def _difference(a: Tensor, b: Tensor) -> float:
    """The norm of a - b over that of a; infinite where a number of either is not finite."""
    if not (a.isfinite().all() and b.isfinite().all()):
        return math.inf
    size, apart = a.double().norm(), (a.double() - b.double()).norm()
    return float(apart / size) if size > 0 else float(apart)
