"""TD3+BC: TD3 whose actor also imitates the data.

    critics:  as TD3's
    actor:    minimise    -lambda E[Q_1(s, pi(s))] + E[|pi(s) - a|^2] / |A|,   lambda = alpha / E[|Q_1(s, pi(s))|]

on observations with mean 0 and standard deviation 1 over the data. lambda makes the two terms comparable whatever the
rewards' units are; no gradient goes into it. |A| is the number of action dimensions, as the authors' code has it.

Source: Fujimoto and Gu (2021), https://arxiv.org/abs/2106.06860. docs/learners/td3_bc.md lists the deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.data.normalizer import fit_runs
from mbrl.learners.networks import adam_update, differentiable, gate, gradients, mlp, polyak_update
from mbrl.learners.settings import check_settings
from mbrl.learners.td3 import TD3Config, TD3Learner, TD3State
from mbrl.types import Metrics, TransitionBatch
from planners.rows import map_rows


@dataclass(frozen=True)
class TD3BCConfig:
    """Settings of TD3+BC. The defaults are those of the paper."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (ReLU) of actor and critics."""
    lr: float = 3e-4
    """Step size of Adam for actor and critics."""
    tau: float = 0.005
    """Share of the parameters that goes into the targets with every update of the actor."""
    alpha: float = 2.5
    """Weight of the critic beside imitation: towards 0 it is behaviour cloning."""
    critics: int = 2
    """How many; the target takes their minimum, the actor climbs the first."""
    smoothing: float = 0.2
    """Standard deviation of the noise on target actions, in half action ranges."""
    smoothing_clip: float = 0.5
    """Largest absolute noise on target actions, in half action ranges."""
    exploration: float = 0.1
    """Standard deviation of the Gaussian noise where the policy explores, in half action ranges."""
    actor_every: int = 2
    """Critic updates per update of actor and targets."""

    def __post_init__(self) -> None:
        check_settings(self, "critics", "actor_every")
        for name in ("alpha", "smoothing", "smoothing_clip", "exploration"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")


class TD3BCState(NamedTuple):
    """Everything that learning goes on from."""

    td3: TD3State
    mean: Float[Tensor, "runs 1 obs"]
    """Of the data's observations; 0 until `fit_normalizer`."""
    std: Float[Tensor, "runs 1 obs"]
    """Likewise; 1 until `fit_normalizer`, and where an observation does not vary."""


@dataclass(frozen=True)
class TD3BCLearner:
    """TD3+BC for continuous actions; a `mbrl.types.Learner`.

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
    config: TD3BCConfig = TD3BCConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        TD3Learner(self.obs_dim, self.low, self.high)  # raises where sizes or bounds are wrong

    @cached_property
    def td3(self) -> TD3Learner:
        """The learner whose critics and networks these are."""
        c = self.config
        shared = TD3Config(
            c.hidden, c.lr, c.tau, c.critics, c.smoothing, c.smoothing_clip, c.exploration, c.actor_every
        )
        return TD3Learner(self.obs_dim, self.low, self.high, shared, self.dtype)

    def init(self, generators: list[Generator]) -> TD3BCState:
        """A fresh state; one generator a run."""
        td3 = self.td3.init(generators)
        mean = td3.actor[0][0].new_zeros(len(generators), 1, self.obs_dim)
        return TD3BCState(td3, mean, torch.ones_like(mean))

    def noise(self, batch_size: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what the smoothing noise of one update is made of."""
        return self.td3.noise(batch_size, generators)

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what exploration is made of."""
        return self.td3.act_noise(rows, generators)

    def fit_normalizer(self, state: TD3BCState, obs: Float[Tensor, "runs rows obs"]) -> None:
        """Set the state's mean and standard deviation, in place, to those of the observations."""
        fit_runs(state.mean, state.std, obs)

    def update(
        self, state: TD3BCState, batch: TransitionBatch, noise: Float[Tensor, "runs rows act"], *, actor: bool = True
    ) -> tuple[TD3BCState, Metrics]:
        """One step of Adam for the critics; with `actor`, one for the actor, and the targets follow.

        The actor's loss is that under the critics just updated. Where a loss or its gradients are not usable
        (see `gate`), in any run, nothing of what it and later ones move moves; the metrics say so.
        """
        config, td3 = self.config, state.td3
        critic_grads, metrics = self.critic_gradients(state, batch, noise)
        found_inf = gate(metrics, "train/critic_loss", critic_grads)
        adam_update(td3.critics, critic_grads, td3.critic_adam, lr=config.lr, found_inf=found_inf)
        if actor:
            actor_grads, actor_metrics = self.actor_gradients(state, batch)
            metrics |= actor_metrics
            found_inf = gate(metrics, "train/actor_loss", actor_grads, found_inf)
            adam_update(td3.actor, actor_grads, td3.actor_adam, lr=config.lr, found_inf=found_inf)
            targets, followed = (td3.target_actor, td3.target_critics), (td3.actor, td3.critics)
            polyak_update(targets, followed, config.tau, found_inf)
        return state, metrics

    def critic_gradients(
        self, state: TD3BCState, batch: TransitionBatch, noise: Float[Tensor, "runs rows act"]
    ) -> tuple[list[Tensor], Metrics]:
        """Gradients of the critics' loss, which is TD3's; nothing is written."""
        scaled = batch._replace(obs=_scaled(state, batch.obs), next_obs=_scaled(state, batch.next_obs))
        return self.td3.critic_gradients(state.td3, scaled, noise)

    def actor_gradients(self, state: TD3BCState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the actor's loss; nothing is written."""
        obs, td3 = _scaled(state, batch.obs), state.td3
        actor, first_critic = differentiable(td3.actor), map_rows(lambda t: t[:, :1], td3.critics)
        action = torch.tanh(mlp(actor, obs))
        q = mlp(first_critic, torch.cat([obs, action], -1))[:, 0, :, 0]
        imitation = (action - td3.bounds.unit(batch.action)).square().mean((1, 2))
        weight = self.config.alpha / q.detach().abs().mean(-1)
        loss = imitation - weight * q.mean(-1)
        metrics = {"train/actor_loss": loss.detach(), "train/bc_loss": imitation.detach()}
        return gradients(loss, actor), metrics

    def act(
        self, state: TD3BCState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Float[Tensor, "runs rows act"]:
        """The policy's actions; with noise, those with Gaussian noise added, cut to the bounds."""
        return self.td3.act(state.td3, _scaled(state, obs), noise)


def _scaled(state: TD3BCState, obs: Tensor) -> Tensor:
    return (obs - state.mean) / state.std
