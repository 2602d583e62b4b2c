"""Off-policy evaluation and penalty calibration of runs: what `mbrl ope` prints and writes."""

from __future__ import annotations

import contextlib
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from mbrl.data.datasets import Dataset
from mbrl.experiments.agent_runs import agent_env, environment, load_agent
from mbrl.experiments.calibration import Calibration, calibrate
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.episode import play
from mbrl.experiments.offline_runs import OFFLINE, offline_settings, open_dataset, run_dataset
from mbrl.experiments.ope import (
    Choice,
    Estimate,
    OPEConfig,
    choose,
    evaluate_policy,
    evaluation_model,
    fit_critics,
    write_report,
)
from mbrl.experiments.replay import true_replay
from mbrl.experiments.run import Run
from mbrl.models.ensemble_dynamics import Penalty
from mbrl.models.penalties import PenaltyKind, PenaltyUnits, penalty_function
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import part
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.offline_model import check_sizes, learned_model, reward_scale
from mbrl.pipelines.offline_model_config import OfflineModelConfig
from mbrl.pipelines.policy_evaluation import AgentPolicy, FittedQ
from mbrl.seeding import derive

REPORT = "ope.json"
KINDS: tuple[PenaltyKind, ...] = ("pairwise", "ensemble_std", "aleatoric")


@dataclass(frozen=True)
class TrueValue:
    """What the environment says."""

    score: float
    """Mean undiscounted return up to the time limit: what `mbrl evaluate` prints."""
    value: float
    """Mean discounted return, also behind the time limit."""
    error: float
    """Standard error of `value`."""


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
        ValueError: a run has no agent or no checkpoint, its policy draws no actions where `sampled` is asked for, the
            dataset does not fit it, or has no known environment where `episodes` are asked for.
    """
    data = open_dataset(dataset)
    print(f"dataset: {len(data)} rows in {data.episodes} episodes, discount {config.discount:g}")
    every: dict[str, Any] = {}
    truths: dict[str, float] = {}
    reports: dict[Path, dict[str, Any]] = {}
    shared: LearnedModel | None = None
    for path in paths:
        run, agent = _load(path, data, sampled=sampled)
        policy = AgentPolicy(agent, sampled)
        if (model or calibration) and shared is None:
            shared = evaluation_model(data, agent, seed=config.seed, cache=cache)
        fitted = fit_critics(data, policy, config)
        found = evaluate_policy(
            data, policy, config, dynamics=shared.dynamics if model and shared else None, fitted=fitted
        )
        every[str(path)] = found
        report: dict[str, Any] = {
            "dataset": {"path": str(dataset.resolve()), "hash": data.hash()},
            "settings": asdict(config),
            "sampled": sampled,
            "estimates": found,
        }
        print(f"\n{path}: value of the {'sampled' if sampled else 'deterministic'} policy")
        print("\n".join(f"  {one}" for one in found))
        if episodes:
            truth = true_value(data, agent, config, sampled=sampled, episodes=episodes)
            truths[str(path)], report["environment"] = truth.score, vars(truth)
            low, high = (truth.value + 1.96 * sign * truth.error for sign in (-1, 1))
            note = f"{episodes} episodes; return up to the time limit {truth.score:.2f}"
            print(f"  {Estimate('environment', truth.value, low, high, note)}")
        if calibration and shared is not None:
            made, scale = calibrate_run(run, data, agent, shared, fitted, config)
            report["calibration"] = {**made.record(), "weight_units": scale}
            print(made)
            print(f"  weights are in units of --penalty-weight with {scale} units; see docs/trust.md")
        reports[run.path / REPORT] = report
        write_report(run.path / REPORT, report)
        print(f"  report: {run.path / REPORT}")
    if len(paths) > 1:
        choices = choose(every, truths or None)
        print("\n" + choices_text(choices))
        for place, report in reports.items():
            write_report(place, {**report, "choices": choices})


def calibrate_run(
    run: Run, dataset: Dataset, agent: Agent, other: LearnedModel, fitted: FittedQ, config: OPEConfig
) -> tuple[Calibration, str]:
    """The calibration of a run's own model where it has one, else of `other`; and the units of weights."""
    own = _own_model(run, dataset, agent)
    model = own or other
    units: PenaltyUnits = getattr(model.config, "penalty_units", "data")
    scale = reward_scale(_learned_from(run, dataset) if own else dataset) if units == "data" else 1.0
    penalties: dict[str, Penalty] = {}
    for kind in KINDS:
        try:
            made = penalty_function(kind, model.ensemble, weight=scale, units=units)
        except ValueError:  # this ensemble says nothing of that kind
            continue
        if made is not None:
            penalties[kind] = made
    policy = AgentPolicy(agent, sampled=agent.samples)  # as in the rollouts of training
    env = _environment(dataset)
    report = calibrate(
        model.dynamics,
        policy.act,
        dataset,
        penalties,
        replay=None if env is None else true_replay(env),
        value=fitted.v,
        discount=config.discount,
        seed=config.seed,
    )
    return report, units


