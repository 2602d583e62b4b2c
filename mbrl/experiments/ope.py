"""Off-policy evaluation: what a policy is worth, from logged data alone, by several estimators with intervals.

    data             mean discounted return of the policies that collected the data: no estimate, but a measure
    fqe              fitted Q evaluation (`mbrl.learners.fqe`)
    model            whole episodes in an ensemble fitted to the data
    per_decision, weighted, doubly_robust, weighted_doubly_robust
                     importance sampling (`mbrl.experiments.importance`), where log-probabilities are known

The value is E[sum_t discount^t r_t] from where episodes of the data begin. Policies that were trained with a model are
evaluated in one of their own seed: they may have found the errors of the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from scipy.stats import spearmanr, t

from mbrl.data.datasets import Dataset, dataset_buffer
from mbrl.experiments.importance import Episodes, Estimator, episodes_of, estimate, estimates
from mbrl.learners.fqe import FQEConfig
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.mopo_config import MOPOConfig, mopo_preset
from mbrl.pipelines.offline_model import fit_once, learned_model
from mbrl.pipelines.policy_evaluation import ROWS, FittedQ, TargetPolicy, model_value
from mbrl.seeding import derive, generator

TAIL = 0.01
"""Rollouts in a model end where what is left is worth this share of a value."""


_LEFT = 0.02
"""Share of a value behind the cuts of episodes from which on a note says so."""


@dataclass(frozen=True)
class OPEConfig:
    """Settings of off-policy evaluation.

    Raises:
        ValueError: a number is out of range.
    """

    discount: float = 0.99
    """Of rewards, per step."""
    confidence: float = 0.95
    """Of intervals."""
    starts: int = 200
    """First observations of the data, at most, that rollouts in the model start from."""
    seed: int = 0
    """Of everything random."""
    fqe: FQEConfig = field(default_factory=FQEConfig)
    """Of fitted Q evaluation."""

    def __post_init__(self) -> None:
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount: expected a number in [0, 1), got {self.discount}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence: expected a number in (0, 1), got {self.confidence}")
        if self.starts < 2:
            raise ValueError(f"starts: expected at least 2, got {self.starts}")

    @property
    def horizon(self) -> int:
        """Steps of a rollout."""
        return 1 if self.discount == 0 else max(1, math.ceil(math.log(TAIL) / math.log(self.discount)))


class Estimate(NamedTuple):
    """What one estimator says."""

    name: str
    value: float
    """NaN where it can't say anything; the note says why."""
    low: float
    high: float
    note: str = ""
    doubtful: bool = False
    """Whether the note says not to believe it."""

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"{self.name:24}{'-':>10}  {self.note}"
        interval = "" if math.isnan(self.low) else f"[{self.low:.2f}, {self.high:.2f}]  "
        return f"{self.name:24}{self.value:10.2f}  {interval}{self.note}".rstrip()


def evaluate_policy(
    dataset: Dataset,
    policy: TargetPolicy,
    config: OPEConfig = OPEConfig(),
    *,
    dynamics: EnsembleDynamics | None = None,
    fitted: FittedQ | None = None,
) -> list[Estimate]:
    """All estimates of a policy's value that the data allow.

    Args:
        dataset: of any policies.
        policy: whose value is asked for.
        config: the settings.
        dynamics: an ensemble fitted to the dataset (`evaluation_model`); None: no estimate by a model.
        fitted: critics of this policy and dataset; None: they are fitted here.

    Raises:
        ValueError: the dataset has one episode only, or a fit diverged.
    """
    fitted = fitted or fit_critics(dataset, policy, config)
    estimates = [behaviour_value(dataset, config), fqe_estimate(fitted, config)]
    if dynamics is not None:
        estimates.append(model_estimate(dataset, policy, dynamics, config))
    return estimates + importance_estimates(dataset, policy, fitted, config)


def fit_critics(dataset: Dataset, policy: TargetPolicy, config: OPEConfig) -> FittedQ:
    """The critics of fitted Q evaluation."""
    return FittedQ(dataset, policy, config.fqe, discount=config.discount, seed=derive(config.seed, "ope"))


