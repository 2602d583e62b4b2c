"""What car parking costs: `python -m benchmarks.car_parking`, some minutes.

Box-constrained iLQR and DDP on the problem of Tassa, Mansard, Todorov (2014), against a general optimiser: scipy's
L-BFGS-B on all 1,000 controls, with gradients by automatic differentiation, from ten random starts. Costs, iterations
and seconds are printed and kept in `results/car_parking.jsonl`; tests read the optimiser's best cost from there.
"""

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


def general_optimiser(problem: Problem, start: Tensor, box: Box, controls: Tensor) -> list[Optimum]:
    """L-BFGS-B from each of `controls`."""
    from scipy.optimize import minimize

    def evaluate(x: NDArray[np.float64]) -> tuple[Any, Any]:
        cost, gradient = cost_and_gradient(problem, start, torch.from_numpy(x).view(len(x), HORIZON, 2))
        return cost.tolist(), gradient.reshape(len(x), -1).numpy()

    lockstep, begin = Lockstep(evaluate, len(controls)), time.perf_counter()
    found: list[Optimum | None] = [None] * len(controls)
    bounds = list(zip(box.low.tolist() * HORIZON, box.high.tolist() * HORIZON, strict=True))
    options = {"maxiter": EVALUATIONS, "maxfun": EVALUATIONS, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-7}

    def run(i: int) -> None:
        x = box.clamp(controls[i]).flatten().numpy()
        try:
            best = minimize(
                lambda y: lockstep.ask(i, y), x, jac=True, method="L-BFGS-B", bounds=bounds, options=options
            )
            found[i] = Optimum(float(best.fun), int(best.nit), time.perf_counter() - begin, str(best.message))
        finally:
            lockstep.leave()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(controls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [optimum for optimum in found if optimum is not None]


def ilqr(problem: Problem, start: Tensor, box: Box, controls: Tensor, *, second_order: bool) -> Optimum:
    """iLQR or DDP from the first of `controls`."""
    planner = ILQR(box, HORIZON, iterations=500, second_order=second_order, tolerance=1e-7)
    begin = time.perf_counter()
    memory = ILQRMemory(box.clamp(controls[:1]))
    plan = planner.plan(problem, start, memory, generator=torch.Generator().manual_seed(0))
    info = plan.info
    return Optimum(
        -float(plan.value[0]),
        int(info.iterations[0]),
        time.perf_counter() - begin,
        Reason(int(info.reason[0])).sentence,
    )


def main() -> None:
    """Run all three and keep the result."""
    from benchmarks.report import keep

    torch.set_num_threads(1)
    problem, start, box = car_parking()
    record: dict[str, Any] = {"horizon": HORIZON, "restarts": RESTARTS, "evaluations": EVALUATIONS}
    record["gradient_error"] = check_gradient(problem, start, first_controls(1, 0))
    for name, second_order in (("ilqr", False), ("ddp", True)):
        record[name] = [
            ilqr(problem, start, box, first_controls(1, seed), second_order=second_order)._asdict() for seed in range(2)
        ]
        print(name, record[name])
    record["optimiser"] = [x._asdict() for x in general_optimiser(problem, start, box, first_controls(RESTARTS, 1))]
    costs = sorted(x["cost"] for x in record["optimiser"])
    record["best"] = costs[0]
    print(f"L-BFGS-B, costs of {RESTARTS} restarts: {', '.join(f'{cost:.5f}' for cost in costs)}")
    for name in ("ilqr", "ddp"):
        print(f"{name}: {[round(x['cost'] / costs[0], 5) for x in record[name]]} of the best")
    print(f"kept in {keep('car_parking', record)}")


if __name__ == "__main__":
    main()
