"""Advantage-weighted actor-critic (AWAC): imitate the data's actions, the more the better they are than the policy's.

    critics:  minimise    sum_i E[(Q_i(s, a) - r - discount min_j Qtarget_j(s', a'))^2],   a' ~ pi(s')
    actor:    maximise    E[exp((min_j Q_j(s, a) - min_j Q_j(s, b)) / lambda) log pi(a|s)],   b ~ pi(s)
    targets:  Qtarget <- (1 - tau) Qtarget + tau Q

The actor's step is the projection of the best policy within a Kullback-Leibler distance of the data's onto those that
the network can be, without a model of the data's policy.

Source: Nair et al. (2020), https://arxiv.org/abs/2006.09359. docs/learners/awac.md lists the deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.learners.distributions import (
    ActionBounds,
    action_bounds,
    bounded_gaussian,
    bounded_gaussian_log_prob,
)
from mbrl.learners.networks import (
    MLP,
    Adam,
    adam_update,
    differentiable,
    gate,
    gradients,
    init_adam,
    init_mlp,
    mlp,
    normal,
    polyak_update,
)
from mbrl.learners.settings import check_settings
from mbrl.learners.targets import (
    advantage_weights,
    minimum_over_critics,
    squared_error,
    td_target,
    weighted_imitation_loss,
)
from mbrl.types import Metrics, TransitionBatch
from planners.box import Box
from planners.rows import map_rows


@dataclass(frozen=True)
class AWACConfig:
    """Settings of AWAC."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (ReLU) of actor and critics."""
    lr: float = 3e-4
    """Step size of Adam."""
    tau: float = 0.005
    """Share of the critics that goes into the target critics with every update."""
    temperature: float = 1 / 3
    """The paper's lambda, in units of values: large is behaviour cloning."""
    largest_weight: float = 100.0
    """Weights are cut here."""
    critics: int = 2
    """How many; their minimum counts."""

    def __post_init__(self) -> None:
        if self.temperature is None or not self.temperature > 0:
            raise ValueError(f"temperature: expected a positive number, for AWAC learns none, got {self.temperature}")
        check_settings(self, "critics")
        if not self.largest_weight > 0:
            raise ValueError(f"largest_weight: expected a positive number, got {self.largest_weight}")


class AWACState(NamedTuple):
    """Everything that learning goes on from."""

    actor: MLP
    log_std: Float[Tensor, "runs 1 act"]
    """Of the policy, in all states."""
    critics: MLP
    """With an axis of critics after that of runs, as the targets."""
    targets: MLP
    actor_adam: Adam
    """Of actor and log_std."""
    critic_adam: Adam
    bounds: ActionBounds


class AWACNoise(NamedTuple):
    """All randomness of one update."""

    action: Float[Tensor, "runs rows act"]
    """Standard normal, for the policy's actions at `obs`."""
    next_action: Float[Tensor, "runs rows act"]
    """Standard normal, for those at `next_obs`."""


