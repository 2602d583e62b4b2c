"""What car parking costs: `python -m benchmarks.car_parking`, three quarters of an hour.

Box-constrained iLQR on the problem of Tassa, Mansard, Todorov (2014), from a batch of ten random starts, the best of
which iLQR, and DDP, finish; against a general optimiser: scipy's L-BFGS-B on all 1,000 controls, with exact gradients,
from the same ten starts and from ten small ones, the best of which it finishes. The problem has many local optima.
Costs, iterations and seconds are kept in `results/car_parking.jsonl`; what it finds starts the test of the planner.
"""

import argparse
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planners import ILQR, Box, Problem, Reason, evaluate_plans
from planners.ilqr import ILQRMemory
from planners.ilqr_model import local_model
from planners.ilqr_passes import roll
from planners.testing.car_parking import HORIZON, car_parking

RESTARTS, EVALUATIONS = 10, 1_000
SPREAD = 0.1
"""Standard deviation of the first controls, as in the paper's demonstration."""


class Optimum(NamedTuple):
    cost: float
    iterations: int
    seconds: float
    reason: str


class Lockstep:
    """Evaluates functions that threads ask for, all at once: ten optimisers cost as much as one."""

    def __init__(self, evaluate: Callable[[NDArray[np.float64]], tuple[Any, Any]], callers: int) -> None:
        self.evaluate = evaluate
        self.asked: dict[int, NDArray[np.float64]] = {}
        self.answers: dict[int, Any] = {}
        self.callers = callers
        self.changed = threading.Condition()

    def ask(self, caller: int, x: NDArray[np.float64]) -> Any:
        """The value and gradient at `x`, once all callers that are left have asked."""
        with self.changed:
            self.asked[caller] = x.copy()
            self._answer()
            self.changed.wait_for(lambda: caller in self.answers)
            return self.answers.pop(caller)

    def leave(self) -> None:
        """One caller less."""
        with self.changed:
            self.callers -= 1
            self._answer()

    def _answer(self) -> None:
        if self.asked and len(self.asked) == self.callers:
            values, gradients = self.evaluate(np.stack(list(self.asked.values())))
            self.answers = dict(zip(self.asked, zip(values, gradients, strict=True), strict=True))
            self.asked = {}
            self.changed.notify_all()


def first_controls(restarts: int, seed: int) -> Tensor:
    """Small random controls, [restarts, horizon, 2]."""
    generator = torch.Generator().manual_seed(seed)
    return SPREAD * torch.randn(restarts, HORIZON, 2, generator=generator, dtype=torch.float64)


def cost_and_gradient(problem: Problem, start: Tensor, controls: Tensor) -> tuple[Tensor, Tensor]:
    """Costs [rows] of controls [rows, horizon, 2], and their gradients.

    Automatic differentiation of all steps at once, then the adjoint recursion backwards: an order of magnitude less
    work than a graph through the whole rollout, which gives the same numbers (`check_gradient`).
    """
    rolled = roll(problem, start.expand(len(controls), -1), lambda t, _: controls[:, t], HORIZON)
    model = local_model(problem, rolled.states, controls, rolled.alive, second_order=False)
    adjoint, gradient = model.final_gradient, torch.zeros_like(controls)
    for t in reversed(range(HORIZON)):
        slope = model.gradient[t] + (adjoint[:, None] @ model.jacobian[t])[:, 0]
        adjoint, gradient[:, t] = slope.split([4, 2], 1)
    return rolled.cost, gradient


