"""Deep deterministic policy gradient (DDPG).

    critic:   minimise    E[(Q(s, a) - r - discount Qtarget(s', pi_target(s')))^2]
    actor:    maximise    E[Q(s, pi(s))]
    targets:  target <- (1 - tau) target + tau parameters, of actor and critic

Source: Lillicrap et al. (2016), https://arxiv.org/abs/1509.02971. docs/learners/ddpg.md lists the deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.learners.distributions import ActionBounds, action_bounds
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
from mbrl.learners.targets import policy_loss, squared_error, td_target
from mbrl.types import Metrics, TransitionBatch
from planners.box import Box
from planners.rows import map_rows


@dataclass(frozen=True)
class DDPGConfig:
    """Settings of DDPG. The defaults are those of stable-baselines3, with the networks that TD3 has here."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (ReLU) of actor and critic."""
    lr: float = 1e-3
    """Step size of Adam for actor and critic."""
    tau: float = 0.005
    """Share of the parameters that goes into the targets with every update."""
    exploration: float = 0.1
    """Standard deviation of the Gaussian noise on actions in training, in half action ranges."""
    actor_every: int = 1
    """Critic updates per update of the actor."""

    def __post_init__(self) -> None:
        check_settings(self, "actor_every")
        if not self.exploration >= 0:
            raise ValueError(f"exploration: expected 0 or more, got {self.exploration}")


class DDPGState(NamedTuple):
    """Everything that learning goes on from."""

    actor: MLP
    critic: MLP
    target_actor: MLP
    target_critic: MLP
    actor_adam: Adam
    critic_adam: Adam
    bounds: ActionBounds


@dataclass(frozen=True)
class DDPGLearner:
    """DDPG for continuous actions; a `mbrl.types.Learner`.

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
    config: DDPGConfig = DDPGConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        Box(self.low, self.high, len(self.low))
        if self.obs_dim < 1:
            raise ValueError(f"obs_dim: expected a positive size, got {self.obs_dim}")

    def init(self, generators: list[Generator]) -> DDPGState:
        """A fresh state; one generator a run."""
        hidden, act = self.config.hidden, len(self.low)
        actor = init_mlp((self.obs_dim, *hidden, act), generators, dtype=self.dtype)
        critic = init_mlp((self.obs_dim + act, *hidden, 1), generators, dtype=self.dtype)
        return DDPGState(
            actor,
            critic,
            map_rows(torch.clone, actor),
            map_rows(torch.clone, critic),
            init_adam(actor),
            init_adam(critic),
            action_bounds(self.low, self.high, len(generators), actor[0][0]),
        )

    def noise(self, batch_size: int, generators: list[Generator]) -> tuple[()]:
        """Nothing: an update is a function of state and batch."""
        return ()

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what exploration is made of."""
        return normal((rows, len(self.low)), generators, dtype=self.dtype)

    def update(
        self, state: DDPGState, batch: TransitionBatch, noise: tuple[()] = (), *, actor: bool = True
    ) -> tuple[DDPGState, Metrics]:
        """One step of Adam for the critic and, with `actor`, one for the actor; then the targets follow.

        The actor's loss is that under the critic just updated. Where a loss or its gradients are not usable
        (see `gate`), in any run, nothing of what it and later ones move moves; the metrics say so.
        """
        config = self.config
        critic_grads, metrics = self.critic_gradients(state, batch)
        found_inf = gate(metrics, "train/critic_loss", critic_grads)
        adam_update(state.critic, critic_grads, state.critic_adam, lr=config.lr, found_inf=found_inf)
        if actor:
            actor_grads, actor_metrics = self.actor_gradients(state, batch)
            metrics |= actor_metrics
            found_inf = gate(metrics, "train/actor_loss", actor_grads, found_inf)
            adam_update(state.actor, actor_grads, state.actor_adam, lr=config.lr, found_inf=found_inf)
        targets, followed = (state.target_actor, state.target_critic), (state.actor, state.critic)
        polyak_update(targets, followed, config.tau, found_inf)
        return state, metrics

    def critic_gradients(self, state: DDPGState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the critic's squared error; nothing is written."""
        with torch.no_grad():
            action_t = torch.tanh(mlp(state.target_actor, batch.next_obs))
            value_t = _values(state.target_critic, batch.next_obs, action_t)
            target_tm1 = td_target(batch.reward, batch.discount, value_t)
        critic = differentiable(state.critic)
        q_tm1 = _values(critic, batch.obs, state.bounds.unit(batch.action))
        loss = squared_error(q_tm1, target_tm1)
        grads = gradients(loss, critic)
        return grads, {"train/critic_loss": loss.detach(), "train/q_mean": q_tm1.detach().mean(1)}

    def actor_gradients(self, state: DDPGState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the actor's loss; nothing is written."""
        actor = differentiable(state.actor)
        loss = policy_loss(_values(state.critic, batch.obs, torch.tanh(mlp(actor, batch.obs))))
        return gradients(loss, actor), {"train/actor_loss": loss.detach()}

    @torch.no_grad()
    def act(
        self, state: DDPGState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Float[Tensor, "runs rows act"]:
        """The policy's actions; with noise, those with Gaussian noise added, cut to the bounds."""
        unit = torch.tanh(mlp(state.actor, obs))
        if noise is not None:
            unit = (unit + self.config.exploration * noise).clamp(-1, 1)
        return state.bounds.action(unit)


def _values(critic: MLP, obs: Tensor, unit_action: Tensor) -> Tensor:
    """Q(s, a): [runs, rows]."""
    return mlp(critic, torch.cat([obs, unit_action], -1))[..., 0]
