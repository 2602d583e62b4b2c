"""Gymnasium's classic control as formulas: transition, reward and end of Pendulum-v1 and CartPole-v1.

Source: Gymnasium's own environments, https://gymnasium.farama.org/environments/classic_control/. Each builder takes the
environment's options that matter here, with Gymnasium's defaults. The environments compute in float64 and observe in
float32: so may these functions.
"""

import math

import torch
from torch import Tensor

from mbrl.envs.definition import Task, balance


def pendulum(g: float = 10.0) -> Task:
    """Pendulum-v1: minus squared angle, 0.1 squared velocity and 0.001 squared torque, before the step is taken.

    Semi-implicit Euler steps of 0.05 s of `angle'' = 3 g / 2 sin(angle) + 3 torque`, with torque within +-2 and
    velocity within +-8. Observed are cosine, sine and velocity.
    """
    dt, max_speed, max_torque = 0.05, 8.0, 2.0

    def transition(obs: Tensor, action: Tensor) -> Tensor:
        angle, torque = torch.atan2(obs[:, 1], obs[:, 0]), action[:, 0].clamp(-max_torque, max_torque)
        velocity = obs[:, 2] + (1.5 * g * angle.sin() + 3.0 * torque) * dt
        velocity = velocity.clamp(-max_speed, max_speed)
        angle = angle + velocity * dt
        return torch.stack([angle.cos(), angle.sin(), velocity], 1)

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        angle, torque = torch.atan2(obs[:, 1], obs[:, 0]), action[:, 0].clamp(-max_torque, max_torque)
        return -(angle**2 + 0.1 * obs[:, 2] ** 2 + 0.001 * torque**2)

    return Task("Pendulum-v1", {"g": g}, None, reward, transition=transition)


def cartpole(sutton_barto_reward: bool = False) -> Task:
    """CartPole-v1: 1 for every step, of which the last leads beyond 2.4 m or 12 degrees (or 0, and -1 for that one).

    Explicit Euler steps of 0.02 s of a cart of 1 kg with a pole of 0.1 kg and 1 m, pushed with 10 N to the left
    (action 0) or to the right (action 1).

    The reward ties all plans that keep the pole up, and short ones let the cart drift to the end of its rail. The
    objective is `balance` with the pole's centre of percussion 2/3 m above the hinge, which leads it back.
    """
    gravity, pole_mass, mass, half_length, force, dt = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02
    max_x, max_angle = 2.4, 12 * 2 * math.pi / 360

    def transition(obs: Tensor, action: Tensor) -> Tensor:
        _x, velocity, angle, turn = obs.unbind(1)
        sin, cos = angle.sin(), angle.cos()
        push = torch.where(action == 1, force, -force).to(obs)
        drive = (push + pole_mass * half_length * turn**2 * sin) / mass
        turn_rate = (gravity * sin - cos * drive) / (half_length * (4.0 / 3.0 - pole_mass * cos**2 / mass))
        acceleration = drive - pole_mass * half_length * turn_rate * cos / mass
        change = torch.stack([velocity, acceleration, turn, turn_rate], 1)
        return obs + dt * change

    def terminated(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return (next_obs[:, 0].abs() > max_x) | (next_obs[:, 2].abs() > max_angle)

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        if sutton_barto_reward:
            return -terminated(obs, action, next_obs).to(obs.dtype)
        return torch.ones_like(obs[:, 0])

    def objective(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        x, velocity, angle, turn = next_obs.unbind(1)
        return balance(x, angle, velocity, turn, lever=2 / 3)

    def hidden_end(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Within the rounding of an observation in float32."""
        gap = torch.minimum((next_obs[:, 0].abs() - max_x).abs(), (next_obs[:, 2].abs() - max_angle).abs())
        return gap < 1e-6

    options = {"sutton_barto_reward": sutton_barto_reward}
    return Task(
        "CartPole-v1",
        options,
        None,
        reward,
        terminated,
        objective,
        ignored_inputs=() if sutton_barto_reward else (0,),  # its reward is -1 at the end of the rail
        hidden_end=hidden_end,
        transition=transition,
    )
