"""Runs of agents that learn from a dataset, in run directories: start, go on, and what they are evaluated in."""

import contextlib
import functools
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from mbrl.data.dataset_info import DatasetError, info_from, plain_id
from mbrl.data.datasets import Dataset, load_dataset
from mbrl.experiments.agent_runs import Ready, UpToTheFirstStep, closing, environment, learner_settings, make_agent
from mbrl.experiments.evaluate import evaluate
from mbrl.experiments.metrics import UPDATE
from mbrl.experiments.offline_data import check_learnable, same_info, with_bounds, with_environment
from mbrl.experiments.recorder import RunRecorder
from mbrl.experiments.run import X_AXIS, Run
from mbrl.experiments.scores import normalized_score
from mbrl.experiments.settings import dataclass_from
from mbrl.pipelines.agents import Agent, check_match
from mbrl.pipelines.combo import train_combo
from mbrl.pipelines.combo_config import COMBOConfig, combo_preset
from mbrl.pipelines.mobile import train_mobile
from mbrl.pipelines.mobile_config import MOBILEConfig, mobile_preset
from mbrl.pipelines.mopo import train_mopo
from mbrl.pipelines.mopo_config import MOPOConfig, mopo_preset
from mbrl.pipelines.offline import train_offline
from mbrl.pipelines.offline_config import DEFAULTS, OfflineConfig, offline_preset
from mbrl.seeding import derive


class OfflineAlgorithm(NamedTuple):
    """How an algorithm that trains an agent on a dataset is run."""

    config: type
    """Settings of its loop, with `total_updates`, `device` and `eval_episodes`."""
    train: Callable[..., Any]
    """`train(dataset, agent, config, *, seed, recorder, evaluate, stop)` -> something with `updates`."""
    preset: Callable[[str | None, str | None], Any]
    """`preset(env_id, name)` -> something with `config` and `learner`."""


def _model_free(name: str) -> OfflineAlgorithm:
    return OfflineAlgorithm(OfflineConfig, train_offline, functools.partial(offline_preset, name))


def _with_model(config: type, train: Callable[..., Any], preset: Callable[..., Any]) -> OfflineAlgorithm:
    def cached(env_id: str | None, name: str | None) -> Any:
        found = preset(env_id, name)
        return found._replace(config=replace(found.config, model_cache=MODELS))

    return OfflineAlgorithm(config, train, cached)


MODELS = str(Path("runs") / ".models")
"""Where runs with a model keep fitted ones for others, unless they are told otherwise; in the folder of the runs, where
that is another one than runs."""

OFFLINE: dict[str, OfflineAlgorithm] = {
    "mopo": _with_model(MOPOConfig, train_mopo, mopo_preset),
    "combo": _with_model(COMBOConfig, train_combo, combo_preset),
    "mobile": _with_model(MOBILEConfig, train_mobile, mobile_preset),
    **{name: _model_free(name) for name in DEFAULTS},
}
"""By name, as the command line and run directories have it."""


def create_offline_run(
    root: str | Path,
    dataset: str | Path,
    algorithm: str,
    config: Any,
    learner: Any,
    *,
    seed: int,
    env_id: str | None = None,
    tensorboard: bool = False,
) -> Run:
    """A new run directory for an algorithm on a dataset.

    Args:
        root: folder of run directories.
        dataset: its file.
        algorithm: one of `OFFLINE`.
        config: settings of its loop.
        learner: settings of its learner, which say which agent it is.
        seed: of everything random.
        env_id: Gymnasium id of the environment to evaluate in; None: the dataset's, and where it names none that is
            here, no evaluation, which a warning says. One says, too, that this is another one than the dataset's. A
            dataset that names none is taken to be of this one, whose ends and rewards a model then has, and its rows
            are compared with. Where the dataset does not say the bounds of its actions, they are this environment's;
            without one those of the data, which a warning says, too.
        tensorboard: whether to write TensorBoard events, too.

    Raises:
        ValueError: the dataset or the environment does not fit, or a setting is out of range: then there is no
            directory either.
    """
    path = Path(dataset).resolve()
    data = open_dataset(path)
    chosen, env = _evaluated_in(data, env_id)
    with contextlib.nullcontext() if env is None else closing(env):
        data = with_bounds(data, env)
        if chosen is not None:
            data = with_environment(data, *chosen)
        check_learnable(data)
        agent = make_agent(_Spaces(*data.spaces()), learner, seed, config.device)
        if env is not None:
            check_match(env, agent, str(agent.device))
    _warn_of_another(data, chosen)
    with contextlib.suppress(Ready):
        OFFLINE[algorithm].train(data, agent, config, seed=seed, recorder=UpToTheFirstStep())
    config = _with_cache(config, Path(root))
    settings = {
        X_AXIS: UPDATE,
        "loop": asdict(config),
        "agent": type(agent).__name__,
        "learner": asdict(learner),
        "evaluated_in": None if chosen is None else chosen.env_id,
        "env_kwargs": {} if chosen is None else chosen.env_kwargs,
        "dataset": {"path": str(path), "hash": data.hash(), "rows": len(data), "info": vars(data.info)},
    }
    name = data.info.env_id or "unknown" if chosen is None else chosen.env_id
    return Run.create(root, name, algorithm, seed, settings, tensorboard=tensorboard)


class OfflineSettings(NamedTuple):
    """The settings of a run, read back."""

    config: Any
    learner: Any


def offline_settings(run: Run) -> OfflineSettings:
    """The settings of a run. Raises ValueError where they are not what this version knows."""
    return OfflineSettings(
        dataclass_from(OFFLINE[run.algo].config, run.config["loop"], run.path), learner_settings(run)
    )


