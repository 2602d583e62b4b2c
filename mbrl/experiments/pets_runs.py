"""PETS in run directories: start, go on, distil, and load what was learned."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import gymnasium as gym
from torch import Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.data.collect import Episode
from mbrl.envs.make import make_env
from mbrl.envs.vector import make_vector_env
from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.episode import Policy
from mbrl.experiments.evaluate import evaluate_together
from mbrl.experiments.metrics import STEP
from mbrl.experiments.recorder import RunRecorder
from mbrl.experiments.run import Run
from mbrl.experiments.settings import dataclass_from
from mbrl.learners.behavior_cloning import BehaviorCloning
from mbrl.pipelines.bookkeeping import part
from mbrl.pipelines.pets import PETSResult, train_pets
from mbrl.pipelines.pets_agent import PETSAgent
from mbrl.pipelines.pets_config import PETSConfig
from mbrl.seeding import derive
from mbrl.types import TransitionBatch
from planners import MPC

DISTILLED = "distilled"
"""Name of the distilled policy in a run directory; its file ends in .safetensors."""


def create_pets_run(
    root: str | Path, env_id: str, config: PETSConfig, *, seed: int, distill: bool = False, tensorboard: bool = False
) -> Run:
    """A new run directory for PETS on `env_id`.

    Raises:
        ValueError: the environment is not supported, or a setting is out of range: then there is no directory either.
    """
    env = make_env(env_id)
    PETSAgent(env, config, seed)
    env.close()
    settings = {"pets": asdict(config), "distill": distill}
    return Run.create(root, env_id, "pets", seed, settings, tensorboard=tensorboard)


def pets_config(run: Run) -> PETSConfig:
    """The settings of a run. Raises ValueError where the run is another algorithm's."""
    if "pets" not in run.config:
        raise ValueError(f"run: expected a run of pets, got one of {run.algo}: {run.path}")
    return dataclass_from(PETSConfig, run.config["pets"], run.path)


def train_pets_run(
    run: Run,
    *,
    stop: Callable[[Episode, ReplayBuffer], bool] | None = None,
    stop_now: Callable[[], bool] | None = None,
    progress: bool = True,
    accept_changes: bool = False,
) -> PETSResult:
    """Train a run from its newest checkpoint, or from the start where it has none, to its end."""
    config = pets_config(run)
    eval_envs = [make_env(run.env_id) for _ in range(config.eval_episodes)]
    env = make_env(run.env_id) if config.num_envs == 1 else make_vector_env(run.env_id, config.num_envs)

    def evaluate_now(policy: MPC, steps: int) -> dict[str, float]:
        seed = derive(run.seed, "evaluate", steps)
        return evaluate_together(policy, eval_envs, seed=seed).metrics()

    total = config.total_timesteps
    with RunRecorder(run, total_timesteps=total, progress=progress, accept_changes=accept_changes) as recorder:
        result = train_pets(
            env, config, seed=run.seed, recorder=recorder, evaluate=evaluate_now, stop=stop, stop_now=stop_now
        )
        if run.config["distill"] and result.steps >= total:
            cloned = distill(result, eval_envs[0], run.seed)
            cloned.save(run.path / DISTILLED)
            score = evaluate_together(cloned, eval_envs, seed=derive(run.seed, DISTILLED))
            recorder.log({STEP: result.steps, "eval/distilled_mean_reward": score.mean})
    for each in (env, *eval_envs):
        each.close()
    return result


def distill(result: PETSResult, env: gym.Env, seed: int) -> BehaviorCloning:
    """A policy without planning, fitted to the actions that MPC took during training.

    Raises:
        ValueError: MPC has not acted yet.
    """
    rows = result.buffer.all()
    planned = TransitionBatch(*(x[result.random_rows :] for x in rows))
    if len(planned.obs) == 0:
        raise ValueError("total_timesteps: expected more than initial_steps, for there is no planned action to clone")
    policy = BehaviorCloning(env.observation_space, env.action_space, seed=derive(seed, DISTILLED) % 2**31)
    return policy.learn(planned, updates=3_000)


def load_policy(run: Run, env: gym.Env, *, policy: Literal["mpc", "distilled"] = "mpc") -> Policy:
    """What a run has learned: MPC through its newest checkpoint's ensemble, or its distilled policy.

    Raises:
        ValueError: there is no such thing in the run directory, or it is damaged.
    """
    if policy == DISTILLED:
        if not (run.path / f"{DISTILLED}.safetensors").exists():
            raise ValueError(f"policy: {run.path} has no distilled policy; train with --distill, or use --policy mpc")
        return BehaviorCloning.load(run.path / DISTILLED)
    tensors, meta = load_checkpoint(run.path)
    return loaded_agent(run, env, tensors).evaluation_policy(meta["counters"]["steps"])


def loaded_agent(run: Run, env: gym.Env, tensors: Mapping[str, Tensor]) -> PETSAgent:
    """The agent of a run with the ensemble of a checkpoint, on the CPU, wherever it was trained.

    Raises:
        ValueError: the run is another algorithm's, or the checkpoint is of other observations or actions.
    """
    agent = PETSAgent(env, replace(pets_config(run), device="cpu"), run.seed)
    agent.ensemble.load_state_dict(part(tensors, "ensemble"))
    return agent
