"""The swing-up environment: Gymnasium's own checks, its physics at rest, and its reward by hand."""

import math

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import mbrl.envs
from mbrl.envs import make_env

ENV_ID = "mbrl/CartPoleSwingUp-v0"
assert mbrl.envs  # importing it registers the environment


# Positions and velocities are unbounded, as in Gymnasium's own tasks. Any other warning is an error.
@pytest.mark.filterwarnings("ignore:.*space (min|max)imum value is -?infinity")
def test_it_passes_gymnasiums_checks() -> None:
    check_env(gym.make(ENV_ID).unwrapped, skip_render_check=True)


def test_it_renders() -> None:
    env = make_env(ENV_ID, render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    try:
        frame = env.render()
    except (AttributeError, ImportError, RuntimeError, mujoco.FatalError) as error:
        pytest.skip(f"no picture can be rendered here: {error}")
    assert frame.shape == (48, 64, 3)
    assert frame.std() > 5  # something is to be seen
    env.close()


def test_an_episode_hangs_at_the_start_and_takes_200_steps() -> None:
    env = make_env(ENV_ID)
    obs, _ = env.reset(seed=1)
    np.testing.assert_allclose(obs, [0, 0, -1, 0, 0], atol=0.011)
    again, _ = env.reset(seed=1)
    np.testing.assert_array_equal(again, obs)
    other, _ = env.reset(seed=2)
    assert not np.array_equal(other, obs)
    for t in range(1, 201):
        obs, reward, terminated, truncated, _ = env.step(np.zeros(1))
        assert 0 <= reward < 1e-3  # it goes on hanging
        assert not terminated
        assert truncated == (t == 200)


def test_the_reward_by_hand() -> None:
    env = make_env(ENV_ID).unwrapped
    env.reset(seed=0)
    for angle, x, expected in ((0.0, 0.0, 1.0), (math.pi / 2, 0.0, 0.5), (0.0, 0.5, math.exp(-0.25))):
        env.set_state(np.array([x, angle]), np.zeros(2))
        env.model.opt.timestep = 1e-9  # it stays where it is
        obs, reward, *_ = env.step(np.zeros(1))
        assert reward == pytest.approx(expected, abs=1e-6)
        np.testing.assert_allclose(obs, [x, math.sin(angle), math.cos(angle), 0, 0], atol=1e-6)


def test_the_physics_by_hand() -> None:
    """Full action is 200 N on cart and pole: and the pole falls to both sides alike."""
    env = make_env(ENV_ID).unwrapped
    assert env.dt == pytest.approx(0.04)
    np.testing.assert_array_equal(env.action_space.high, [1.0])
    env.reset(seed=0)
    env.set_state(np.array([0.0, math.pi / 2]), np.zeros(2))  # a horizontal pole does not turn the push into rotation
    env.data.ctrl[:] = 1.0
    mujoco.mj_forward(env.model, env.data)
    mass = env.model.body_mass.sum()
    assert env.data.qacc[0] == pytest.approx(200 / mass, rel=1e-9)

    env.set_state(np.array([0.0, 0.1]), np.zeros(2))
    right = env.step(np.zeros(1))[0]
    env.set_state(np.array([0.0, -0.1]), np.zeros(2))
    left = env.step(np.zeros(1))[0]
    np.testing.assert_allclose(left, right * [-1, -1, 1, -1, -1], atol=1e-12)
    assert right[4] > 0  # positive angles fall on


def test_the_rail_ends_and_the_hinge_does_not() -> None:
    env = make_env(ENV_ID)
    env.reset(seed=0)
    reached = [env.step(np.ones(1))[0] for _ in range(50)]
    assert 0.9 < max(obs[0] for obs in reached) < 1.2
    env.unwrapped.set_state(np.array([0.0, 3.0]), np.array([0.0, 30.0]))
    env.step(np.zeros(1))
    assert env.unwrapped.data.qpos[1] > math.pi + 0.5
