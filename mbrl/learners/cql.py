"""Conservative Q-learning (CQL): soft actor-critic whose critics think little of actions that the data do not show.

    critics:     minimise    E[(Q_i(s, a) - r - discount min_j Qtarget_j(s', a'))^2] + weight E[gap_i(s, a)]
    actor:       minimise    E[alpha log pi(a|s) - min_j Q_j(s, a)],   as SAC's
    multiplier:  maximise    multiplier (weight E[gap_i] - threshold), where there is a threshold

with the gap of `mbrl.learners.conservative`: how much higher the critic values actions that it makes up than those in
the data. Where the weight is large enough, the learned value of the policy is a lower bound of its true value.

Source: Kumar et al. (2020), https://arxiv.org/abs/2006.04779. docs/learners/cql.md lists the deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.learners.conservative import ProposalNoise, proposal_noise, propose, soft_maximum
from mbrl.learners.networks import Adam, adam_update, differentiable, gate, gradients, init_adam, mlp, polyak_update
from mbrl.learners.sac import SACConfig, SACLearner, SACNoise, SACState
from mbrl.learners.settings import check_settings
from mbrl.learners.targets import squared_error
from mbrl.types import Metrics, TransitionBatch

LARGEST_MULTIPLIER = 1e6
"""Beyond it a multiplier would take as long to come back as it took to get there."""


@dataclass(frozen=True)
class CQLConfig:
    """Settings of CQL. The defaults are those of OfflineRL-Kit for MuJoCo, but for the temperature's step size
    (1e-4 there)."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers (ReLU) of actor and critics."""
    lr: float = 3e-4
    """Step size of Adam for critics, temperature and multiplier."""
    actor_lr: float = 1e-4
    """Step size of Adam for the actor."""
    tau: float = 0.005
    """Share of the critics that goes into the target critics with every update."""
    temperature: float | None = None
    """Weight alpha of the entropy; None: learned, from 1."""
    target_entropy: float | None = None
    """What a learned temperature steers the policy's entropy to, in nats of actions in [-1, 1]; None: -|A|."""
    critics: int = 2
    """How many; the target and the actor take their minimum."""
    weight: float = 5.0
    """Of the gap, beside the squared error."""
    actions: int = 10
    """N: actions of each of three kinds that a gap is estimated from."""
    scale: float = 1.0
    """Temperature of the logsumexp, in units of values."""
    threshold: float | None = None
    """What a learned multiplier steers weight times gap to (the paper's tau); None: no multiplier."""
    backup: Literal["deterministic", "soft"] = "deterministic"
    """Whether targets leave the policy's entropy out, or have it, as SAC's."""
    triples: bool = False
    """Take the logsumexp over three actions at a time, as OfflineRL-Kit does by mistake, in place of all 3 N."""

    def __post_init__(self) -> None:
        check_settings(self, "critics", "actions")
        if not self.actor_lr > 0:
            raise ValueError(f"actor_lr: expected a positive step size, got {self.actor_lr}")
        if not self.weight >= 0:
            raise ValueError(f"weight: expected 0 or more, got {self.weight}")
        if not self.scale > 0:
            raise ValueError(f"scale: expected a positive temperature, got {self.scale}")
        if self.backup not in ("deterministic", "soft"):
            raise ValueError(f"backup: expected 'deterministic' or 'soft', got {self.backup!r}")


class CQLState(NamedTuple):
    """Everything that learning goes on from."""

    sac: SACState
    log_multiplier: Float[Tensor, "runs"]
    """0, and stays there, where there is no threshold."""
    multiplier_adam: Adam


class CQLNoise(NamedTuple):
    """All randomness of one update."""

    sac: SACNoise
    proposals: ProposalNoise


