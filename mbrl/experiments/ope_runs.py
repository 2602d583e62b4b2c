"""Off-policy evaluation and penalty calibration of runs: what `mbrl ope` prints and writes."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbrl.data.datasets import Dataset
from mbrl.experiments.agent_runs import environment
from mbrl.experiments.calibration import Calibration, calibrate
from mbrl.experiments.episode import play
from mbrl.experiments.offline_runs import open_dataset, run_dataset
from mbrl.experiments.ope import (
    Choice,
    Estimate,
    OPEConfig,
    choose,
    evaluate_policy,
    evaluation_model,
    fit_critics,
    plain,
    write_report,
)
from mbrl.experiments.ope_candidates import Candidate, dataset_env, load_candidates
from mbrl.experiments.replay import Replay, true_replay
from mbrl.experiments.run import Run
from mbrl.models.ensemble_dynamics import Penalty
from mbrl.models.penalties import PenaltyKind, PenaltyUnits, penalty_function
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.offline_model import reward_scale
from mbrl.pipelines.policy_evaluation import AgentPolicy, FittedQ
from mbrl.seeding import derive

REPORT = "ope.json"
KINDS: tuple[PenaltyKind, ...] = ("pairwise", "ensemble_std", "aleatoric")


@dataclass(frozen=True)
class TrueValue:
    """What the environment says."""

    score: float
    """Mean undiscounted return up to the time limit: what `mbrl evaluate` prints; without a limit up to the horizon.
    -inf, as the value, where a simulation diverged."""
    value: float
    """Mean discounted return, also behind the time limit, up to the horizon of the settings at least."""
    error: float
    """Standard error of `value`."""
    diverged: int = 0
    """Episodes in which the simulation diverged."""


def evaluate_runs(
    paths: tuple[Path, ...],
    dataset: Path,
    config: OPEConfig,
    *,
    sampled: bool = False,
    episodes: int = 0,
    model: bool = True,
    calibration: bool = False,
    cache: str | None = None,
) -> None:
    """Evaluate the policies of runs on a dataset, print a table for each, and write it to ope.json in its directory.

    With several runs, such as those of several weights and rollout lengths, also say which one each estimator would
    deploy, and with `episodes` of the environment, what that would have cost.

    Raises:
        ValueError: see `load_candidates`, before anything is fitted; or a fit diverged.
    """
    data = open_dataset(dataset)
    candidates = load_candidates(paths, data, sampled=sampled, with_model=calibration, episodes=episodes)
    print(f"dataset: {len(data)} rows in {data.episodes} episodes, discount {config.discount:g}")
    shared: LearnedModel | None = None
    if model or (calibration and any(one.model is None for one in candidates)):
        shared = evaluation_model(candidates[0].data, candidates[0].agent, seed=config.seed, cache=cache)
    every: dict[str, Any] = {}
    truths: dict[str, float] = {}
    reports: dict[Path, dict[str, Any]] = {}
    for path, candidate in zip(paths, candidates, strict=True):
        rows, policy = candidate.data, AgentPolicy(candidate.agent, sampled)
        fitted = fit_critics(rows, policy, config)
        dynamics = shared.dynamics if model and shared else None
        found = evaluate_policy(rows, policy, config, dynamics=dynamics, fitted=fitted)
        every[str(path)] = found
        place = candidate.run.path / REPORT
        about = {"settings": asdict(config), "sampled": sampled, "updates": candidate.agent.updates}
        report: dict[str, Any] = {
            "dataset": {"path": str(dataset.resolve()), "hash": data.hash()},
            **about,
            **_still_true(place, data.hash(), about),
            "estimates": found,
        }
        print(f"\n{path}: value of the {'sampled' if sampled else 'deterministic'} policy")
        print("\n".join(f"  {one}" for one in found))
        if episodes:
            truth = true_value(rows, candidate.agent, config, sampled=sampled, episodes=episodes)
            truths[str(path)], report["environment"] = truth.score, vars(truth)
            low, high = (truth.value + 1.96 * sign * truth.error for sign in (-1, 1))
            note = f"{episodes} episodes; return up to the time limit {truth.score:.2f}"
            if truth.diverged:
                note += f"; the simulation diverged in {truth.diverged}"
            print(f"  {Estimate('environment', truth.value, low, high, note)}")
        if calibration and (used := candidate.model or shared):
            made, scale = calibrate_run(candidate, used, fitted, config)
            whose = "the run's own model" if candidate.model else "a model fitted to this dataset"
            report["calibration"] = {**made.record(), "weight_units": scale, "model": whose}
            print(f"  calibration of {whose}\n{made}")
            print(f"  weights are in units of --penalty-weight with {scale} units; see docs/trust.md")
        reports[place] = report
        write_report(place, report)
        print(f"  report: {place}")
    if len(paths) > 1:
        choices = choose(every, truths or None)
        print("\n" + choices_text(choices))
        for place, report in reports.items():
            write_report(place, {**report, "choices": choices})


def calibrate_run(
    candidate: Candidate, model: LearnedModel, fitted: FittedQ, config: OPEConfig
) -> tuple[Calibration, str]:
    """The calibration of a model, the run's own or another one; and the units of weights."""
    units: PenaltyUnits = getattr(model.config, "penalty_units", "data")
    agent, dataset = candidate.agent, candidate.data
    learned_from = dataset if candidate.model is None else _learned_from(candidate.run, dataset)
    scale = reward_scale(learned_from) if units == "data" else 1.0
    penalties: dict[str, Penalty] = {}
    for kind in KINDS:
        try:
            made = penalty_function(kind, model.ensemble, weight=scale, units=units)
        except ValueError:  # this ensemble says nothing of that kind
            continue
        if made is not None:
            penalties[kind] = made
    policy = AgentPolicy(agent, sampled=agent.samples)  # as in the rollouts of training
    report = calibrate(
        model.dynamics,
        policy.act,
        dataset,
        penalties,
        replay=_replay(dataset),
        value=fitted.v,
        discount=config.discount,
        seed=config.seed,
    )
    return report, units


