"""Runs of stable-baselines3 and sb3-contrib in run directories: baselines that others wrote and tuned.

They learn with those libraries as they are; settings, metrics, evaluations and what was learned are kept as in all
other runs. Those libraries do not store all that a run is made of, so one that was interrupted starts anew.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym

from mbrl.experiments.agent_runs import closing, environment
from mbrl.experiments.checkpoint import FOLDER, checkpoints, load_checkpoint
from mbrl.experiments.episode import Policy
from mbrl.experiments.evaluate import evaluate
from mbrl.experiments.provenance import DamagedError
from mbrl.experiments.recorder import RunRecorder, check_not_finished
from mbrl.experiments.results import FINAL
from mbrl.experiments.run import Run
from mbrl.experiments.sb3_presets import SB3, SB3Config
from mbrl.experiments.settings import dataclass_from
from mbrl.seeding import derive


def create_sb3_run(
    root: str | Path, env_id: str, algorithm: str, config: SB3Config, *, seed: int, tensorboard: bool = False
) -> Run:
    """A new run directory for an algorithm of stable-baselines3 on `env_id`, with Gymnasium's own options.

    Raises:
        ValueError: the library is not installed, the environment does not fit, or a setting is unknown or out of
            range: then there is no directory either.
    """
    models, _ = _modules(algorithm)
    _environments(models.make_model(algorithm, config, lambda: environment(env_id, {}), _seed(seed))).close()
    return Run.create(root, env_id, algorithm, seed, {"sb3": asdict(config)}, tensorboard=tensorboard)


def sb3_config(run: Run) -> SB3Config:
    """The settings of a run. Raises ValueError where the run is another algorithm's."""
    if run.algo not in SB3 or "sb3" not in run.config:
        raise ValueError(f"run: expected a run of {', '.join(SB3)}, got one of {run.algo}: {run.path}")
    return dataclass_from(SB3Config, run.config["sb3"], run.path)


def train_sb3_run(run: Run, *, stop: Callable[[], bool] | None = None, progress: bool = True) -> int:
    """Train a run from its start to its end, or until `stop()`; returns its real steps. One at its end stays as it is.

    Raises:
        ValueError: the library is not installed, or the environment does not fit.
    """
    config, (models, training) = sb3_config(run), _modules(run.algo)
    if (steps := _finished(run, config)) is not None:
        return steps
    if not checkpoints(run.path):
        check_not_finished(run, config.total_timesteps)
    seed = _seed(run.seed)
    eval_env = environment(run.env_id, {})
    model = models.make_model(run.algo, config, lambda: environment(run.env_id, {}), seed)
    policy = models.policy_of(model, seed)
    _clear(run)  # now that the settings are known to fit

    def evaluate_now(steps: int) -> dict[str, float]:
        key = derive(run.seed, "evaluate", steps)
        return evaluate(policy, eval_env, episodes=config.eval_episodes, seed=key).metrics()

    recorder = RunRecorder(run, total_timesteps=config.total_timesteps, progress=progress)
    with closing(eval_env), closing(_environments(model)), recorder:
        protocol = training.Protocol(config, recorder, evaluate_now, stop)
        steps = training.learn(model, protocol, config, seed)
        counters = {"steps": steps, "updates": protocol.updates, "seconds": protocol.seconds}
        exploration = float(getattr(model, "exploration_rate", 0.0))
        meta = {"seed": run.seed, "settings": asdict(config), "counters": counters, "exploration": exploration}
        recorder.save(steps, models.tensors_of(model), meta)
    return steps


def load_sb3_policy(run: Run, env: gym.Env) -> Policy:
    """What a run has learned, on the CPU. Raises ValueError where it has not ended, or is damaged."""
    if not checkpoints(run.path):
        raise ValueError(
            f"run: expected one of {run.algo} that has ended, for it is stored then, found nothing in {run.path}; "
            f"start it anew with: mbrl resume {run.path}"
        )
    tensors, meta = load_checkpoint(run.path)
    policy: Policy = _modules(run.algo)[0].load_model(
        run.algo, sb3_config(run), env, tensors, meta["exploration"], _seed(run.seed)
    )
    return policy


def sb3_env(run: Run, *, render_mode: str | None = None) -> gym.Env:
    """The environment of a run."""
    return environment(run.env_id, {}, render_mode=render_mode)


def _seed(seed: int) -> int:
    """numpy's global generator, on which the library draws, takes 32 bits."""
    return derive(seed, "sb3") % 2**31


def _finished(run: Run, config: SB3Config) -> int | None:
    """The steps of a run that is at its end; None where it is not, is damaged, or has other settings by now."""
    if not checkpoints(run.path):
        return None
    try:
        _, meta = load_checkpoint(run.path)
    except DamagedError:
        return None
    steps = int(meta["counters"]["steps"])
    return steps if steps >= config.total_timesteps and meta["settings"] == run.config["sb3"] else None


def _clear(run: Run) -> None:
    """Remove what an earlier attempt left: its policy first, so that none stands beside another's metrics."""
    if run.offset or checkpoints(run.path):
        warnings.warn(f"{run.algo} can't be resumed, and starts anew: {run.path}", stacklevel=5)
    shutil.rmtree(run.path / FOLDER, ignore_errors=True)
    (run.path / FINAL).unlink(missing_ok=True)
    run.truncate(0)


def _environments(model: Any) -> Any:
    return model.get_env()


def _modules(algorithm: str) -> tuple[ModuleType, ModuleType]:
    """sb3_models and sb3_training, which import what is optional."""
    try:
        from mbrl.experiments import sb3_models, sb3_training
    except ImportError as error:
        raise ValueError(
            f'algorithm: {algorithm} needs stable-baselines3 and sb3-contrib ({error}); pip install ".[sb3]"'
        ) from None
    return sb3_models, sb3_training
