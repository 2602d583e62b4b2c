"""A cart-pole that has to swing up: the pole hangs at the start, and it must end up above the cart, at the centre.

Masses, lengths and damping are those of Gymnasium's inverted pendulum, but the hinge turns freely and the motor is
stronger.
"""

from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box
from numpy.typing import NDArray

XML = """
<mujoco model="cart-pole swing-up">
  <compiler inertiafromgeom="true"/>
  <option gravity="0 0 -9.81" integrator="RK4" timestep="0.02"/>
  <default>
    <joint armature="0" damping="1"/>
    <geom contype="0" conaffinity="0" friction="1 0.1 0.1"/>
  </default>
  <worldbody>
    <light pos="0 -2 3" dir="0 0.5 -1" directional="true" castshadow="false"/>
    <geom name="rail" type="capsule" quat="0.707 0 0.707 0" size="0.02 1" rgba="0.5 0.5 0.5 1"/>
    <body name="cart">
      <joint name="slider" type="slide" axis="1 0 0" limited="true" range="-1 1"/>
      <geom name="cart" type="capsule" quat="0.707 0 0.707 0" size="0.1 0.1" rgba="0.2 0.3 0.7 1"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0" limited="false"/>
        <geom name="pole" type="capsule" fromto="0 0 0 0 0 0.6" size="0.049" rgba="0.9 0.5 0.1 1"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="slide" joint="slider" gear="200" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""
CAMERA = {"trackbodyid": -1, "distance": 3.0, "lookat": np.zeros(3), "elevation": -10.0, "azimuth": 90.0}


class CartPoleSwingUpEnv(MujocoEnv):
    """Cart-pole swing-up, registered as `mbrl/CartPoleSwingUp-v0` with a time limit of 200 steps (8 s).

    Observation [x, sin, cos, x', theta']: cart position in m (the rail ends at 1), sine and cosine of the pole's angle
    (0 is upright), cart velocity in m/s, pole velocity in rad/s. Action: force on the cart as a share of 200 N. Reward:
    (1 + cos) / 2 * exp(-x^2) of the state that was reached, in [0, 1]. Episodes never terminate.

    Args:
        reset_noise_scale: positions and velocities start within this of hanging at rest, uniformly.
        kwargs: of `gymnasium.envs.mujoco.MujocoEnv`, such as `render_mode`, `width` and `height`.
    """

    metadata = {  # noqa: RUF012 - a class attribute in Gymnasium
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 25,
    }

    def __init__(self, reset_noise_scale: float = 0.01, **kwargs: Any) -> None:
        bound = np.array([np.inf, 1.0, 1.0, np.inf, np.inf])
        self._reset_noise_scale = reset_noise_scale
        kwargs.setdefault("default_camera_config", CAMERA)
        # MujocoEnv insists on a path of a file that exists; the model comes from the string above.
        super().__init__(__file__, frame_skip=2, observation_space=Box(-bound, bound, dtype=np.float64), **kwargs)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = mujoco.MjModel.from_xml_string(XML)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], np.float64, bool, bool, dict[str, np.float64]]:
        """Apply `action` [1] for 0.04 s: observation, reward, terminated (False), truncated (False), info (empty)."""
        self.do_simulation(action, self.frame_skip)
        obs = self._get_obs()
        reward = (1 + obs[2]) / 2 * np.exp(-(obs[0] ** 2))
        if self.render_mode == "human":
            self.render()
        return obs, reward, False, False, {}

    def reset_model(self) -> NDArray[np.float64]:
        """Hang the pole at rest at the centre, up to the noise; returns the observation."""
        scale = self._reset_noise_scale
        noise = self.np_random.uniform(-scale, scale, size=4)
        self.set_state(np.array([0.0, np.pi]) + noise[:2], noise[2:])
        return self._get_obs()

    def _get_obs(self) -> NDArray[np.float64]:
        (x, angle), velocities = self.data.qpos, self.data.qvel
        return np.array([x, np.sin(angle), np.cos(angle), *velocities])
