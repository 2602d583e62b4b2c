"""Row model_rollout: 100,030 states, one step each, through 7 networks of 4 x 200, in milliseconds.

Observations of 17, actions of 6, learned reward; actions are random, so that the model alone is measured. Two readings:
each row by one elite of five, as in MBPO, and each row by all seven members, as a penalty on their disagreement needs.
The number of states is a multiple of 5 and 7, as the peer demands. The floor is the matrix products alone, in parts
that fit the cache.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import CORE_SHARE, alternate, timed
from benchmarks.peers.worker import mbrl_lib
from benchmarks.report import compare
from benchmarks.workload import ACT, HIDDEN, OBS, Products, transitions
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.folded import CACHED_ROWS
from mbrl.models.gaussian_ensemble import GaussianEnsemble, Prediction
from mbrl.rollout import rollout

SIZES = {"members": 7, "elites": 5, "rows": 100_030}
SMALL = {"members": 7, "elites": 5, "rows": 1_050}
TARGETS = {"one_elite": 2.0, "all_members": 1.0}


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: with few states, to see that it runs."""
    sizes = SMALL if small else SIZES
    ensemble = GaussianEnsemble(OBS, ACT, members=sizes["members"], hidden=HIDDEN, learned_reward=True)
    fit(ensemble, transitions(2_000), seed=0, epochs=1, holdout=0.2, elites=sizes["elites"])
    record = {}
    for reading, target in TARGETS.items():
        all_members = reading == "all_members"
        penalty = (lambda prediction: prediction.std.amax((0, 2))) if all_members else None
        dynamics = EnsembleDynamics(ensemble, propagation="ts1", penalty=penalty)
        checks = agree(ensemble, dynamics)
        contestants = {
            "ours": timed(unit(dynamics, sizes["rows"])),
            "floor": timed(floor(sizes["members"] * sizes["rows"] if all_members else sizes["rows"])),
        }
        with mbrl_lib("model_rollout", {**sizes, "all_members": all_members}) as peer:
            if peer is not None:
                contestants["peer"] = peer
            readings = alternate(contestants, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
        record[reading] = compare(
            f"model_rollout {reading}",
            readings,
            unit=f"ms/{sizes['rows']} states",
            scale=1e3,
            target=target,
            peer_versions=peer.versions if peer else None,
            notes={"sizes": sizes, "largest_difference_from_plain": checks},
        )
        states = sizes["rows"] / record[reading]["ours"]["median"] * 1e3
        print(f"  {states:,.0f} states/s")
    return record


def unit(dynamics: EnsembleDynamics, rows: int) -> Callable[[], None]:
    """One step from `rows` states."""
    stream = torch.Generator().manual_seed(1)
    obs = torch.randn(rows, OBS, generator=stream)

    def act(obs: Tensor, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(len(obs), ACT, generator=generator) - 1

    def work() -> None:
        result = rollout(dynamics, act, obs, 1, generator=stream)
        assert bool(result.alive.all()), "rows that are lost would count as computed"

    return work


def floor(evaluations: int) -> Callable[[], None]:
    """The products of as many rows of single networks, five networks at a time."""
    products = Products(5, CACHED_ROWS, backward=False)

    def work() -> None:
        for _ in range(round(evaluations / (5 * CACHED_ROWS))):
            products()

    return work


@torch.no_grad()
def agree(ensemble: GaussianEnsemble, dynamics: EnsembleDynamics) -> float:
    """Compare the fast step of rows with the plain prediction of the member that each was given.

    The noise, recovered by way of the plain mean and standard deviation, must be that which the generator gives.

    Returns the largest difference.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    stream = torch.Generator().manual_seed(2)
    rows = 500
    obs = torch.randn(rows, OBS, generator=stream)
    action = 2 * torch.rand(rows, ACT, generator=stream) - 1
    draws = stream.clone_state()
    state, step = dynamics.step(dynamics.reset(obs), action, generator=stream)
    torch.rand(rows, generator=draws)  # for the members
    noise = torch.randn(rows, OBS + 1, generator=draws)
    prediction: Prediction = ensemble.predict(obs, action)
    index = torch.arange(rows)
    mean, std = (part[state.member, index] for part in prediction)
    reward = step.reward if dynamics.penalty is None else step.reward + dynamics.penalty(prediction)
    got = (torch.cat([step.obs - obs, reward[:, None]], 1) - mean) / std
    worst = float((got - noise).abs().max())
    if not worst < 1e-2:
        raise RuntimeError(f"the noise differs by {worst} from what was drawn: the fast step is wrong")
    return worst
