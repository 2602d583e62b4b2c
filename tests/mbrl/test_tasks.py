"""Known tasks against the real environments, and `verify` against functions that are wrong."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.envs import Task, make_env, simulator, task, true_model, verify
from mbrl.pipelines.pets_config import PETSConfig
from mbrl.pipelines.pets_config import preset as pets_preset
from mbrl.types import TransitionBatch
from planners import FunctionDynamics
from planners.simulator import Simulator
from planners.testing import check_dynamics

OBSERVED = [
    "mbrl/CartPoleSwingUp-v0", "Pendulum-v1", "CartPole-v1", "InvertedPendulum-v5", "InvertedDoublePendulum-v5",
    "Reacher-v5", "Pusher-v5", "Swimmer-v5", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "HumanoidStandup-v5",
]  # fmt: skip
"""Tasks whose observation tells the reward."""
HIDDEN = ["Ant-v5", "Humanoid-v5"]
ENDING = {
    "CartPole-v1", "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5",
    "Humanoid-v5",
}  # fmt: skip


def make(env_id: str, **options: Any) -> gym.Env:
    return gym.make(env_id, **options) if env_id == "CartPole-v1" else make_env(env_id, **options)


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


@pytest.mark.parametrize("env_id", [*OBSERVED, *HIDDEN])
def test_tasks_agree_with_the_environments(env_id: str) -> None:
    env = make(env_id)
    known, batch = task(env), collect(env, 400)
    assert known == known
    assert (known.reward is None) == (env_id in HIDDEN)
    assert (known.termination is not None) == (env_id in ENDING)
    assert batch.terminated.any() == (env_id in ENDING)
    verify(known, batch, tolerance=2e-5)
    if known.reward is not None:
        assert known.hidden_reward is None or not known.hidden_reward(batch.obs, batch.action, batch.next_obs).all()
        action = batch.action.double() if batch.action.is_floating_point() else batch.action
        assert known.reward(batch.obs, action, batch.next_obs).shape == (400,)
        assert known.reward(batch.obs.float(), batch.action, batch.next_obs.float()).dtype == torch.float32


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_a_formula_replays_the_environment(env_id: str) -> None:
    """From the environment's own state in float64, step after step, though it is observed in float32."""
    env = gym.make(env_id)
    model = true_model(env)
    env.action_space.seed(1)
    for seed in range(3):
        env.reset(seed=seed)
        state = torch.as_tensor(env.unwrapped.state)[None]
        if env_id == "Pendulum-v1":
            state = torch.stack([state[:, 0].cos(), state[:, 0].sin(), state[:, 1]], 1)
        for _ in range(200):
            action = env.action_space.sample()
            if env_id == "Pendulum-v1":
                action = action.astype(np.float64)  # or it multiplies in float32
            obs, reward, terminated, truncated, _ = env.step(action)
            state, step = model.step(state, torch.as_tensor(action)[None])
            np.testing.assert_allclose(step.obs[0].numpy(), obs, rtol=1e-6, atol=1e-6)
            assert step.reward.item() == pytest.approx(reward, rel=1e-10, abs=1e-10)
            assert step.terminated.item() == terminated
            if terminated or truncated:
                break
        assert terminated or truncated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_formulas_obey_the_laws_of_dynamics(env_id: str, dtype: torch.dtype) -> None:
    stream = torch.Generator().manual_seed(0)
    if env_id == "CartPole-v1":
        obs, actions = 0.1 * torch.randn(6, 4, generator=stream), torch.randint(2, (4, 6), generator=stream)
    else:
        angle = 6 * torch.rand(6, generator=stream)
        obs = torch.stack([angle.cos(), angle.sin(), torch.randn(6, generator=stream)], 1)
        actions = (6 * torch.rand(4, 6, 1, generator=stream) - 3).to(dtype)  # beyond the bounds of 2, too
    check_dynamics(true_model(env_id), obs.to(dtype), actions, particles=3)


def test_true_models() -> None:
    assert isinstance(true_model("Pendulum-v1"), FunctionDynamics)
    assert isinstance(true_model(make_env("Reacher-v5"), threads=1), Simulator)
    with pytest.raises(ValueError, match=r"env: expected one of .*, got MountainCar-v0"):
        true_model(gym.make("MountainCar-v0"))


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("Reacher-v5", {"reward_dist_weight": 2.0, "reward_control_weight": 0.5, "frame_skip": 3}),
        ("HalfCheetah-v5", {"forward_reward_weight": 3.0, "ctrl_cost_weight": 1.0, "frame_skip": 2}),
        ("Hopper-v5", {"healthy_reward": 2.0, "terminate_when_unhealthy": False, "frame_skip": 3}),
        ("Hopper-v5", {"healthy_state_range": (-3.0, 3.0), "healthy_angle_range": (-0.1, 0.1)}),
        ("InvertedPendulum-v5", {"frame_skip": 4, "reset_noise_scale": 0.1}),
        ("InvertedDoublePendulum-v5", {"frame_skip": 2, "healthy_reward": 3.0}),
        ("Pendulum-v1", {"g": 3.0}),
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("Pusher-v5", {"reward_near_weight": 2.0, "reward_dist_weight": 0.1, "reward_control_weight": 1.0}),
        ("Swimmer-v5", {"frame_skip": 2, "forward_reward_weight": 2.0, "ctrl_cost_weight": 1.0}),
        ("Walker2d-v5", {"healthy_reward": 0.5, "healthy_z_range": (1.0, 1.3), "healthy_angle_range": (-0.2, 0.3)}),
        ("Walker2d-v5", {"terminate_when_unhealthy": False, "frame_skip": 2}),
        ("Ant-v5", {"healthy_z_range": (0.4, 0.8), "exclude_current_positions_from_observation": False}),
        ("Humanoid-v5", {"healthy_z_range": (1.2, 1.5), "include_cinert_in_observation": False}),
        ("HumanoidStandup-v5", {"ctrl_cost_weight": 1.0, "impact_cost_weight": 1e-3, "impact_cost_range": (-1.0, 1.0)}),
        ("HumanoidStandup-v5", {"exclude_current_positions_from_observation": False, "frame_skip": 3}),
    ],
)
def test_options_of_the_environment_are_followed(env_id: str, options: dict[str, Any]) -> None:
    env = make(env_id, **options)
    verify(task(env), collect(env, 200), tolerance=2e-5)


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


