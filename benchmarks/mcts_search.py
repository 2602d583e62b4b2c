"""Row mcts_search: simulations per second of PUCT, 4 actions, 100 simulations, batch 1, 16 and 128, on a tiny model.

Three of ours: a model in torch with selection and backup compiled (`torch_model`), model and evaluator compiled too
(`compiled`), and everything on tensors (`tensors`, as on other devices). The peer is mctx on the CPU, in an environment
of its own named by MCTX_PYTHON. All run one search a turn and take turns in mirrored order.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import CORE_SHARE, Cost, Readings, alternate, spread, timed
from planners import PUCT, Problem, Step
from planners.mcts import Leaf

ACTIONS, STATE = 4, 8
BATCHES = (1, 16, 128)
TARGETS = {"compiled": 1.0, "torch_model": 0.5}
PEER = Path(__file__).parent / "peers" / "mctx_worker.py"
WEIGHTS = 0.3 * torch.randn(ACTIONS, STATE, STATE, generator=torch.Generator().manual_seed(0))


class TorchModel:
    """s' = tanh(s W_a), reward s'[0]."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.weights = WEIGHTS.to(dtype)

    def reset(self, obs: Tensor) -> Tensor:
        return obs

    def observe(self, state: Tensor) -> Tensor:
        return state

    def assign(self, state: Tensor, particles: int, *, generator: torch.Generator) -> Tensor:
        return state

    def step(self, state: Tensor, action: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Step]:
        after = torch.bmm(state[:, None], self.weights[action])[:, 0].tanh()
        return after, Step(after, after[:, 0], torch.zeros(len(after), dtype=torch.bool))


class TorchCritic:
    def evaluate(self, state: Tensor, obs: Tensor, *, generator: torch.Generator) -> Leaf:
        return Leaf(obs[:, :ACTIONS], obs.sum(-1))


def compiled_parts() -> tuple[Any, Any]:
    """The same model and evaluator as numba functions."""
    from numba import njit

    from planners.mcts.native import NativeDynamics, NativeEvaluator

    weights = WEIGHTS.double().numpy()

    @njit
    def transition(state: Any, action: int, after: Any, luck: Any) -> tuple[float, bool]:
        for j in range(STATE):
            total = 0.0
            for i in range(STATE):
                total += state[i] * weights[action, i, j]
            after[j] = np.tanh(total)
        return after[0], False

    @njit
    def critic(state: Any, logits: Any, mask: Any, luck: Any) -> tuple[float, float]:
        logits[:] = state[:ACTIONS]
        return state.sum(), 1.0

    return NativeDynamics(transition, STATE), NativeEvaluator(critic, ACTIONS)


def searches(simulations: int) -> dict[str, Callable[[Tensor], Any]]:
    """By contestant: start [batch, state] -> plan."""
    native, critic = compiled_parts()
    parts = {
        "compiled": (native, PUCT(ACTIONS, simulations, evaluator=critic, reuse=False), torch.float64),
        "torch_model": (
            TorchModel(torch.float32),
            PUCT(ACTIONS, simulations, evaluator=TorchCritic(), reuse=False),
            torch.float32,
        ),
        "tensors": (
            TorchModel(torch.float32),
            PUCT(ACTIONS, simulations, evaluator=TorchCritic(), reuse=False, compiled=False),
            torch.float32,
        ),
    }
    generator = torch.Generator().manual_seed(0)

    def make(model: Any, planner: PUCT, dtype: torch.dtype) -> Callable[[Tensor], Any]:
        problem = Problem(model, discount=0.99)

        def search(start: Tensor) -> Any:
            start = start.to(dtype)
            return planner.plan(problem, start, planner.init(problem, start, generator=generator), generator=generator)

        return search

    return {name: make(*part) for name, part in parts.items()}


