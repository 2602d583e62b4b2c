"""Targets that look further through a model: MVE and STEVE.

From the next observation of a transition the policy acts in the model for H steps. With what is promised after i of
them, T_i = reward + ... (i model rewards, each with the entropy of the action that earned it) + the critics' soft
value, MVE takes T_H, and STEVE an average of T_0 ... T_H in which each counts by the inverse of its variance over
models and critics.

Sources: MVE, Feinberg et al. (2018), https://arxiv.org/abs/1803.00101; STEVE, Buckman et al. (2018),
https://arxiv.org/abs/1807.01675. docs/mbpo.md lists the deviations.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from mbrl.learners.targets import expanded_targets, inverse_variance_mean
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.types import TransitionBatch
from planners.rows import repeat_rows


class Expansion:
    """Replaces the targets of batches by such that look further.

    Args:
        kind: "mve", whose rows go through the model once, or "steve", whose rows do once with every elite.
        learner: has `valued_actions` and `act_noise` (SAC).
        dynamics: the model. MVE's rows meet its elites as rollouts do; under STEVE an elite keeps its copy of a row for
            the whole expansion, whatever the propagation.
        horizon: model steps, H.
        discount: of a model step.
    """

    def __init__(
        self,
        kind: Literal["mve", "steve"],
        learner: Any,
        dynamics: EnsembleDynamics,
        *,
        horizon: int,
        discount: float,
    ) -> None:
        self.kind, self.learner, self.horizon, self.discount = kind, learner, horizon, discount
        self.dynamics = dynamics
        if kind == "steve":
            self.dynamics = EnsembleDynamics(
                dynamics.ensemble,
                propagation="ts_inf",
                reward=dynamics.reward,
                termination=dynamics.termination,
                penalty=dynamics.penalty,
                precision=dynamics.precision,
            )

    @torch.no_grad()
    def __call__(self, batch: TransitionBatch, state: Any, *, generator: Generator) -> TransitionBatch:
        """The batch with its targets as rewards, and discounts of 0: what is learned from it is the target alone.

        Where the model says something that is not finite, the target is the one without a model, T_0; STEVE's is the
        mean of it over critics and copies.

        Args:
            batch: transitions [rows, ...], with their discounts.
            state: the learner's, of one run.
            generator: of all randomness, on the batch's device.
        """
        copies = len(self.dynamics.ensemble.elites) if self.kind == "steve" else 1
        reward_t, discount_t, value_t, finite = self._imagine(batch, state, copies, generator)
        if self.kind == "mve":
            targets = expanded_targets(reward_t, discount_t, value_t.amin(1))
            first, target = targets[0], targets[-1]
        else:
            targets = expanded_targets(reward_t[:, None], discount_t[:, None], value_t)  # [steps, critics, copied rows]
            ensemble = targets.unflatten(2, (-1, copies)).transpose(2, 3).flatten(1, 2)
            first, target = ensemble[0].mean(0), inverse_variance_mean(ensemble)
        target = torch.where(finite.view(-1, copies).all(1) & target.isfinite(), target, first)
        return batch._replace(reward=target, discount=torch.zeros_like(batch.discount))

    def _imagine(self, batch: TransitionBatch, state: Any, copies: int, generator: Generator) -> _Imagination:
        """Let the policy act in the model from `next_obs`, each row in `copies`, one after the other."""
        obs, first_reward, first_discount = repeat_rows((batch.next_obs, batch.reward, batch.discount), copies)
        reward, discount, value = [first_reward], [first_discount], []
        # Every row is a particle, with noise of its own; copy i of a row has elite i.
        model_state = self.dynamics.reset(obs)
        going, finite = first_discount != 0, torch.ones_like(first_discount, dtype=torch.bool)
        for i in range(self.horizon + 1):
            noise = self.learner.act_noise(len(obs), [generator])
            valued = self.learner.valued_actions(state, obs[None], noise)
            value.append(valued.value[0])
            if i < self.horizon:
                model_state, step = self.dynamics.step(model_state, valued.action[0], generator=generator)
                obs = step.obs
                finite &= ~going | (step.reward + (0 * obs).sum(-1)).isfinite()  # 0 times what is not finite is NaN
                going = going & ~step.terminated
                reward.append(valued.entropy[0] + step.reward)
                discount.append(self.discount * (~step.terminated).to(step.reward))
        return _Imagination(torch.stack(reward), torch.stack(discount), torch.stack(value), finite)


class _Imagination(NamedTuple):
    """What the model says: the transition itself, then H steps."""

    reward_t: Float[Tensor, "steps rows"]
    discount_t: Float[Tensor, "steps rows"]
    value_t: Float[Tensor, "steps critics rows"]
    finite: Bool[Tensor, "rows"]
    """Whether everything was, up to the end of the row's episode."""
