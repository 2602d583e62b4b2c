"""Soft actor-critic, and its kin with more critics or more updates: REDQ and DroQ.

    critics:      minimise    E[(Q_i(s, a) - r - discount (min_j Qtarget_j(s', a') - alpha log pi(a'|s')))^2]
    actor:        minimise    E[alpha log pi(a|s) - min_j Q_j(s, a)],   a = tanh(mu(s) + sigma(s) eps)
    temperature:  minimise    -log alpha E[log pi(a|s) + target entropy]
    targets:      Qtarget <- (1 - tau) Qtarget + tau Q

REDQ has many critics, and its target takes the minimum of a random few; DroQ has two with dropout and layer norm. Both
update the critics often and climb the mean of the critics.

Sources: SAC, Haarnoja et al. (2018), https://arxiv.org/abs/1812.05905; REDQ, Chen et al. (2021),
https://arxiv.org/abs/2101.05982; DroQ, Hiraoka et al. (2022), https://arxiv.org/abs/2110.02034. docs/learners/sac.md
lists the deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from mbrl.learners.distributions import (
    ActionBounds,
    action_bounds,
    gaussian_head,
    squashed_gaussian,
    squashed_gaussian_log_prob,
)
from mbrl.learners.networks import (
    MLP,
    Adam,
    adam_update,
    differentiable,
    dropout_masks,
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
    minimum_over_critics,
    soft_policy_loss,
    soft_value,
    squared_error,
    td_target,
    temperature_loss,
)
from mbrl.types import Metrics, TransitionBatch
from planners.box import Box
from planners.rows import map_rows


@dataclass(frozen=True)
class SACConfig:
    """Settings of SAC. The defaults are those of the paper and of stable-baselines3."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (ReLU) of actor and critics."""
    lr: float = 3e-4
    """Step size of Adam for actor, critics and temperature."""
    tau: float = 0.005
    """Share of the critics that goes into the target critics with every update."""
    temperature: float | None = None
    """Weight alpha of the entropy; None: learned, from 1, or from `max_temperature` where that is less."""
    target_entropy: float | None = None
    """What a learned temperature steers the policy's entropy to, in nats of actions in [-1, 1]; None: -|A|."""
    critics: int = 2
    """How many."""
    subset: int | None = None
    """Critics, drawn at every update, that the target's minimum is taken over; None: all."""
    actor_value: Literal["min", "mean"] = "min"
    """What the actor climbs: the minimum of all critics, or their mean."""
    dropout: float = 0.0
    """Share of the critics' hidden units that is dropped, in targets and in the actor's loss too."""
    layer_norm: bool = False
    """Whether the critics' hidden layers are normalised."""
    actor_every: int = 1
    """Critic updates per update of actor and temperature."""
    actor_lr: float | None = None
    """Step size of Adam for the actor alone; None: `lr`."""
    max_temperature: float | None = None
    """What a learned temperature does not exceed; None: no bound."""
    backup: Literal["deterministic", "soft"] = "soft"
    """Whether targets leave the policy's entropy out, as offline learners have it, or have it."""

    def __post_init__(self) -> None:
        check_settings(self, "critics", "actor_every")
        if self.subset is not None and not 1 <= self.subset <= self.critics:
            raise ValueError(f"subset: expected 1 to {self.critics}, as there are critics, or None, got {self.subset}")
        if self.actor_value not in ("min", "mean"):
            raise ValueError(f"actor_value: expected 'min' or 'mean', got {self.actor_value!r}")
        for name in ("actor_lr", "max_temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number, or None, got {value}")
        if self.backup not in ("deterministic", "soft"):
            raise ValueError(f"backup: expected 'deterministic' or 'soft', got {self.backup!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected a share in [0, 1), got {self.dropout}")


REDQ = SACConfig(critics=10, subset=2, actor_value="mean", actor_every=20)
"""REDQ as in its paper; the loop makes 20 updates a real step."""

DROQ = SACConfig(dropout=0.01, layer_norm=True, actor_value="mean", actor_every=20)
"""DroQ as in its paper, with the dropout of its Ant; the loop makes 20 updates a real step."""


class SACState(NamedTuple):
    """Everything that learning goes on from."""

    actor: MLP
    critics: MLP
    """With an axis of critics after that of runs, as the targets."""
    targets: MLP
    log_temperature: Float[Tensor, "runs"]
    actor_adam: Adam
    critic_adam: Adam
    temperature_adam: Adam
    bounds: ActionBounds


