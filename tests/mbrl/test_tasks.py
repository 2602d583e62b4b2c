"""Known tasks against the real environments, and `verify` against functions that are wrong."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.envs import Task, make_env, simulator, task, verify
from mbrl.types import TransitionBatch

IDS = ["mbrl/CartPoleSwingUp-v0", "InvertedPendulum-v5", "Reacher-v5", "HalfCheetah-v5", "Hopper-v5"]


def collect(env: gym.Env, steps: int) -> TransitionBatch:
    rows: list[tuple[Any, ...]] = []
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    for _ in range(steps):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, next_obs, terminated, truncated))
        obs = env.reset()[0] if terminated or truncated else next_obs
    columns = [torch.as_tensor(np.array(column)) for column in zip(*rows, strict=True)]
    return TransitionBatch(*columns, discount=1.0 - columns[4].double(), log_prob=torch.full((steps,), torch.nan))


@pytest.mark.parametrize("env_id", IDS)
def test_tasks_agree_with_the_environments(env_id: str) -> None:
    env = make_env(env_id)
    known, batch = task(env), collect(env, 400)
    assert known == known
    assert known.reward is not None
    verify(known, batch, tolerance=1e-5)
    reward = known.reward(batch.obs, batch.action.double(), batch.next_obs)
    assert reward.shape == (400,)
    assert known.reward(batch.obs.float(), batch.action, batch.next_obs.float()).dtype == torch.float32
    if env_id in ("InvertedPendulum-v5", "Hopper-v5"):
        assert batch.terminated.any()


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("Reacher-v5", {"reward_dist_weight": 2.0, "reward_control_weight": 0.5, "frame_skip": 3}),
        ("HalfCheetah-v5", {"forward_reward_weight": 3.0, "ctrl_cost_weight": 1.0, "frame_skip": 2}),
        ("Hopper-v5", {"healthy_reward": 2.0, "terminate_when_unhealthy": False, "frame_skip": 3}),
        ("Hopper-v5", {"healthy_state_range": (-3.0, 3.0), "healthy_angle_range": (-0.1, 0.1)}),
        ("InvertedPendulum-v5", {"frame_skip": 4, "reset_noise_scale": 0.1}),
    ],
)
def test_options_of_the_environment_are_followed(env_id: str, options: dict[str, Any]) -> None:
    env = make_env(env_id, **options)
    verify(task(env), collect(env, 200), tolerance=1e-5)


def test_without_x_the_reward_is_unknown_and_the_end_is_not() -> None:
    assert task(gym.make("HalfCheetah-v5")).reward is None
    hopper = gym.make("Hopper-v5")
    known = task(hopper)
    assert known.reward is None
    assert known.ignored_inputs == ()
    batch = collect(hopper, 200)
    assert batch.terminated.any()
    verify(known, batch)
    assert task("Hopper-v5").ignored_inputs == (0,)  # as make_env makes it


def test_what_the_library_does_not_know() -> None:
    assert task("Pendulum-v1") is None
    assert task(gym.make("Pendulum-v1")) is None
    assert task(make_env("HalfCheetah-v5", xml_file="half_cheetah.xml")) is None
    with pytest.raises(ValueError, match=r"env: expected one of .*Reacher-v5.*, got Pendulum-v1"):
        simulator("Pendulum-v1")


def test_a_vector_has_the_task_of_its_environments() -> None:
    known = task(gym.vector.SyncVectorEnv([lambda: make_env("Hopper-v5")] * 2))
    assert known.env_id == "Hopper-v5"
    assert known.reward is not None
    assert task(gym.vector.SyncVectorEnv([lambda: gym.make("Hopper-v5")] * 2)).reward is None


def test_verify_shows_the_first_disagreement() -> None:
    env = make_env("HalfCheetah-v5")
    known, batch = task(env), collect(env, 20)
    reward = batch.reward.clone()
    reward[7] += 2e-4 * reward[7].abs().clamp(min=0.01)
    with pytest.raises(ValueError, match=r"HalfCheetah-v5: the task's reward disagrees .* row 7 of 20") as caught:
        verify(known, batch._replace(reward=reward))
    for shown in (batch.obs[7], batch.action[7], batch.next_obs[7], reward[7]):
        assert str(shown.tolist()) in str(caught.value)
    reward[7] = torch.nan
    with pytest.raises(ValueError, match=r"row 7 of 20"):
        verify(known, batch._replace(reward=reward))
    terminated = batch.terminated.clone()
    terminated[3] = True
    with pytest.raises(ValueError, match=r"terminated disagrees .* row 3 of 20"):
        verify(known, batch._replace(terminated=terminated))


def test_verify_finds_a_wrong_function() -> None:
    def no_control_cost(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return (next_obs[:, 0] - obs[:, 0]) / 0.05

    env = make_env("HalfCheetah-v5")
    known: Task = replace(task(env), reward=no_control_cost)
    with pytest.raises(ValueError, match=r"row 0 of 5"):
        verify(known, collect(env, 5))


def test_a_hopper_that_ends_for_a_hidden_velocity_is_excused() -> None:
    """An end with a clipped velocity may be one beyond +-100; without one, or with no end, nothing is excused."""
    known = task("Hopper-v5")
    obs = torch.zeros(1, 12, dtype=torch.float64)
    obs[0, 1] = 1.2
    fast = obs.clone()
    fast[0, 9] = 10.0
    batch = TransitionBatch(
        obs,
        torch.zeros(1, 3),
        torch.zeros(1, dtype=torch.float64),  # no healthy reward: the environment saw more
        fast,
        torch.tensor([True]),
        torch.tensor([False]),
        torch.zeros(1),
        torch.zeros(1),
    )
    verify(known, batch)
    with pytest.raises(ValueError, match=r"terminated disagrees"):
        verify(known, batch._replace(next_obs=obs))
    with pytest.raises(ValueError, match=r"reward disagrees"):
        verify(known, batch._replace(terminated=torch.tensor([False])))


def test_the_simulated_hopper_sees_the_hidden_velocity() -> None:
    env = make_env("Hopper-v5")
    env.reset(seed=0)
    model = simulator(env, threads=1)
    env.unwrapped.data.qvel[5] = 400.0
    state = model.state_of(env)
    after, step = model.step(state, torch.zeros(1, 3))
    _, reward, terminated, _, _ = env.step(np.zeros(3))
    assert abs(env.unwrapped.data.qvel).max() > 100
    assert terminated
    assert step.terminated.item()
    assert step.reward.item() == pytest.approx(reward, abs=1e-10)
    assert after.obs.abs().max() <= 10


def test_the_pendulums_objective_is_positive_and_highest_upright_at_the_centre() -> None:
    objective = task("InvertedPendulum-v5").objective
    states = torch.tensor([[0.0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0.1, 0, 0], [0, 0.3, 0, 0]], dtype=torch.float64)
    value = objective(states, states[:, :1], states)
    assert value[0] == 1
    assert (value[1:] < 1).all()
    assert (value > 0).all()
    assert value[3] < value[2]


def test_the_pendulums_objective_leans_the_pole_back_to_the_centre():
    objective = task("InvertedPendulum-v5").objective
    angle = torch.linspace(-0.2, 0.2, 401, dtype=torch.float64)
    still = torch.zeros_like(angle)

    def best(x: float, velocity: float) -> float:
        states = torch.stack([still + x, angle, still + velocity, still], 1)
        return float(angle[objective(states, states[:, :1], states).argmax()])

    assert best(0.5, 0.0) < -0.05 < 0.05 < best(-0.5, 0.0)
    assert best(0.0, 0.3) < -0.03 < 0.03 < best(0.0, -0.3)


def test_a_push_on_the_cart_leaves_the_pendulums_objective_alone():
    """It changes velocity and turning rate by (1, -1 / 0.4): the centre of percussion moves on as before."""
    objective = task("InvertedPendulum-v5").objective
    states = torch.tensor([[0.3, -0.05, 0.2, 0.1], [-0.4, 0.1, -0.5, 0.6]], dtype=torch.float64)
    pushed = states + 0.7 * torch.tensor([0.0, 0.0, 1.0, -1 / 0.4], dtype=torch.float64)
    torch.testing.assert_close(objective(states, states[:, :1], states), objective(pushed, states[:, :1], pushed))
