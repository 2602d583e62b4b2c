"""The model of MOPO, COMBO and MOBILE: fitted once to a dataset, or read from a cache, and left alone from then on."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.datasets import Dataset
from mbrl.envs.tasks import Task, task_of
from mbrl.learners import files
from mbrl.models.ensemble_dynamics import Penalty
from mbrl.models.fit import check_holdout
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.models.penalties import PenaltyKind, PenaltyUnits, check_penalty, penalty_function
from mbrl.pipelines.agent_checks import check_data_match
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.dataset_agreement import check_agreement
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.offline_model_config import OfflineModelConfig
from mbrl.seeding import derive
from planners.dynamics import Reward, Termination

CACHE = 2
"""Goes up where the same settings make another model."""
ENDS_STEPS = 5_000
"""Gradient steps of a classifier of ends. There is one fit only: in 200 it misses more than half of Hopper's ends."""
_MISSED = 0.1
"""Share of ends above which a warning says that the model misses them."""
_KIND = "OfflineModel"
_DECIDING = (
    "members", "elites", "model_hidden", "model_lr", "model_batch_size", "model_max_steps", "holdout", "max_holdout",
    "patience",
)  # fmt: skip
"""Settings that decide a model, beside the data, its seed, and whether rewards and ends are learned."""


class PenaltyConfig(Protocol):
    """The settings of a penalty on predictions."""

    @property
    def penalty(self) -> PenaltyKind: ...
    @property
    def penalty_weight(self) -> float: ...
    @property
    def penalty_units(self) -> PenaltyUnits: ...


def penalty_of(config: PenaltyConfig, dataset: Dataset) -> Callable[[GaussianEnsemble], Penalty | None]:
    """Makes the penalty that the settings ask for.

    In units of the data the weight is multiplied with the root mean square of the rewards: a disagreement as large as
    the changes in the data costs `penalty_weight` usual rewards, whatever the environment.

    Raises:
        ValueError: an option is unknown, or the weight is negative.
    """
    check_penalty(config.penalty, config.penalty_weight, config.penalty_units)
    scale = reward_scale(dataset) if config.penalty_units == "data" else 1.0

    def make(ensemble: GaussianEnsemble) -> Penalty | None:
        return penalty_function(
            config.penalty, ensemble, weight=config.penalty_weight * scale, units=config.penalty_units
        )

    return make


def reward_scale(dataset: Dataset) -> float:
    """Root mean square of the rewards; 1 where all are 0."""
    return float((dataset.rewards.astype("float64") ** 2).mean() ** 0.5) or 1.0


def learned_model(
    dataset: Dataset,
    agent: Agent,
    config: OfflineModelConfig,
    *,
    seed: int,
    reward: Reward | None = None,
    termination: Termination | None = None,
    penalty: Callable[[GaussianEnsemble], Penalty | None] | None = None,
) -> LearnedModel:
    """An ensemble for a dataset, not fitted yet; given rewards and ends are verified on every row.

    The ends of the model are those of the task that the dataset names, where the library knows it; else they are
    learned, as they are with `termination="learned"`.

    Args:
        dataset: what it is to be fitted to.
        agent: whose observations and actions it predicts.
        config: the settings.
        seed: of the run: the model's, where the settings have none.
        reward: `reward(obs, action, next_obs)` -> [rows], in place of what `config.reward` says.
        termination: likewise, -> bool [rows].
        penalty: see `LearnedModel`.

    Raises:
        ValueError: the agent is for other observations or actions, the data disagree with rewards or ends, or the
            holdout leaves no row on one side.
    """
    check_data_match(dataset, agent, config.device)
    check_holdout(len(dataset), config.holdout, config.max_holdout)
    info = dataset.info
    known = task_of(info.env_id, info.env_kwargs) if info.env_id else None
    settings: Any = config
    if termination is None and config.termination == "task" and known is None:
        settings = replace(settings, termination="learned")
    if termination is None:
        _warn_of_no_ends(dataset, settings.termination, known)
    chosen = seed if config.model_seed is None else config.model_seed
    model = LearnedModel(known, agent, settings, seed=chosen, reward=reward, termination=termination, penalty=penalty)
    check_agreement(dataset, model.stated)
    return model


