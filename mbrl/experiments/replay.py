"""Transitions taken once more in the true model of an environment, from states that observations determine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mbrl.envs.make import make_env
from mbrl.envs.tasks import task, true_model

_WITHOUT_X = "exclude_current_positions_from_observation"


class Truth(NamedTuple):
    """Where transitions really lead."""

    next_obs: Float[Tensor, "rows obs"]
    known: Bool[Tensor, "rows"]
    """False: the true model can't be set to the state, or diverged."""
    terminated: Bool[Tensor, "rows"]
    """Whether the episode ends there."""


Replay = Callable[[Tensor, Tensor], Truth]
"""`replay(obs, action)`."""


def true_replay(env: gym.Env) -> Replay | None:
    """The true model of an environment whose observations determine its state; None where there is none.

    A position along an endless floor, which observations of HalfCheetah-v5 and others leave out, is set to 0: nothing
    depends on it. Observations of Hopper and Walker2d that touch the limit of their velocities are not known.
    """
    known = task(env)
    if known is None:
        return None
    left_out = 0
    if known.physics is not None and known.physics.state_from_obs is None:
        assert env.spec is not None
        options = {k: v for k, v in env.spec.kwargs.items() if k != "render_mode"}
        try:
            env = make_env(env.spec.id, as_registered=True, **{**options, _WITHOUT_X: False})
        except ValueError:  # there is no such option
            return None
        shown = task(env)
        if shown is None or shown.physics is None or shown.physics.state_from_obs is None:
            return None
        left_out = len(shown.ignored_inputs)
    model: Any = true_model(env)

    def replay(obs: Tensor, action: Tensor) -> Truth:
        obs, action = obs.double().cpu(), action.cpu()
        action = action.double() if action.is_floating_point() else action
        full = torch.cat([obs.new_zeros(len(obs), left_out), obs], 1)
        known = _determined(model, full)
        next_obs, terminated = obs.clone(), torch.zeros(len(obs), dtype=torch.bool)
        if bool(known.any()):
            _, step = model.step(model.reset(full[known]), action[known])
            fine = step.reward.isfinite() & step.obs.isfinite().all(1)
            next_obs[known], terminated[known] = step.obs[:, left_out:].double(), step.terminated
            known[known.clone()] = fine
        return Truth(next_obs, known, terminated)

    return replay


def _determined(model: Any, obs: Tensor) -> Bool[Tensor, "rows"]:
    """Which rows the model can be set to."""
    finite = obs.isfinite().all(1)
    read = getattr(model, "state_from_obs", None)
    if read is None:  # a formula of observations
        return finite
    try:
        read(obs[finite])
        return finite
    except ValueError:  # of one row at least
        return finite & torch.tensor([bool(finite[i]) and _reads(read, obs[i : i + 1]) for i in range(len(obs))])


def _reads(read: Callable[[Tensor], Any], obs: Tensor) -> bool:
    try:
        read(obs)
    except ValueError:
        return False
    return True