def train_offline_run(
    run: Run,
    *,
    dataset: str | Path | None = None,
    stop: Callable[[], bool] | None = None,
    progress: bool = True,
    accept_changes: bool = False,
) -> Any:
    """Train a run from its newest checkpoint, or from the start where it has none, to its end or until `stop()`.

    Args:
        run: the run.
        dataset: where its dataset is now; None: where it was.
        stop: asked after every few updates.
        progress: whether to show a bar.
        accept_changes: whether to go on although the checkpoint was made with other settings.

    Raises:
        ValueError: the dataset is another one or missing, the settings are others, or a loss was not finite.
        MemoryError: the device is full.
    """
    settings, data = offline_settings(run), run_dataset(run, dataset)
    config, total = settings.config, settings.config.total_updates
    agent = make_agent(_Spaces(*data.spaces()), settings.learner, run.seed, config.device)
    env = None if run.config["evaluated_in"] is None else offline_env(run)

    def evaluate_now(policy: Agent, updates: int) -> dict[str, float]:
        assert env is not None
        seed = derive(run.seed, "evaluate", updates)
        row = evaluate(policy, env, episodes=config.eval_episodes, seed=seed).metrics()
        score = normalized_score(run.config["evaluated_in"], row["eval/mean_reward"])
        return row if score is None else {**row, "eval/normalized_score": score}

    recorder = RunRecorder(run, total_timesteps=total, progress=progress, accept_changes=accept_changes)
    with closing(env) if env is not None else contextlib.nullcontext(), recorder:
        return OFFLINE[run.algo].train(
            data,
            agent,
            config,
            seed=run.seed,
            recorder=recorder,
            evaluate=None if env is None else evaluate_now,
            stop=stop,
        )


def run_dataset(run: Run, path: str | Path | None = None) -> Dataset:
    """The dataset that a run learns from.

    Args:
        run: the run.
        path: where it is now; None: where it was.

    Raises:
        ValueError: it is not there, is another one, or says of another environment or of other bounds that it is.
    """
    stored = run.config["dataset"]
    place = Path(path or stored["path"]).resolve()
    if not place.exists():
        raise ValueError(
            f"dataset: expected the one that {run.path} learns from in {place}, where there is none: say where it is "
            "now with --dataset"
        )
    data = open_dataset(place)
    if data.hash() != stored["hash"]:
        raise ValueError(
            f"dataset: expected the one that {run.path} learns from, with the hash {stored['hash'][:12]}..., got "
            f"another one in {place}: {data.hash()[:12]}..."
        )
    return replace(data, info=same_info(data.info, info_from(json.dumps(stored["info"]), run.path), place))


def offline_env(run: Run, *, render_mode: str | None = None) -> gym.Env:
    """The environment that a run is evaluated in. Raises ValueError where there is none."""
    if run.config["evaluated_in"] is None:
        raise ValueError(
            f"run: expected one with an environment, but {run.path} was trained on data of one that is not here; "
            "train with --env-id"
        )
    return environment(run.config["evaluated_in"], run.config["env_kwargs"], render_mode=render_mode)


def open_dataset(path: str | Path) -> Dataset:
    """The dataset of a file; the one that was opened last is kept, as long as its file is not written to.

    Raises:
        DatasetError: it is missing, or damaged.
    """
    place = Path(path).resolve()
    try:
        return _opened(str(place), place.stat().st_mtime_ns)
    except OSError as error:
        raise DatasetError(f"dataset: expected a file or folder, got {str(path)!r} ({error.strerror})") from None


@functools.lru_cache(maxsize=1)
def _opened(path: str, changed: int) -> Dataset:
    return load_dataset(path)


class _Spaces(NamedTuple):
    """What an agent is made for."""

    observation_space: gym.Space
    action_space: gym.Space


class _Environment(NamedTuple):
    """Where a run is evaluated."""

    env_id: str
    env_kwargs: dict[str, Any]


def _with_cache(config: Any, root: Path) -> Any:
    """Settings whose cache of models, where they have one, is where every process finds it."""
    place = getattr(config, "model_cache", None)
    if place is None:
        return config
    return replace(config, model_cache=str((root / Path(MODELS).name if place == MODELS else Path(place)).resolve()))


def _evaluated_in(data: Dataset, env_id: str | None) -> tuple[_Environment, gym.Env] | tuple[None, None]:
    """The environment for evaluations, and what it is called; None where the dataset names none that is here."""
    own = data.info.env_id
    if env_id is None and own is None:
        _warn("the dataset does not say which environment it is of")
        return None, None
    chosen = env_id or str(own)
    # The dataset's options are those of its own environment, however its module is named.
    kwargs = dict(data.info.env_kwargs) if own is not None and plain_id(chosen) == plain_id(own) else {}
    try:
        env = environment(chosen, kwargs)
    except ValueError as error:
        if env_id is not None:
            raise
        _warn(str(error))
        return None, None
    return _Environment(chosen, kwargs), env


def _warn_of_another(data: Dataset, chosen: _Environment | None) -> None:
    own = data.info.env_id
    if chosen is not None and own is not None and plain_id(chosen.env_id) != plain_id(own):
        warnings.warn(
            f"env_id: the dataset is of {own}, evaluations are in {chosen.env_id}, as --env-id says", stacklevel=3
        )


def _warn(reason: str) -> None:
    warnings.warn(f"no evaluation: {reason}; to evaluate, pass --env-id", stacklevel=4)
