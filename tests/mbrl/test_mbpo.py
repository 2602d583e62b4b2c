"""MBPO on real environments with tiny budgets: whose rows are in a batch, what the model is, and going on exactly."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from mbrl.data.buffer import ReplayBuffer
from mbrl.envs.tasks import task
from mbrl.learners.sac import SACConfig
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.bookkeeping import Counters
from mbrl.pipelines.imagined import Imagined
from mbrl.pipelines.learned_model import LearnedModel
from mbrl.pipelines.mbpo import MBPOResult, train_mbpo
from mbrl.pipelines.mbpo_config import PRESETS, MBPOConfig, mbpo_preset
from mbrl.pipelines.model_rows import ModelRows
from mbrl.pipelines.schedules import Ramp
from mbrl.types import TransitionBatch
from planners.rows import leaves
from tests.mbrl.memory import Memory, same

TINY = MBPOConfig(
    total_timesteps=100,
    initial_steps=40,
    update_ratio=1,
    batch_size=20,
    real_fraction=0.25,
    buffer_size=200,
    model_every=20,
    rollout_starts=30,
    rollout_length=Ramp(1, 3, start=40, end=80),
    retain_steps=40,
    members=3,
    elites=2,
    model_hidden=(8,),
    model_batch_size=16,
    model_max_steps=10,
    diagnostic_horizons=(1, 3),
    eval_every=0,
    checkpoint_every=25,
)


def make_agent(env: gym.Env, **kwargs: Any) -> SAC:
    return SAC(env.observation_space, env.action_space, 1, hidden=(8, 8), **kwargs)


def train(config: MBPOConfig = TINY, recorder: Memory | None = None, env_id: str = "InvertedPendulum-v5", **extra: Any):
    env = gym.make(env_id)
    return train_mbpo(env, make_agent(env), config, seed=5, recorder=recorder, **extra)


@pytest.fixture(scope="module")
def result() -> MBPOResult:
    return train()


@pytest.mark.parametrize("changed", [{}, {"targets": "steve", "termination": "learned", "reward": "task"}])
def test_a_run_that_was_interrupted_is_the_run_that_was_not(changed: dict[str, Any]) -> None:
    config = replace(TINY, **changed)
    whole, broken = Memory(), Memory()
    train(config, whole)
    left = iter(range(66))
    train(config, broken, stop=lambda: next(left, None) is None)
    assert broken.saved[-1][1]["counters"]["steps"] == 67
    rest = Memory(broken.saved[-1])
    train(config, rest)
    same(rest.saved[-1][0], whole.saved[-1][0])
    assert [*broken.rows, *rest.rows] == whole.rows


def test_checkpoints_may_leave_the_model_rows_out() -> None:
    light = Memory()
    config = replace(TINY, checkpoint_model_buffer=False)
    left = iter(range(66))
    broken = train(config, light, stop=lambda: next(left, None) is None)
    assert not any(name.startswith("imagined/") for name in light.saved[-1][0])
    with pytest.warns(UserWarning, match="the checkpoint has no model rows.*not bit for bit") as warned:
        resumed = train(config, Memory(light.saved[-1]), stop=lambda: True)
    assert len(warned) == 1
    assert resumed.steps == 68
    assert len(resumed.model_buffer) >= len(broken.model_buffer) / 2  # terminations make them differ
    assert resumed.model_buffer.capacity == broken.model_buffer.capacity
    train(replace(config, total_timesteps=68), light)
    tensors, meta = light.saved[-1]
    finished = train(replace(config, total_timesteps=68), Memory((tensors, meta)))  # nothing is left to do
    assert finished.steps == 68
    assert finished.model_buffer is None


def test_a_model_that_says_nothing_finite_is_named(result: MBPOResult) -> None:
    env = gym.make("InvertedPendulum-v5")
    model = LearnedModel(task(env), result.policy, TINY, seed=0, reward=lambda o, a, n: n[:, 0] * torch.nan)
    made = Imagined(result.policy, model, result.buffer, TINY, 0, real_rows=TINY.real_rows)
    with pytest.raises(ValueError, match="model: expected finite predictions, got none in 30 rollouts after fit 3, at"):
        made.renew(Counters(steps=50, fits=3), 3, 1, 2)


def test_a_models_error_is_in_units_of_all_rows() -> None:
    env = gym.make("Pendulum-v1")
    model = LearnedModel(task(env), make_agent(env), TINY, seed=0)

    def error(earlier: float) -> Tensor:
        """On the same 20 newest rows behind 60 earlier ones that are so wide, in units of the observation."""
        g, zero = torch.Generator().manual_seed(0), torch.zeros(80)
        x = torch.randn(81, 1, generator=g).expand(81, 3).clone()
        x[:60] *= earlier
        buffer = ReplayBuffer(80, 3, 1)
        batch = TransitionBatch(x[:-1], zero[:, None], zero, x[1:], zero.bool(), zero.bool(), zero, zero)
        buffer.extend_rows(batch, torch.tensor([60, 20]))
        return model.diagnose(buffer, 20, 1, (1, 3))["model/rmse_3"] * buffer.all().obs[:, 0].std(correction=0)

    torch.testing.assert_close(error(10.0), error(1.0))


def test_targets_of_all_critics_are_refused_for_a_learner_of_some() -> None:
    env = gym.make("InvertedPendulum-v5")
    agent = make_agent(env, critics=3, subset=2)
    with pytest.raises(ValueError, match="subset: expected None with targets='mve', which are those of all"):
        train_mbpo(env, agent, replace(TINY, targets="mve"))


def test_the_seed_decides_everything_and_counts_are_exact(result: MBPOResult) -> None:
    memory = Memory()
    again = train(recorder=memory)
    for a, b in zip(leaves(result.policy.state), leaves(again.policy.state), strict=True):
        assert torch.equal(a, b)
    assert again.policy.updates == 60
    fits = [row for row in memory.rows if "model/holdout_mse" in row]
    assert [row["time/total_timesteps"] for row in fits] == [40, 60, 80, 100]
    assert {"model/rmse_1", "model/disagreement"} <= set(fits[1])
    lengths = [row["model/rollout_length"] for row in memory.rows if "model/rollout_length" in row]
    assert lengths == [1, 2, 3, 3]
    computed = [row["model/steps"] for row in memory.rows if "model/rollout_length" in row]
    assert computed == [30, 90, 180, 270]  # 30 starts each, whether rollouts ended early or not
    assert all(0 <= row["model/members_kept"] <= 3 for row in fits)
    assert memory.rows[-1]["model/gradient_steps"] <= 40
    episodes = [row for row in memory.rows if "rollout/ep_rew_mean" in row]
    assert {"train/q_mean", "train/ent_coef", "model/steps"} <= set(episodes[-1])
    assert again.model_buffer.capacity == 30 * 3 * 2


def imagined(result: MBPOResult, config: MBPOConfig) -> Imagined:
    """Batches of real rows with reward 1 and model rows with reward 2."""
    model: Any = None
    made = Imagined(result.policy, model, marked(1.0), config, 0, real_rows=config.real_rows)
    made.rows.buffer = marked(2.0)
    return made


def marked(reward: float) -> ReplayBuffer:
    buffer = ReplayBuffer(10, 4, 1)
    rows = train_rows()
    buffer.extend_rows(rows._replace(reward=torch.full_like(rows.reward, reward)))
    return buffer


def train_rows():
    buffer = ReplayBuffer(1, 4, 1)
    buffer._episode.zero_()
    buffer._filled = 1
    return buffer.all()


@pytest.mark.parametrize(("batch", "fraction", "real"), [(256, 0.05, 12), (20, 0.25, 5), (20, 0.0, 0), (20, 1.0, 20)])
def test_real_rows_are_in_every_batch_by_count(result: MBPOResult, batch: int, fraction: float, real: int) -> None:
    rows = imagined(result, replace(TINY, batch_size=batch, buffer_size=300, real_fraction=fraction))
    for n in range(20):  # a coin for each batch, or row, would give other counts now and then
        drawn = rows.draw(n)
        assert drawn.obs.shape == (1, batch, 4)
        assert int((drawn.reward == 1).sum()) == real
        assert int((drawn.reward == 2).sum()) == batch - real
        assert (drawn.discount == TINY.discount).all()


def test_rollouts_sample_the_policy_and_start_from_real_states(result: MBPOResult) -> None:
    env = gym.make("InvertedPendulum-v5")
    agent = make_agent(env)
    model = LearnedModel(task(env), agent, TINY, seed=0)
    model.ensemble.load_state_dict(result.ensemble.state_dict())
    made = Imagined(agent, model, result.buffer, replace(TINY, rollout_starts=500), 0, real_rows=5)
    made.renew(Counters(steps=50, fits=1), 1, 1, 2)
    assert made.rows.buffer is not None
    rows = made.rows.buffer.all()
    real = {tuple(row) for row in result.buffer.all().obs.tolist()}
    assert {tuple(row) for row in rows.obs.tolist()} <= real
    mean = agent.learner.act(agent.state, rows.obs[None])[0]
    assert (rows.action - mean).std() > 0.5  # of actions in [-3, 3]; mean actions would differ by 0


def test_training_acts_by_samples(result: MBPOResult) -> None:
    rows = result.buffer.all()
    policy, _ = result.policy.predict(rows.obs.numpy(), deterministic=True)
    spread = (rows.action.numpy() - policy)[TINY.initial_steps :].std()
    assert spread > 0.5  # of actions in [-3, 3]; the policy is as random as it was made


def test_the_model_ends_where_the_task_does_and_terminal_rows_are_the_last(result: MBPOResult) -> None:
    rows = result.model_buffer.all()
    fell = rows.next_obs[:, 1].abs() > 0.2
    assert torch.equal(rows.terminated, fell | ~rows.next_obs.isfinite().all(1))
    assert not (rows.obs[:, 1].abs() > 0.2).any()  # nothing branches off behind an end
    assert torch.equal(rows.discount, 1 - rows.terminated.float())


def test_model_rows_keep_the_newest_as_their_buffer_grows() -> None:
    rows = ModelRows(lambda capacity: ReplayBuffer(capacity, 4, 1), stored=True)
    for i, capacity in enumerate((2, 2, 4, 4)):
        part = train_rows()
        rows.extend(part._replace(reward=part.reward + i), capacity)
    assert rows.buffer is not None
    assert rows.buffer.all().reward.tolist() == [0, 1, 2, 3]
    again = ModelRows(lambda capacity: ReplayBuffer(capacity, 4, 1), stored=True)
    again.load_state_dict(rows.state_dict())
    assert again.buffer is not None
    assert again.buffer.all().reward.tolist() == [0, 1, 2, 3]


def test_an_agent_that_was_trained_before_goes_on_without_a_rush_of_fits() -> None:
    env, memory = gym.make("InvertedPendulum-v5"), Memory()
    agent = make_agent(env)
    train_mbpo(env, agent, TINY, seed=5)
    train_mbpo(env, agent, replace(TINY, total_timesteps=145), seed=6, recorder=memory)
    fits = [row["time/total_timesteps"] for row in memory.rows if "model/holdout_mse" in row]
    assert fits == [101, 120, 140]
    assert (agent.steps, agent.updates) == (145, 105)


@pytest.mark.parametrize("changed", [{"targets": "mve"}, {"elite_sampling": "ts1"}, {"real_fraction": 1.0}])
def test_options_run(changed: dict[str, Any]) -> None:
    done = train(replace(TINY, **changed))
    assert done.steps == 100
    assert (done.model_buffer is None) == ("real_fraction" in changed)


def test_the_task_is_verified_on_every_real_step() -> None:
    with pytest.raises(ValueError, match="the task's terminated disagrees"):
        train(termination=lambda obs, action, next_obs: next_obs[:, 1].abs() > 0.02)
    with pytest.raises(ValueError, match="the task's reward disagrees"):
        train(replace(TINY, termination="learned"), reward=lambda obs, action, next_obs: next_obs[:, 1])
    with pytest.raises(ValueError, match="reward: expected 'learned'"):
        train(replace(TINY, reward="task"), env_id="HalfCheetah-v5")  # as registered, without x


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"real_fraction": 1.5}, r"real_fraction: expected a share in \[0, 1\], got 1.5"),
        ({"real_fraction": -0.1}, "real_fraction: expected"),
        ({"rollout_starts": 0}, "rollout_starts: expected at least 1, got 0"),
        ({"retain_steps": 10}, r"retain_steps: expected at least model_every \(20\), got 10"),
        ({"initial_steps": -1}, "initial_steps: expected 0"),
        ({"elites": 4}, "elites: expected 1 to 3, as there are members, got 4"),
        ({"model_max_steps": 0}, "model_max_steps: expected at least 1, or None, got 0"),
        ({"holdout": 0.0}, r"holdout: expected a share in \(0, 1\)"),
        ({"termination": "sometimes"}, "termination: expected one of task, learned, never, got 'sometimes'"),
        ({"targets": "MVE"}, "targets: expected one of td, mve, steve, got 'MVE'"),
        ({"batch_size": 500}, "batch_size: expected at most buffer_size"),
        ({"model_lr": 0.0}, "model_lr: expected a positive step size"),
        (
            {"diagnostic_horizons": (0, 2)},
            r"diagnostic_horizons: expected numbers of steps from 1, or none, got",
        ),
        ({"rollout_length": 5}, r"rollout_length: expected a Ramp, such as Ramp\(5, 5\) for 5 steps throughout, got 5"),
    ],
)
def test_bad_settings(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changed)


def test_there_has_to_be_something_to_fit_the_model_to() -> None:
    with pytest.raises(ValueError, match="initial_steps: expected at least 1, for the model to be fitted to, got 0"):
        train(replace(TINY, initial_steps=0))


def test_a_schedule_beyond_the_episode() -> None:
    with pytest.raises(ValueError, match="rollout_length: expected rollouts within an episode, which ends after 1000"):
        train(replace(TINY, rollout_length=Ramp(1, 1001, start=0, end=50)))


def test_presets_fit_their_environments() -> None:
    for env_id, named in PRESETS.items():
        for preset in named.values():
            env = gym.make(env_id, **preset.env_kwargs)
            limit = env.spec.max_episode_steps
            assert preset.config.rollout_length.last <= limit
            size = env.observation_space.shape[0]
            assert {"Ant-v5": 27, "Humanoid-v5": 45}.get(env_id, size) == size
    assert mbpo_preset("Hopper-v5").config.rollout_length.at(100_000) == 15
    assert mbpo_preset("Hopper-v5", "reference").config.rollout_length.at(100_000) == 9
    assert mbpo_preset("Pusher-v5").config == MBPOConfig()
    assert MBPOConfig().real_rows == 12
    with pytest.raises(ValueError, match="preset: expected one of paper, reference for Hopper-v5, got 'small'"):
        mbpo_preset("Hopper-v5", "small")


# Janner et al. (2019) and the authors' code: updates a step, rollout length over real steps, target entropy, steps
# between fits, random steps first, steps, and real steps whose rows are kept.
TABLE = {
    ("InvertedPendulum-v5", "paper"): (10, Ramp(1, 1), -0.05, 250, 500, 20_000, 250),
    ("InvertedDoublePendulum-v5", "paper"): (10, Ramp(1, 1), -0.05, 250, 500, 20_000, 250),
    ("Hopper-v5", "paper"): (20, Ramp(1, 15, start=20_000, end=100_000), -1, 250, 5_000, 125_000, 1_000),
    ("Hopper-v5", "reference"): (20, Ramp(1, 15, start=20_000, end=150_000), -1, 250, 5_000, 125_000, 1_000),
    ("Walker2d-v5", "paper"): (20, Ramp(1, 1), -3, 250, 5_000, 300_000, 1_000),
    ("HalfCheetah-v5", "paper"): (40, Ramp(1, 1), -3, 250, 5_000, 400_000, 1_000),
    ("Ant-v5", "paper"): (20, Ramp(1, 25, start=20_000, end=100_000), -4, 250, 5_000, 300_000, 1_000),
    ("Humanoid-v5", "paper"): (20, Ramp(1, 25, start=20_000, end=300_000), -2, 1_000, 5_000, 300_000, 5_000),
}


@pytest.mark.parametrize(("env_id", "name"), TABLE)
def test_presets_are_the_published_ones(env_id: str, name: str) -> None:
    config, learner, _ = mbpo_preset(env_id, name)
    assert (
        config.update_ratio,
        config.rollout_length,
        learner.target_entropy,
        config.model_every,
        config.initial_steps,
        config.total_timesteps,
        config.retain_steps,
    ) == TABLE[env_id, name]
    width = 400 if env_id == "Humanoid-v5" else 200
    assert (config.members, config.elites, config.model_hidden) == (7, 5, (width,) * 4)
    assert (config.rollout_starts, config.batch_size, config.real_rows) == (100_000, 256, 12)
    assert learner == SACConfig(target_entropy=learner.target_entropy)
    assert (learner.hidden, learner.lr, learner.tau, config.discount) == ((256, 256), 3e-4, 0.005, 0.99)


def test_every_preset_but_the_small_ones_is_in_the_table() -> None:
    named = {(env_id, name) for env_id, presets in PRESETS.items() for name in presets}
    small = ("InvertedPendulum-v5", "Pendulum-v1", "Reacher-v5", "mbrl/CartPoleSwingUp-v0")
    assert named - set(TABLE) == {(env_id, "small") for env_id in small}


def test_updates_may_be_in_bfloat16(result: MBPOResult) -> None:
    rough = train(replace(TINY, precision="bfloat16")).policy
    assert rough.updates == result.policy.updates
    for got, exact in zip(leaves(rough.state.actor), leaves(result.policy.state.actor), strict=True):
        assert not torch.equal(got, exact)
