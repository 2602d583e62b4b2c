"""The runs that `mbrl ope` evaluates: loaded and held against the dataset and its environment, before any fit."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gymnasium as gym
import numpy as np

from mbrl.data.dataset_checks import check_dataset
from mbrl.data.dataset_info import Doubt, plain_id
from mbrl.data.datasets import Dataset
from mbrl.experiments.agent_runs import agent_env, closing, environment, load_agent
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.offline_data import check_learnable, with_bounds, with_environment
from mbrl.experiments.offline_runs import OFFLINE, offline_settings, run_dataset
from mbrl.experiments.run import Run
from mbrl.pipelines.agents import Agent, check_match
from mbrl.pipelines.bookkeeping import part
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.offline_model import check_sizes, learned_model
from mbrl.pipelines.offline_model_config import OfflineModelConfig
from mbrl.pipelines.policy_evaluation import check_bootstrap


class Candidate(NamedTuple):
    """A run whose policy is to be evaluated."""

    run: Run
    agent: Agent
    data: Dataset
    """What it is evaluated on, with the bounds of the run where it says none, and the environment of a run on data."""
    model: LearnedModel | None
    """What the policy was trained with on a dataset; None: nothing, or it was not asked for."""


class _Spaces(NamedTuple):
    """What an agent is made for."""

    observation_space: gym.Space
    action_space: gym.Space


def load_candidates(
    paths: Sequence[Path], dataset: Dataset, *, sampled: bool, with_model: bool, episodes: int
) -> list[Candidate]:
    """Runs, with the agents of their newest checkpoints.

    Args:
        paths: run directories.
        dataset: what they are to be evaluated on.
        sampled: whether the policies that draw their actions are asked for.
        with_model: whether their models are, where they were trained with one on a dataset.
        episodes: how many they are to play in the dataset's environment.

    Raises:
        DatasetError: see `check_learnable`.
        ValueError: there is no such run, it has no agent or no checkpoint, its policy draws no actions where `sampled`
            is asked for, the dataset is of another environment, does not fit it or has one episode only, or there is no
            environment that fits it where `episodes` are asked for.
    """
    if not paths:
        raise ValueError("runs: expected a run directory or several, got none")
    if episodes < 0:
        raise ValueError(f"episodes: expected 0 or more, got {episodes}")
    check_bootstrap(dataset)
    check_learnable(dataset)
    made = [_load(path, dataset, sampled=sampled, with_model=with_model) for path in paths]
    if episodes:
        _check_playable(made, episodes)
    return made


def dataset_env(dataset: Dataset) -> gym.Env:
    """The environment of a dataset.

    Raises:
        ValueError: it names none, or none that is here.
    """
    info = dataset.info
    if info.env_id is None:
        raise ValueError(
            "dataset: expected one that names its environment, got one that does not: write it anew with "
            "mbrl dataset import FILE --out NEW --env-id ID"
        )
    return environment(info.env_id, info.env_kwargs)


def _load(path: Path, dataset: Dataset, *, sampled: bool, with_model: bool) -> Candidate:
    run = Run.open(path)
    if "agent" not in run.config:
        raise ValueError(f"run: expected one of an agent, such as SAC's or MOPO's, got one of {run.algo}: {path}")
    if run.algo in OFFLINE:
        dataset = with_environment(dataset, *_learned_from(run))
    own = _own_spaces(run)
    if own is not None:
        dataset = _with_own_bounds(dataset, own)
        _check_spaces(_Spaces(*dataset.spaces()), own, run)
    agent = load_agent(run, own or _Spaces(*dataset.spaces()))
    check_sizes(dataset, agent)
    _check_environment(run, dataset)
    if sampled and not agent.samples:
        raise ValueError(
            f"sampled: expected a run whose policy draws its actions, got {type(agent).__name__}, whose policy is "
            f"deterministic; leave it out: {path}"
        )
    return Candidate(run, agent, dataset, _own_model(run, dataset, agent) if with_model else None)


def _check_playable(candidates: Sequence[Candidate], episodes: int) -> None:
    """Raises ValueError where policies can't play in the environment of a dataset."""
    for one in candidates:
        try:
            env = dataset_env(one.data)
        except ValueError as error:
            raise ValueError(f"episodes: expected 0, for they can't be played, got {episodes}: {error}") from None
        with closing(env):
            check_match(env, one.agent, str(one.agent.device))


def _check_environment(run: Run, dataset: Dataset) -> None:
    """Raises ValueError where a dataset names another environment than a run; another version is a warning."""
    if dataset.info.env_id is None:
        return
    its, own = plain_id(dataset.info.env_id), _environments(run)
    if not own or its in own:
        return
    names = " or ".join(sorted(own))
    if _unversioned(its) not in {_unversioned(name) for name in own}:
        raise ValueError(
            f"dataset: expected one of {names}, as the run is, got one of {its}, where a policy is worth something "
            f"else; if its name is wrong, write it anew with mbrl dataset import FILE --out NEW --env-id ID: {run.path}"
        )
    warnings.warn(
        f"dataset: it is of {its}, the run of {names}: values are those of {its}, as far as the data tell: {run.path}",
        stacklevel=4,
    )


def _learned_from(run: Run) -> tuple[str | None, dict[str, Any]]:
    """The environment, and its options, of the dataset that a run has learned from, as far as the run knows."""
    info = run.config["dataset"]["info"]
    return info["env_id"], info["env_kwargs"]


def _environments(run: Run) -> set[str]:
    """What a run has learned in, or from, or is evaluated in, as far as it knows."""
    if run.algo not in OFFLINE:
        return {plain_id(run.env_id)}
    known = (run.config["dataset"]["info"]["env_id"], run.config["evaluated_in"])
    return {plain_id(name) for name in known if name is not None}


def _unversioned(env_id: str) -> str:
    return re.sub(r"-v\d+$", "", env_id)


def _own_spaces(run: Run) -> _Spaces | None:
    """Of what a run has learned in or from; None where that is not here any more."""
    try:
        if run.algo in OFFLINE:
            return _Spaces(*run_dataset(run).spaces())
        with contextlib.closing(agent_env(run)) as env:
            return _Spaces(env.observation_space, env.action_space)
    except ValueError:
        return None


def _with_own_bounds(dataset: Dataset, own: _Spaces) -> Dataset:
    """A dataset that does not say which actions there are, with those of a run.

    Raises:
        DatasetError: it has others.
    """
    space, info = own.action_space, dataset.info
    if dataset.action_dim is None and info.actions is None and isinstance(space, gym.spaces.Discrete):
        bounded = replace(dataset, info=replace(info, actions=int(space.n)))
    else:
        bounded = with_bounds(dataset, own)
    if bounded is not dataset:
        check_dataset(bounded, allow=get_args(Doubt))
    return bounded


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


def _own_model(run: Run, dataset: Dataset, agent: Agent) -> LearnedModel | None:
    """The model that the policy of a run was trained with on a dataset; None where there was none."""
    if run.algo not in OFFLINE:
        return None
    config = offline_settings(run).config
    if not isinstance(config, OfflineModelConfig):
        return None
    env_id, env_kwargs = _learned_from(run)  # says which rewards and ends it has, whatever this dataset says
    dataset = replace(dataset, info=replace(dataset.info, env_id=env_id, env_kwargs=env_kwargs))
    model = learned_model(dataset, agent, replace(config, device=str(agent.device)), seed=run.seed)
    model.load_state_dict(part(load_checkpoint(run.path)[0], "model"))
    return model
