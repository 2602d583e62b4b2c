"""COMBO's learner: soft actor-critic whose critics think little of what the model makes up, and more of the data.

    critics:  minimise  1/2 E_all[(Q_i(s, a) - r - discount min_j Qtarget_j(s', a'))^2]
                        + weight / 2 (E_rho[log sum_a exp Q_i(s, a)] - E_data[Q_i(s, a)])
    actor:    minimise  E_all[alpha log pi(a|s) - min_j Q_j(s, a)],   as SAC's

A batch has rows of the data first, `real_rows` of them, and rows of the model behind. rho says at which states values
are lowered: of all rows (`mixture`), of the model's or of the data's. The logsumexp is over actions, see
`mbrl.learners.conservative`; what is raised are the data's own actions. With weight 0 this is SAC on mixed batches.

Source: Yu et al. (2021), "COMBO: conservative offline model-based policy optimization",
https://arxiv.org/abs/2102.08363, equation 2 and appendix B. docs/mopo.md lists the deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.learners.conservative import ProposalNoise, proposal_noise, propose, soft_maximum
from mbrl.learners.networks import adam_update, differentiable, gate, gradients, mlp, polyak_update
from mbrl.learners.sac import SACConfig, SACLearner, SACNoise, SACState
from mbrl.learners.settings import check_settings
from mbrl.learners.targets import squared_error
from mbrl.types import Metrics, TransitionBatch

Rho = Literal["mixture", "model", "data"]


@dataclass(frozen=True)
class COMBOLearnerConfig:
    """Settings of COMBO's learner. The defaults are those of OfflineRL-Kit for MuJoCo, but for the temperature's step
    size (1e-4 there)."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers (ReLU) of actor and critics."""
    lr: float = 3e-4
    """Step size of Adam for critics and temperature."""
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
    weight: float = 0.5
    """Of the conservative term, beside the squared error: beta."""
    rho: Rho = "mixture"
    """The states at which values are lowered: those of all rows, of the model's, or of the data's."""
    actions: int = 10
    """Actions of each of three kinds that the logsumexp is estimated from."""
    backup: Literal["deterministic", "soft"] = "deterministic"
    """Whether targets leave the policy's entropy out, or have it, as SAC's."""
    triples: bool = False
    """Take the logsumexp over three actions at a time, as OfflineRL-Kit does by mistake, in place of all 3 N."""
    real_fraction: float = 0.5
    """Share of rows of the data in every batch, by count; they come first."""

    def __post_init__(self) -> None:
        check_settings(self, "critics", "actions")
        if not self.actor_lr > 0:
            raise ValueError(f"actor_lr: expected a positive step size, got {self.actor_lr}")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight: expected a finite number of 0 or more, got {self.weight}")
        if self.rho not in get_args(Rho):
            raise ValueError(f"rho: expected one of {', '.join(get_args(Rho))}, got {self.rho!r}")
        if self.backup not in ("deterministic", "soft"):
            raise ValueError(f"backup: expected 'deterministic' or 'soft', got {self.backup!r}")
        if not 0 < self.real_fraction < 1:
            raise ValueError(
                f"real_fraction: expected a share between 0 and 1, for both kinds of rows are compared, got "
                f"{self.real_fraction}"
            )

    def real_rows(self, batch_size: int) -> int:
        """Rows of the data in a batch, rounded down.

        Raises:
            ValueError: there would be none of them, or none of the model.
        """
        rows = int(self.real_fraction * batch_size + 1e-9)
        if not 0 < rows < batch_size:
            raise ValueError(
                f"real_fraction, batch_size: expected rows of the data and of the model in every batch, got {rows} of "
                f"the data among {batch_size}"
            )
        return rows


class COMBONoise(NamedTuple):
    """All randomness of one update."""

    sac: SACNoise
    proposals: ProposalNoise | tuple[()]
    """() where nothing is lowered."""