@dataclass(frozen=True)
class AWACLearner:
    """AWAC for continuous actions; a `mbrl.types.Learner`.

    Args:
        obs_dim: size of an observation.
        low: lower action bounds, one for each action dimension.
        high: upper action bounds.
        config: the settings.
        dtype: of the parameters; batches must have it too.

    Raises:
        ValueError: bounds that are not finite or not in order, or a size that is not positive.
    """

    obs_dim: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    config: AWACConfig = AWACConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        Box(self.low, self.high, len(self.low))
        if self.obs_dim < 1:
            raise ValueError(f"obs_dim: expected a positive size, got {self.obs_dim}")

    def init(self, generators: list[Generator]) -> AWACState:
        """A fresh state; one generator a run."""
        config, act = self.config, len(self.low)
        actor = init_mlp((self.obs_dim, *config.hidden, act), generators, dtype=self.dtype)
        sizes = (self.obs_dim + act, *config.hidden, 1)
        critics = init_mlp(sizes, generators, members=config.critics, dtype=self.dtype)
        log_std = actor[0][0].new_zeros(len(generators), 1, act)
        return AWACState(
            actor,
            log_std,
            critics,
            map_rows(torch.clone, critics),
            init_adam((actor, log_std)),
            init_adam(critics),
            action_bounds(self.low, self.high, len(generators), log_std),
        )

    def noise(self, batch_size: int, generators: list[Generator]) -> AWACNoise:
        """All randomness of one update on [runs, batch_size] rows."""
        return AWACNoise(*normal((2, batch_size, len(self.low)), generators, dtype=self.dtype).unbind(1))

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what a sampled action is made of."""
        return normal((rows, len(self.low)), generators, dtype=self.dtype)

    def update(
        self, state: AWACState, batch: TransitionBatch, noise: AWACNoise, *, actor: bool = True
    ) -> tuple[AWACState, Metrics]:
        """One step of Adam for the critics and, with `actor`, for the actor; then the targets follow.

        The actor's loss is that under the critics just updated. Where a loss or its gradients are not usable
        (see `gate`), in any run, nothing of what it and later ones move moves; the metrics say so.
        """
        config = self.config
        critic_grads, metrics = self.critic_gradients(state, batch, noise)
        found_inf = gate(metrics, "train/critic_loss", critic_grads)
        adam_update(state.critics, critic_grads, state.critic_adam, lr=config.lr, found_inf=found_inf)
        if actor:
            actor_grads, actor_metrics = self.actor_gradients(state, batch, noise)
            metrics |= actor_metrics
            found_inf = gate(metrics, "train/actor_loss", actor_grads, found_inf)
            policy = (state.actor, state.log_std)
            adam_update(policy, actor_grads, state.actor_adam, lr=config.lr, found_inf=found_inf)
        polyak_update(state.targets, state.critics, config.tau, found_inf)
        return state, metrics

    def critic_gradients(
        self, state: AWACState, batch: TransitionBatch, noise: AWACNoise
    ) -> tuple[list[Tensor], Metrics]:
        """Gradients of the critics' loss, the squared error summed over critics; nothing is written."""
        with torch.no_grad():
            action_t = bounded_gaussian(mlp(state.actor, batch.next_obs), state.log_std, noise.next_action)
            value_t = minimum_over_critics(_values(state.targets, batch.next_obs, action_t))
            target_tm1 = td_target(batch.reward, batch.discount, value_t)
        critics = differentiable(state.critics)
        q_tm1 = _values(critics, batch.obs, state.bounds.unit(batch.action))
        loss = squared_error(q_tm1, target_tm1[:, None]).sum(1)
        grads = gradients(loss, critics)
        return grads, {"train/critic_loss": loss.detach(), "train/q_mean": q_tm1.detach().mean((1, 2))}

    def actor_gradients(
        self, state: AWACState, batch: TransitionBatch, noise: AWACNoise
    ) -> tuple[list[Tensor], Metrics]:
        """Gradients of the actor's loss for its layers and log_std; nothing is written."""
        config, unit = self.config, state.bounds.unit(batch.action)
        policy = differentiable((state.actor, state.log_std))
        with torch.no_grad():
            own = bounded_gaussian(mlp(state.actor, batch.obs), state.log_std, noise.action)
            shown, value = (minimum_over_critics(_values(state.critics, batch.obs, a)) for a in (unit, own))
            weight = advantage_weights(shown - value, 1 / config.temperature, config.largest_weight)
        log_prob = bounded_gaussian_log_prob(mlp(policy[0], batch.obs), policy[1], unit)
        loss = weighted_imitation_loss(log_prob, weight)
        metrics = {
            "train/actor_loss": loss.detach(),
            "train/weight_mean": weight.mean(1),
            "train/weights_cut": (weight >= config.largest_weight).to(weight).mean(1),
        }
        return gradients(loss, policy), metrics

    @torch.no_grad()
    def act(
        self, state: AWACState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Float[Tensor, "runs rows act"]:
        """Sampled actions, cut to the bounds; without noise, the mean."""
        output = mlp(state.actor, obs)
        unit = torch.tanh(output) if noise is None else bounded_gaussian(output, state.log_std, noise)
        return state.bounds.action(unit)


def _values(critics: MLP, obs: Tensor, unit_action: Tensor) -> Tensor:
    """Q(s, a) of every critic: [runs, critics, rows]."""
    return mlp(critics, torch.cat([obs, unit_action], -1))[..., 0]
