"""Row cem_plan: one plan of CEM through 5 networks of 4 x 200, in milliseconds.

350 sequences x 30 steps x 20 particles x 5 iterations; observations of 17, actions of 6, learned reward. The floor is
the matrix products alone. The peer deals members anew at every step (TS1), as it does by default; the products are the
same. Plans whose products between hidden layers are in bfloat16 stand beside ours.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.harness import CORE_SHARE, alternate, timed
from benchmarks.peers.worker import mbrl_lib
from benchmarks.report import compare
from benchmarks.workload import ACT, HIDDEN, OBS, Products, transitions
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from planners import CEM, Box, Problem

SIZES = {"members": 5, "population": 350, "horizon": 30, "particles": 20, "iterations": 5, "elites": 35}
SMALL = {"members": 5, "population": 20, "horizon": 3, "particles": 5, "iterations": 2, "elites": 2}
TARGET, TARGET_BFLOAT16 = 1.5, 2.5


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: with a tiny planner, to see that it runs."""
    sizes = SMALL if small else SIZES
    ensemble = GaussianEnsemble(OBS, ACT, members=sizes["members"], hidden=HIDDEN, learned_reward=True)
    fit(ensemble, transitions(2_000), seed=0, epochs=1, holdout=0.0)
    dynamics, lowered = (EnsembleDynamics(ensemble, precision=precision) for precision in ("full", "bfloat16"))
    checks, error = agree(ensemble, dynamics), bfloat16_error(dynamics, lowered)

    rows = sizes["population"] * sizes["particles"] // sizes["members"]
    products = Products(sizes["members"], rows, backward=False)

    def floor() -> None:
        for _ in range(sizes["iterations"] * sizes["horizon"]):
            products()

    contestants = {
        "ours": timed(plans(dynamics, sizes)),
        "bfloat16": timed(plans(lowered, sizes)),
        "floor": timed(floor),
    }
    with mbrl_lib("cem_plan", sizes) as peer:
        if peer is not None:
            contestants["peer"] = peer
        readings = alternate(contestants, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
    gain = readings.ratio("ours", "bfloat16")
    record = compare(
        "cem_plan",
        readings,
        unit="ms/plan",
        scale=1e3,
        target=TARGET,
        peer_versions=peer.versions if peer else None,
        notes={
            "sizes": sizes,
            "largest_difference_from_plain": checks,
            "bfloat16_times_ours": gain._asdict(),
            "bfloat16_error": error,
        },
    )
    figure = (
        f"{readings.wall('bfloat16').median * 1e3:.4g} ms/plan; {gain.median:.3g} times as fast as in full precision"
    )
    if peer is not None:
        ratio = readings.ratio("peer", "bfloat16")
        record["bfloat16_times_peer"] = ratio._asdict()
        figure += f", to peer {ratio.median:.3g}, target {TARGET_BFLOAT16}"
    print(f"  bfloat16: {figure}")
    return record


def plans(dynamics: EnsembleDynamics, sizes: dict[str, int]) -> Callable[[], None]:
    """What plans once, from another state each time."""
    problem = Problem(dynamics, particles=sizes["particles"])
    planner = CEM(Box(-1, 1, ACT), sizes["horizon"], sizes["population"], sizes["elites"], sizes["iterations"])
    stream = torch.Generator().manual_seed(1)

    def plan() -> None:
        start = dynamics.reset(torch.randn(1, OBS, generator=stream))
        made = planner.plan(problem, start, planner.init(problem, start, generator=stream), generator=stream)
        assert int(made.info.iterations) == sizes["iterations"], "a plan that stopped early would count as a fast one"

    return plan


@torch.no_grad()
def bfloat16_error(full: EnsembleDynamics, lowered: EnsembleDynamics) -> float:
    """Root mean square error of changes in bfloat16, in standard deviations of changes.

    Raises:
        RuntimeError: it is more than bfloat16 explains.
    """
    stream = torch.Generator().manual_seed(3)
    obs, action = torch.randn(700, OBS, generator=stream), 2 * torch.rand(700, ACT, generator=stream) - 1
    exact, rough = (
        model.step(model.reset(obs), action, generator=torch.Generator().manual_seed(4))[1].obs - obs
        for model in (full, lowered)
    )
    error = float((rough - exact).square().mean().sqrt() / exact.std())
    if not error < 1e-2:
        raise RuntimeError(f"changes in bfloat16 are {error} standard deviations from those in full precision")
    return error


@torch.no_grad()
def agree(ensemble: GaussianEnsemble, dynamics: EnsembleDynamics) -> float:
    """Compare the planner's fast step with the plain prediction of each row's member.

    A step is `mean + std * noise` with one noise for each particle, whatever the plan: recovered from the step by way
    of the plain mean and standard deviation, it must be the same in every plan. A mistake in the mean or in the
    deviation would show, because the plans' states differ.

    Returns the largest difference of the noise between plans.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    plans, particles = 30, 10
    stream = torch.Generator().manual_seed(2)
    obs = torch.randn(plans * particles, OBS, generator=stream)
    action = 2 * torch.rand(plans * particles, ACT, generator=stream) - 1
    state = dynamics.assign(dynamics.reset(obs), particles, generator=stream)
    _, step = dynamics.step(state, action, generator=stream)
    prediction = ensemble.predict(obs, action)
    rows = torch.arange(len(obs))
    mean, std = (part[state.member, rows] for part in prediction)
    change = torch.cat([step.obs - obs, step.reward[:, None]], 1)
    noise = ((change - mean) / std).view(plans, particles, -1)
    worst = float((noise - noise[:1]).abs().max())
    if not worst < 1e-2 or not noise[0].std() > 0.5:
        raise RuntimeError(f"the noise of the same particle differs by {worst} between plans: the fast step is wrong")
    return worst
