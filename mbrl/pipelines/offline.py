"""Offline learning without a model: a learner that copes with data which it can't add to, trained on a dataset.

repeat:   draw a batch from the dataset, update the learner

BC, TD3+BC, CQL, IQL and AWAC differ in their learner alone. No real step is taken: evaluations, where there are any,
are for those who watch, and no update depends on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import NamedTuple

from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.data.datasets import Dataset, dataset_buffer
from mbrl.pipelines.agent_checks import check_data_match, check_rows_alike
from mbrl.pipelines.agents import Agent
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.offline_config import OfflineConfig
from mbrl.pipelines.offline_loop import OfflineLoop
from mbrl.pipelines.recorder import NullRecorder, Recorder
from mbrl.pipelines.updates import Updates, memory_explained, stacked
from mbrl.seeding import generator
from mbrl.types import TransitionBatch

Evaluate = Callable[[Agent, int], dict[str, float]]


class OfflineResult(NamedTuple):
    """What training leaves."""

    policy: Agent
    buffer: ReplayBuffer
    """The dataset's rows, with their own rewards."""
    updates: int


def train_offline(
    dataset: Dataset,
    agent: Agent,
    config: OfflineConfig,
    *,
    seed: int = 0,
    recorder: Recorder | None = None,
    evaluate: Evaluate | None = None,
    stop: Callable[[], bool] | None = None,
) -> OfflineResult:
    """Train an agent on a dataset; one that has had updates goes on from there.

    Args:
        dataset: logged episodes.
        agent: learner and state; updated in place. A learner that standardises observations takes mean and standard
            deviation from the dataset of its first update, and keeps them.
        config: the settings.
        seed: of batches and noise.
        recorder: takes metrics and checkpoints, and gives the checkpoint to resume from.
        evaluate: `evaluate(agent, updates)` -> metrics, called every `config.eval_every` updates.
        stop: asked after every few updates; True ends the training with a checkpoint.

    Raises:
        ValueError: the dataset does not fit the agent, the agent is COMBO's, or the checkpoint was made with other
            settings or data.
        NonFiniteUpdate: a loss was not finite.
        MemoryError: the device is full.
    """
    check_data_match(dataset, agent, config.device)
    check_rows_alike(agent)
    recorder, count = recorder or NullRecorder(), Counters(updates=agent.updates)
    with memory_explained({"dataset": buffer_bytes(len(dataset), *agent.sizes, dtype=agent.learner.dtype)}):
        buffer = dataset_buffer(dataset, device=agent.device, dtype=agent.learner.dtype)
        if agent.updates == 0 and hasattr(agent.learner, "fit_normalizer"):
            agent.learner.fit_normalizer(agent.state, buffer.all().obs[None])
        factor = reward_factor(dataset) if config.normalize_rewards else 1.0

        def draw_block(first: int, count: int) -> TransitionBatch:
            g = generator(seed, "batch", 0, first, device=buffer.device)
            rows = buffer.sample(count * config.batch_size, generator=g, discount=config.discount)
            return stacked(rows._replace(reward=factor * rows.reward), count)

        def draw(n: int) -> TransitionBatch:
            return TransitionBatch(*(x[0] for x in draw_block(n, 1)))

        updates = Updates.of(config, agent, draw, draw_block, seed=seed, recorder=recorder)
        loop = OfflineLoop(
            config,
            count,
            seed=seed,
            columns={},
            parts={"agent": agent, "updates": updates},
            settings={**asdict(config), **agent.settings(), "dataset": dataset.hash()},
            recorder=recorder,
            evaluate=evaluate,
            stop=stop,
        )
        while loop.goes_on():
            updates.run(loop.until_due(), 0)
            count.updates = agent.updates
            loop.log_due(updates.metrics)
            loop.evaluate(agent)
            loop.checkpoint()
    return OfflineResult(agent, buffer, count.updates)


def reward_factor(dataset: Dataset) -> float:
    """What rewards are multiplied with so that the returns of episodes span 1,000.

    Kostrikov et al. (2021), https://arxiv.org/abs/2110.06169, appendix B.

    Raises:
        ValueError: all episodes have the same return, or there is one only.
    """
    returns = dataset.returns()
    span = float(returns.max() - returns.min())
    if not span > 0:
        raise ValueError(
            f"normalize_rewards: expected a dataset whose episodes have different returns, got {dataset.episodes} "
            f"with {returns[0]:.6g}; train with --no-normalize-rewards"
        )
    return 1_000 / span
