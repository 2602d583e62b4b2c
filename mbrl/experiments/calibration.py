"""How well a penalty tells where a model is wrong: rank correlation, reliability curve, and a weight.

A policy is rolled out in the model from states of the data. Each transition on the way, (s_k, a_k), is taken once more
in MuJoCo (or by the task's formula), set to s_k. The true error of step k is the distance of where that leads from the
states that the rollout reaches: the root mean square over what it may draw, elites and their noise, which is the
2-Wasserstein distance of the prediction from the truth; and over the observation, in units of the standard deviation
of its changes in the data. The error of the elites' mean, without noise and disagreement, is reported beside it.

Where no true model is there, the actions of episodes of the data are given to the model instead, and the error of step
k is how far it has come from the recorded observation; the penalties of the steps add up.

A weight that covers the error: MOPO's bound holds where, over the states that the policy reaches in the model,

    E[weight * penalty] >= discount E|V(predicted s') - V(true s')|

for the policy's value V, which is 0 behind an end, of the model or of the truth: Yu et al. (2020),
https://arxiv.org/abs/2005.13239, section 4.1. The suggestion is the smallest such weight. Comparing penalties with the
true error of model rollouts: Lu et al. (2022), https://arxiv.org/abs/2110.04135, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from mbrl.data.datasets import Dataset
from mbrl.experiments.replay import Replay
from mbrl.models.ensemble_dynamics import EnsembleDynamics, Penalty
from mbrl.rollout import Act, rollout
from mbrl.seeding import generator

Value = Callable[[Tensor], Tensor]
"""`value(obs)` -> [rows], of the policy."""
BINS = 10


class Curve(NamedTuple):
    """How one penalty fares."""

    spearman: float
    """Rank correlation with the true error over all steps together; NaN where either does not vary."""
    of_mean: float
    """Rank correlation with the error of the elites' mean."""
    by_step: tuple[float, ...]
    """Rank correlation with the true error of each step."""
    penalty: np.ndarray
    """[bins] mean in bins of equally many transitions, by penalty."""
    error: np.ndarray
    """[bins] mean true error: it should rise with the penalty."""
    weight: float
    """Suggested, in units of reward per unit of penalty; NaN without a value function."""
    covered: float
    """Share of transitions whose own loss of value that weight covers."""


@dataclass(frozen=True)
class Calibration:
    """A report on penalties."""

    curves: Mapping[str, Curve]
    source: str
    """Where the true errors come from."""
    rows: int
    """Transitions compared."""
    unknown: int
    """Transitions left out, as the true model could not be set to where they start."""
    mean_error: tuple[float, ...]
    """By step."""

    def __str__(self) -> str:
        steps = range(1, len(self.mean_error) + 1)
        left = f" ({self.unknown} left out)" if self.unknown else ""
        lines = [
            f"penalty calibration: {self.rows} transitions, {self.source}{left}",
            f"  {'rank correlation':22}{'of steps':>10}" + "".join(f"{k:>7}" for k in steps),
            f"  {'with the true error:':22}{'all':>10}{'':{7 * len(self.mean_error)}}  of mean   weight  covers",
        ]
        for name, curve in self.curves.items():
            each = "".join(f"{x:7.2f}" for x in curve.by_step)
            rest = f"{curve.of_mean:9.2f}{curve.weight:9.3g}{curve.covered:8.0%}"
            lines.append(f"  {name:22}{curve.spearman:10.2f}{each}{rest}")
        lines.append(f"  {'mean true error':32}" + "".join(f"{x:7.2f}" for x in self.mean_error))
        for name, curve in self.curves.items():
            lines.append(f"  {name + ', by tenths':26}" + "".join(f"{x:9.3g}" for x in curve.penalty))
            lines.append(f"  {'its true error':26}" + "".join(f"{x:9.3g}" for x in curve.error))
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """As JSON can hold it."""
        curves = {
            name: {field: np.asarray(part).tolist() for field, part in zip(curve._fields, curve, strict=True)}
            for name, curve in self.curves.items()
        }
        return {**vars(self), "curves": curves}


