"""Offline to online: a policy and a model that were learned from logged data go on learning on the real environment.

MBPO's loop, started from the agent, the ensemble and the data: rows of the data lie in the replay buffer, new real
steps behind them, the ensemble is fitted to both, and rollouts branch from both. Rewards are not penalised any more:
where the model is wrong in the policy's favour, the environment says so.

Keeping the data in the buffer and going on from the weights: Nair et al. (2020), https://arxiv.org/abs/2006.09359,
section 3; fine-tuning by MBPO's loop is this library's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import gymnasium as gym
from torch import Tensor

from mbrl.data.datasets import Dataset, dataset_buffer
from mbrl.envs.tasks import task
from mbrl.learners.sac import SACConfig, SACState
from mbrl.pipelines.agents import SAC, Agent
from mbrl.pipelines.mbpo import Evaluate, MBPOResult, train_mbpo
from mbrl.pipelines.mbpo_config import MBPOConfig, mbpo_preset
from mbrl.pipelines.offline_config import OfflineConfig
from mbrl.pipelines.offline_model import check_sizes
from mbrl.pipelines.offline_model_config import OfflineModelConfig
from mbrl.pipelines.recorder import Recorder
from mbrl.pipelines.schedules import Ramp
from planners.dynamics import Reward, Termination
from planners.rows import leaves


def train_online(
    env: gym.Env,
    agent: Agent,
    dataset: Dataset,
    config: MBPOConfig,
    *,
    reward: Reward | None = None,
    termination: Termination | None = None,
    model_state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: Callable[[], bool] | None = None,
) -> MBPOResult:
    """Go on learning on the real environment with an agent that was trained on a dataset.

    Args:
        env: the real environment.
        agent: a SAC, as MOPO and MOBILE train it, or a COMBO or CQL, whose actor, critics and temperature become a
            SAC's; it is left as it is.
        dataset: what it was trained on.
        config: the settings (`online_config`), with room for data and steps in the buffer.
        reward: `reward(obs, action, next_obs)` -> [rows], in place of what `config.reward` says: the one of the run on
            the dataset, where it was given one, or `model_state` does not fit.
        termination: likewise, -> bool [rows]. Given functions are verified on every real step.
        model_state: of the model that it was trained with (`LearnedModel.state_dict`); None: a fresh one.
        seed: of everything random.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, steps)` -> metrics.
        stop: asked after every step; True ends the training with a checkpoint.

    Raises:
        ValueError: the agent is of another kind, dataset or environment do not fit it, or see `train_mbpo`.
    """
    check_sizes(dataset, agent)
    if config.num_envs != 1:
        raise ValueError(
            f"num_envs: expected 1, as rows of a dataset have no place beside others, got {config.num_envs}"
        )
    online = sac_of(agent, env)
    online.buffer = dataset_buffer(
        dataset, device=online.device, dtype=online.learner.dtype, capacity=config.buffer_size, episodes=True
    )
    return train_mbpo(
        env,
        online,
        config,
        seed=seed,
        reward=reward,
        termination=termination,
        model_state=model_state,
        recorder=recorder,
        evaluate=evaluate,
        stop=stop,
    )


def sac_of(agent: Agent, spaces: Any = None) -> SAC:
    """A SAC with the actor, critics, temperature and optimisers of an agent, and its count of updates; its targets have
    the policy's entropy, whether or not the agent's had.

    Args:
        agent: SAC itself, COMBO or CQL.
        spaces: an environment, whose spaces it gets; None: the agent's.

    Raises:
        ValueError: the agent has no such parts.
    """
    state = getattr(agent.state, "sac", agent.state)
    if not isinstance(state, SACState):
        raise ValueError(
            f"agent: expected SAC (MOPO's and MOBILE's), COMBO or CQL, whose critics go on as they are, got "
            f"{type(agent).__name__}"
        )
    known = {f.name for f in fields(SACConfig)} - {"backup"}  # targets are MBPO's from here on, with entropy
    config = SACConfig(**{f.name: getattr(agent.config, f.name) for f in fields(agent.config) if f.name in known})
    own = spaces if spaces is not None else agent
    made = SAC(own.observation_space, own.action_space, agent.seed, device=agent.device, config=config)
    for mine, its in zip(leaves(made.state), leaves(state), strict=True):
        mine.copy_(its)
    made.updates = agent.updates
    return made


def online_config(offline: Any, env: gym.Env, rows: int, *, total_timesteps: int, **changes: Any) -> MBPOConfig:
    """Settings that go on where offline training ended: the model's, the batch's and the rollouts' stay.

    Args:
        offline: settings of the offline run; those of its model, where it has one, else discount and batch size.
        env: the real environment: what it has of a preset of MBPO stands for the rest.
        rows: of the dataset.
        total_timesteps: real steps.
        changes: other settings than these.

    Raises:
        ValueError: a setting is unknown or out of range, or the offline run's rewards were in units of its own.
    """
    if getattr(offline, "normalize_rewards", False):
        raise ValueError(
            "normalize_rewards: expected False in the run on the dataset, got True: its critics are in units of its "
            "own, in which the real environment does not pay; train it again without"
        )
    base = mbpo_preset(env.spec.id if env.spec is not None else "").config
    shared = {f.name for f in fields(OfflineModelConfig)} & {f.name for f in fields(MBPOConfig)}
    shared -= {"rollout_length", "checkpoint_every", "eval_every", "updates", "precision"}
    taken: dict[str, Any] = {}
    if isinstance(offline, OfflineModelConfig):
        length = offline.rollout_length
        taken = {name: getattr(offline, name) for name in shared} | {"rollout_length": Ramp(length, length)}
        if task(env) is None and offline.termination == "task":
            taken["termination"] = "learned"
    elif isinstance(offline, OfflineConfig):
        taken = {name: getattr(offline, name) for name in ("discount", "batch_size", "device")}
    taken |= {"total_timesteps": total_timesteps, "initial_steps": 0, "buffer_size": rows + total_timesteps}
    try:
        return replace(base, **{**taken, **changes})
    except TypeError as error:
        raise ValueError(f"settings: expected those of MBPO, got {sorted(changes)}: {error}") from None