def check_sizes(dataset: Dataset, agent: Agent) -> None:
    """Check that an agent is for the observations and actions of a dataset, wherever it lives.

    Raises:
        ValueError: it is not.
    """
    check_data_match(dataset, agent, str(agent.device))


def fit_once(
    model: LearnedModel, real: ReplayBuffer, dataset: Dataset, config: OfflineModelConfig, count: Counters
) -> dict[str, float]:
    """Fit the model, or take it from the cache; what to log.

    A cached model is one that was fitted to the same data by the same program: the file is found by the dataset's hash,
    the settings that decide the model, its seed, the kind of device, the number of threads, and the versions of PyTorch
    and of this library. On the processor that it was fitted on, it is the model that would be fitted now, bit for bit.
    A damaged file is made anew, and one that can't be written is done without, with a warning.
    """
    started, path = time.perf_counter(), None
    if config.model_cache is not None:
        path = Path(config.model_cache) / f"{_key(model, dataset, config)}{files.ENDING}"
    row = _read(model, path, count) if path is not None and path.is_file() else None
    if row is None:
        row = model.renew(real, count, ends_steps=ENDS_STEPS)
        row.pop("time/fit_seconds")
        if path is not None:
            named = model.state_dict()
            stored = {"names": list(named), "row": row, "steps": count.model_gradient_steps}
            try:
                files.save(path, _KIND, stored, list(named.values()))
            except OSError as error:
                warnings.warn(f"model_cache: the fitted model can't be kept for other runs: {error}", stacklevel=3)
    _warn_of_missed_ends(row)
    return {**row, "time/fit_seconds": time.perf_counter() - started}


def _warn_of_no_ends(dataset: Dataset, termination: Literal["task", "learned", "never"], known: Task | None) -> None:
    ends = bool(dataset.terminated.any())
    if termination == "never" and (known is None or known.termination is not None):
        reason = "termination='never' was asked for"
    elif termination == "learned" and not ends:
        reason = "the library does not know the task's ends, and no row of the dataset is terminated"
    else:
        return
    warnings.warn(
        f"termination: episodes of the model never end, for {reason}. Where falling ends the real ones, the policy "
        "learns that it can go on after a fall: on hopper, scores stay below 7 of 100. Pass termination(obs, action, "
        "next_obs), or use termination='learned' with data that have ends; where real episodes never end, all is well",
        stacklevel=4,
    )


def _warn_of_missed_ends(row: dict[str, float]) -> None:
    missed = row.get("model/missed_ends", 0.0)
    if missed > _MISSED:
        warnings.warn(
            f"termination: the learned ends miss {missed:.0%} of those in the dataset, where episodes of the model go "
            "on. Pass termination(obs, action, next_obs), or name the environment, whose ends the library may know",
            stacklevel=4,
        )


def _key(model: LearnedModel, dataset: Dataset, config: OfflineModelConfig) -> str:
    """What decides the model, as the name of a file."""
    ensemble = model.ensemble
    settings = {name: getattr(config, name) for name in _DECIDING}
    learned = [ensemble.learned_reward, model.learns_ends]
    device = [ensemble.device.type, str(ensemble.dtype), ensemble.seen.tolist(), torch.get_num_threads()]
    text = json.dumps([CACHE, _versions(), dataset.hash(), settings, model.seed, learned, device])
    return f"{dataset.hash()[:12]}-{derive(text):016x}"


def _versions() -> list[str]:
    """Of what computes the fit."""
    try:
        own = metadata.version("mbrl-planners")
    except metadata.PackageNotFoundError:  # run from its source, which `CACHE` tells apart
        own = ""
    return [own, torch.__version__]


def _read(model: LearnedModel, path: Path, count: Counters) -> dict[str, float] | None:
    try:
        stored, tensors = files.load(path, _KIND)
        model.load_state_dict(dict(zip(stored["names"], tensors, strict=True)))
    except ValueError as error:
        warnings.warn(f"model_cache: the model is fitted anew, for the cached one can't be used: {error}", stacklevel=4)
        return None
    count.fits += 1
    count.model_gradient_steps += stored["steps"]  # what the model cost, whoever paid for it
    return {**stored["row"], "model/cached": 1.0}
