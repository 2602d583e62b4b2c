"""Soft actor-critic for discrete actions: expectations over actions in the place of samples.

    V(s')         = sum_a pi(a|s') (min_i Qtarget_i(s', a) - alpha log pi(a|s'))
    critics:      minimise  sum_i E[(Q_i(s, a) - r - discount V(s'))^2] / 2
    actor:        minimise  E[sum_a pi(a|s) (alpha log pi(a|s) - min_i Q_i(s, a))]
    temperature:  minimise  -log alpha E[sum_a pi(a|s) log pi(a|s) + target entropy]
    targets:      Qtarget <- (1 - tau) Qtarget + tau Q

Source: Christodoulou (2019), https://arxiv.org/abs/1910.07207. docs/learners/discrete_sac.md lists the deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

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
    polyak_update,
)
from mbrl.learners.settings import check_settings
from mbrl.learners.targets import (
    expected_soft_value,
    mean_log_prob,
    minimum_over_critics,
    squared_error,
    td_target,
    temperature_loss,
    value_of_action,
)
from mbrl.types import Metrics, TransitionBatch
from planners.rows import map_rows

PAPERS_SHARE = 0.98
"""Of the entropy of uniform actions: the paper's target entropy."""


@dataclass(frozen=True)
class DiscreteSACConfig:
    """Settings of discrete SAC. The defaults are the paper's, with the networks and the tau of SAC."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (ReLU) of actor and critics."""
    lr: float = 3e-4
    """Step size of Adam for actor, critics and temperature."""
    tau: float = 0.005
    """Share of the critics that goes into the target critics with every update."""
    temperature: float | None = None
    """Weight alpha of the entropy; None: learned, from 1."""
    target_entropy: float | None = None
    """What a learned temperature steers the policy's entropy to, in nats; None: 0.98 log(actions), as in the paper."""
    critics: int = 2
    """How many."""
    actor_every: int = 1
    """Critic updates per update of actor and temperature."""

    def __post_init__(self) -> None:
        check_settings(self, "critics", "actor_every")


class DiscreteSACState(NamedTuple):
    """Everything that learning goes on from."""

    actor: MLP
    critics: MLP
    """With an axis of critics after that of runs, as the targets."""
    targets: MLP
    log_temperature: Float[Tensor, "runs"]
    actor_adam: Adam
    critic_adam: Adam
    temperature_adam: Adam