def calibrate(
    dynamics: EnsembleDynamics,
    policy: Act,
    dataset: Dataset,
    penalties: Mapping[str, Penalty],
    *,
    replay: Replay | None,
    value: Value | None = None,
    discount: float = 0.99,
    steps: int = 5,
    starts: int = 1_000,
    seed: int = 0,
) -> Calibration:
    """Compare penalties with the true errors of a model.

    Args:
        dynamics: the model, as rollouts use it.
        policy: acts in the rollouts; not used without `replay`.
        dataset: whose states rollouts start from. Without `replay` it is compared with, and should be one that the
            model was not fitted to: known rows flatter.
        penalties: by name, functions of predictions, of weight 1.
        replay: the true model (`true_replay`); None: there is none.
        value: of the policy, for weights.
        discount: of rewards, per step.
        steps: of rollouts.
        starts: how many rollouts.
        seed: of starts and rollouts.

    Raises:
        ValueError: `steps` or `starts` is below 1, fewer than `BINS` transitions could be compared, or no episode is as
            long as `steps`.
    """
    if steps < 1 or starts < 1:
        raise ValueError(f"steps, starts: expected at least 1, got {steps} and {starts}")
    compare = _open_loop if replay is None else _replayed
    found = compare(dynamics, policy, dataset, penalties, replay, steps, starts, seed)
    kept = found.known
    rows = int(kept.sum())
    if rows < BINS:
        raise ValueError(
            f"dataset: expected {BINS} transitions or more whose truth is known, got {rows} of {kept.numel()}"
        )
    gap = None
    if value is not None:
        told, truth = (
            value(obs[kept]) * ~end[kept].to(obs.device)
            for obs, end in ((found.predicted, found.ended), (found.true, found.truly_ended))
        )
        gap = discount * (told - truth).abs().double().cpu().numpy()
    error, of_mean, step = (x[kept].numpy() for x in (found.error, found.of_mean, found.step))
    curves = {
        name: _curve(penalty[kept].double().cpu().numpy(), error, of_mean, step, gap)
        for name, penalty in found.penalties.items()
    }
    means = tuple(float(error[step == k].mean()) if (step == k).any() else float("nan") for k in range(steps))
    source = "replayed in the true model" if replay is not None else "against the data, open loop"
    return Calibration(curves, source, rows, int((~kept).sum()), means)


class _Found(NamedTuple):
    """Transitions in the model beside the true ones, [rows, ...] over all steps."""

    step: Tensor
    penalties: dict[str, Tensor]
    predicted: Tensor
    true: Tensor
    error: Float[Tensor, "rows"]
    of_mean: Float[Tensor, "rows"]
    known: Bool[Tensor, "rows"]
    ended: Bool[Tensor, "rows"]
    """Whether the model's episode is over behind the step."""
    truly_ended: Bool[Tensor, "rows"]


def _replayed(
    dynamics: EnsembleDynamics,
    policy: Act,
    dataset: Dataset,
    penalties: Mapping[str, Penalty],
    replay: Replay | None,
    steps: int,
    starts: int,
    seed: int,
) -> _Found:
    assert replay is not None
    ensemble = dynamics.ensemble
    g = generator(seed, "calibrate", device=ensemble.device)
    rows = dataset.transitions(device=ensemble.device, dtype=ensemble.dtype)
    chosen = torch.randint(len(rows.obs), (starts,), generator=g, device=ensemble.device)
    made = rollout(dynamics, policy, rows.obs[chosen], steps, generator=g)
    alive = made.alive.flatten()
    obs, action = (x.flatten(0, 1)[alive] for x in (made.batch.obs, made.batch.action))
    step = torch.arange(steps, device=obs.device)[:, None].expand(steps, starts).flatten()[alive]
    prediction = ensemble.predict(obs, action)
    mean, std = (x[ensemble.elites, :, : ensemble.obs_dim] for x in prediction)
    true, known, truly_ended = replay(obs, action)
    true = true.to(obs)
    error = _error(dynamics, ((obs + mean - true).square() + std.square()).mean(0).sqrt())
    own = {name: penalty(prediction).cpu() for name, penalty in penalties.items()}
    predicted = obs + mean.mean(0)
    ended = torch.zeros_like(known)
    if dynamics.termination is not None:
        ended = dynamics.termination(obs, action, predicted).cpu()
    of_mean = _error(dynamics, predicted - true)
    return _Found(step.cpu(), own, predicted, true, error, of_mean, known, ended, truly_ended)