class SACNoise(NamedTuple):
    """All randomness of one update."""

    action: Float[Tensor, "runs rows act"]
    """Standard normal, for the actions at `obs` that actor and temperature learn from."""
    next_action: Float[Tensor, "runs rows act"]
    """Standard normal, for the actions at `next_obs`."""
    subset: Int[Tensor, "runs subset"] | tuple[()]
    """Numbers of the critics that the target's minimum is over; () where it is over all."""
    masks: tuple[tuple[Float[Tensor, "runs critics rows hidden"], ...], ...]
    """Dropout of targets, critics, and critics in the actor's loss, one a hidden layer; () without dropout."""


class ValuedActions(NamedTuple):
    """Actions that were sampled, and what they are worth in the end."""

    action: Float[Tensor, "runs rows act"]
    entropy: Float[Tensor, "runs rows"]
    """-alpha log pi(a|s), which belongs to the reward of the action's own step; 0 with a deterministic backup."""
    value: Float[Tensor, "runs critics rows"]
    """Q(s, a) and this entropy, of every target critic, without dropout."""


@dataclass(frozen=True)
class SACLearner:
    """SAC for continuous actions; a `mbrl.types.Learner`.

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
    config: SACConfig = SACConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        Box(self.low, self.high, len(self.low))
        if self.obs_dim < 1:
            raise ValueError(f"obs_dim: expected a positive size, got {self.obs_dim}")

    @property
    def target_entropy(self) -> float:
        """In nats of actions in [-1, 1]."""
        given = self.config.target_entropy
        return float(-len(self.low)) if given is None else given

    def init(self, generators: list[Generator]) -> SACState:
        """A fresh state; one generator a run."""
        config, act = self.config, len(self.low)
        actor = init_mlp((self.obs_dim, *config.hidden, 2 * act), generators, dtype=self.dtype)
        critics = init_mlp(
            (self.obs_dim + act, *config.hidden, 1),
            generators,
            members=config.critics,
            layer_norm=config.layer_norm,
            dtype=self.dtype,
        )
        begin = config.temperature or min(1.0, config.max_temperature or 1.0)
        log_temperature = actor[0][0].new_full((len(generators),), math.log(begin))
        return SACState(
            actor,
            critics,
            map_rows(torch.clone, critics),
            log_temperature,
            init_adam(actor),
            init_adam(critics),
            init_adam(log_temperature),
            action_bounds(self.low, self.high, len(generators), log_temperature),
        )

    def noise(self, batch_size: int, generators: list[Generator]) -> SACNoise:
        """All randomness of one update on [runs, batch_size] rows."""
        config, act = self.config, len(self.low)
        action, next_action = normal((2, batch_size, act), generators, dtype=self.dtype).unbind(1)
        subset: Tensor | tuple[()] = ()
        if config.subset is not None and config.subset < config.critics:
            order = [torch.rand(config.critics, generator=g, device=g.device).argsort() for g in generators]
            subset = torch.stack(order)[:, : config.subset]
        masks: tuple[tuple[Tensor, ...], ...] = ()
        if config.dropout:
            shape = (config.critics, batch_size, config.hidden)
            masks = tuple(dropout_masks(*shape, config.dropout, generators, dtype=self.dtype) for _ in range(3))
        return SACNoise(action, next_action, subset, masks)

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal: what a sampled action is made of."""
        return normal((rows, len(self.low)), generators, dtype=self.dtype)

    def update(
        self, state: SACState, batch: TransitionBatch, noise: SACNoise, *, actor: bool = True
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
            adam_update(
                state.actor, actor_grads, state.actor_adam, lr=config.actor_lr or config.lr, found_inf=found_inf
            )
            if config.temperature is None:
                adam_update(
                    state.log_temperature, [temperature_grad], state.temperature_adam, lr=config.lr, found_inf=found_inf
                )
                if config.max_temperature is not None:
                    state.log_temperature.clamp_(max=math.log(config.max_temperature))
        polyak_update(state.targets, state.critics, config.tau, found_inf)
        return state, metrics

    def critic_gradients(
        self, state: SACState, batch: TransitionBatch, noise: SACNoise
    ) -> tuple[list[Tensor], Metrics]:
        """Gradients of the critics' loss, half the squared error summed over critics; nothing is written."""
        masks = noise.masks[1] if noise.masks else None
        target_tm1 = self.target(state, batch, noise)
        critics = differentiable(state.critics)
        q_tm1 = _values(critics, batch.obs, state.bounds.unit(batch.action), masks)
        loss = 0.5 * squared_error(q_tm1, target_tm1[:, None]).sum(1)
        grads = gradients(loss, critics)
        return grads, {"train/critic_loss": loss.detach(), "train/q_mean": q_tm1.detach().mean((1, 2))}

    @torch.no_grad()
    def target(self, state: SACState, batch: TransitionBatch, noise: SACNoise) -> Float[Tensor, "runs rows"]:
        """What the critics' values at the batch's actions are to be; with the policy's entropy in a soft backup."""
        action_t, log_prob_t = self._sample(state.actor, batch.next_obs, noise.next_action)
        q_t = _values(state.targets, batch.next_obs, action_t, noise.masks[0] if noise.masks else None)
        value_t = minimum_over_critics(q_t, noise.subset if isinstance(noise.subset, Tensor) else None)
        if self.config.backup == "soft":
            value_t = soft_value(value_t, log_prob_t, state.log_temperature.exp())
        return td_target(batch.reward, batch.discount, value_t)

    def actor_gradients(
        self, state: SACState, batch: TransitionBatch, noise: SACNoise
    ) -> tuple[list[Tensor], Tensor, Metrics]:
        """Gradients of the actor's loss and of the temperature's; nothing is written."""
        actor, temperature = differentiable(state.actor), state.log_temperature.exp()
        action, log_prob = self._sample(actor, batch.obs, noise.action)
        q = _values(state.critics, batch.obs, action, noise.masks[2] if noise.masks else None)
        value = q.mean(1) if self.config.actor_value == "mean" else minimum_over_critics(q)
        loss = soft_policy_loss(value, log_prob, temperature)
        grads = gradients(loss, actor)
        slope = temperature_loss(torch.ones_like(temperature), log_prob, self.target_entropy)  # the loss is linear
        metrics = {"train/actor_loss": loss.detach(), "train/ent_coef": temperature}
        if self.config.temperature is None:
            metrics["train/ent_coef_loss"] = slope * state.log_temperature
        return grads, slope, metrics

    @torch.no_grad()
    def act(
        self, state: SACState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Float[Tensor, "runs rows act"]:
        """Sampled actions; without noise, tanh of the mean."""
        if noise is None:
            mean, _ = gaussian_head(mlp(state.actor, obs))
            return state.bounds.action(torch.tanh(mean))
        return state.bounds.action(self._sample(state.actor, obs, noise)[0])

    @torch.no_grad()
    def log_prob(
        self, state: SACState, obs: Float[Tensor, "runs rows obs"], action: Float[Tensor, "runs rows act"]
    ) -> Float[Tensor, "runs rows"]:
        """Log-probability density that the policy, where it samples, gives to actions of the environment.

        The density is that of actions in the environment's units: less than that of actions in [-1, 1], which the
        temperature's target speaks of, by the sum of the logarithms of half the action ranges.
        """
        unit = state.bounds.unit(action)
        own = squashed_gaussian_log_prob(*gaussian_head(mlp(state.actor, obs)), unit)
        return own - state.bounds.half_range.log().sum(-1)

    @torch.no_grad()
    def target_values(
        self, state: SACState, obs: Float[Tensor, "runs rows obs"], noise: Float[Tensor, "runs rows act"]
    ) -> Float[Tensor, "runs critics rows"]:
        """Every target critic's value of actions sampled at `obs`, with entropy in a soft backup; without dropout."""
        return self.valued_actions(state, obs, noise).value

    @torch.no_grad()
    def valued_actions(
        self, state: SACState, obs: Float[Tensor, "runs rows obs"], noise: Float[Tensor, "runs rows act"]
    ) -> ValuedActions:
        """Sampled actions, those of `act`, with the values that the target critics give them, as targets have them."""
        action, log_prob = self._sample(state.actor, obs, noise)
        temperature = state.log_temperature.exp()
        if self.config.backup == "deterministic":
            temperature = torch.zeros_like(temperature)
        value = soft_value(_values(state.targets, obs, action, None), log_prob, temperature)
        return ValuedActions(state.bounds.action(action), -temperature[:, None] * log_prob, value)

    def _sample(self, actor: MLP, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions in [-1, 1] and their log-probabilities."""
        return squashed_gaussian(*gaussian_head(mlp(actor, obs)), noise)


def _values(critics: MLP, obs: Tensor, unit_action: Tensor, masks: tuple[Tensor, ...] | None) -> Tensor:
    """Q(s, a) of every critic: [runs, critics, rows]."""
    return mlp(critics, torch.cat([obs, unit_action], -1), masks=masks)[..., 0]