def behaviour_value(dataset: Dataset, config: OPEConfig) -> Estimate:
    """Mean discounted return of the data, with a bootstrap interval over episodes."""
    known = np.arange(int(dataset.lengths.max())) < dataset.lengths[:, None]
    reward = np.zeros(known.shape)
    reward[known] = dataset.rewards
    episodes = Episodes(reward, np.zeros(known.shape), known, dataset.terminated[dataset.ends])
    made = estimate(episodes, "per_decision", discount=config.discount, seed=config.seed, confidence=config.confidence)
    note = f"{dataset.episodes} episodes of whoever collected them"
    left = float((~dataset.terminated[dataset.ends] * config.discount**dataset.lengths).mean())
    if left > _LEFT:
        note += f", up to where they were cut: {left:.0%} of a value comes behind"
    return Estimate("data", made.value, made.low, made.high, note)


def fqe_estimate(fitted: FittedQ, config: OPEConfig) -> Estimate:
    """By the bootstrap members of fitted Q evaluation: mean, and Student's t times their standard deviation."""
    members = fitted.initial.numpy()
    wide = _student(len(members), config) * float(members.std(ddof=1))
    value, note = float(members.mean()), ""
    needed = math.ceil(3 / (fitted.config.tau * (1 - config.discount)) - 1e-6)  # until values have come along episodes
    if fitted.config.updates < needed:
        note = f"too few updates, {fitted.config.updates}, for this discount: take {needed}"
    elif len(fitted.history) > 1:
        moved = float((fitted.history[-1] - fitted.history[-2]).mean())
        if abs(moved) > max(wide, 0.02 * abs(value)):
            note = f"still moving, by {moved:.2g} in the last tenth of the updates: fit longer"
    return Estimate("fqe", value, value - wide, value + wide, note, doubtful=bool(note))


def model_estimate(dataset: Dataset, policy: TargetPolicy, dynamics: EnsembleDynamics, config: OPEConfig) -> Estimate:
    """By rollouts of whole episodes in each elite.

    The interval is one for a further model of the same kind, as the truth may be: Student's t times the standard
    deviation of elites, widened by the error from having few starts.
    """
    ensemble = dynamics.ensemble
    whole = EnsembleDynamics(
        ensemble,
        propagation="ts_inf",
        reward=dynamics.reward,
        termination=dynamics.termination,
        precision=dynamics.precision,
    )
    g = generator(config.seed, "ope", "model", device=ensemble.device)
    first = dataset.lengths.cumsum() - dataset.lengths + np.arange(dataset.episodes)
    chosen = torch.randperm(dataset.episodes, generator=g, device=g.device)[: config.starts].cpu().numpy()
    starts = torch.from_numpy(dataset.observations[first[chosen]]).to(ensemble.device, ensemble.dtype)
    made = model_value(
        whole,
        policy,
        starts,
        horizon=config.horizon,
        discount=config.discount,
        reward_range=(float(dataset.rewards.min()), float(dataset.rewards.max())),
        generator=g,
    )
    elites, each = made.members.cpu().numpy(), made.starts.cpu().numpy()
    spread = float(elites.var(ddof=1)) * (1 + 1 / len(elites)) if len(elites) > 1 else math.nan
    few = float(each.var(ddof=1)) / len(each) if len(each) > 1 else 0.0
    wide = _student(len(elites), config) * math.sqrt(spread + few)
    value = float(elites.mean())
    note = f"{len(elites)} elites, {config.horizon} steps"
    if made.lost:
        note += f"; {made.lost:.0%} of the rollouts were cut short by what is not finite"
    return Estimate("model", value, value - wide, value + wide, note, doubtful=made.lost > 0)


