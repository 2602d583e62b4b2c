"""Targets that look further through a model: MVE and STEVE.

From the next observation of a transition the policy acts in the model for H steps. With what is promised after i of
them, T_i = reward + ... (i model rewards) + the critics' value, MVE takes T_H, and STEVE an average of T_0 ... T_H in
which each counts by the inverse of its variance over models and critics.

Sources: MVE, Feinberg et al. (2018), https://arxiv.org/abs/1803.00101; STEVE, Buckman et al. (2018),
https://arxiv.org/abs/1807.01675. docs/mbpo.md lists the deviations.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.learners.targets import expanded_targets, inverse_variance_mean
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.types import TransitionBatch
from planners.rows import repeat_rows


@torch.no_grad()
def expand(
    batch: TransitionBatch,
    learner: Any,
    state: Any,
    dynamics: EnsembleDynamics,
    *,
    kind: Literal["mve", "steve"],
    horizon: int,
    discount: float,
    generator: Generator,
) -> TransitionBatch:
    """The batch with its targets as rewards, and discounts of 0: what is learned from it is the target alone.

    Args:
        batch: transitions [rows, ...], with their discounts.
        learner: has `target_values`, `act` and `act_noise` (SAC).
        state: the learner's, of one run.
        dynamics: the model. For MVE each row goes through it once, for STEVE once with every elite.
        kind: of expansion.
        horizon: model steps, H.
        discount: of a model step.
        generator: of all randomness, on the batch's device.
    """
    particles = len(dynamics.ensemble.elites) if kind == "steve" else 1
    obs = repeat_rows(batch.next_obs, particles)
    model_state = dynamics.assign(dynamics.reset(obs), particles, generator=generator)
    reward, discounts, values = [repeat_rows(batch.reward, particles)], [repeat_rows(batch.discount, particles)], []
    for i in range(horizon + 1):
        noise = learner.act_noise(len(obs), [generator])
        values.append(learner.target_values(state, obs[None], noise)[0])
        if i < horizon:
            action = learner.act(state, obs[None], learner.act_noise(len(obs), [generator]))[0]
            model_state, step = dynamics.step(model_state, action, generator=generator)
            obs = step.obs
            reward.append(step.reward)
            discounts.append(discount * (~step.terminated).to(step.reward))
    target = _combine(kind, torch.stack(reward), torch.stack(discounts), torch.stack(values), particles)
    return batch._replace(reward=target, discount=torch.zeros_like(batch.discount))


def _combine(
    kind: str,
    reward_t: Float[Tensor, "steps rows_particles"],
    discount_t: Float[Tensor, "steps rows_particles"],
    value_t: Float[Tensor, "steps critics rows_particles"],
    particles: int,
) -> Float[Tensor, "rows"]:
    if kind == "mve":
        return expanded_targets(reward_t, discount_t, value_t.amin(1))[-1]
    targets = expanded_targets(reward_t[:, None], discount_t[:, None], value_t)  # [steps, critics, rows * particles]
    steps, critics, both = targets.shape
    ensemble = targets.view(steps, critics, both // particles, particles).transpose(2, 3).flatten(1, 2)
    return inverse_variance_mean(ensemble)
