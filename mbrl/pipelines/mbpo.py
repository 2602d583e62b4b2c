"""MBPO: an off-policy learner trained on short rollouts in a learned model, which branch from real states.

    repeat:   act by a sample of the policy, add the transition
              every `model_every` steps: fit the ensemble, roll the policy out from real states into the model rows
              `update_ratio` times: draw a batch, few of its rows real and most of the model, update the learner

Source: Janner et al. (2019), "When to trust your model", https://arxiv.org/abs/1906.08253, algorithm 2. docs/mbpo.md
lists the deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import gymnasium as gym
from torch import Tensor

from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.data.collect import Episode
from mbrl.envs.tasks import task
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.agent_checks import check_as_they_are, check_rows_alike
from mbrl.pipelines.agent_loop import MODEL_COLUMNS, AgentLoop
from mbrl.pipelines.agents import Agent, check_match
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.imagined import Imagined
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.loop import valid_rows
from mbrl.pipelines.mbpo_config import MBPOConfig
from mbrl.pipelines.recorder import NullRecorder, Recorder
from mbrl.pipelines.updates import memory_explained
from mbrl.pipelines.value_expansion import Expansion
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
    model_state: Mapping[str, Tensor] | None = None,
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
        model_state: of a `LearnedModel`, which the first fit starts from; None: fresh networks.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, steps)` -> metrics, called every `config.eval_every` steps.
        stop: asked after every step; True ends the training with a checkpoint.

    Raises:
        ValueError: the environment does not fit the agent or the settings, returned something that is not finite, or
            disagrees with given rewards or ends; the learner needs a dataset; the checkpoint was made with other
            settings; or the model returned nothing finite.
        NonFiniteUpdate: a loss was not finite.
        MemoryError: the device is full; the message says which buffer to make smaller.
    """
    check_match(env, agent, config.device)
    check_rows_alike(agent)
    check_as_they_are(agent)
    _check_schedule(env, agent, config)
    recorder, count = recorder or NullRecorder(), Counters(steps=agent.steps, updates=agent.updates)
    takes = {
        "buffer_size": buffer_bytes(config.buffer_size, *agent.sizes),
        "rollout_starts": buffer_bytes(
            config.rollout_starts * config.rollout_length.last * _kept(config), *agent.sizes
        ),
    }
    with memory_explained(takes):
        model = LearnedModel(task(env), agent, config, seed=seed, reward=reward, termination=termination)
        if model_state is not None:
            model.load_state_dict(model_state)
        real = agent.experience(config.buffer_size, config.num_envs)
        expand = None
        if config.targets != "td":
            horizon, discount = config.expansion_horizon, config.discount
            expand = Expansion(config.targets, agent.learner, model.dynamics, horizon=horizon, discount=discount)
        imagined = Imagined(agent, model, real, config, seed, real_rows=config.real_rows, adjust=expand)
        loop = AgentLoop(
            env,
            agent,
            imagined.updates(recorder),
            config,
            count,
            seed=seed,
            buffer=real,
            columns=MODEL_COLUMNS,
            parts={"model": model, "imagined": imagined.rows},
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        if not config.initial_steps and not len(real):  # a checkpoint may have brought some
            raise ValueError("initial_steps: expected at least 1, for the model to be fitted to, got 0")
        if len(real) and not count.steps:  # what was learned elsewhere is not lost, whatever happens now
            loop.save()
        if loop.goes_on():
            length = config.rollout_length.at(count.steps)
            imagined.refill(count, count.fits, length, _kept(config), rounds=count.fits)
        every = config.model_every
        while loop.goes_on():
            model.verify(valid_rows(loop.step_agent()))
            if model.is_due(count, every=every, after=config.initial_steps, num_envs=config.num_envs):
                loop.log(model.renew(real, count, unseen=every, horizons=config.diagnostic_horizons))
                length = config.rollout_length.at(count.steps)
                loop.log(imagined.renew(count, count.fits, length, _kept(config)))
            loop.update(loop.updates_due())
            loop.report()
    return MBPOResult(agent, model.ensemble, real, imagined.rows.buffer, loop.episodes, count.steps)


def _kept(config: MBPOConfig) -> int:
    """How many fits' rollouts are kept."""
    return -(-config.retain_steps // config.model_every)


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
    if config.targets != "td" and getattr(agent.config, "subset", None) is not None:
        raise ValueError(
            f"subset: expected None with targets={config.targets!r}, which are those of all critics, got "
            f"{agent.config.subset}"
        )
    if config.targets != "td" and not hasattr(agent.learner, "valued_actions"):
        raise ValueError(
            f"targets: expected 'td' with {type(agent).__name__}, whose critics can't be asked, got {config.targets!r}"
        )