def agree() -> float:
    """The three give the same root values, in float64. Returns the largest difference; RuntimeError above 1e-9."""
    start = torch.randn(8, STATE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    native, critic = compiled_parts()
    plans = []
    torch_model = TorchModel(torch.float64)
    contestants = [(native, critic, True), (torch_model, TorchCritic(), True), (torch_model, TorchCritic(), False)]
    for model, evaluator, compiled in contestants:
        problem, planner = Problem(model, discount=0.99), PUCT(ACTIONS, 100, evaluator=evaluator, compiled=compiled)
        g = torch.Generator().manual_seed(0)
        plans.append(planner.plan(problem, start, planner.init(problem, start, generator=g), generator=g))
    worst = max(float((plan.info.value - plans[0].info.value).abs().max()) for plan in plans)
    if not worst < 1e-9 or any(not torch.equal(plan.info.visits, plans[0].info.visits) for plan in plans):
        raise RuntimeError(f"the searches disagree: root values differ by {worst}")
    return worst


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: few simulations, to see that it runs."""
    simulations, record = (10 if small else 100), {"unit": "simulations/s", "largest_difference": agree()}
    ours = searches(simulations)
    with mctx() as peer:
        for batch in BATCHES if not small else (1, 4):
            start = torch.randn(batch, STATE, generator=torch.Generator().manual_seed(1))
            units = {name: timed(partial(search, start)) for name, search in ours.items()}
            if peer is not None:
                units["peer"] = peer(batch, simulations)
            readings = alternate(units, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
            record[f"batch_{batch}"] = _quote(batch, simulations, readings, peer is not None)
    record["scaling"] = _scaling(ours["torch_model"]) if not small else {}
    return record


def _quote(batch: int, simulations: int, readings: Readings, with_peer: bool) -> dict[str, Any]:
    names = ["compiled", "torch_model", "tensors"] + ["peer"] * with_peer
    row: dict[str, Any] = {name: round(batch * simulations / readings.wall(name).median) for name in names}
    row |= {"rounds": len(readings.rounds), "dropped_rounds": readings.dropped}
    print(f"mcts_search, batch {batch}: " + ", ".join(f"{name} {row[name]:,} simulations/s" for name in names))
    for name, target in TARGETS.items() if with_peer else ():
        ratio = readings.ratio("peer", name)
        row[f"ratio_{name}"] = [round(x, 3) for x in ratio]
        met = "met" if ratio.median >= target else "MISSED"
        print(
            f"  {name}: {ratio.median:.2f} times the peer ({ratio.low:.2f} to {ratio.high:.2f}), target {target}: {met}"
        )
    return row


def _scaling(search: Callable[[Tensor], Any]) -> dict[str, float]:
    """Milliseconds of a search of the torch model over the batch: it grows far slower than linearly."""
    curve = {}
    for batch in (1, 4, 16, 64, 256):
        start = torch.randn(batch, STATE, generator=torch.Generator().manual_seed(2))
        unit = timed(partial(search, start))
        curve[f"batch_{batch}"] = round(1e3 * spread([unit().wall for _ in range(5)]).median, 3)
    for simulations in (25, 50, 100, 200, 400):
        one = searches(simulations)["torch_model"]
        unit = timed(partial(one, torch.zeros(1, STATE)))
        curve[f"simulations_{simulations}"] = round(1e3 * spread([unit().wall for _ in range(5)]).median, 3)
    print(f"  milliseconds of a search: {curve}")
    return curve


@contextmanager
def mctx() -> Iterator[Callable[[int, int], Callable[[], Cost]] | None]:
    """The peer in its own process: (batch, simulations) -> a unit of work; None where MCTX_PYTHON is not set."""
    python = os.environ.get("MCTX_PYTHON")
    if not python:
        print("mcts_search: peer not measured (set MCTX_PYTHON to the Python of an environment with mctx)")
        yield None
        return
    # One thread, as ours.
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [python, "-I", str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    send, receive = process.stdin, process.stdout

    def unit_of(batch: int, simulations: int) -> Callable[[], Cost]:
        def unit() -> Cost:
            send.write(json.dumps([batch, simulations]) + "\n")
            send.flush()
            return Cost(*json.loads(receive.readline()))

        return unit

    try:
        yield unit_of
    finally:
        send.close()
        process.wait(timeout=30)
