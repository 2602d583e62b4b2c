"""Off-policy learning from real steps alone: SAC, REDQ, DroQ, TD3, DDPG, DQN and discrete SAC.

repeat:   act with exploration (uniformly at first), add the transition
          `update_ratio` times: draw a batch from everything so far, update the learner
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium as gym

from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.data.collect import Episode
from mbrl.pipelines.agent_checks import check_as_they_are, check_rows_alike
from mbrl.pipelines.agent_loop import AgentLoop
from mbrl.pipelines.agents import Agent, check_match
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.recorder import NullRecorder, Recorder
from mbrl.pipelines.updates import Updates, memory_explained, stacked
from mbrl.seeding import generator
from mbrl.types import TransitionBatch

Evaluate = Callable[[Agent, int], dict[str, float]]


class OffPolicyResult(NamedTuple):
    """What training leaves."""

    policy: Agent
    buffer: ReplayBuffer
    episodes: list[Episode]
    """Finished episodes since training began, or since it was resumed."""
    steps: int
    """Real environment steps."""


def train_off_policy(
    env: gym.Env | gym.vector.VectorEnv,
    agent: Agent,
    config: OffPolicyConfig,
    *,
    seed: int = 0,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: Callable[[], bool] | None = None,
) -> OffPolicyResult:
    """Train an agent on an environment; one that was trained here before goes on with its buffer and its counts.

    Args:
        env: the environment, or a vector of `config.num_envs` of them.
        agent: learner and state; updated in place.
        config: the settings.
        seed: of everything random but the agent's initial parameters; an agent that was loaded wants another one than
            before, or it meets the same episodes and noise again (`Agent.learn` sees to that).
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, steps)` -> metrics, called every `config.eval_every` steps.
        stop: asked after every step; True ends the training with a checkpoint.

    Raises:
        ValueError: the environment does not fit the agent or the settings, or returned something that is not finite;
            the learner needs a dataset or a model; or the checkpoint was made with other settings.
        NonFiniteUpdate: a loss was not finite.
        MemoryError: the device is full; the message says which buffer to make smaller.
    """
    check_match(env, agent, config.device)
    check_rows_alike(agent)
    check_as_they_are(agent)
    recorder, count = recorder or NullRecorder(), Counters(steps=agent.steps, updates=agent.updates)
    with memory_explained({"buffer_size": buffer_bytes(config.buffer_size, *agent.sizes)}):
        buffer = agent.experience(config.buffer_size, config.num_envs)

        def draw_block(first: int, count: int) -> TransitionBatch:
            g = generator(seed, "batch", 0, first, device=buffer.device)
            rows, n_step = count * config.batch_size, config.n_step
            return stacked(buffer.sample(rows, generator=g, discount=config.discount, n_step=n_step), count)

        def draw(n: int) -> TransitionBatch:
            return TransitionBatch(*(x[0] for x in draw_block(n, 1)))

        updates = Updates.of(config, agent, draw, draw_block, seed=seed, recorder=recorder)
        loop = AgentLoop(
            env,
            agent,
            updates,
            config,
            count,
            seed=seed,
            buffer=buffer,
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        while loop.goes_on():
            loop.step_agent()
            loop.update(loop.updates_due())
            loop.report()
    return OffPolicyResult(agent, buffer, loop.episodes, count.steps)