def importance_estimates(dataset: Dataset, policy: TargetPolicy, fitted: FittedQ, config: OPEConfig) -> list[Estimate]:
    """The four estimators of `mbrl.experiments.importance`, or why there are none."""
    names: tuple[Estimator, ...] = get_args(Estimator)
    data = dataset.transitions()
    try:
        log_prob = torch.cat(
            [policy.log_prob(o, a) for o, a in zip(data.obs.split(ROWS), data.action.split(ROWS), strict=True)]
        )
        q = fitted.q(data.obs, data.action)
        v = fitted.v(torch.from_numpy(dataset.observations.copy()).to(data.obs))
        episodes = episodes_of(dataset, *(x.double().cpu().numpy() for x in (log_prob, q, v)))
    except ValueError as error:
        return [Estimate("importance sampling", math.nan, math.nan, math.nan, f"not possible: {error}")]
    made = []
    found = estimates(episodes, names, discount=config.discount, seed=config.seed, confidence=config.confidence)
    for name, one in found.items():
        if one.effective == 0:
            note = "all weights are 0: no episode does up to its end what the policy does"
            made.append(Estimate(name, math.nan, math.nan, math.nan, note))
            continue
        note = f"as good as {one.effective:.1f} episodes"
        doubtful = one.effective < 10
        if doubtful:
            note += ": believe little of it"
        made.append(Estimate(name, one.value, one.low, one.high, note, doubtful))
    return made


def evaluation_model(dataset: Dataset, agent: Agent, *, seed: int, cache: str | None = None) -> LearnedModel:
    """An ensemble fitted to a dataset for evaluation, with MOPO's settings for its environment, and no penalty.

    Args:
        dataset: what it is fitted to.
        agent: whose observations and actions it predicts.
        seed: of the evaluation.
        cache: folder of fitted models, see `MOPOConfig.model_cache`.

    Raises:
        ValueError: the dataset does not fit the agent, or disagrees with what the library knows of its task.
    """
    found: MOPOConfig = mopo_preset(dataset.info.env_id or "").config
    config = replace(found, model_seed=derive(seed, "ope", "ensemble") % 2**31, model_cache=cache)
    model = learned_model(dataset, agent, config, seed=seed)
    fit_once(
        model, dataset_buffer(dataset, device=agent.device, dtype=agent.learner.dtype), dataset, config, Counters()
    )
    return model


class Choice(NamedTuple):
    """What would be deployed by an estimator, and what that would cost."""

    estimator: str
    by: str
    """"value", or "low": the lower end of the interval."""
    chosen: str
    regret: float
    """Return of the best candidate less that of the chosen one; NaN where the truth is not known."""
    rank: float
    """Rank correlation of the estimates with the true returns, likewise."""
    doubtful: bool = False
    """Whether the estimator says of any candidate not to believe it."""


def choose(estimates: dict[str, Sequence[Estimate]], true_returns: dict[str, float] | None = None) -> list[Choice]:
    """What each estimator would choose among candidates, with the regret where an environment told the truth.

    Args:
        estimates: of each candidate, by name.
        true_returns: of each candidate; None: not known.

    Raises:
        ValueError: there is no candidate.
    """
    if not estimates:
        raise ValueError("estimates: expected one candidate or more, got none")
    tables = {name: {one.name: one for one in made} for name, made in estimates.items()}
    shared = [n for n in next(iter(tables.values())) if n != "data" and all(n in table for table in tables.values())]
    made = []
    for estimator in shared:
        for by in ("value", "low"):
            scores = {name: getattr(table[estimator], by) for name, table in tables.items()}
            if any(math.isnan(score) for score in scores.values()):
                continue
            chosen = max(scores, key=lambda name: scores[name])
            regret = rank = math.nan
            if true_returns is not None:
                regret = max(true_returns.values()) - true_returns[chosen]
                truth = [true_returns[name] for name in scores]
                if len(truth) > 2 and np.ptp(truth) > 0 and np.ptp(list(scores.values())) > 0:
                    rank = float(spearmanr(list(scores.values()), truth).statistic)
            doubtful = any(table[estimator].doubtful for table in tables.values())
            made.append(Choice(estimator, by, chosen, regret, rank, doubtful))
    return made


def plain(value: Any) -> Any:
    """A report, or a part of one, as JSON can hold it; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON; numbers that are not finite become null."""
    path.write_text(json.dumps(plain(report), indent=1, allow_nan=False) + "\n")


def _student(count: int, config: OPEConfig) -> float:
    """The quantile of Student's t for a two-sided interval from `count` values."""
    return float(t.ppf(0.5 + config.confidence / 2, count - 1)) if count > 1 else math.nan
