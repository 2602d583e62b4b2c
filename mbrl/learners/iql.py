"""Implicit Q-learning (IQL): values of the best actions that the data show, without asking for any other action.

    value:    minimise    E[|tau - 1(u < 0)| u^2],   u = min_j Qtarget_j(s, a) - V(s)
    critics:  minimise    sum_i E[(Q_i(s, a) - r - discount V(s'))^2]
    actor:    maximise    E[exp(beta (min_j Qtarget_j(s, a) - V(s))) log pi(a|s)], weights cut at 100
    targets:  Qtarget <- (1 - share) Qtarget + share Q

V is an expectile of the values of the data's actions, towards their largest as tau goes to 1.

Source: Kostrikov et al. (2021), https://arxiv.org/abs/2110.06169. docs/learners/iql.md lists the deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.learners.distributions import ActionBounds, action_bounds, bounded_gaussian, bounded_gaussian_log_prob
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
    expectile_loss,
    minimum_over_critics,
    squared_error,
    td_target,
    weighted_imitation_loss,
)
from mbrl.types import Metrics, TransitionBatch
from planners.box import Box
from planners.rows import map_rows


@dataclass(frozen=True)
class IQLConfig:
    """Settings of IQL. The defaults are those of the paper for MuJoCo."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (ReLU) of actor, critics and value."""
    lr: float = 3e-4
    """Step size of Adam."""
    tau: float = 0.005
    """Share of the critics that goes into the target critics with every update."""
    expectile: float = 0.7
    """The paper's tau: 0.5 values the data's policy, towards 1 its best actions."""
    beta: float = 3.0
    """Inverse temperature of the weights: 0 is behaviour cloning."""
    largest_weight: float = 100.0
    """Weights are cut here."""
    critics: int = 2
    """How many; their minimum counts."""

    def __post_init__(self) -> None:
        check_settings(self, "critics")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile: expected a number in (0, 1), got {self.expectile}")
        if not self.beta >= 0:
            raise ValueError(f"beta: expected 0 or more, got {self.beta}")
        if not self.largest_weight > 0:
            raise ValueError(f"largest_weight: expected a positive number, got {self.largest_weight}")


class IQLState(NamedTuple):
    """Everything that learning goes on from."""

    actor: MLP
    log_std: Float[Tensor, "runs 1 act"]
    """Of the policy, in all states."""
    critics: MLP
    """With an axis of critics after that of runs, as the targets."""
    targets: MLP
    value: MLP
    actor_adam: Adam
    """Of actor and log_std."""
    critic_adam: Adam
    value_adam: Adam
    bounds: ActionBounds