@dataclass(frozen=True)
class DiscreteSACLearner:
    """SAC for discrete actions; a `mbrl.types.Learner` whose actions are int64 [runs, rows].

    Args:
        obs_dim: size of an observation.
        actions: how many.
        config: the settings.
        dtype: of the parameters; batches must have it too.

    Raises:
        ValueError: a size that is not positive, or a target entropy that no policy has.
    """

    obs_dim: int
    actions: int
    config: DiscreteSACConfig = DiscreteSACConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if min(self.obs_dim, self.actions) < 1:
            raise ValueError(f"obs_dim, actions: expected positive sizes, got {self.obs_dim} and {self.actions}")
        target, most = self.config.target_entropy, math.log(self.actions)
        if target is not None and not 0 <= target <= most:
            raise ValueError(
                f"target_entropy: expected nats from 0 to log({self.actions}) = {most:.3g}, as policies over so many "
                f"actions have, got {target}"
            )

    @property
    def target_entropy(self) -> float:
        """In nats."""
        given = self.config.target_entropy
        return PAPERS_SHARE * math.log(self.actions) if given is None else given

    def init(self, generators: list[Generator]) -> DiscreteSACState:
        """A fresh state; one generator a run."""
        config, sizes = self.config, (self.obs_dim, *self.config.hidden, self.actions)
        actor = init_mlp(sizes, generators, dtype=self.dtype)
        critics = init_mlp(sizes, generators, members=config.critics, dtype=self.dtype)
        log_temperature = actor[0][0].new_full((len(generators),), math.log(config.temperature or 1.0))
        return DiscreteSACState(
            actor,
            critics,
            map_rows(torch.clone, critics),
            log_temperature,
            init_adam(actor),
            init_adam(critics),
            init_adam(log_temperature),
        )

    def noise(self, batch_size: int, generators: list[Generator]) -> tuple[()]:
        """Nothing: an update is a function of state and batch."""
        return ()

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows"]:
        """Uniform numbers in [0, 1): which action to draw."""
        return torch.stack([torch.rand(rows, generator=g, device=g.device, dtype=self.dtype) for g in generators])

    def update(
        self, state: DiscreteSACState, batch: TransitionBatch, noise: tuple[()] = (), *, actor: bool = True
    ) -> tuple[DiscreteSACState, Metrics]:
        """One step of Adam for the critics and, with `actor`, for actor and temperature; then the targets follow.

        The actor's loss is that under the critics just updated. Where a loss or its gradients are not usable
        (see `gate`), in any run, nothing of what it and later ones move moves; the metrics say so.
        """
        lr = self.config.lr
        critic_grads, metrics = self.critic_gradients(state, batch)
        found_inf = gate(metrics, "train/critic_loss", critic_grads)
        adam_update(state.critics, critic_grads, state.critic_adam, lr=lr, found_inf=found_inf)
        if actor:
            actor_grads, slope, actor_metrics = self.actor_gradients(state, batch)
            metrics |= actor_metrics
            found_inf = gate(metrics, "train/actor_loss", [*actor_grads, slope], found_inf)
            adam_update(state.actor, actor_grads, state.actor_adam, lr=lr, found_inf=found_inf)
            if self.config.temperature is None:
                adam_update(state.log_temperature, [slope], state.temperature_adam, lr=lr, found_inf=found_inf)
        polyak_update(state.targets, state.critics, self.config.tau, found_inf)
        return state, metrics

    def critic_gradients(self, state: DiscreteSACState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the critics' loss, half the squared error summed over critics; nothing is written."""
        with torch.no_grad():
            q_t = minimum_over_critics(mlp(state.targets, batch.next_obs))
            log_prob_t = _log_prob(state.actor, batch.next_obs)
            value_t = expected_soft_value(q_t, log_prob_t, state.log_temperature.exp())
            target_tm1 = td_target(batch.reward, batch.discount, value_t)
        critics = differentiable(state.critics)
        q_tm1 = value_of_action(mlp(critics, batch.obs), batch.action[:, None])
        loss = 0.5 * squared_error(q_tm1, target_tm1[:, None]).sum(1)
        grads = gradients(loss, critics)
        return grads, {"train/critic_loss": loss.detach(), "train/q_mean": q_tm1.detach().mean((1, 2))}

    def actor_gradients(self, state: DiscreteSACState, batch: TransitionBatch) -> tuple[list[Tensor], Tensor, Metrics]:
        """Gradients of the actor's loss and of the temperature's; nothing is written."""
        actor, temperature = differentiable(state.actor), state.log_temperature.exp()
        with torch.no_grad():
            q = minimum_over_critics(mlp(state.critics, batch.obs))
        log_prob = _log_prob(actor, batch.obs)
        loss = -expected_soft_value(q, log_prob, temperature).mean(1)
        grads = gradients(loss, actor)
        mean = mean_log_prob(log_prob.detach())
        slope = temperature_loss(torch.ones_like(temperature), mean, self.target_entropy)  # the loss is linear
        metrics = {"train/actor_loss": loss.detach(), "train/ent_coef": temperature}
        if self.config.temperature is None:
            metrics["train/ent_coef_loss"] = slope * state.log_temperature
        return grads, slope, metrics

    @torch.no_grad()
    def act(
        self, state: DiscreteSACState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Int[Tensor, "runs rows"]:
        """Actions drawn from the policy; without noise the likeliest."""
        log_prob = _log_prob(state.actor, obs)
        if noise is None:
            return log_prob.argmax(-1)
        below = log_prob.exp().cumsum(-1)[..., :-1]  # without the last, which rounding may leave below 1
        return (below <= noise[..., None]).sum(-1)

    @torch.no_grad()
    def log_prob(
        self, state: DiscreteSACState, obs: Float[Tensor, "runs rows obs"], action: Int[Tensor, "runs rows"]
    ) -> Float[Tensor, "runs rows"]:
        """Log-probability of actions under the policy, where it samples."""
        return _log_prob(state.actor, obs).gather(-1, action[..., None])[..., 0]


def _log_prob(actor: MLP, obs: Tensor) -> Float[Tensor, "runs rows actions"]:
    return torch.log_softmax(mlp(actor, obs), -1)
