"""MBPO: an off-policy learner trained on short rollouts in a learned model, which branch from real states.

    repeat:   act by a sample of the policy, add the transition
              every `model_every` steps: fit the ensemble, roll the policy out from real states into the model rows
              `update_ratio` times: draw a batch, few of its rows real and most of the model, update the learner

Source: Janner et al. (2019), "When to trust your model", https://arxiv.org/abs/1906.08253, algorithm 2. docs/mbpo.md
lists the deviations.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

import gymnasium as gym
import torch

from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.data.collect import Episode
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.agents import Agent, check_match
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.loop import Loop, valid_rows
from mbrl.pipelines.mbpo_config import MBPOConfig
from mbrl.pipelines.model_rows import ModelRows
from mbrl.pipelines.recorder import NullRecorder, Recorder
from mbrl.pipelines.updates import Updates, due, memory_explained, stacked
from mbrl.pipelines.value_expansion import Expansion
from mbrl.rollout import rollout
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.dynamics import Reward, Termination

Evaluate = Callable[[Agent, int], dict[str, float]]


class MBPOResult(NamedTuple):
    """What training leaves."""

    policy: Agent
    ensemble: GaussianEnsemble
    buffer: ReplayBuffer
    """Real transitions."""
    model_buffer: ReplayBuffer | None
    """Those of the model; None where there are none."""
    episodes: list[Episode]
    """Finished episodes since training began, or since it was resumed."""
    steps: int
    """Real environment steps."""


def train_mbpo(
    env: gym.Env | gym.vector.VectorEnv,
    agent: Agent,
    config: MBPOConfig,
    *,
    seed: int = 0,
    reward: Reward | None = None,
    termination: Termination | None = None,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: Callable[[], bool] | None = None,
) -> MBPOResult:
    """Train an agent by MBPO.

    Args:
        env: the environment, or a vector of `config.num_envs` of them.
        agent: learner and state (SAC, as in the paper); updated in place.
        config: the settings.
        seed: of everything random but the agent's initial parameters.
        reward: `reward(obs, action, next_obs)` -> [rows], in place of what `config.reward` says.
        termination: likewise, -> bool [rows]. Given functions are verified on every real step.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, steps)` -> metrics, called every `config.eval_every` steps.
        stop: asked after every step; True ends the training with a checkpoint.

    Raises:
        ValueError: the environment does not fit the agent or the settings, returned something that is not finite, or
            disagrees with given rewards or ends; the checkpoint was made with other settings; or the model returned
            nothing finite.
        NonFiniteUpdate: a loss was not finite.
        MemoryError: the device is full; the message says which buffer to make smaller.
    """
    check_match(env, agent, config.device)
    _check_schedule(env, agent, config)
    recorder, count = recorder or NullRecorder(), Counters(steps=agent.steps, updates=agent.updates)
    takes = {
        "buffer_size": buffer_bytes(config.buffer_size, *agent.sizes),
        "rollout_starts": buffer_bytes(_capacity(config, config.rollout_length.last), *agent.sizes),
    }
    with memory_explained(takes):
        model = LearnedModel(env, agent, config, seed=seed, reward=reward, termination=termination)
        real = agent.experience(config.buffer_size, config.num_envs)
        imagined = _Imagined(agent, model, real, config, seed)
        updates = Updates(
            agent,
            imagined.draw,
            imagined.draw_block if config.targets == "td" else None,  # expanded ones depend on the parameters
            seed=seed,
            batch_size=config.batch_size,
            recorder=recorder,
            mode=config.updates,
        )
        loop = Loop(
            env,
            config,
            count,
            seed=seed,
            buffer=real,
            columns={
                "train/n_updates": "updates",
                "model/steps": "model_steps",
                "model/gradient_steps": "model_gradient_steps",
            },
            parts={"agent": agent, "updates": updates, "model": model, "imagined": imagined.rows},
            settings={**asdict(config), **agent.settings()},
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        imagined.refill(count)
        while loop.goes_on():
            if count.steps < config.initial_steps:
                action = loop.random_action()
            else:  # sampled: the mean action would explore nothing
                action = agent.explore(loop.collector.obs, generator(seed, "act", 0, count.steps, device=agent.device))
            model.verify(valid_rows(loop.step(action)))
            agent.steps = count.steps

            if model.is_due(count, config.initial_steps, config.num_envs):
                loop.log(model.renew(real, count))
                loop.log(imagined.renew(count))
            updates.run(
                due(
                    count.steps,
                    config.num_envs,
                    after=config.initial_steps,
                    every=config.update_every,
                    ratio=config.update_ratio,
                ),
                count.steps,
            )
            count.updates = agent.updates
            loop.log_episodes(updates.metrics)
            loop.evaluate(agent)
            loop.checkpoint()
    return MBPOResult(agent, model.ensemble, real, imagined.rows.buffer, loop.episodes, count.steps)


class _Imagined:
    """The rows that the model makes, and batches of them and of real ones."""

    def __init__(self, agent: Agent, model: LearnedModel, real: ReplayBuffer, config: MBPOConfig, seed: int) -> None:
        self.agent, self.model, self.real, self.config, self.seed = agent, model, real, config, seed
        obs_dim, action_dim = agent.sizes

        def make(capacity: int) -> ReplayBuffer:
            return ReplayBuffer(capacity, obs_dim, action_dim, device=agent.device, dtype=agent.learner.dtype)

        self.rows = ModelRows(make, stored=config.checkpoint_model_buffer)
        self.expand = None
        if config.targets != "td":
            self.expand = Expansion(
                config.targets,
                agent.learner,
                model.dynamics,
                horizon=config.expansion_horizon,
                discount=config.discount,
            )

    def renew(self, count: Counters, *key: int | str) -> dict[str, float]:
        """Roll the policy out from real states; the oldest model rows give way.

        Raises:
            ValueError: the model returned nothing finite.
        """
        config = self.config
        if config.real_rows == config.batch_size:
            return {}
        started, length = time.perf_counter(), config.rollout_length.at(count.steps)
        g = generator(self.seed, "rollout", 0, count.fits, *key, device=self.agent.device)
        starts = self.real.sample(config.rollout_starts, generator=g).obs
        made = rollout(self.model.dynamics, self.model.act, starts, length, generator=g).transitions()
        count.model_steps += config.rollout_starts * length
        if not len(made.obs):
            raise ValueError(
                f"model: expected finite predictions, got none in {config.rollout_starts} rollouts after fit "
                f"{count.fits}, at {count.steps} real steps: the ensemble, or a reward given to it, is broken; try a "
                "smaller model_lr, and look at model/train_loss and model/rmse_1"
            )
        self.rows.extend(made, _capacity(config, length))
        return {
            "model/rollout_length": length,
            "model/rows": len(self.rows),
            "model/reward_mean": float(made.reward.mean()),
            "model/terminated": float(made.terminated.double().mean()),
            "time/rollout_seconds": time.perf_counter() - started,
        }

    def refill(self, count: Counters) -> None:
        """After a checkpoint without model rows: as many rollouts as are kept, by the policy and the model of now."""
        config = self.config
        all_real, finished = config.real_rows == config.batch_size, count.steps >= config.total_timesteps
        if not count.fits or len(self.rows) or all_real or finished:
            return
        warnings.warn(
            "checkpoint_model_buffer: the checkpoint has no model rows, so new ones are made: training goes on, but "
            "not bit for bit as it would have without the interruption",
            stacklevel=3,
        )
        for i in range(min(count.fits, _kept(config))):
            self.renew(count, "refill", i)

    def draw_block(self, first: int, count: int) -> TransitionBatch:
        """Batches of `count` updates numbered from `first`, [count, 1, batch_size, ...]: real rows by count in each."""
        config = self.config
        g = generator(self.seed, "batch", 0, first, device=self.agent.device)
        counts = [(self.real, config.real_rows), (self.rows.buffer, config.batch_size - config.real_rows)]
        parts = [
            stacked(buffer.sample(count * rows, generator=g, discount=config.discount), count)
            for buffer, rows in counts
            if buffer is not None and rows
        ]
        return TransitionBatch(*(torch.cat(columns, 2) for columns in zip(*parts, strict=True)))

    def draw(self, n: int) -> TransitionBatch:
        """The batch of update n, [1, batch_size, ...], with its targets where those are expanded."""
        batch = self.draw_block(n, 1)
        if self.expand is None:
            return TransitionBatch(*(x[0] for x in batch))
        g = generator(self.seed, "expand", 0, n, device=self.agent.device)
        expanded = self.expand(TransitionBatch(*(x[0, 0] for x in batch)), self.agent.state, generator=g)
        return TransitionBatch(*(x[None] for x in expanded))


def _kept(config: MBPOConfig) -> int:
    """How many fits' rollouts are kept."""
    return -(-config.retain_steps // config.model_every)


def _capacity(config: MBPOConfig, length: int) -> int:
    return config.rollout_starts * length * _kept(config)


def _check_schedule(env: gym.Env | gym.vector.VectorEnv, agent: Agent, config: MBPOConfig) -> None:
    if isinstance(env, gym.vector.VectorEnv):
        spec = env.get_attr("spec")[0] if hasattr(env, "get_attr") else env.spec
    else:
        spec = env.spec
    limit = None if spec is None else spec.max_episode_steps
    if limit is not None and config.rollout_length.last > limit:
        raise ValueError(
            f"rollout_length: expected rollouts within an episode, which ends after {limit} steps, got "
            f"{config.rollout_length.last}"
        )
    if config.targets != "td" and not hasattr(agent.learner, "valued_actions"):
        raise ValueError(
            f"targets: expected 'td' with {type(agent).__name__}, whose critics can't be asked, got {config.targets!r}"
        )