def true_value(dataset: Dataset, agent: Agent, config: OPEConfig, *, sampled: bool, episodes: int) -> TrueValue:
    """Play the dataset's environment. Raises ValueError where it is not known or not here."""
    env = dataset_env(dataset)
    limit = env.spec.max_episode_steps if env.spec is not None else None
    if limit is None or limit < config.horizon:
        env.close()
        longer = {**dataset.info.env_kwargs, "max_episode_steps": config.horizon}
        env = environment(str(dataset.info.env_id), longer)
    scores, values, diverged = [], [], 0
    for number in range(episodes):
        seed = derive(config.seed, "ope", "environment", number) % 2**31
        watch = _Rewards()
        diverged += play(agent, env, seed=seed, deterministic=not sampled, watch=watch).diverged
        earned = np.array(watch.seen[1:])
        scores.append(float(earned[:limit].sum()))
        values.append(float(earned @ config.discount ** np.arange(len(earned))))
    env.close()
    if diverged:  # must not pass for a good policy
        return TrueValue(-math.inf, -math.inf, math.nan, diverged)
    error = float(np.std(values, ddof=1)) / math.sqrt(episodes) if episodes > 1 else math.nan
    return TrueValue(float(np.mean(scores)), float(np.mean(values)), error)


def choices_text(choices: list[Choice]) -> str:
    """A table for people."""
    lines = [f"{'chosen by':32}{'regret':>9}{'rank corr.':>12}  run"]
    for one in choices:
        by = f"{one.estimator} ({one.by})" + " !" * one.doubtful
        regret, rank = (("-" if math.isnan(x) else f"{x:.2f}") for x in (one.regret, one.rank))
        lines.append(f"{by:32}{regret:>9}{rank:>12}  {one.chosen}")
    if any(one.doubtful for one in choices):
        lines.append("! says itself of one run or several not to believe it")
    return "\n".join(lines)


def _still_true(place: Path, data: str, about: dict[str, Any]) -> dict[str, Any]:
    """What an earlier report says of the same policy on the same data that is not asked for every time."""
    try:
        earlier = json.loads(place.read_text())
    except (OSError, ValueError):
        return {}
    if earlier["dataset"]["hash"] != data or any(earlier.get(name) != value for name, value in plain(about).items()):
        return {}
    return {name: earlier[name] for name in ("environment", "calibration") if name in earlier}


class _Rewards:
    """Keeps the rewards of an episode; the first, of the reset, is none."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, obs: Any, reward: float) -> None:
        self.seen.append(reward)


def _learned_from(run: Run, dataset: Dataset) -> Dataset:
    """The dataset of an offline run, in whose units its penalties are; where it is gone the one that is given."""
    try:
        return run_dataset(run)
    except ValueError as error:
        warnings.warn(f"penalty weights are in units of the given dataset: {error}", stacklevel=3)
        return dataset


def _replay(dataset: Dataset) -> Replay | None:
    """The true model of a dataset's environment; None where there is none."""
    try:
        return true_replay(dataset_env(dataset))
    except ValueError:
        return None
