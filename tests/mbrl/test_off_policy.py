"""Off-policy training on real environments with tiny budgets, and the agents that it trains."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from mbrl.data.buffer import ReplayBuffer, buffer_bytes
from mbrl.learners.sac import DROQ, REDQ, SACLearner
from mbrl.pipelines.agents import DDPG, DQN, SAC, TD3, Agent, DiscreteSAC
from mbrl.pipelines.bookkeeping import differences
from mbrl.pipelines.off_policy import OffPolicyResult, train_off_policy
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.updates import due, memory_explained
from mbrl.types import NonFiniteUpdate
from planners.rows import leaves
from tests.mbrl.memory import Memory, same

TINY = OffPolicyConfig(
    total_timesteps=60, initial_steps=20, batch_size=8, buffer_size=50, eval_every=0, checkpoint_every=15
)
SMALL = (8, 8)
OBS = Box(-1, 1, (3,))

KINDS: dict[str, tuple[str, type[Agent], dict[str, Any]]] = {
    "sac": ("Pendulum-v1", SAC, {}),
    "redq": ("Pendulum-v1", SAC, {"config": REDQ, "actor_every": 3}),
    "droq": ("Pendulum-v1", SAC, {"config": DROQ, "actor_every": 3}),
    "td3": ("Pendulum-v1", TD3, {}),
    "ddpg": ("Pendulum-v1", DDPG, {}),
    "dqn": ("CartPole-v1", DQN, {"target_every": 7, "exploration_updates": 30}),
    "discrete_sac": ("CartPole-v1", DiscreteSAC, {}),
}


def agent_for(algorithm: str, env: gym.Env) -> Agent:
    _, kind, settings = KINDS[algorithm]
    return kind(env.observation_space, env.action_space, 1, hidden=SMALL, **settings)


ALL = pytest.mark.parametrize("algorithm", KINDS)


def train(algorithm: str, config: OffPolicyConfig = TINY, recorder: Memory | None = None, **extra: Any) -> Any:
    env = gym.make(KINDS[algorithm][0], max_episode_steps=13)
    return train_off_policy(env, agent_for(algorithm, env), config, seed=5, recorder=recorder, **extra)


@ALL
def test_a_run_that_was_interrupted_is_the_run_that_was_not(algorithm: str) -> None:
    whole, broken = Memory(), Memory()
    config = replace(TINY, n_step=3, update_ratio=1.5)
    train(algorithm, config, whole)
    left = iter(range(37))
    train(algorithm, config, broken, stop=lambda: next(left, None) is None)
    assert broken.saved[-1][1]["counters"]["steps"] == 38  # no multiple of anything
    rest = Memory(broken.saved[-1])
    train(algorithm, config, rest)
    same(rest.saved[-1][0], whole.saved[-1][0])
    assert [*broken.rows, *rest.rows] == whole.rows
    assert any("train/q_mean" in row for row in rest.rows)


@ALL
def test_the_seed_decides_everything_and_updates_are_counted(algorithm: str) -> None:
    one, other = train(algorithm), train(algorithm)
    for a, b in zip(leaves(one.policy.state), leaves(other.policy.state), strict=True):
        assert torch.equal(a, b)
    assert one.policy.updates == one.steps - TINY.initial_steps == 40
    assert len(one.buffer) == TINY.buffer_size


@ALL
def test_several_environments_learn_as_much_a_step(algorithm: str) -> None:
    env_id = KINDS[algorithm][0]
    env = gym.make_vec(env_id, num_envs=4, vectorization_mode="sync")
    agent = agent_for(algorithm, gym.make(env_id))
    result = train_off_policy(env, agent, replace(TINY, num_envs=4, update_ratio=0.5, update_every=8), seed=0)
    assert (result.steps, agent.updates) == (60, 18)  # half of the 36 from step 21 to 56


@ALL
def test_an_agent_is_saved_and_loaded(algorithm: str, tmp_path: Path) -> None:
    agent = train(algorithm).policy
    path = agent.save(tmp_path / "agent")
    loaded = type(agent).load(path)
    obs = np.random.default_rng(0).normal(size=(5, agent.sizes[0])).astype(np.float32)
    expected, _ = agent.predict(obs, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    assert loaded.updates == agent.updates
    assert loaded.config == agent.config
    env = gym.make(KINDS[algorithm][0])
    loaded.learn(30, env, initial_steps=10, batch_size=8, update_ratio=1, buffer_size=50)
    assert loaded.updates == agent.updates + 20


@ALL
def test_stable_baselines3_evaluates_an_agent(algorithm: str) -> None:
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(KINDS[algorithm][0], max_episode_steps=7))
    returns, lengths = evaluation.evaluate_policy(
        agent_for(algorithm, env), env, n_eval_episodes=2, deterministic=False, return_episode_rewards=True, warn=False
    )
    assert max(lengths) <= 7
    assert np.isfinite(returns).all()


def test_learning_twice_goes_on() -> None:
    env = gym.make("Pendulum-v1")
    agent = SAC(env.observation_space, env.action_space, hidden=SMALL)
    settings: dict[str, Any] = {"initial_steps": 20, "batch_size": 8, "buffer_size": 100}
    agent.learn(30, env, **settings).learn(30, env, **settings)
    assert (agent.steps, agent.updates, len(agent.buffer or ())) == (60, 40, 60)
    assert agent.buffer is not None
    assert len(agent.buffer.episode_ids().unique()) == 2
    with pytest.raises(ValueError, match="buffer_size, num_envs: expected 100 and 1, as the agent"):
        agent.learn(10, env, initial_steps=20, buffer_size=200, batch_size=8)


def test_what_was_loaded_does_not_repeat_its_first_training(tmp_path: Path) -> None:
    env, settings = gym.make("Pendulum-v1"), {"initial_steps": 20, "batch_size": 8, "buffer_size": 100}
    agent = SAC(env.observation_space, env.action_space, hidden=SMALL)
    agent.save(tmp_path / "fresh")
    agent.learn(30, env, **settings)
    agent.save(tmp_path / "trained")
    rows = []
    for name in ("fresh", "trained"):
        buffer = SAC.load(tmp_path / name).learn(30, env, **settings).buffer
        assert buffer is not None
        rows.append(buffer.all())
    assert agent.buffer is not None
    first = agent.buffer.all()
    assert torch.equal(rows[0].obs, first.obs)  # nothing had been drawn yet
    assert torch.equal(rows[0].action, first.action)
    assert not set(rows[1].obs[:, 0].tolist()) & set(first.obs[:, 0].tolist())
    assert not set(rows[1].action[:, 0].tolist()) & set(first.action[:, 0].tolist())


@pytest.mark.parametrize(
    ("kind", "chosen", "expected"),
    [
        (SAC, {}, (100, 256, 1.0)),
        (SAC, {"lr": 1e-3, "hidden": SMALL, "actor_every": 2}, (100, 256, 1.0)),
        (SAC, {"config": REDQ, "hidden": SMALL, "lr": 1e-3}, (5_000, 256, 20.0)),
        (SAC, {"config": DROQ, "dropout": 0.1}, (5_000, 256, 20.0)),
        (TD3, {}, (100, 256, 1.0)),
        (DQN, {"hidden": SMALL}, (1_000, 64, 1.0)),
        (DiscreteSAC, {}, (1_000, 64, 1.0)),
    ],
)
def test_learning_starts_from_the_settings_of_the_algorithm(
    kind: type[Agent], chosen: dict[str, Any], expected: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[OffPolicyConfig] = []
    monkeypatch.setattr(
        "mbrl.pipelines.off_policy.train_off_policy", lambda env, agent, config, **_: seen.append(config)
    )
    agent = kind(OBS, Discrete(2) if kind.discrete else Box(-1, 1, (1,)), **chosen)
    env = gym.make("Pendulum-v1")
    agent.learn(7_000, env).learn(6_000, env, update_ratio=3, device="cpu")
    assert (seen[0].initial_steps, seen[0].batch_size, seen[0].update_ratio) == expected
    assert (seen[1].initial_steps, seen[1].batch_size, seen[1].update_ratio) == (*expected[:2], 3)
    assert seen[0].total_timesteps == 7_000


def test_names_that_are_no_settings_are_told() -> None:
    box = Box(-1, 1, (1,))
    with pytest.raises(ValueError, match=r"learning_rate: expected hyperparameters of SAC, which are hidden, lr, tau,"):
        SAC(OBS, box, learning_rate=1e-3)
    with pytest.raises(ValueError, match=r"learning_starts, gamma: expected settings of learn, which are total_time"):
        SAC(OBS, box, hidden=SMALL).learn(200, gym.make("Pendulum-v1"), learning_starts=10, gamma=0.9)


@pytest.mark.parametrize("kind", [SAC, TD3, DDPG, DQN, DiscreteSAC])
def test_only_policies_that_are_stochastic_are_sampled_by_predict(kind: type[Agent]) -> None:
    """DQN draws its epsilon here, as stable-baselines3 does; TD3 and DDPG have noise in training only."""
    agent = kind(OBS, Discrete(5) if kind.discrete else Box(-1, 1, (1,)), hidden=SMALL)
    obs = np.zeros((200, 3), dtype=np.float32)
    assert len(np.unique(agent.predict(obs, deterministic=True)[0])) == 1
    assert (len(np.unique(agent.predict(obs)[0])) > 1) is agent.samples
    assert len(np.unique(agent.explore(obs, torch.Generator().manual_seed(0)))) > 1
    assert agent.samples is (kind not in (TD3, DDPG))


def test_predicting_does_not_disturb_training() -> None:
    def evaluate(agent: Agent, steps: int) -> dict[str, float]:
        sampled, best = (agent.predict(np.zeros(3, dtype=np.float32), deterministic=d)[0] for d in (False, True))
        return {"eval/mean_reward": float(sampled[0] + best[0])}

    watched, alone = Memory(), Memory()
    train("sac", replace(TINY, eval_every=10), watched, evaluate=evaluate)
    train("sac", replace(TINY, eval_every=10), alone)
    same(watched.saved[-1][0], alone.saved[-1][0])
    assert [row["time/total_timesteps"] for row in watched.rows if "eval/mean_reward" in row] == [
        10,
        20,
        30,
        40,
        50,
        60,
    ]


def test_predictions_have_the_shape_of_what_was_asked() -> None:
    env = gym.make("Pendulum-v1")
    agent = SAC(env.observation_space, env.action_space, hidden=SMALL)
    one, several = np.zeros(3, dtype=np.float32), np.zeros((4, 3), dtype=np.float32)
    assert agent.predict(one)[0].shape == (1,)
    assert agent.predict(several, state="kept")[1] == "kept"
    assert agent.predict(several)[0].dtype == np.float32
    assert len(np.unique(agent.predict(several)[0])) == 4
    assert len(np.unique(agent.predict(several, deterministic=True)[0])) == 1
    discrete = DQN(env.observation_space, Discrete(2), hidden=SMALL)
    assert discrete.predict(one)[0].shape == ()
    assert discrete.predict(several)[0].shape == (4,)


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


def test_other_settings_are_refused_unless_they_are_accepted() -> None:
    first = Memory()
    train("sac", recorder=first)
    changed = replace(TINY, total_timesteps=80, discount=0.9)
    message = r"discount: 0\.99 -> 0\.9.*accept"
    with pytest.raises(ValueError, match=message):
        train("sac", changed, Memory(first.saved[-1]))
    going_on = Memory(first.saved[-1], accept=True)
    assert train("sac", changed, going_on).steps == 80
    assert going_on.saved[-1][1]["settings"]["discount"] == 0.9


def test_settings_that_only_one_side_knows_are_no_difference() -> None:
    assert differences({"a": 1, "old": 2, "t": [1]}, {"a": 3, "new": 4, "t": (1,)}) == {"a": (1, 3)}


def make_async() -> gym.vector.VectorEnv:
    from mbrl.envs.vector import make_vector_env

    return make_vector_env("Pendulum-v1", 2, kind="async")


def test_workers_go_on_with_new_episodes_and_say_so() -> None:
    env, config, first = make_async(), replace(TINY, num_envs=2, buffer_size=100), Memory()
    try:
        agent = SAC(env.single_observation_space, env.single_action_space, hidden=SMALL)
        train_off_policy(env, agent, replace(config, total_timesteps=40), recorder=first)
        again = SAC(env.single_observation_space, env.single_action_space, hidden=SMALL)
        rest = Memory(first.saved[-1], accept=True)
        with pytest.warns(UserWarning, match="new episodes") as caught:
            result = train_off_policy(env, again, config, recorder=rest)
        assert len(caught) == 1
        assert result.steps == 60
        starts = result.buffer.all().obs[[0, -20]]  # of the first run's episode, and of the second's
        assert not torch.equal(starts[0], starts[1])
    finally:
        env.close()


def test_vectors_that_spend_steps_on_resets_are_refused() -> None:
    makes = [lambda: gym.make("Pendulum-v1")] * 2
    for wrap, mode in ((False, "DISABLED"), (True, "DISABLED"), (False, "NEXT_STEP")):
        env: Any = gym.vector.SyncVectorEnv(makes, autoreset_mode=gym.vector.AutoresetMode[mode])
        env = gym.wrappers.vector.RecordEpisodeStatistics(env) if wrap else env
        agent = SAC(env.single_observation_space, env.single_action_space, hidden=SMALL)
        assert agent.learn(40, env, initial_steps=38).steps == 40  # steps of a SyncVectorEnv are taken one by one
    env = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec("Pendulum-v1", num_envs=2))
    with pytest.raises(ValueError, match=r"spends no steps on resets.*AutoresetMode\.NEXT_STEP; make it with"):
        SAC(env.single_observation_space, env.single_action_space, hidden=SMALL).learn(40, env, initial_steps=38)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total_timesteps": 0}, "total_timesteps: expected at least 1"),
        ({"batch_size": 51}, r"batch_size: expected at most buffer_size \(50\), got 51"),
        ({"initial_steps": 60}, r"initial_steps: expected fewer than total_timesteps \(60\)"),
        ({"initial_steps": -1}, "initial_steps: expected 0"),
        ({"update_ratio": 0.0}, "update_ratio: expected a positive"),
        ({"discount": 1.1}, r"discount: expected a number in \[0, 1\]"),
        ({"vector": "threads"}, "vector: expected 'sync' or 'async'"),
        ({"updates": "quick"}, "updates: expected"),
        ({"device": "nowhere"}, "device: expected one that is here"),
        ({"num_envs": 2}, "num_envs: expected 1, as env has, got 2"),
    ],
    ids=str,
)
def test_a_setting_that_can_not_be_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train("sac", replace(TINY, **change))


class Spaces(NamedTuple):
    kind: type[Agent]
    observation_space: gym.Space
    action_space: gym.Space


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        (Spaces(SAC, OBS, Discrete(3)), r"SAC is for continuous actions, got Discrete\(3\): use DQN or DiscreteSAC"),
        (Spaces(TD3, OBS, Discrete(3)), "TD3 is for continuous actions"),
        (Spaces(DDPG, OBS, Discrete(3)), "DDPG is for continuous actions"),
        (Spaces(DQN, OBS, Box(-1, 1, (1,))), r"DQN is for discrete actions, got Box.*: use SAC, TD3 or DDPG"),
        (Spaces(DiscreteSAC, OBS, Box(-1, 1, (1,))), "DiscreteSAC is for discrete actions"),
        (Spaces(DQN, OBS, Discrete(3, start=1)), "discrete actions from 0"),
        (Spaces(SAC, Discrete(3), Box(-1, 1, (1,))), "observations in Discrete"),
        (Spaces(SAC, OBS, Box(-np.inf, 1, (1,))), "finite action bounds"),
    ],
    ids=str,
)
def test_spaces_that_an_agent_can_not_use(spaces: Spaces, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spaces.kind(spaces.observation_space, spaces.action_space)


def test_an_environment_must_fit_the_agent() -> None:
    agent = SAC(OBS, Box(-1, 1, (2,)), hidden=SMALL)
    with pytest.raises(ValueError, match="env: expected action_space"):
        agent.learn(200, gym.make("Pendulum-v1"))
    narrow = SAC(gym.make("Pendulum-v1").observation_space, Box(-1, 1, (1,)), hidden=SMALL)
    with pytest.raises(ValueError, match=r"env: expected action_space Box\(-1.*got Box\(-2"):
        narrow.learn(200, gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match=r"SAC is for continuous actions, got Discrete\(2\): use DQN"):
        narrow.learn(200, gym.make("CartPole-v1"))


@pytest.mark.parametrize("obs", [np.zeros(4), np.array([0.0, np.nan, 0.0])], ids=["size", "nan"])
def test_observations_are_checked(obs: np.ndarray) -> None:
    with pytest.raises(ValueError, match="observation: expected"):
        SAC(OBS, Box(-1, 1, (2,)), hidden=SMALL).predict(obs)
