"""Row mppi_plan: one plan of MPPI on the swing-up of an analytic pendulum, in milliseconds.

Horizon 30, one iteration, temperature 1, the same functions for both. The floor is a loop of the user's two functions
over the rows, which no planner that calls them can beat. The peer neither scores its plan nor keeps track of rows that
went wrong; we are timed without scoring the plan too (`score_mean=False`), and with the default beside it.

Also here: how the time grows with the population and the horizon, and what functions compiled by torch bring.
"""

import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import CORE_SHARE, alternate, timed
from benchmarks.report import compare
from planners import MPPI, Box, FunctionDynamics, Problem, evaluate_plans

SIZES = {"population": 1_000, "horizon": 30, "large": 10_000}
SMALL = {"population": 20, "horizon": 3, "large": 40}
TARGET = 1.5
POPULATIONS = (100, 300, 1_000, 3_000, 10_000)
HORIZONS = (5, 10, 20, 50, 100)
REPEATS = 20


def transition(obs: Tensor, action: Tensor) -> Tensor:
    """A pendulum, [angle, velocity], in steps of 0.05 s; torque within 2."""
    angle, velocity = obs[:, :1], obs[:, 1:2]
    torque = action.clamp(-2, 2)
    velocity = (velocity + (15 * torch.sin(angle) + 3 * torque) * 0.05).clamp(-8, 8)
    return torch.cat([angle + velocity * 0.05, velocity], 1)


def cost(obs: Tensor, action: Tensor) -> Tensor:
    """Squared angle from upright, a tenth of the squared velocity, a little torque."""
    angle = ((obs[:, 0] + torch.pi) % (2 * torch.pi)) - torch.pi
    return angle**2 + 0.1 * obs[:, 1] ** 2 + 0.001 * action[:, 0] ** 2


def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return -cost(obs, action)


BOX = Box(-2.0, 2.0, dim=1)
PROBLEM = Problem(FunctionDynamics(transition, reward))


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row at both populations; `small`: with tiny ones, to see that it runs."""
    sizes = SMALL if small else SIZES
    checked = agree()
    peer = peer_versions()
    records = {}
    for population in (sizes["population"], sizes["large"]):
        contestants = {
            "ours": plan(population, sizes["horizon"]),
            "ours_scored": plan(population, sizes["horizon"], score_mean=True),
            "floor": floor(population, sizes["horizon"]),
        }
        if peer is not None:
            contestants["peer"] = peer_plan(population, sizes["horizon"])
        units = {name: timed(many(work)) for name, work in contestants.items()}
        readings = alternate(units, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
        records[population] = compare(
            f"mppi_plan of {population}",
            readings,
            unit="ms/plan",
            scale=1e3 / REPEATS,
            target=TARGET,
            peer_versions=peer,
            notes={"time_with_the_plan_scored": readings.ratio("ours_scored", "ours").median},
        )
    notes = {} if small else {"scaling_ms": scaling(), "functions_compiled_by_torch_ms": compiled(sizes)}
    return {"sizes": sizes, "largest_difference_from_plain": checked, "by_population": records, **notes}


def plan(population: int, horizon: int, problem: Problem = PROBLEM, score_mean: bool = False) -> Callable[[], object]:
    """One plan of ours from the pole hanging."""
    planner = MPPI(BOX, horizon, population, temperature=1.0, initial_std=0.5, score_mean=score_mean)
    stream, start = torch.Generator().manual_seed(0), torch.tensor([[3.1, 0.0]])
    memory = planner.init(problem, start, generator=stream)
    return lambda: planner.plan(problem, start, memory, generator=stream)


def floor(population: int, horizon: int) -> Callable[[], object]:
    """The user's functions alone."""
    stream = torch.Generator().manual_seed(0)
    start, actions = torch.randn(population, 2, generator=stream), torch.randn(horizon, population, 1, generator=stream)

    def loop() -> None:
        obs = start
        for action in actions:
            following = transition(obs, action)
            reward(obs, action, following)
            obs = following

    return loop


def peer_versions() -> dict[str, str] | None:
    """None where pytorch-mppi is not installed here."""
    try:
        return {"pytorch_mppi": metadata.version("pytorch_mppi")}
    except metadata.PackageNotFoundError:
        return None


def peer_plan(population: int, horizon: int) -> Callable[[], object]:
    """One command of pytorch-mppi, as its documentation calls it."""
    from pytorch_mppi import MPPI as PeerMPPI

    low, high = torch.tensor([-2.0]), torch.tensor([2.0])
    peer = PeerMPPI(
        transition,
        cost,
        2,
        torch.eye(1),
        num_samples=population,
        horizon=horizon,
        device="cpu",
        u_min=low,
        u_max=high,
    )
    state = torch.tensor([3.1, 0.0])
    return lambda: peer.command(state)


def many(work: Callable[[], object]) -> Callable[[], object]:
    """A unit of work long enough to be timed."""

    def unit() -> None:
        for _ in range(REPEATS):
            work()

    return unit


def agree() -> float:
    """Compare scores of plans with returns added up by a plain loop in float64.

    Returns the largest difference.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    stream = torch.Generator().manual_seed(1)
    actions = 2 * torch.randn(1, 200, 30, 1, generator=stream, dtype=torch.float64)
    obs = torch.tensor([[3.1, 0.0]], dtype=torch.float64)
    scores = evaluate_plans(PROBLEM, obs, actions, generator=stream).scores[0]
    obs, total = obs.repeat(200, 1), torch.zeros(200, dtype=torch.float64)
    for action in actions[0].unbind(1):
        total -= cost(obs, action)
        obs = transition(obs, action)
    worst = float((scores - total).abs().max())
    if not worst < 1e-9:
        raise RuntimeError(f"scores differ from plain sums by {worst}")
    return worst


def scaling() -> dict[str, dict[int, float]]:
    """Median milliseconds of a plan over population (horizon 30) and horizon (1,000 sequences)."""
    return {
        "population": {n: milliseconds(plan(n, 30)) for n in POPULATIONS},
        "horizon": {n: milliseconds(plan(1_000, n)) for n in HORIZONS},
    }


def compiled(sizes: dict[str, int]) -> dict[int, dict[str, float]]:
    """Median milliseconds of a plan with the functions as they are, and passed through torch.compile."""
    fused = Problem(FunctionDynamics(torch.compile(transition), torch.compile(reward)))
    return {
        n: {
            "plain": milliseconds(plan(n, sizes["horizon"])),
            "compiled": milliseconds(plan(n, sizes["horizon"], fused)),
        }
        for n in (sizes["population"], sizes["large"])
    }


def milliseconds(work: Callable[[], object]) -> float:
    """Median wall-clock time of one call, after three that warm up."""
    times = []
    for _ in range(REPEATS + 3):
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return round(statistics.median(times[3:]), 3)