@dataclass(frozen=True)
class IQLLearner:
    """IQL for continuous actions; a `mbrl.types.Learner`.

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
    config: IQLConfig = IQLConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        Box(self.low, self.high, len(self.low))
        if self.obs_dim < 1:
            raise ValueError(f"obs_dim: expected a positive size, got {self.obs_dim}")

    def init(self, generators: list[Generator]) -> IQLState:
        """A fresh state; one generator a run."""
        config, act = self.config, len(self.low)
        actor = init_mlp((self.obs_dim, *config.hidden, act), generators, dtype=self.dtype)
        sizes = (self.obs_dim + act, *config.hidden, 1)
        critics = init_mlp(sizes, generators, members=config.critics, dtype=self.dtype)
        value = init_mlp((self.obs_dim, *config.hidden, 1), generators, dtype=self.dtype)
        log_std = actor[0][0].new_zeros(len(generators), 1, act)
        return IQLState(
            actor,
            log_std,
            critics,
            map_rows(torch.clone, critics),
            value,
            init_adam((actor, log_std)),
            init_adam(critics),
            init_adam(value),
            action_bounds(self.low, self.high, len(generators), log_std),
        )

    def noise(self, batch_size: int, generators: list[Generator]) -> tuple[()]:
        """Nothing: an update is a function of state and batch."""
        return ()

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what a sampled action is made of."""
        return normal((rows, len(self.low)), generators, dtype=self.dtype)

    def update(
        self, state: IQLState, batch: TransitionBatch, noise: tuple[()] = (), *, actor: bool = True
    ) -> tuple[IQLState, Metrics]:
        """One step of Adam for the value, with `actor` for the actor, and for the critics; then the targets follow.

        Actor and critics are updated under the value just updated. Where a loss or its gradients are not usable
        (see `gate`), in any run, nothing of what it and later ones move moves; the metrics say so.
        """
        config = self.config
        value_grads, metrics = self.value_gradients(state, batch)
        found_inf = gate(metrics, "train/value_loss", value_grads)
        adam_update(state.value, value_grads, state.value_adam, lr=config.lr, found_inf=found_inf)
        if actor:
            actor_grads, actor_metrics = self.actor_gradients(state, batch)
            metrics |= actor_metrics
            found_inf = gate(metrics, "train/actor_loss", actor_grads, found_inf)
            policy = (state.actor, state.log_std)
            adam_update(policy, actor_grads, state.actor_adam, lr=config.lr, found_inf=found_inf)
        critic_grads, critic_metrics = self.critic_gradients(state, batch)
        metrics |= critic_metrics
        found_inf = gate(metrics, "train/critic_loss", critic_grads, found_inf)
        adam_update(state.critics, critic_grads, state.critic_adam, lr=config.lr, found_inf=found_inf)
        polyak_update(state.targets, state.critics, config.tau, found_inf)
        return state, metrics

    def value_gradients(self, state: IQLState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the value's loss; nothing is written."""
        value = differentiable(state.value)
        v = mlp(value, batch.obs)[..., 0]
        loss = expectile_loss(_least(state, batch), v, self.config.expectile)
        return gradients(loss, value), {"train/value_loss": loss.detach(), "train/value_mean": v.detach().mean(1)}

    def actor_gradients(self, state: IQLState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the actor's loss for its layers and log_std; nothing is written."""
        config = self.config
        policy = differentiable((state.actor, state.log_std))
        with torch.no_grad():
            advantage = _least(state, batch) - mlp(state.value, batch.obs)[..., 0]
            weight = advantage_weights(advantage, config.beta, config.largest_weight)
        log_prob = bounded_gaussian_log_prob(mlp(policy[0], batch.obs), policy[1], state.bounds.unit(batch.action))
        loss = weighted_imitation_loss(log_prob, weight)
        metrics = {
            "train/actor_loss": loss.detach(),
            "train/weight_mean": weight.mean(1),
            "train/weights_cut": (weight >= config.largest_weight).to(weight).mean(1),
        }
        return gradients(loss, policy), metrics

    def critic_gradients(self, state: IQLState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the critics' loss, the squared error summed over critics; nothing is written."""
        with torch.no_grad():
            target_tm1 = td_target(batch.reward, batch.discount, mlp(state.value, batch.next_obs)[..., 0])
        critics = differentiable(state.critics)
        q_tm1 = mlp(critics, torch.cat([batch.obs, state.bounds.unit(batch.action)], -1))[..., 0]
        loss = squared_error(q_tm1, target_tm1[:, None]).sum(1)
        return gradients(loss, critics), {
            "train/critic_loss": loss.detach(),
            "train/q_mean": q_tm1.detach().mean((1, 2)),
        }

    @torch.no_grad()
    def act(
        self, state: IQLState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Float[Tensor, "runs rows act"]:
        """Sampled actions, cut to the bounds; without noise, the mean."""
        output = mlp(state.actor, obs)
        unit = torch.tanh(output) if noise is None else bounded_gaussian(output, state.log_std, noise)
        return state.bounds.action(unit)


def _least(state: IQLState, batch: TransitionBatch) -> Tensor:
    """min_j Qtarget_j(s, a) for the data's actions, without a graph of gradients: [runs, rows]."""
    with torch.no_grad():
        q = mlp(state.targets, torch.cat([batch.obs, state.bounds.unit(batch.action)], -1))[..., 0]
        return minimum_over_critics(q)