def _open_loop(
    dynamics: EnsembleDynamics,
    policy: Act,
    dataset: Dataset,
    penalties: Mapping[str, Penalty],
    replay: Replay | None,
    steps: int,
    starts: int,
    seed: int,
) -> _Found:
    ensemble = dynamics.ensemble
    g = generator(seed, "calibrate", device=ensemble.device)
    rows = dataset.transitions(device=ensemble.device, dtype=ensemble.dtype)
    ids = dataset.episode_ids()
    fits = (ids[: max(0, len(ids) - steps + 1)] == ids[steps - 1 :]).nonzero()[:, 0]
    if not len(fits):
        raise ValueError(f"dataset: expected an episode of {steps} steps or more, got none")
    first = fits[torch.randint(len(fits), (starts,), generator=g, device=g.device).cpu()].to(ensemble.device)
    state = dynamics.reset(rows.obs[first])
    total = {name: torch.zeros(starts) for name in penalties}
    parts, ended = [], torch.zeros(starts, dtype=torch.bool)
    for k in range(steps):
        obs, action = dynamics.observe(state), rows.action[first + k]
        prediction = ensemble.predict(obs, action)
        state, reached = dynamics.step(state, action, generator=g)
        total = {name: total[name] + penalty(prediction).cpu() for name, penalty in penalties.items()}
        true = rows.next_obs[first + k]
        error = _error(dynamics, reached.obs - true)
        ended = ended | reached.terminated.cpu()
        known, over = error.isfinite(), rows.terminated[first + k].cpu()
        parts.append(_Found(torch.full((starts,), k), total, reached.obs, true, error, error, known, ended, over))
    columns = {name: torch.cat([part.penalties[name] for part in parts]) for name in penalties}
    names = ("predicted", "true", "error", "of_mean", "known", "ended", "truly_ended")
    rest = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    return _Found(torch.cat([part.step for part in parts]), columns, *rest)


def _error(dynamics: EnsembleDynamics, difference: Tensor) -> Float[Tensor, "rows"]:
    """Root mean squares, on the CPU, in standard deviations of the observation's changes."""
    scale = dynamics.ensemble.target_scale[: dynamics.ensemble.obs_dim]
    return (difference / scale).square().mean(-1).sqrt().double().cpu()


def _curve(
    penalty: np.ndarray, error: np.ndarray, of_mean: np.ndarray, step: np.ndarray, gap: np.ndarray | None
) -> Curve:
    groups = np.array_split(np.argsort(penalty, kind="stable"), BINS)
    weight = covered = float("nan")
    if gap is not None and penalty.sum() > 0:
        weight = float(gap.sum() / penalty.sum())
        covered = float((weight * penalty >= gap).mean())
    steps = tuple(_spearman(penalty[step == k], error[step == k]) for k in range(int(step.max()) + 1))
    return Curve(
        _spearman(penalty, error),
        _spearman(penalty, of_mean),
        steps,
        np.array([penalty[g].mean() for g in groups]),
        np.array([error[g].mean() for g in groups]),
        weight,
        covered,
    )


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)
