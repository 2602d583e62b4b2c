"""The simulator as dynamics: it replays Gymnasium exactly, rows are independent, and divergence never looks good."""

from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from mbrl.envs import make_env, simulator
from planners import Problem, evaluate_plans
from planners.rows import map_rows, repeat_rows
from planners.simulator import SimState, Simulator
from planners.testing import check_dynamics

IDS = [
    "mbrl/CartPoleSwingUp-v0", "InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5",
    "Swimmer-v5", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5",
]  # fmt: skip
ENDING = {"InvertedDoublePendulum-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"}
"""Episodes of random actions end early."""
OBSERVED = [env_id for env_id in IDS if env_id not in ("Pusher-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5")]
"""Tasks whose observation tells the state."""


def concatenate(states: list[SimState]) -> SimState:
    return map_rows(lambda *parts: torch.cat(parts), *states)


def starts(env: gym.Env, model: Simulator, rows: int) -> SimState:
    states = []
    for seed in range(rows):
        env.reset(seed=seed)
        states.append(model.state_of(env))
    return concatenate(states)


def actions(env: gym.Env, *shape: int, seed: int = 0) -> Tensor:
    high = torch.as_tensor(env.action_space.high, dtype=torch.float64)
    noise = torch.rand(*shape, len(high), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * noise - 1) * high


@pytest.mark.parametrize("env_id", IDS)
def test_a_replay_equals_gymnasium(env_id: str) -> None:
    env = make_env(env_id)
    model = simulator(env, threads=1)
    obs, _ = env.reset(seed=3)
    state = model.state_of(env)
    np.testing.assert_array_equal(model.observe(state)[0].numpy(), obs)
    gain = 0.02 if env_id == "InvertedPendulum-v5" else 1.0  # large pushes would end the episode at once
    for t, action in enumerate(actions(env, min(env.spec.max_episode_steps, 500)) * gain):
        if env_id == "InvertedPendulum-v5":
            action = action + 3 * obs[1] + 0.5 * obs[3] + 0.1 * obs[0] + 0.2 * obs[2]
        obs, reward, terminated, truncated, _ = env.step(action.numpy())
        state, step = model.step(state, action[None])
        np.testing.assert_allclose(step.obs[0].numpy(), obs, rtol=1e-10, atol=1e-10, err_msg=f"{env_id} {t}")
        np.testing.assert_allclose(step.reward.item(), reward, rtol=1e-10, atol=1e-10, err_msg=f"{env_id} {t}")
        assert step.terminated.item() == terminated
        if terminated or truncated:
            break
    assert model.diverged == 0
    assert terminated == (env_id in ENDING)
    env.close()


@pytest.mark.parametrize("env_id", ["Reacher-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5"])
def test_a_state_in_the_middle_of_an_episode_is_exact(env_id: str) -> None:
    env = make_env(env_id)
    model = simulator(env, threads=1)
    env.reset(seed=0)
    plan = actions(env, 25)
    for action in plan[:6]:
        obs, *_ = env.step(action.numpy())
    state = model.state_of(env)
    np.testing.assert_array_equal(model.observe(state)[0].numpy(), obs)
    for action in plan[6:]:
        obs, reward, *_ = env.step(action.numpy())
        state, step = model.step(state, action[None])
        np.testing.assert_array_equal(state.physics[0, : 1 + model.model.nq].numpy()[1:], env.unwrapped.data.qpos)
        np.testing.assert_allclose(step.obs[0].numpy(), obs, rtol=0, atol=1e-12)
        assert abs(step.reward.item() - reward) < 1e-12
    np.testing.assert_array_equal(model.state_of(env).physics.numpy(), state.physics.numpy())


def test_threads_and_batch_size_change_nothing() -> None:
    env = make_env("HalfCheetah-v5")
    one, three = simulator(env, threads=1), simulator(env, threads=3)
    state = starts(env, one, 6)
    alone = map_rows(lambda x: x[2:3], state)
    other = state
    for action in actions(env, 10, 6):
        state, step = one.step(state, action)
        other, step_other = three.step(other, action)
        alone, step_alone = one.step(alone, action[2:3])
        assert torch.equal(state.physics, other.physics)
        assert torch.equal(step.reward, step_other.reward)
        assert torch.equal(alone.physics, state.physics[2:3])
        assert torch.equal(step_alone.reward, step.reward[2:3])


@pytest.mark.parametrize("env_id", IDS)
def test_the_laws_of_dynamics(env_id: str) -> None:
    env = make_env(env_id)
    model = simulator(env, threads=1)
    check_dynamics(model, starts(env, model, 4), actions(env, 3, 4))


