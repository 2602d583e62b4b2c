"""Which environments are made, and what is said about the others."""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from mbrl.envs import check_spaces, make_env, task

MODULE = """
import gymnasium as gym
gym.register("MakeEnvTest-v0", entry_point="gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=7)
"""


def test_a_task_gets_the_options_that_tell_the_reward() -> None:
    assert make_env("HalfCheetah-v5").observation_space.shape == (18,)
    assert make_env("Hopper-v5").observation_space.shape == (12,)
    assert make_env("Hopper-v5", exclude_current_positions_from_observation=True).observation_space.shape == (11,)
    assert make_env("Pendulum-v1", g=1.0).unwrapped.g == 1.0
    assert make_env("HalfCheetah-v5", as_registered=True).observation_space.shape == (17,)


def test_an_id_with_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_make_env_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    assert make_env("module_of_make_env_test:MakeEnvTest-v0").spec.max_episode_steps == 7
    del sys.modules["module_of_make_env_test"], gym.registry["MakeEnvTest-v0"]
    assert make_env("mbrl.envs:mbrl/CartPoleSwingUp-v0").observation_space.shape == (5,)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("HalfCheeta-v5", r"env_id: there is no environment 'HalfCheeta-v5'; did you mean HalfCheetah-v5"),
        ("CartPoleSwingUp-v0", r"did you mean mbrl/CartPoleSwingUp-v0"),
        ("HalfCheetah", r"env_id: expected one with its version, such as HalfCheetah-v5, got 'HalfCheetah'"),
        ("zzzz/qqqq-v0", r"there is no environment 'zzzz/qqqq-v0' \(an id of your own"),
        ("not an id", r"env_id: can't make 'not an id': Malformed"),
        ("no_such_module_here:Env-v0", r"env_id: can't make .*No module named 'no_such_module_here'"),
        ("CartPole-v1", r"env: CartPole-v1 has actions in Discrete\(2\); supported: flat Box"),
        ("FrozenLake-v1", r"has observations in Discrete\(16\)"),
        ("Blackjack-v1", r"has observations in Tuple"),
    ],
)
def test_what_is_refused(env_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env(env_id)


def test_an_option_that_the_environment_does_not_know_is_told() -> None:
    with pytest.raises(ValueError, match=r"env_id: can't make 'Pendulum-v1', or not with options {'foo': 1}: .*'foo'"):
        make_env("Pendulum-v1", foo=1)


class Spaces(gym.Env):
    def __init__(self, obs: gym.Space, action: gym.Space) -> None:
        self.observation_space, self.action_space = obs, action


FLAT = gym.spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("obs", "action", "message"),
    [
        (gym.spaces.Dict({"a": FLAT}), FLAT, r"observations in Dict"),
        (gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), FLAT, r"observations of shape \[8, 8, 3\].*FlattenObservation"),
        (gym.spaces.Box(0, 255, (8,), np.uint8), FLAT, r"observations of uint8"),
        (FLAT, gym.spaces.Box(-1, 1, (2, 2)), r"actions of shape \[2, 2\]"),
        (FLAT, gym.spaces.Box(-np.inf, 1, (2,)), r"env: expected finite action bounds.*-inf"),
        (FLAT, gym.spaces.MultiBinary(2), r"actions in MultiBinary"),
    ],
)
def test_spaces_that_are_refused(obs: gym.Space, action: gym.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_spaces(Spaces(obs, action))


def test_vectors_are_checked_by_their_single_spaces() -> None:
    check_spaces(gym.vector.SyncVectorEnv([lambda: make_env("Pendulum-v1")] * 2))
    with pytest.raises(ValueError, match=r"Discrete"):
        check_spaces(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Swimmer-v5", "Ant-v5"])
def test_the_camera_of_videos_keeps_up(env_id):
    env = make_env(env_id, render_mode="rgb_array")
    model = env.unwrapped.model
    assert env.unwrapped.mujoco_renderer.camera_id == model.camera("track").id
    env.close()
    other = make_env(env_id, render_mode="rgb_array", camera_id=-1)
    assert other.unwrapped.mujoco_renderer.camera_id == -1
    other.close()
    plain = make_env(env_id)
    assert task(plain) is not None
    plain.close()