def test_an_id_with_its_module_is_the_same_task() -> None:
    known = task("gymnasium.envs.mujoco:HalfCheetah-v5")
    assert known is not None
    assert known.reward is not None
    assert (
        pets_preset("gymnasium.envs.mujoco:InvertedPendulum-v5") == pets_preset("InvertedPendulum-v5") != PETSConfig()
    )


def test_what_a_wrapper_may_change_is_not_taken_for_known() -> None:
    """A reward may depend on x, and columns may be others."""
    env = make_env("HalfCheetah-v5")
    known, watched = task(env), task(gym.wrappers.RecordEpisodeStatistics(env))
    assert known.ignored_inputs == watched.ignored_inputs == (0,)
    assert watched.terminal_value is not None
    for wrapped in (gym.wrappers.TransformReward(env, lambda r: -r), gym.Wrapper(env)):
        assert task(wrapped).ignored_inputs == ()
        assert task(wrapped).terminal_value is None
    assert task(gym.make("CartPole-v1")).ignored_inputs == (0,)
    assert task(gym.make("CartPole-v1", sutton_barto_reward=True)).ignored_inputs == ()


@pytest.mark.parametrize("model", [true_model, simulator])
def test_true_models_of_other_actions_are_refused(model: Callable[..., Any]) -> None:
    """Plans in [-1, 1] would be executed as three times as much."""
    env = gym.wrappers.RescaleAction(make_env("InvertedPendulum-v5"), np.float32(-1), np.float32(1))
    with pytest.raises(ValueError, match=r"^env: expected actions in Box\(-3.0, 3.0.* got Box\(-1.0, 1.0"):
        model(env)


def test_what_the_library_does_not_know() -> None:
    assert task("MountainCar-v0") is None
    assert task(gym.make("MountainCar-v0")) is None
    assert task(make_env("HalfCheetah-v5", xml_file="half_cheetah.xml")) is None
    assert task(gym.make("Ant-v5", main_body=2)) is None
    with pytest.raises(ValueError, match=r"env: expected one of .*Reacher-v5.*, got MountainCar-v0"):
        simulator("MountainCar-v0")
    with pytest.raises(ValueError, match=r"env: expected a MuJoCo task, got Pendulum-v1, .*true_model"):
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
    assert step.reward.item() == pytest.approx(reward, rel=1e-10, abs=1e-10)
    assert after.obs.abs().max() <= 10


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "CartPole-v1"])
def test_balance_is_positive_and_highest_upright_at_the_centre(env_id: str) -> None:
    known = task(env_id)

    def objective(obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        # The pendulum observes (x, angle, velocity, turn), the cart-pole (x, velocity, angle, turn).
        order = [0, 2, 1, 3] if env_id == "CartPole-v1" else [0, 1, 2, 3]
        return known.objective(obs, action, next_obs[:, order])

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


def test_what_the_double_pendulum_hides_is_excused_and_nothing_else() -> None:
    """An end within a millimetre of 1 m, whichever way, and the reward of clipped velocities."""
    known = task("InvertedDoublePendulum-v5")
    angle = np.arccos(0.8333)  # the tip stands at 1.0000 m
    obs = torch.tensor([[0.0, np.sin(angle), 0.0, np.cos(angle), 1.0, 0.0, 0.0, 0.0, 0.0]])
    action = torch.zeros(1, 1)
    no, yes = torch.tensor([False]), torch.tensor([True])
    real = TransitionBatch(obs, action, known.reward(obs, action, obs), obs, no, no, torch.ones(1), torch.zeros(1))
    both = [real._replace(terminated=no), real._replace(terminated=yes)]
    for batch in both:
        verify(known, batch)
    higher = obs.clone()
    higher[0, 1], higher[0, 3] = 0.0, 1.0
    upright = real._replace(next_obs=higher, reward=known.reward(obs, action, higher))
    verify(known, upright)
    with pytest.raises(ValueError, match=r"terminated disagrees"):
        verify(known, upright._replace(terminated=yes))
    with pytest.raises(ValueError, match=r"reward disagrees"):
        verify(known, upright._replace(reward=upright.reward - 1.0))
    fast = higher.clone()
    fast[0, 7] = 10.0
    verify(known, upright._replace(next_obs=fast, reward=upright.reward - 1.0))
