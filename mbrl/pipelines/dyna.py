"""Deep Dyna: a learner without a model, which also learns from what a model makes of states that it has been in.

    repeat:   act with exploration, add the transition; every `model_every` steps fit the ensemble
              `update_ratio` times: update from a batch of real transitions, then `planning_updates` times from a
              batch of the model's: states from the buffer, the policy's actions, `planning_steps` steps

Sources: Sutton (1991), "Dyna, an integrated architecture for learning, planning, and reacting"; with networks Gu et al.
(2016), https://arxiv.org/abs/1603.00748, section 5. Tabular Dyna is in `mbrl.learners`; docs/dyna.md has both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym

from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.data.collect import Episode
from mbrl.envs.tasks import task
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.agent_checks import check_as_they_are, check_rows_alike
from mbrl.pipelines.agent_loop import MODEL_COLUMNS, AgentLoop
from mbrl.pipelines.agents import Agent, check_match
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.dyna_config import DynaConfig
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.loop import valid_rows
from mbrl.pipelines.recorder import NullRecorder, Recorder
from mbrl.pipelines.updates import Updates, memory_explained
from mbrl.rollout import rollout
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.dynamics import Reward, Termination
from planners.rows import where_rows

Evaluate = Callable[[Agent, int], dict[str, float]]


class DynaResult(NamedTuple):
    """What training leaves."""

    policy: Agent
    ensemble: GaussianEnsemble
    buffer: ReplayBuffer
    """Real transitions."""
    episodes: list[Episode]
    """Finished episodes since training began, or since it was resumed."""
    steps: int
    """Real environment steps."""


def train_dyna(
    env: gym.Env | gym.vector.VectorEnv,
    agent: Agent,
    config: DynaConfig,
    *,
    seed: int = 0,
    reward: Reward | None = None,
    termination: Termination | None = None,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: Callable[[], bool] | None = None,
) -> DynaResult:
    """Train an agent by Dyna.

    Args:
        env: the environment, or a vector of `config.num_envs` of them.
        agent: learner and state: DQN where actions are discrete, SAC or a kin of it where they are not.
        config: the settings.
        seed: of everything random but the agent's initial parameters.
        reward: `reward(obs, action, next_obs)` -> [rows], in place of what `config.reward` says.
        termination: likewise, -> bool [rows]. Given functions are verified on every real step.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, steps)` -> metrics, called every `config.eval_every` steps.
        stop: asked after every step; True ends the training with a checkpoint.

    Raises:
        ValueError: the environment does not fit the agent or the settings, returned something that is not finite, or
            disagrees with given rewards or ends; the learner needs a dataset; the checkpoint was made with other
            settings; or the actor would never learn from real transitions.
        NonFiniteUpdate: a loss was not finite.
        MemoryError: the device is full; the message says which buffer to make smaller.
    """
    check_match(env, agent, config.device)
    check_rows_alike(agent)
    check_as_they_are(agent)
    _check_turns(agent, config)
    recorder, count = recorder or NullRecorder(), Counters(steps=agent.steps, updates=agent.updates)
    with memory_explained({"buffer_size": buffer_bytes(config.buffer_size, *agent.sizes)}):
        model = LearnedModel(task(env), agent, config, seed=seed, reward=reward, termination=termination)
        real = agent.experience(config.buffer_size, config.num_envs)

        def draw(n: int) -> TransitionBatch:
            """The batch of update n, [1, batch_size, ...]: one real, then `planning_updates` of the model."""
            g = generator(seed, "batch", 0, n, device=real.device)
            batch = real.sample(config.batch_size, generator=g, discount=config.discount, n_step=config.n_step)
            if n % (1 + config.planning_updates):
                made, exists = rollout(model.dynamics, model.act, batch.obs, config.planning_steps, generator=g).merged(
                    config.discount
                )
                batch = where_rows(exists, made, batch)  # real ones where the model returned nothing finite
            return TransitionBatch(*(x[None] for x in batch))

        updates = Updates.of(config, agent, draw, seed=seed, recorder=recorder)
        loop = AgentLoop(
            env,
            agent,
            updates,
            config,
            count,
            seed=seed,
            buffer=real,
            columns=MODEL_COLUMNS,
            parts={"model": model},
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        every = config.model_every
        while loop.goes_on():
            model.verify(valid_rows(loop.step_agent()))
            if config.planning_updates and model.is_due(
                count, every=every, after=config.initial_steps, num_envs=config.num_envs
            ):
                loop.log(model.renew(real, count, unseen=every, horizons=config.diagnostic_horizons))
            real_updates = loop.updates_due()
            loop.update(real_updates * (1 + config.planning_updates))
            count.model_steps += real_updates * config.planning_updates * config.batch_size * config.planning_steps
            loop.report()
    return DynaResult(agent, model.ensemble, real, loop.episodes, count.steps)


def _check_turns(agent: Agent, config: DynaConfig) -> None:
    """Update n is real where 1 + K divides n, and the actor's where `actor_every` divides n + 1."""
    actor_every, round_of = getattr(agent.config, "actor_every", 1), 1 + config.planning_updates
    if math.gcd(actor_every, round_of) > 1:
        raise ValueError(
            f"planning_updates: expected a number K whose 1 + K has no factor in common with actor_every "
            f"({actor_every}), got {config.planning_updates}: the actor's updates would all be planned ones, and it "
            "would never learn from a real transition; take another of the two"
        )