def check_gradient(problem: Problem, start: Tensor, controls: Tensor) -> float:
    """The largest difference from the gradient through the whole rollout.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    controls = controls.clone().requires_grad_()
    score = evaluate_plans(problem, start, controls.unsqueeze(1), generator=torch.Generator()).scores.sum()
    (gradient,) = torch.autograd.grad(-score, controls)
    worst = float((gradient - cost_and_gradient(problem, start, controls.detach())[1]).abs().max())
    if not worst < 1e-9:
        raise RuntimeError(f"the adjoint gradient differs from torch's by {worst}")
    return worst


def optimiser(problem: Problem, start: Tensor, box: Box, starts: dict[str, Tensor]) -> dict[str, list[Optimum]]:
    """L-BFGS-B for a while from each of all `starts`, by name; and from the best of them until it converges."""
    runs = {name: general_optimiser(problem, start, box, controls) for name, controls in starts.items()}
    best, controls = min((pair for run in runs.values() for pair in run), key=lambda pair: pair[0].cost)
    further = general_optimiser(problem, start, box, controls[None])
    finished = [optimum for optimum, _ in further if optimum.cost < best.cost] or [best]
    return {name: [optimum for optimum, _ in run] for name, run in runs.items()} | {"optimiser_finished": finished}


def general_optimiser(problem: Problem, start: Tensor, box: Box, controls: Tensor) -> list[tuple[Optimum, Tensor]]:
    """L-BFGS-B from each of `controls`: what it comes to, and with which controls [horizon, 2]."""
    from scipy.optimize import minimize

    def evaluate(x: NDArray[np.float64]) -> tuple[Any, Any]:
        cost, gradient = cost_and_gradient(problem, start, torch.from_numpy(x).view(len(x), HORIZON, 2))
        return cost.tolist(), gradient.reshape(len(x), -1).numpy()

    lockstep, begin = Lockstep(evaluate, len(controls)), time.perf_counter()
    found: list[tuple[Optimum, Tensor] | None] = [None] * len(controls)
    bounds = list(zip(box.low.tolist() * HORIZON, box.high.tolist() * HORIZON, strict=True))
    options = {"maxiter": EVALUATIONS, "maxfun": EVALUATIONS, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-7}

    def run(i: int) -> None:
        x = box.clamp(controls[i]).flatten().numpy()
        try:
            best = minimize(
                lambda y: lockstep.ask(i, y), x, jac=True, method="L-BFGS-B", bounds=bounds, options=options
            )
            optimum = Optimum(float(best.fun), int(best.nit), time.perf_counter() - begin, str(best.message))
            found[i] = optimum, torch.from_numpy(best.x).view(HORIZON, 2)
        finally:
            lockstep.leave()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(controls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [pair for pair in found if pair is not None]


def held_controls(starts: int, seed: int) -> Tensor:
    """Random controls that are held for 25 steps, from small to as large as the bounds: [starts, horizon, 2]."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.randn(starts, HORIZON // 25, 2, generator=generator, dtype=torch.float64).repeat_interleave(25, 1)
    size = torch.tensor([0.1, 0.1, 0.3, 0.3, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0], dtype=torch.float64)[:starts, None, None]
    return held * size * torch.tensor([0.5, 1.0], dtype=torch.float64)


def ilqr(problem: Problem, start: Tensor, box: Box, starts: Tensor) -> dict[str, list[Optimum]]:
    """iLQR for a while from all of `starts` in one batch; from the best of them iLQR, and DDP, until they converge."""
    many, controls = _refine(problem, start, box, starts, iterations=40, second_order=False)
    best = min(range(len(many)), key=lambda i: many[i].cost)
    chosen = controls[best : best + 1]
    finished, _ = _refine(problem, start, box, chosen, iterations=400, second_order=False)
    ddp, _ = _refine(problem, start, box, chosen, iterations=200, second_order=True)
    return {"ilqr": many, "ilqr_finished": finished, "ddp": ddp}


def _refine(
    problem: Problem, start: Tensor, box: Box, controls: Tensor, *, iterations: int, second_order: bool
) -> tuple[list[Optimum], Tensor]:
    planner = ILQR(box, HORIZON, iterations=iterations, second_order=second_order, tolerance=1e-7)
    begin = time.perf_counter()
    memory = ILQRMemory(box.clamp(controls))
    plan = planner.plan(problem, start.expand(len(controls), -1), memory, generator=torch.Generator())
    seconds = time.perf_counter() - begin
    parts = plan.value.tolist(), plan.info.iterations.tolist(), plan.info.reason.tolist()
    return [Optimum(-value, n, seconds, Reason(why).name) for value, n, why in zip(*parts, strict=True)], plan.actions


def main() -> None:
    """Run the optimiser and iLQR, and keep the result."""
    from benchmarks.report import keep

    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    problem, start, box = car_parking()
    record: dict[str, Any] = {"horizon": HORIZON, "restarts": RESTARTS, "evaluations": EVALUATIONS}
    record["gradient_error"] = check_gradient(problem, start, first_controls(1, 0))
    held = held_controls(RESTARTS, 3)
    found = optimiser(problem, start, box, {"optimiser": first_controls(RESTARTS, 1), "optimiser_held": held})
    found |= ilqr(problem, start, box, held)
    best = min(x.cost for x in found["optimiser_finished"])
    for name, optima in found.items():
        record[name] = [x._asdict() for x in optima]
        costs = sorted(x.cost for x in optima)
        print(f"{name}: {', '.join(f'{cost:.5f}' for cost in costs)}; best over the optimiser's {costs[0] / best:.4f}")
    record["best"] = best
    print(f"kept in {keep('car_parking', record)}")


if __name__ == "__main__":
    main()
