"""MOPO on a point on a line: with the true model it finds the best policy, and a huge penalty keeps it on the data."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch

from mbrl.learners.sac import SACConfig
from mbrl.pipelines.agents import SAC, Agent
from mbrl.pipelines.combo import COMBO
from mbrl.pipelines.dyna import train_dyna
from mbrl.pipelines.dyna_config import DynaConfig
from mbrl.pipelines.mbpo import train_mbpo
from mbrl.pipelines.mbpo_config import MBPOConfig
from mbrl.pipelines.model_training import ModelTrainingResult, memory_of
from mbrl.pipelines.mopo import train_mopo
from mbrl.pipelines.mopo_config import PRESETS, MOPOConfig, mopo_preset
from mbrl.pipelines.off_policy import train_off_policy
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.pipelines.offline import train_offline
from mbrl.pipelines.offline_agents import TD3BC
from mbrl.pipelines.offline_config import OfflineConfig
from mbrl.pipelines.offline_model import reward_scale
from planners.rows import leaves
from tests.mbrl.line_cases import LINE, line_dataset, line_reward, line_step
from tests.mbrl.memory import Memory, same
from tests.mbrl.published import RUNNERS, check_published

TINY = MOPOConfig(
    total_updates=24,
    batch_size=20,
    real_fraction=0.25,
    rollout_every=8,
    rollout_starts=20,
    rollout_length=2,
    retain_rounds=2,
    members=2,
    elites=2,
    model_hidden=(8,),
    model_max_steps=5,
    termination="never",
    log_every=6,
    eval_every=12,
    checkpoint_every=10,
)
LEARNS = replace(
    TINY,
    total_updates=500,
    batch_size=64,
    real_fraction=0.05,
    discount=0.8,
    rollout_every=100,
    rollout_starts=200,
    retain_rounds=3,
    members=4,
    elites=4,
    model_hidden=(32, 32),
    model_max_steps=300,
    model_batch_size=64,
)
pytestmark = pytest.mark.filterwarnings("ignore:termination. episodes of the model never end")


def train(config: MOPOConfig = TINY, recorder: Memory | None = None, data: Any = None, **extra: Any):
    dataset = data or line_dataset(100)
    learner = SACConfig(hidden=(8, 8)) if config.total_updates < 100 else SACConfig(hidden=(32, 32), lr=3e-3, tau=0.02)
    return train_mopo(dataset, SAC(*dataset.spaces(), 1, config=learner), config, seed=3, recorder=recorder, **extra)


def evaluate(agent: Any, updates: int) -> dict[str, float]:
    return {"eval/mean_reward": float(updates)}


def line_never(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(obs), dtype=torch.bool)


def mean_return(result: ModelTrainingResult) -> float:
    """Of five steps of the policy on the line, from -1 to 1; the best possible is about 4.5."""
    obs = torch.linspace(-1, 1, 21)[:, None]
    total = torch.zeros(21)
    for _ in range(5):
        action = result.policy.learner.act(result.policy.state, obs[None])[0]
        after = line_step(obs, action)
        total += line_reward(obs, action, after)
        obs = after
    return float(total.mean())


@pytest.mark.parametrize("changed", [{}, {"model_seed": 7, "penalty": "aleatoric", "penalty_units": "raw"}])
def test_a_run_that_was_interrupted_is_the_run_that_was_not(changed: dict[str, Any]) -> None:
    config, whole, broken = replace(TINY, **changed), Memory(), Memory()
    train(config, whole, evaluate=evaluate)
    left = iter(range(2))
    train(config, broken, evaluate=evaluate, stop=lambda: next(left, None) is None)
    assert 0 < broken.saved[-1][1]["counters"]["updates"] < 24
    rest = Memory(broken.saved[-1])
    train(config, rest, evaluate=evaluate)
    same(rest.saved[-1][0], whole.saved[-1][0])
    assert [*broken.rows, *rest.rows] == whole.rows


def test_checkpoints_may_leave_the_model_rows_out() -> None:
    config, light = replace(TINY, checkpoint_model_buffer=False), Memory()
    train(config, light, stop=lambda: True)
    assert not any(name.startswith("imagined/") for name in light.saved[-1][0])
    with pytest.warns(UserWarning, match="the checkpoint has no model rows"):
        resumed = train(config, Memory(light.saved[-1]))
    assert resumed.updates == 24


def test_what_is_logged_and_counted() -> None:
    memory = Memory()
    result = train(recorder=memory, evaluate=evaluate)
    assert (result.updates, result.policy.updates, result.policy.steps) == (24, 24, 0)
    assert len(result.model_buffer) == result.model_buffer.capacity == 20 * 2 * 2
    fits = [row for row in memory.rows if "model/holdout_mse" in row]
    rounds = [row for row in memory.rows if "model/rows" in row]
    assert [row["train/n_updates"] for row in fits] == [0]  # once
    assert [row["train/n_updates"] for row in rounds] == [0, 8, 16]
    assert [row["model/steps"] for row in rounds] == [40, 80, 120]
    assert all(row["model/penalty_mean"] > 0 for row in rounds)
    assert {row["time/total_timesteps"] for row in memory.rows} == {0}
    assert [row["train/n_updates"] for row in memory.rows if "eval/mean_reward" in row] == [12, 24]
    assert [row["train/n_updates"] for row in memory.rows if "train/q_mean" in row] == [6, 12, 18, 24]


def test_the_seed_decides_everything_and_other_data_are_noticed() -> None:
    memory = Memory()
    one, other = train(recorder=memory), train()
    assert all(torch.equal(a, b) for a, b in zip(leaves(one.policy.state), leaves(other.policy.state), strict=True))
    with pytest.raises(ValueError, match=r"settings: expected those of the checkpoint, got others \(dataset: "):
        train(recorder=Memory(memory.saved[0]), data=line_dataset(100, seed=1))


@pytest.mark.parametrize(
    ("given", "change"),
    [
        ({"reward": line_reward}, "reward: given -> learned"),
        ({"termination": line_never}, "termination: given -> never"),
        ({"dynamics": LINE}, "dynamics: given -> learned"),
    ],
)
def test_going_on_without_what_was_given_is_refused(given: dict[str, Any], change: str) -> None:
    memory = Memory()
    train(recorder=memory, stop=lambda: True, **given)
    with pytest.raises(ValueError, match=rf"settings: expected those of the checkpoint, got others \({change}\)"):
        train(recorder=Memory(memory.saved[-1]))
    assert train(recorder=Memory(memory.saved[-1]), **given).updates == 24


def test_rewards_are_lowered_by_the_penalty() -> None:
    free = train(replace(TINY, total_updates=1, penalty="none"))
    held = train(replace(TINY, total_updates=1, penalty_weight=5.0))
    a, b = free.model_buffer.all(), held.model_buffer.all()
    first = slice(0, 20)  # of each rollout: the same draws lead to the same states
    assert torch.equal(a.next_obs[first], b.next_obs[first])
    means = held.ensemble.predict(b.obs[first], b.action[first]).mean[..., :1]
    distance = (means - means.mean(0)).abs().amax(0)[:, 0] / held.ensemble.targets.std[0]
    expected = 5.0 * reward_scale(line_dataset(100)) * distance
    torch.testing.assert_close(a.reward[first] - b.reward[first], expected, rtol=1e-4, atol=1e-5)


def test_every_round_of_rollouts_has_its_own_random_numbers() -> None:
    """Rounds start from other states, as made in their turn and as made anew for a checkpoint that has none."""
    config, light = replace(TINY, total_updates=12, checkpoint_model_buffer=False), Memory()
    train(config, light)
    made = train(config)
    with pytest.warns(UserWarning, match="the checkpoint has no model rows"):
        anew = train(replace(config, total_updates=13), Memory(light.saved[-1], accept=True))
    for result in (made, anew):
        rounds = result.model_buffer.all().obs.view(2, 2, 20)  # of two steps each, 20 rows long
        assert not torch.equal(rounds[0, 0], rounds[1, 0])


def test_the_memory_is_that_of_the_agents_numbers() -> None:
    data = line_dataset(100)
    agent = SAC(*data.spaces(), hidden=(8,))
    single = memory_of(data, agent, TINY)
    agent.learner = replace(agent.learner, dtype=torch.float64)
    double, index = memory_of(data, agent, TINY), {"dataset": 8 * 100, "rollout_starts": 8 * 20 * 2 * 2}
    assert {name: 2 * (single[name] - size) + size for name, size in index.items()} == double


def test_the_scale_of_rewards() -> None:
    data = line_dataset(100)
    assert reward_scale(data) == pytest.approx(float((torch.from_numpy(data.rewards).double() ** 2).mean().sqrt()))
    assert reward_scale(replace(data, rewards=0 * data.rewards)) == 1.0


def test_with_the_true_model_it_finds_the_best_policy() -> None:
    """From data that stay far from the goal: a model that is right needs no penalty."""
    data = line_dataset(200, low=-1.0, high=0.0)
    result = train(LEARNS, data=data, dynamics=LINE)
    assert result.ensemble is None
    assert mean_return(result) > 4.2


def test_a_huge_penalty_keeps_the_policy_on_the_data() -> None:
    """Data have actions from -0.3 to 0.3 alone; far to the left of the goal larger ones are better."""
    data = line_dataset(400, low=-0.3, high=0.3)
    obs = torch.linspace(-0.9, -0.3, 50)[:, None]

    def size(weight: float) -> float:
        result = train(replace(LEARNS, total_updates=400, penalty_weight=weight), data=data)
        action = result.policy.learner.act(result.policy.state, obs[None])[0]
        return float(action.abs().mean())

    assert size(0.0) > 0.6
    assert size(1e3) < 0.35


def test_bad_settings_and_agents() -> None:
    for changed, message in (
        ({"real_fraction": 1.0}, r"real_fraction: expected a share in \[0, 1\), got 1.0; without model rows"),
        ({"penalty": "variance"}, "penalty: expected one of aleatoric, pairwise"),
        ({"penalty_units": "feet"}, "penalty_units: expected one of data, raw"),
        ({"penalty_weight": -1.0}, "penalty_weight: expected a finite number of 0 or more"),
        ({"rollout_length": 0}, "rollout_length: expected at least 1, got 0"),
        ({"retain_rounds": 0}, "retain_rounds: expected at least 1"),
        ({"discount": 1.5}, r"discount: expected a number in \[0, 1\]"),
        ({"eval_every": -1}, r"eval_every: expected 0 \(none\) or more"),
        ({"elites": 3}, "elites: expected 1 to 2, as there are members, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(TINY, **changed)
    other = line_dataset(20)
    two = replace(other, observations=other.observations.repeat(2, 1))
    with pytest.raises(ValueError, match="dataset: expected observations and actions of 2 and 1 numbers, as the agent"):
        train_mopo(other, SAC(*two.spaces()), TINY)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (COMBO, r"agent: expected one whose learner takes all rows of a batch alike, .* got COMBO.*train_combo"),
        (TD3BC, r"agent: expected one whose learner takes observations as they are, .* got TD3BC.*train_offline"),
    ],
)
def test_learners_that_need_another_loop_are_refused(kind: type[Agent], message: str) -> None:
    dataset, env = line_dataset(100), gym.make("Pendulum-v1")
    with pytest.raises(ValueError, match=message):
        train_mopo(dataset, kind(*dataset.spaces(), hidden=(8,)), TINY)
    agent = kind(env.observation_space, env.action_space, hidden=(8,))
    loops: list[Any] = [(train_mbpo, MBPOConfig()), (train_dyna, DynaConfig()), (train_off_policy, OffPolicyConfig())]
    for train_in, config in loops:
        with pytest.raises(ValueError, match=message):
            train_in(env, agent, config)
    if kind is COMBO:
        with pytest.raises(ValueError, match=message):
            train_offline(dataset, kind(*dataset.spaces(), hidden=(8,)), OfflineConfig())


@pytest.mark.parametrize("given", [{"reward": line_reward}, {"termination": line_never}])
def test_rewards_and_ends_beside_dynamics_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))}: expected None beside dynamics, which have their own"):
        train(dynamics=LINE, **given)


def test_a_learner_that_has_its_datasets_scaling_goes_on() -> None:
    dataset = line_dataset(100)
    agent = TD3BC(*dataset.spaces(), hidden=(8,)).learn(2, dataset)
    assert train_mopo(dataset, agent, TINY).updates == TINY.total_updates


@pytest.mark.parametrize("env_id", RUNNERS)
def test_presets_are_the_published_ones(env_id: str) -> None:
    published, default = mopo_preset(env_id, "published"), mopo_preset(env_id)
    check_published("mopo", env_id, published)
    own = replace(published.config, penalty="pairwise", penalty_weight=1.0, penalty_units="data")
    assert default == published._replace(config=own)


def test_other_presets() -> None:
    assert set(PRESETS) - set(RUNNERS) == {"Pendulum-v1", "InvertedPendulum-v5"}
    assert mopo_preset("Pusher-v5").config == MOPOConfig()
    with pytest.raises(ValueError, match="preset: expected one of default, published for Hopper-v5, got 'small'"):
        mopo_preset("Hopper-v5", "small")
