"""Terminal values: the geometry against MuJoCo, and what they prefer."""

import mujoco
import numpy as np
import pytest
import torch

from mbrl.envs import make_env, task
from mbrl.envs.terminal_values import hopper_foot, hopper_stance

ROOT = (9.81 / 1.25) ** 0.5


def stance(x=0.0, z=1.25, pitch=0.0, thigh=0.0, leg=0.0, velocity=0.0, turn=0.0):
    obs = torch.tensor([[x, z, pitch, thigh, leg, 0.0, velocity, 0.0, turn, 0.0, 0.0, 0.0]], dtype=torch.float64)
    value = task("Hopper-v5").terminal_value(obs).item()
    assert value == pytest.approx(hopper_stance(0)(obs[:, 1:]).item())  # without x in the observation
    return value


def test_the_foot_is_where_mujoco_has_it():
    env = make_env("Hopper-v5")
    model, data = env.unwrapped.model, env.unwrapped.data
    for pitch, thigh, leg in np.random.default_rng(0).uniform([-0.2, -0.8, -0.8], [0.2, 0.0, 0.0], (20, 3)):
        data.qpos[:] = [3.0, 1.25, pitch, thigh, leg, pitch - thigh - leg]  # the sole is level
        mujoco.mj_forward(model, data)
        real = data.geom("foot_geom").xpos[0] - data.body("torso").xpos[0]
        foot = hopper_foot(torch.tensor([[pitch, thigh, leg]], dtype=torch.float64)).item()
        assert foot == pytest.approx(real, abs=1e-3)
    env.close()


def test_half_cheetah_is_worth_most_upright():
    obs = torch.zeros(3, 18, dtype=torch.float64)
    obs[:, 0], obs[:, 2] = 5.0, torch.tensor([0.0, 0.2, -3.0])  # x and pitch
    value = task("HalfCheetah-v5").terminal_value(obs)
    torch.testing.assert_close(value, torch.tensor([0.0, -1.2, -270.0], dtype=torch.float64))


def test_a_stand_over_the_foot_is_best_and_the_place_does_not_matter():
    lean = np.arcsin(0.065 / 0.95)  # of both legs, so that the sole is below the torso
    assert stance(thigh=-lean) == pytest.approx(300, abs=1e-6)
    assert stance(x=7.0, thigh=-lean) == stance(thigh=-lean)
    for worse in ({"velocity": 0.5}, {"pitch": 0.1}, {"z": 1.0}, {"turn": 1.0}):
        assert stance(thigh=-lean, **worse) < 300 - 2


def test_who_moves_has_to_put_the_foot_where_it_will_come_to_rest():
    ahead = np.arcsin((0.2 - 0.065) / 0.95)
    assert stance(thigh=ahead, velocity=0.2 * ROOT) == pytest.approx(300, abs=1e-6)
    assert stance(thigh=ahead, velocity=0.2 * ROOT) > stance(velocity=0.2 * ROOT) > stance(velocity=0.4 * ROOT)