@dataclass(frozen=True)
class COMBOLearner:
    """COMBO for continuous actions; a `mbrl.types.Learner` whose state is SAC's.

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
    config: COMBOLearnerConfig = COMBOLearnerConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        SACLearner(self.obs_dim, self.low, self.high)  # raises where sizes or bounds are wrong

    @cached_property
    def sac(self) -> SACLearner:
        """The learner whose actor, temperature and networks these are."""
        c = self.config
        networks = (c.hidden, c.lr, c.tau, c.temperature, c.target_entropy, c.critics)
        shared = SACConfig(*networks, actor_lr=c.actor_lr, backup=c.backup)
        return SACLearner(self.obs_dim, self.low, self.high, shared, self.dtype)

    def init(self, generators: list[Generator]) -> SACState:
        """A fresh state; one generator a run."""
        return self.sac.init(generators)

    def noise(self, batch_size: int, generators: list[Generator]) -> COMBONoise:
        """All randomness of one update on [runs, batch_size] rows; SAC's part is what SAC alone would draw."""
        sac = self.sac.noise(batch_size, generators)
        if self.config.weight == 0:
            return COMBONoise(sac, ())
        first, last = self._lowered(batch_size)
        return COMBONoise(sac, proposal_noise(last - first, self.config.actions, len(self.low), generators, self.dtype))

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what a sampled action is made of."""
        return self.sac.act_noise(rows, generators)

    def update(
        self, state: SACState, batch: TransitionBatch, noise: COMBONoise, *, actor: bool = True
    ) -> tuple[SACState, Metrics]:
        """One step of Adam for the critics and, with `actor`, for actor and temperature; then the targets follow.

        The actor's loss is that under the critics just updated. Where a loss or its gradients are not usable
        (see `gate`), in any run, nothing of what it and later ones move moves; the metrics say so.
        """
        config = self.config
        critic_grads, metrics = self.critic_gradients(state, batch, noise)
        found_inf = gate(metrics, "train/critic_loss", critic_grads)
        adam_update(state.critics, critic_grads, state.critic_adam, lr=config.lr, found_inf=found_inf)
        if actor:
            actor_grads, temperature_grad, actor_metrics = self.actor_gradients(state, batch, noise)
            metrics |= actor_metrics
            found_inf = gate(metrics, "train/actor_loss", [*actor_grads, temperature_grad], found_inf)
            adam_update(state.actor, actor_grads, state.actor_adam, lr=config.actor_lr, found_inf=found_inf)
            if config.temperature is None:
                adam_update(
                    state.log_temperature, [temperature_grad], state.temperature_adam, lr=config.lr, found_inf=found_inf
                )
        polyak_update(state.targets, state.critics, config.tau, found_inf)
        return state, metrics

    def critic_gradients(
        self, state: SACState, batch: TransitionBatch, noise: COMBONoise
    ) -> tuple[list[Tensor], Metrics]:
        """Gradients of the critics' loss, summed over critics; nothing is written."""
        config, real = self.config, self.config.real_rows(batch.reward.shape[1])
        target_tm1 = self.sac.target(state, batch, noise.sac)
        critics = differentiable(state.critics)
        q_tm1 = mlp(critics, torch.cat([batch.obs, state.bounds.unit(batch.action)], -1))[..., 0]
        loss = 0.5 * squared_error(q_tm1, target_tm1[:, None])
        q = q_tm1.detach()
        metrics = {"train/q_mean": q.mean((1, 2)), "train/q_model": q[..., real:].mean((1, 2))}
        if noise.proposals:
            rows = slice(*self._lowered(batch.reward.shape[1]))
            obs, next_obs = batch.obs[:, rows], batch.next_obs[:, rows]
            proposals = propose(state.actor, obs, next_obs, noise.proposals)
            high = soft_maximum(critics, obs, proposals, triples=config.triples).mean(-1)
            gap = high - q_tm1[..., :real].mean(-1)  # [runs, critics]
            loss = loss + 0.5 * config.weight * gap
            metrics["train/conservative_gap"] = gap.detach().mean(1)
        loss = loss.sum(1)
        return gradients(loss, critics), {"train/critic_loss": loss.detach(), **metrics}

    def actor_gradients(
        self, state: SACState, batch: TransitionBatch, noise: COMBONoise
    ) -> tuple[list[Tensor], Tensor, Metrics]:
        """Gradients of the actor's loss and of the temperature's, which are SAC's; nothing is written."""
        return self.sac.actor_gradients(state, batch, noise.sac)

    def act(
        self, state: SACState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Float[Tensor, "runs rows act"]:
        """Sampled actions; without noise, tanh of the mean."""
        return self.sac.act(state, obs, noise)

    def log_prob(
        self, state: SACState, obs: Float[Tensor, "runs rows obs"], action: Float[Tensor, "runs rows act"]
    ) -> Float[Tensor, "runs rows"]:
        """Log-density of the environment's actions under the policy, in their units."""
        return self.sac.log_prob(state, obs, action)

    def _lowered(self, batch_size: int) -> tuple[int, int]:
        """First row, and the one behind the last, of those whose states values are lowered at."""
        real = self.config.real_rows(batch_size)
        return {"mixture": (0, batch_size), "data": (0, real), "model": (real, batch_size)}[self.config.rho]