@dataclass(frozen=True)
class CQLLearner:
    """CQL for continuous actions; a `mbrl.types.Learner`.

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
    config: CQLConfig = CQLConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        SACLearner(self.obs_dim, self.low, self.high)  # raises where sizes or bounds are wrong

    @cached_property
    def sac(self) -> SACLearner:
        """The learner whose actor, temperature and networks these are."""
        c = self.config
        shared = SACConfig(c.hidden, c.lr, c.tau, c.temperature, c.target_entropy, c.critics, backup=c.backup)
        return SACLearner(self.obs_dim, self.low, self.high, shared, self.dtype)

    def init(self, generators: list[Generator]) -> CQLState:
        """A fresh state; one generator a run."""
        sac = self.sac.init(generators)
        log_multiplier = torch.zeros_like(sac.log_temperature)
        return CQLState(sac, log_multiplier, init_adam(log_multiplier))

    def noise(self, batch_size: int, generators: list[Generator]) -> CQLNoise:
        """All randomness of one update on [runs, batch_size] rows."""
        sac = self.sac.noise(batch_size, generators)
        return CQLNoise(sac, proposal_noise(batch_size, self.config.actions, len(self.low), generators, self.dtype))

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what a sampled action is made of."""
        return self.sac.act_noise(rows, generators)

    def update(
        self, state: CQLState, batch: TransitionBatch, noise: CQLNoise, *, actor: bool = True
    ) -> tuple[CQLState, Metrics]:
        """One step of Adam for critics and multiplier and, with `actor`, for actor and temperature; then the targets.

        The actor's loss is that under the critics just updated. Where a loss or its gradients are not usable
        (see `gate`), in any run, nothing of what it and later ones move moves; the metrics say so.
        """
        config, sac = self.config, state.sac
        critic_grads, multiplier_grad, metrics = self.critic_gradients(state, batch, noise)
        found_inf = gate(metrics, "train/critic_loss", [*critic_grads, multiplier_grad])
        adam_update(sac.critics, critic_grads, sac.critic_adam, lr=config.lr, found_inf=found_inf)
        if config.threshold is not None:
            adam_update(
                state.log_multiplier, [multiplier_grad], state.multiplier_adam, lr=config.lr, found_inf=found_inf
            )
            state.log_multiplier.clamp_(max=math.log(LARGEST_MULTIPLIER))
        if actor:
            actor_grads, temperature_grad, actor_metrics = self.actor_gradients(state, batch, noise)
            metrics |= actor_metrics
            found_inf = gate(metrics, "train/actor_loss", [*actor_grads, temperature_grad], found_inf)
            adam_update(sac.actor, actor_grads, sac.actor_adam, lr=config.actor_lr, found_inf=found_inf)
            if config.temperature is None:
                adam_update(
                    sac.log_temperature, [temperature_grad], sac.temperature_adam, lr=config.lr, found_inf=found_inf
                )
        polyak_update(sac.targets, sac.critics, config.tau, found_inf)
        return state, metrics

    def critic_gradients(
        self, state: CQLState, batch: TransitionBatch, noise: CQLNoise
    ) -> tuple[list[Tensor], Tensor, Metrics]:
        """Gradients of the critics' loss, half of which SAC's is, and of the multiplier's; nothing is written."""
        config, sac = self.config, state.sac
        target_tm1 = self.sac.target(sac, batch, noise.sac)
        proposals = propose(sac.actor, batch.obs, batch.next_obs, noise.proposals)
        critics = differentiable(sac.critics)
        q_tm1 = mlp(critics, torch.cat([batch.obs, sac.bounds.unit(batch.action)], -1))[..., 0]
        high = soft_maximum(critics, batch.obs, proposals, scale=config.scale, triples=config.triples)
        gap = (high - q_tm1).mean(-1)  # [runs, critics]
        multiplier = state.log_multiplier.exp()
        excess = config.weight * gap - (config.threshold or 0.0)
        loss = 0.5 * (squared_error(q_tm1, target_tm1[:, None]) + multiplier[:, None] * excess).sum(1)
        grads = gradients(loss, critics)
        metrics = {
            "train/critic_loss": loss.detach(),
            "train/q_mean": q_tm1.detach().mean((1, 2)),
            "train/conservative_gap": gap.detach().mean(1),
        }
        if config.threshold is not None:
            metrics["train/multiplier"] = multiplier
        return grads, -multiplier * excess.detach().mean(1), metrics

    def actor_gradients(
        self, state: CQLState, batch: TransitionBatch, noise: CQLNoise
    ) -> tuple[list[Tensor], Tensor, Metrics]:
        """Gradients of the actor's loss and of the temperature's, which are SAC's; nothing is written."""
        return self.sac.actor_gradients(state.sac, batch, noise.sac)

    def act(
        self, state: CQLState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Float[Tensor, "runs rows act"]:
        """Sampled actions; without noise, tanh of the mean."""
        return self.sac.act(state.sac, obs, noise)

    def log_prob(
        self, state: CQLState, obs: Float[Tensor, "runs rows obs"], action: Float[Tensor, "runs rows act"]
    ) -> Float[Tensor, "runs rows"]:
        """Log-density of the environment's actions under the policy, in their units."""
        return self.sac.log_prob(state.sac, obs, action)