def test_divergence_is_invalid_counted_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo would write its log here
    env = make_env("InvertedPendulum-v5")
    model = simulator(env, threads=1)
    state = starts(env, model, 5)
    nq = model.model.nq
    state.physics[1, 1 + nq] = 1e9  # a huge velocity: MuJoCo resets to upright, where the reward is 1
    state.physics[2, 1] = torch.nan
    action = torch.zeros(5, 1, dtype=torch.float64)
    action[3] = torch.inf
    before = state.physics.clone()
    for _ in range(2):
        after, step = model.step(state, action)
        assert step.reward.isnan().tolist() == [False, True, True, True, False]
        assert after.ok.tolist() == [True, False, False, False, True]
        assert not step.terminated.any()
    assert model.diverged == 6
    assert torch.equal(after.physics[1], before[1])

    again, step = model.step(after, torch.zeros(5, 1, dtype=torch.float64))
    assert step.reward.isnan().tolist() == [False, True, True, True, False]
    assert not again.ok[1:4].any()
    assert model.diverged == 6  # those rows had diverged before
    assert list(tmp_path.iterdir()) == []


def test_a_real_divergence_scores_minus_infinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit integrator with a stiff, unlimited spring explodes by itself under one of two plans."""
    monkeypatch.chdir(tmp_path)
    xml = """<mujoco><option timestep="0.1" integrator="Euler"><flag eulerdamp="disable"/></option><worldbody><body>
    <joint name="j" type="slide" axis="1 0 0" stiffness="1e6"/><geom size="0.1" mass="1"/></body></worldbody>
    <actuator><motor joint="j"/></actuator></mujoco>"""
    model = Simulator(
        mujoco.MjModel.from_xml_string(xml),
        lambda before, action, after: (after["qpos"][:, 0] * 0 + 1, torch.zeros(len(action), dtype=torch.bool)),
        lambda after: torch.cat([after["qpos"], after["qvel"]], 1),
        frame_skip=2,
        threads=1,
        state_from_obs=lambda obs: (obs[:, :1], obs[:, 1:]),
    )
    start = model.reset(torch.zeros(1, 2))
    plans = torch.zeros(1, 2, 20, 1, dtype=torch.float64)
    plans[0, 1, 0] = 1.0
    result = evaluate_plans(Problem(model), start, plans, generator=torch.Generator())
    assert result.scores[0].tolist() == [20.0, -torch.inf]
    assert result.valid[0].tolist() == [True, False]
    assert model.diverged == 1


@pytest.mark.parametrize("env_id", OBSERVED)
def test_reset_from_an_observation(env_id: str) -> None:
    env = make_env(env_id)
    model = simulator(env, threads=1)
    exact = starts(env, model, 3)
    state = model.reset(exact.obs)
    action = actions(env, 3)
    reached, _ = model.step(state, action)
    expected, _ = model.step(exact, action)
    torch.testing.assert_close(reached.obs, expected.obs, rtol=1e-6, atol=1e-6)


def test_reset_refuses_what_does_not_determine_the_state() -> None:
    with pytest.raises(ValueError, match=r"state_of"):
        simulator(gym.make("HalfCheetah-v5")).reset(torch.zeros(1, 17))
    model = simulator("Hopper-v5")
    obs = torch.zeros(1, 12)
    obs[0, 8] = -10.0
    with pytest.raises(ValueError, match=r"velocities within"):
        model.reset(obs)
    with pytest.raises(ValueError, match=r"obs: expected shape \[rows, obs\]"):
        model.reset(torch.zeros(12))


def test_rows_keep_their_world() -> None:
    env = make_env("InvertedPendulum-v5")
    model = simulator(env, threads=1)
    state = model.assign(repeat_rows(starts(env, model, 2), 3), 3, generator=torch.Generator())
    assert state.world.tolist() == [0, 1, 2, 0, 1, 2]


def test_bad_arguments() -> None:
    env = make_env("InvertedPendulum-v5")
    env.reset(seed=0)
    model = simulator(env)
    with pytest.raises(ValueError, match=r"action: expected shape \[1, 1\], got \[1, 2\]"):
        model.step(model.state_of(env), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"env: expected a model with nq=2"):
        model.state_of(make_env("Hopper-v5"))
    with pytest.raises(ValueError, match=r"env: expected a Gymnasium MuJoCo environment"):
        model.state_of(gym.make("Pendulum-v1"))
    mj = env.unwrapped.model
    with pytest.raises(ValueError, match=r"frame_skip"):
        Simulator(mj, model.outcome, model.observe_fields, 0)
    with pytest.raises(ValueError, match=r"threads"):
        Simulator(mj, model.outcome, model.observe_fields, 1, -1)
    wrong = Simulator(mj, lambda b, a, c: (a, a), model.observe_fields, 1)
    with pytest.raises(ValueError, match=r"outcome's reward: expected torch.float64 of shape \[1\]"):
        wrong.step(model.state_of(env), torch.zeros(1, 1))
