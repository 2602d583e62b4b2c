"""Runs that go on, on the real environment, where a run on a dataset ended."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from mbrl.experiments.agent_runs import Ready, closing, load_agent
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.offline_runs import OFFLINE, offline_env, offline_settings, run_dataset
from mbrl.experiments.recorder import RunRecorder
from mbrl.experiments.run import Run
from mbrl.pipelines.bookkeeping import part
from mbrl.pipelines.mbpo_config import MBPOConfig
from mbrl.pipelines.offline_to_online import online_config, sac_of, train_online
from mbrl.pipelines.recorder import NullRecorder

MBPO = "mbpo"


def default_config(
    path: str | Path, *, total_timesteps: int, dataset: str | Path | None = None, **changes: Any
) -> MBPOConfig:
    """Settings to go on with from a run on a dataset; `changes` are other ones.

    Raises:
        ValueError: the run is another kind, or its environment or dataset are not here.
    """
    run = _offline(path)
    with closing(env := offline_env(run)):
        rows = len(run_dataset(run, dataset))
        return online_config(offline_settings(run).config, env, rows, total_timesteps=total_timesteps, **changes)


def create_online_run(
    path: str | Path,
    config: MBPOConfig,
    *,
    seed: int,
    root: str | Path,
    dataset: str | Path | None = None,
    tensorboard: bool = False,
) -> Run:
    """A run of MBPO whose first checkpoint, before the first real step, holds what a run on a dataset has learned.

    It is trained, resumed and evaluated as any run of MBPO; the data are in its checkpoints.

    Args:
        path: run directory of the run on a dataset, of which the newest checkpoint counts.
        config: the settings, see `default_config`.
        seed: of everything random from here on.
        root: folder of run directories.
        dataset: where the dataset of the run is now; None: where it was.
        tensorboard: whether to write TensorBoard events, too.

    Raises:
        ValueError: the run is another kind or has no checkpoint, its environment or dataset are not here, or a setting
            does not fit: then there is no directory either.
    """
    offline = _offline(path)
    env, data = offline_env(offline), run_dataset(offline, dataset)
    with closing(env):
        agent = load_agent(offline, env, config.device)
        model = part(load_checkpoint(offline.path)[0], "model") or None
        learner = sac_of(agent, env)
        settings = {
            "loop": asdict(config),
            "agent": type(learner).__name__,
            "learner": asdict(learner.config),
            "env_kwargs": offline.config["env_kwargs"],
            "from": str(offline.path),
        }

        def begin(recorder: Any) -> None:
            with contextlib.suppress(Ready):
                train_online(env, agent, data, config, model_state=model, seed=seed, recorder=recorder)

        begin(_UpToTheFirstCheckpoint(None))
        run = Run.create(root, offline.config["evaluated_in"], MBPO, seed, settings, tensorboard=tensorboard)
        begin(_UpToTheFirstCheckpoint(RunRecorder(run, total_timesteps=config.total_timesteps, progress=False)))
    return run


class _UpToTheFirstCheckpoint(NullRecorder):
    """Ends training behind its first checkpoint, which goes to a recorder, where there is one."""

    def __init__(self, recorder: RunRecorder | None) -> None:
        self._recorder = recorder

    def save(self, steps: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        if self._recorder is not None:
            self._recorder.save(steps, tensors, meta)
        raise Ready


def _offline(path: str | Path) -> Run:
    run = Run.open(path)
    if run.algo not in OFFLINE:
        raise ValueError(f"run: expected one on a dataset ({', '.join(OFFLINE)}), got one of {run.algo}: {path}")
    return run
