"""Updates of off-policy training: when they are due, what is told of them, and what stops a run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import pytest
import torch

from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.learners.sac import SACLearner
from mbrl.pipelines.agents import SAC, Agent
from mbrl.pipelines.off_policy import OffPolicyResult, train_off_policy
from mbrl.pipelines.updates import due, memory_explained
from mbrl.types import NonFiniteUpdate
from planners.rows import leaves
from tests.mbrl.memory import Memory
from tests.mbrl.off_policy_cases import SMALL, TINY, train


@pytest.mark.parametrize(
    ("steps", "num_envs", "after", "every", "ratio", "expected"),
    [
        (10, 1, 10, 1, 1.0, 0),  # the last random step
        (11, 1, 10, 1, 1.0, 1),
        (12, 1, 10, 1, 20.0, 20),
        (12, 1, 10, 2, 1.0, 2),  # both steps since the last round
        (13, 1, 10, 2, 1.0, 0),
        (12, 1, 10, 1, 0.5, 1),
        (11, 1, 10, 1, 0.5, 0),
        (12, 4, 10, 1, 1.0, 2),  # 9 to 12, of which two are after the tenth
        (16, 4, 0, 8, 1.0, 8),
        (20, 4, 0, 8, 1.0, 0),
        (30, 30, 0, 8, 1.0, 24),
    ],
)
def test_updates_that_are_due(steps: int, num_envs: int, after: int, every: int, ratio: float, expected: int) -> None:
    assert due(steps, num_envs, after=after, every=every, ratio=ratio) == expected


def test_metrics_are_means_over_the_updates_since_the_last_row() -> None:
    memory = Memory()
    train("sac", recorder=memory)
    rows = [row for row in memory.rows if "rollout/ep_rew_mean" in row]
    assert [row["time/total_timesteps"] for row in rows] == [13, 26, 39, 52]
    assert "train/critic_loss" not in rows[0]
    assert [row["train/n_updates"] for row in rows] == [0, 6, 19, 32]


@dataclass(frozen=True)
class Spoiled:
    """SAC whose update `at` reports a loss that is not finite, or spoils a parameter, or fills the memory."""

    inner: SACLearner
    at: int
    how: str
    calls: list[int]
    batches: list[Any]
    noises: list[Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def update(self, state: Any, batch: Any, noise: Any, *, actor: bool = True) -> Any:
        self.calls.append(len(self.calls))
        self.batches.append(batch)
        self.noises.append(noise.action)
        state, metrics = self.inner.update(state, batch, noise, actor=actor)
        if self.calls[-1] == self.at:
            if self.how == "loss":
                metrics["train/actor_loss"] = metrics["train/actor_loss"] * torch.nan
            elif self.how == "parameter":
                leaves(state)[2][..., 0] = torch.inf
            else:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return state, metrics

    def act(self, state: Any, obs: Any, noise: Any = None) -> Any:
        self.noises.append(noise)
        return self.inner.act(state, obs, noise)


def spoiled(at: int, how: str) -> tuple[Agent, Spoiled, Memory, Callable[[], OffPolicyResult]]:
    env, memory = gym.make("Pendulum-v1"), Memory()
    agent = SAC(env.observation_space, env.action_space, hidden=SMALL)
    learner = agent.learner = Spoiled(agent.learner, at, how, [], [], [])  # type: ignore[assignment]
    return agent, learner, memory, lambda: train_off_policy(env, agent, TINY, seed=5, recorder=memory)


def test_every_update_and_every_step_draws_its_own_numbers() -> None:
    agent, learner, _, _ = spoiled(-1, "never")
    result = train_off_policy(gym.make("Pendulum-v1"), agent, replace(TINY, update_ratio=2, buffer_size=100))
    assert len(result.buffer.all().action.unique()) == 60
    pairs = zip(learner.batches[::2], learner.batches[1::2], strict=True)
    assert not any(torch.equal(one.obs, other.obs) for one, other in pairs)  # of the same step, from the same rows
    assert len({noise.flatten()[0].item() for noise in learner.noises}) == 80 + 40


def test_a_loss_that_is_not_finite_stops_the_run_at_that_update() -> None:
    _, learner, memory, run = spoiled(25, "loss")
    message = r"train/actor_loss: expected a finite number, got nan in update 25 after 46 real steps; its batch is in "
    with pytest.raises(NonFiniteUpdate, match=message):
        run()
    assert len(learner.calls) == 26
    (kept,) = memory.kept.values()
    for name, tensor in learner.batches[-1]._asdict().items():
        assert torch.equal(kept[name], tensor) or name == "log_prob"
    assert memory.saved[-1][1]["counters"]["steps"] == 45


def test_spoiled_parameters_are_never_saved() -> None:
    _, _, memory, run = spoiled(24, "parameter")  # after step 45, when a checkpoint is due
    with pytest.raises(NonFiniteUpdate, match=r"after update 24 and 45 real steps; no checkpoint"):
        run()
    assert memory.saved[-1][1]["counters"]["steps"] == 30


def test_a_full_device_names_the_buffer() -> None:
    _, _, _, run = spoiled(2, "memory")
    with pytest.raises(MemoryError, match=r"buffer_size: 0\.0 MB. Make buffer_size smaller.*Tried to allocate"):
        run()
    with (
        pytest.raises(MemoryError, match=r"a: 3000000\.0 MB, b: 2\.0 MB. Make a smaller"),
        memory_explained({"b": 2_000_000, "a": 3_000_000_000_000}),
    ):
        torch.zeros(10**14)
    for text in (
        "CUDA error: out of memory\nmore",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
    ):
        with pytest.raises(MemoryError, match="Make a smaller"), memory_explained({"a": 1}):
            raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="size"), memory_explained({"a": 1}):
        torch.zeros(2) + torch.zeros(3)  # another error stays what it is


def test_the_size_of_a_buffer_is_told_before_it_is_made() -> None:
    for action_dim in (3, None):
        buffer = ReplayBuffer(10, 4, action_dim)
        held = sum(t.nbytes for t in (buffer._store, buffer._episode))
        assert buffer_bytes(10, 4, action_dim) == held