def true_value(dataset: Dataset, agent: Agent, config: OPEConfig, *, sampled: bool, episodes: int) -> TrueValue:
    """Play the dataset's environment. Raises ValueError where it is not known or not here."""
    env = _environment(dataset)
    if env is None:
        raise ValueError(
            f"episodes: expected 0, for the dataset's environment ({dataset.info.env_id}) is not here, got {episodes}"
        )
    limit = (env.spec.max_episode_steps if env.spec is not None else None) or config.horizon
    if limit < config.horizon:
        env.close()
        longer = {**dataset.info.env_kwargs, "max_episode_steps": config.horizon}
        env = environment(str(dataset.info.env_id), longer)
    scores, values = [], []
    for number in range(episodes):
        seed = derive(config.seed, "ope", "environment", number) % 2**31
        watch = _Rewards()
        play(agent, env, seed=seed, deterministic=not sampled, watch=watch)
        earned = np.array(watch.seen[1:])
        scores.append(float(earned[:limit].sum()))
        values.append(float(earned @ config.discount ** np.arange(len(earned))))
    env.close()
    error = float(np.std(values, ddof=1)) / math.sqrt(episodes) if episodes > 1 else math.nan
    return TrueValue(float(np.mean(scores)), float(np.mean(values)), error)


def choices_text(choices: list[Choice]) -> str:
    """A table for people."""
    lines = [f"{'chosen by':32}{'regret':>9}{'rank corr.':>12}  run"]
    for one in choices:
        regret, rank = (("-" if math.isnan(x) else f"{x:.2f}") for x in (one.regret, one.rank))
        lines.append(f"{one.estimator + ' (' + one.by + ')':32}{regret:>9}{rank:>12}  {one.chosen}")
    return "\n".join(lines)


class _Rewards:
    """Keeps the rewards of an episode; the first, of the reset, is none."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def __call__(self, obs: Any, reward: float) -> None:
        self.seen.append(reward)


class _Spaces(NamedTuple):
    """What an agent is made for."""

    observation_space: gym.Space
    action_space: gym.Space


def _load(path: Path, dataset: Dataset, *, sampled: bool) -> tuple[Run, Agent]:
    run = Run.open(path)
    if "agent" not in run.config:
        raise ValueError(f"run: expected one of an agent, such as SAC's or MOPO's, got one of {run.algo}: {path}")
    spaces = _Spaces(*dataset.spaces())
    own = _own_spaces(run)
    if own is not None:
        _check_spaces(spaces, own, run)
    agent = load_agent(run, own or spaces)
    check_sizes(dataset, agent)
    if sampled and not agent.samples:
        raise ValueError(
            f"sampled: expected a run whose policy draws its actions, got {type(agent).__name__}, whose policy is "
            f"deterministic; leave it out: {path}"
        )
    return run, agent


def _own_spaces(run: Run) -> _Spaces | None:
    """Of what a run has learned in or from; None where that is not here any more."""
    try:
        if run.algo in OFFLINE:
            return _Spaces(*run_dataset(run).spaces())
        with contextlib.closing(agent_env(run)) as env:
            return _Spaces(env.observation_space, env.action_space)
    except ValueError:
        return None


def _check_spaces(data: _Spaces, own: _Spaces, run: Run) -> None:
    """Raises ValueError where a dataset has other observations or actions than a run learned with."""
    here, there = data.observation_space.shape, own.observation_space.shape
    if here != there:
        raise ValueError(
            f"dataset: expected observations of {there} numbers, as the run learned with, got {here}: {run.path}"
        )
    mine, its = own.action_space, data.action_space
    if isinstance(mine, gym.spaces.Box) and isinstance(its, gym.spaces.Box) and mine.shape == its.shape:
        same = np.allclose(mine.low, its.low) and np.allclose(mine.high, its.high)
    else:
        same = mine == its
    if not same:
        raise ValueError(
            f"dataset: expected actions in {mine}, as the run learned with, got {its}: its policy would do something "
            f"else here: {run.path}"
        )


def _learned_from(run: Run, dataset: Dataset) -> Dataset:
    """The dataset of an offline run, in whose units its penalties are; where it is gone the one that is given."""
    try:
        return run_dataset(run)
    except ValueError as error:
        warnings.warn(f"penalty weights are in units of the given dataset: {error}", stacklevel=3)
        return dataset


def _own_model(run: Run, dataset: Dataset, agent: Agent) -> LearnedModel | None:
    """The model that the policy of a run was trained with on a dataset; None where there was none."""
    if run.algo not in OFFLINE:
        return None
    config = offline_settings(run).config
    if not isinstance(config, OfflineModelConfig):
        return None
    model = learned_model(dataset, agent, config, seed=run.seed)
    model.load_state_dict(part(load_checkpoint(run.path)[0], "model"))
    return model


def _environment(dataset: Dataset) -> gym.Env | None:
    """The environment of a dataset; None where it names none that is here."""
    if dataset.info.env_id is None:
        return None
    try:
        return environment(dataset.info.env_id, dataset.info.env_kwargs)
    except ValueError:
        return None
