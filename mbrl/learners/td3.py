"""Twin delayed deep deterministic policy gradient (TD3).

    critics:  minimise    sum_i E[(Q_i(s, a) - r - discount min_j Qtarget_j(s', a'))^2]
              a' = pi_target(s') + clipped Gaussian noise, cut to the bounds
    actor:    maximise    E[Q_1(s, pi(s))], every second update, and only then
    targets:  target <- (1 - tau) target + tau parameters, of actor and critics

Source: Fujimoto et al. (2018), https://arxiv.org/abs/1802.09477. docs/learners/td3.md lists the deviations.
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
from mbrl.learners.targets import minimum_over_critics, policy_loss, smoothed_action, squared_error, td_target
from mbrl.types import Metrics, TransitionBatch
from planners.box import Box
from planners.rows import map_rows


@dataclass(frozen=True)
class TD3Config:
    """Settings of TD3. The defaults are those of the paper, but for the networks, which are those of its code today."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (ReLU) of actor and critics."""
    lr: float = 1e-3
    """Step size of Adam for actor and critics."""
    tau: float = 0.005
    """Share of the parameters that goes into the targets with every update of the actor."""
    critics: int = 2
    """How many; the target takes their minimum, the actor climbs the first."""
    smoothing: float = 0.2
    """Standard deviation of the noise on target actions, in half action ranges."""
    smoothing_clip: float = 0.5
    """Largest absolute noise on target actions, in half action ranges."""
    exploration: float = 0.1
    """Standard deviation of the Gaussian noise on actions in training, in half action ranges."""
    actor_every: int = 2
    """Critic updates per update of actor and targets."""

    def __post_init__(self) -> None:
        check_settings(self, "critics", "actor_every")
        for name in ("smoothing", "smoothing_clip", "exploration"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")


class TD3State(NamedTuple):
    """Everything that learning goes on from."""

    actor: MLP
    critics: MLP
    """With an axis of critics after that of runs."""
    target_actor: MLP
    target_critics: MLP
    actor_adam: Adam
    critic_adam: Adam
    bounds: ActionBounds


@dataclass(frozen=True)
class TD3Learner:
    """TD3 for continuous actions; a `mbrl.types.Learner`.

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
    config: TD3Config = TD3Config()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        Box(self.low, self.high, len(self.low))
        if self.obs_dim < 1:
            raise ValueError(f"obs_dim: expected a positive size, got {self.obs_dim}")

    def init(self, generators: list[Generator]) -> TD3State:
        """A fresh state; one generator a run."""
        config, act = self.config, len(self.low)
        actor = init_mlp((self.obs_dim, *config.hidden, act), generators, dtype=self.dtype)
        sizes = (self.obs_dim + act, *config.hidden, 1)
        critics = init_mlp(sizes, generators, members=config.critics, dtype=self.dtype)
        return TD3State(
            actor,
            critics,
            map_rows(torch.clone, actor),
            map_rows(torch.clone, critics),
            init_adam(actor),
            init_adam(critics),
            action_bounds(self.low, self.high, len(generators), actor[0][0]),
        )

    def noise(self, batch_size: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what the smoothing noise of one update is made of."""
        return normal((batch_size, len(self.low)), generators, dtype=self.dtype)

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what exploration is made of."""
        return normal((rows, len(self.low)), generators, dtype=self.dtype)

    def update(
        self, state: TD3State, batch: TransitionBatch, noise: Float[Tensor, "runs rows act"], *, actor: bool = True
    ) -> tuple[TD3State, Metrics]:
        """One step of Adam for the critics; with `actor`, one for the actor, and the targets follow.

        The actor's loss is that under the critics just updated. Where a loss or its gradients are not usable
        (see `gate`), in any run, nothing of what it and later ones move moves; the metrics say so.
        """
        config = self.config
        critic_grads, metrics = self.critic_gradients(state, batch, noise)
        found_inf = gate(metrics, "train/critic_loss", critic_grads)
        adam_update(state.critics, critic_grads, state.critic_adam, lr=config.lr, found_inf=found_inf)
        if actor:
            actor_grads, actor_metrics = self.actor_gradients(state, batch)
            metrics |= actor_metrics
            found_inf = gate(metrics, "train/actor_loss", actor_grads, found_inf)
            adam_update(state.actor, actor_grads, state.actor_adam, lr=config.lr, found_inf=found_inf)
            targets, followed = (state.target_actor, state.target_critics), (state.actor, state.critics)
            polyak_update(targets, followed, config.tau, found_inf)
        return state, metrics

    def critic_gradients(
        self, state: TD3State, batch: TransitionBatch, noise: Float[Tensor, "runs rows act"]
    ) -> tuple[list[Tensor], Metrics]:
        """Gradients of the critics' loss, the squared error summed over critics; nothing is written."""
        with torch.no_grad():
            policy_t = torch.tanh(mlp(state.target_actor, batch.next_obs))
            action_t = smoothed_action(policy_t, noise, self.config.smoothing, self.config.smoothing_clip)
            value_t = minimum_over_critics(_values(state.target_critics, batch.next_obs, action_t))
            target_tm1 = td_target(batch.reward, batch.discount, value_t)
        critics = differentiable(state.critics)
        q_tm1 = _values(critics, batch.obs, state.bounds.unit(batch.action))
        loss = squared_error(q_tm1, target_tm1[:, None]).sum(1)
        grads = gradients(loss, critics)
        return grads, {"train/critic_loss": loss.detach(), "train/q_mean": q_tm1.detach().mean((1, 2))}

    def actor_gradients(self, state: TD3State, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the actor's loss; nothing is written."""
        actor, first_critic = differentiable(state.actor), map_rows(lambda t: t[:, :1], state.critics)
        q = _values(first_critic, batch.obs, torch.tanh(mlp(actor, batch.obs)))
        loss = policy_loss(q[:, 0])
        return gradients(loss, actor), {"train/actor_loss": loss.detach()}

    @torch.no_grad()
    def act(
        self, state: TD3State, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Float[Tensor, "runs rows act"]:
        """The policy's actions; with noise, those with Gaussian noise added, cut to the bounds."""
        unit = torch.tanh(mlp(state.actor, obs))
        if noise is not None:
            unit = (unit + self.config.exploration * noise).clamp(-1, 1)
        return state.bounds.action(unit)


def _values(critics: MLP, obs: Tensor, unit_action: Tensor) -> Tensor:
    """Q(s, a) of every critic: [runs, critics, rows]."""
    return mlp(critics, torch.cat([obs, unit_action], -1))[..., 0]
