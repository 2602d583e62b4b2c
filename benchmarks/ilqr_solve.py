"""Row ilqr_solve: solves of a nonlinear problem by iLQR per second, at batch 1, 16, 64 and 256.

50 steps of 17 states and 6 actions in a box: a smooth random system, x' = x + 0.1 (W tanh(x) - x + B u), whose cost is
quadratic. Each solve starts from another random state and from zero actions, and runs until it has converged. The peer
is our own batch of 1: a batch is worth its name where 256 problems at once are solved at least 4 times as fast each.
The floor is the matrix products of the backward passes alone, for as many iterations.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import CORE_SHARE, Readings, alternate, spread, timed
from planners import ILQR, Box, FunctionDynamics, Problem, Reason, evaluate_plans
from planners.ilqr import ILQRMemory

STATES, ACTIONS, HORIZON, TARGET = 17, 6, 50, 4.0
BATCHES, HORIZONS = (1, 16, 64, 256), (25, 50, 100, 200)
SMALL: dict[str, Any] = {"batches": (1, 4), "horizons": (5,), "horizon": 5}


class Solved(NamedTuple):
    problem: Problem
    planner: ILQR
    start: Tensor


def setup(batch: int, horizon: int, *, seed: int) -> Solved:
    """A problem and `batch` states to start from."""
    stream = torch.Generator().manual_seed(0)
    W = torch.randn(STATES, STATES, generator=stream, dtype=torch.float64) / STATES**0.5
    B = torch.randn(STATES, ACTIONS, generator=stream, dtype=torch.float64)

    def transition(x: Tensor, u: Tensor) -> Tensor:
        return x + 0.1 * (torch.tanh(x) @ W.T - x + u @ B.T)

    def reward(x: Tensor, u: Tensor, next_x: Tensor) -> Tensor:
        return -next_x.square().sum(1) - 0.1 * u.square().sum(1)

    start = torch.randn(batch, STATES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    planner = ILQR(Box(-1.0, 1.0, ACTIONS), horizon, tolerance=1e-6, iterations=50)
    return Solved(Problem(FunctionDynamics(transition, reward)), planner, start)


def solver(batch: int, horizon: int) -> Callable[[], Tensor]:
    """A unit of work: `batch` fresh problems; returns the iterations of each."""
    seed = 0

    def work() -> Tensor:
        nonlocal seed
        seed += 1
        problem, planner, start = setup(batch, horizon, seed=seed)
        memory = planner.init(problem, start, generator=torch.Generator())
        plan = planner.plan(problem, start, memory, generator=torch.Generator())
        assert bool((plan.info.reason == Reason.CONVERGED).all()), "solves that did not converge are not counted"
        return plan.info.iterations

    return work


def products(batch: int, horizon: int, iterations: int) -> Callable[[], None]:
    """The four products of each backward step, on memory that is there: the floor."""
    stream = torch.Generator().manual_seed(0)
    size, width = STATES + 1, STATES + ACTIONS + 1
    F, V, Q, T = (
        torch.randn(batch, *shape, generator=stream, dtype=torch.float64)
        for shape in ((size, width), (size, size), (width, width), (width, size))
    )

    def work() -> None:
        for _ in range(iterations * horizon):
            torch.baddbmm(Q, torch.bmm(F.mT, V), F)
            torch.bmm(T.mT, torch.bmm(Q, T))

    return work


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: tiny sizes, to see that it runs."""
    batches = SMALL["batches"] if small else BATCHES
    horizon = SMALL["horizon"] if small else HORIZON
    share = 0.0 if small else CORE_SHARE
    check = agree(horizon)
    iterations = int(solver(batches[-1], horizon)().max())
    contestants = {f"batch {b}": timed(solver(b, horizon)) for b in batches}
    largest = batches[-1]
    contestants["floor"] = timed(products(largest, horizon, iterations))
    readings = alternate(contestants, rounds=rounds, core_share=share)
    lengths = SMALL["horizons"] if small else HORIZONS
    by_horizon = alternate(
        {f"horizon {h}": timed(solver(16, h)) for h in lengths},
        rounds=max(1, rounds // 3),
        core_share=share,
    )
    return _record(readings, by_horizon, batches, largest, iterations, check)


def _record(
    readings: Readings, by_horizon: Readings, batches: tuple[int, ...], largest: int, iterations: int, check: float
) -> dict[str, Any]:
    def speedup(batch: int) -> dict[str, float]:
        pairs = [(sum(c.wall for c in r["batch 1"]), sum(c.wall for c in r[f"batch {batch}"])) for r in readings.rounds]
        return spread([batch * one / many for one, many in pairs])._asdict()

    solves = {str(b): b / readings.wall(f"batch {b}").median for b in batches}
    ratio = speedup(largest)
    floor = readings.ratio("floor", f"batch {largest}").median
    noise = readings.noise("batch 1")
    met = "met" if ratio["median"] >= TARGET else "MISSED"
    print("ilqr_solve, solves/s: " + ", ".join(f"batch {b} {x:.4g}" for b, x in solves.items()))
    print(
        f"  batch {largest} over batch 1: {ratio['median']:.3g} ({ratio['low']:.3g} to {ratio['high']:.3g}), target "
        f"{TARGET}: {met}; noise of two readings {noise.median:.3g} ({noise.low:.3g} to {noise.high:.3g})"
    )
    print(f"  floor: the backward passes' products are {floor:.0%} of the time at batch {largest}")
    horizons = {name.split()[1]: by_horizon.wall(name).median for name in by_horizon.rounds[0]}
    print("  seconds at batch 16: " + ", ".join(f"horizon {h} {s:.3g}" for h, s in horizons.items()))
    print(f"  rounds: {len(readings.rounds)}, dropped {readings.dropped}; largest error of a check: {check:.2g}")
    return {
        "unit": "solves/s",
        "solves_per_second": solves,
        "ratio": ratio,
        "target": TARGET,
        "speedups": {str(b): speedup(b) for b in batches},
        "share_of_floor": floor,
        "iterations_of_the_slowest": iterations,
        "seconds_by_horizon_at_batch_16": horizons,
        "noise": noise._asdict(),
        "rounds": len(readings.rounds),
        "dropped_rounds": readings.dropped,
        "largest_projected_gradient": check,
    }


def agree(horizon: int) -> float:
    """Check that solutions are solutions: no step along the gradient of the return stays in the box and leads away.

    Raises:
        RuntimeError: one does.
    """
    problem, planner, start = setup(4, horizon, seed=1)
    planner = replace(planner, tolerance=1e-13)
    memory: ILQRMemory = planner.init(problem, start, generator=torch.Generator())
    plan = planner.plan(problem, start, memory, generator=torch.Generator())
    actions = plan.actions.clone().requires_grad_()
    score = evaluate_plans(problem, start, actions.unsqueeze(1), generator=torch.Generator()).scores.sum()
    (gradient,) = torch.autograd.grad(score, actions)
    assert planner.box is not None
    worst = float((planner.box.clamp(plan.actions + gradient) - plan.actions).abs().max())
    if not worst < 1e-4:
        raise RuntimeError(f"a gradient step moves the solution by {worst}: it is none")
    return worst
