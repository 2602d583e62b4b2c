"""How good a model is at what planning asks of it: predictions several steps ahead, and intervals that hold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from mbrl.types import TransitionBatch
from planners.dynamics import Dynamics
from planners.rows import repeat_rows


class HorizonReport(NamedTuple):
    """Open-loop quality of a model on real trajectories, by steps ahead."""

    horizons: tuple[int, ...]
    rmse: Float[Tensor, "horizons"]
    """Error of the particles' mean, in units of `scale`; NaN where no trajectory is long enough."""
    coverage90: Float[Tensor, "horizons"]
    """Share of real values inside the particles' central 90 % interval; 0.9 is calibrated, less is too sure."""


@torch.no_grad()
def open_loop_report(
    dynamics: Dynamics[Any],
    batch: TransitionBatch,
    episode_ids: Int[Tensor, "rows"],
    *,
    horizons: Sequence[int] = (1, 2, 5, 10, 25),
    starts: int = 200,
    particles: int = 20,
    generator: Generator,
    scale: Float[Tensor, "obs"] | None = None,
) -> HorizonReport:
    """Start the model in states of real trajectories, give it the actions that were taken, and compare.

    All outputs and starts count alike. An interval ends at order statistics of the particles whose expected coverage
    is 90 % where the model is right, however few particles there are.

    Args:
        dynamics: the model; its states must be determined by observations.
        batch: real transitions which the model was not trained on; the rows of an episode in order.
        episode_ids: the episode of each row.
        horizons: steps ahead.
        starts: rows to start from at most, evenly spaced.
        particles: rollouts from each start.
        generator: source of all randomness.
        scale: what errors are divided by, in each output; None: the standard deviations of the observations in `batch`,
            with which only reports on the same batch can be compared.

    Raises:
        ValueError: a horizon or `starts` is below 1, or there are fewer than 19 particles, too few for an interval of
            90 %.
    """
    if starts < 1:
        raise ValueError(f"starts: expected at least 1, got {starts}")
    if not horizons or min(horizons) < 1:
        raise ValueError(f"horizons: expected one or more, of 1 step at least, got {tuple(horizons)}")
    if particles < 19:
        raise ValueError(f"particles: expected at least 19, for a 90 % interval between two of them, got {particles}")
    rmse = torch.full((len(horizons),), torch.nan, dtype=torch.float64)
    coverage = rmse.clone()
    if len(episode_ids) == 0:
        return HorizonReport(tuple(horizons), rmse, coverage)
    first, length, order = _starts(episode_ids, starts)
    std = batch.obs.double().std(0, correction=0) if scale is None else scale.double()
    std = torch.where(std > 0, std, 1.0)

    state: Any = None
    for t in range(min(int(length.max()), max(horizons))):
        # Trajectories that have ended stay in the batch, with their last action, and are masked.
        rows = order[first + (length - 1).clamp(max=t)]
        if state is None:
            state = repeat_rows(dynamics.reset(batch.obs[rows]), particles)
            state = dynamics.assign(state, particles, generator=generator)
        action = repeat_rows(batch.action[rows], particles)
        state, step = dynamics.step(state, action, generator=generator)
        if t + 1 in horizons:
            samples = step.obs.to(batch.obs.device, torch.float64).view(len(first), particles, -1)
            error, inside = _compare(samples, batch.next_obs[rows].double(), std)
            for i, horizon in enumerate(horizons):
                if horizon == t + 1:
                    rmse[i] = error[length > t].square().mean().sqrt()
                    coverage[i] = inside[length > t].double().mean()
    return HorizonReport(tuple(horizons), rmse, coverage)


def _starts(episode_ids: Tensor, starts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions to start from, how many rows each trajectory has from there, and the order that they refer to."""
    order = episode_ids.argsort(stable=True)  # rows of several environments may alternate
    rows = len(order)
    ids = episode_ids[order]
    _, counts = ids.unique_consecutive(return_counts=True)
    end = counts.cumsum(0).repeat_interleave(counts)
    count = min(starts, rows)
    first = torch.arange(count, device=order.device) * rows // count
    return first, end[first] - first, order


def _compare(
    samples: Float[Tensor, "starts particles obs"], real: Float[Tensor, "starts obs"], std: Float[Tensor, "obs"]
) -> tuple[Float[Tensor, "starts obs"], Bool[Tensor, "starts obs"]]:
    """Scaled error of the mean, and whether the real value lies in the central 90 % interval."""
    error = (samples.mean(1) - real) / std
    ordered = samples.sort(1).values
    particles = samples.shape[1]

    def quantile(q: float) -> Tensor:
        # A further draw falls below the k-th of n with probability k / (n + 1); in between, interpolate.
        position = q * (particles + 1) - 1
        below = min(max(int(position), 0), particles - 2)
        return torch.lerp(ordered[:, below], ordered[:, below + 1], min(max(position - below, 0.0), 1.0))

    return error, (real >= quantile(0.05)) & (real <= quantile(0.95))
