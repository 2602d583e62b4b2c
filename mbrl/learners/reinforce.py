"""REINFORCE: the policy gradient from whole episodes, with a learned baseline or without.

    G_t       = r_t + discount G_t+1                       the return to go: 0 behind a termination
    policy:     maximise    E[log pi(a_t|s_t) (G_t - b(s_t))]     with G and b held fixed
    baseline:   minimise    E[(b(s_t) - G_t)^2]            or b = 0

A baseline that does not depend on the action leaves the expected gradient as it is, and takes variance out of it.

Sources: Williams (1992), https://doi.org/10.1007/BF00992696; rewards to go and baselines as in Sutton and Barto (2018),
sections 13.3 and 13.4, http://incompleteideas.net/book/the-book-2nd.html. docs/learners/reinforce.md lists the
deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

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
    gate,
    gradients,
    init_adam,
    init_mlp,
    mlp,
    normal,
)
from mbrl.learners.settings import check_network
from mbrl.types import Metrics, TransitionBatch
from planners.box import Box


@dataclass(frozen=True)
class ReinforceConfig:
    """Settings of REINFORCE."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers (ReLU) of policy and baseline."""
    lr: float = 3e-3
    """Step size of Adam for the policy."""
    baseline: bool = True
    """Whether a baseline is learned; else returns count as they are."""
    baseline_lr: float = 1e-2
    """Step size of Adam for the baseline."""
    baseline_updates: int = 20
    """Steps of the baseline with every step of the policy, and after it."""

    def __post_init__(self) -> None:
        check_network(self)
        if not self.baseline_lr > 0:
            raise ValueError(f"baseline_lr: expected a positive step size, got {self.baseline_lr}")
        if self.baseline_updates < 1:
            raise ValueError(f"baseline_updates: expected at least 1, got {self.baseline_updates}")


@dataclass(frozen=True)
class DiscreteReinforceConfig(ReinforceConfig):
    """Settings of REINFORCE for discrete actions: the same ones."""


class ReinforceState(NamedTuple):
    """Everything that learning goes on from."""

    policy: MLP
    baseline: MLP
    """Empty where none is learned."""
    policy_adam: Adam
    baseline_adam: Adam | tuple[()]
    bounds: ActionBounds | tuple[()]
    """Of the actions; empty where they are discrete."""


@dataclass(frozen=True)
class ReinforceLearner:
    """REINFORCE with a squashed Gaussian policy; a `mbrl.types.Learner`.

    A batch holds steps of whole episodes that the policy of the moment took, with returns to go as their `reward`
    (see `returns_to_go`); `next_obs` and `discount` are not used.

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
    config: ReinforceConfig = ReinforceConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        Box(self.low, self.high, len(self.low))
        if self.obs_dim < 1:
            raise ValueError(f"obs_dim: expected a positive size, got {self.obs_dim}")

    def init(self, generators: list[Generator]) -> ReinforceState:
        """A fresh state; one generator a run."""
        state = _init(self, 2 * len(self.low), generators)
        return state._replace(bounds=action_bounds(self.low, self.high, len(generators), state.policy[0][0]))

    def noise(self, batch_size: int, generators: list[Generator]) -> tuple[()]:
        """Nothing: an update is a function of state and batch."""
        return ()

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows act"]:
        """Standard normal noise."""
        return normal((rows, len(self.low)), generators, dtype=self.dtype)

    def update(
        self, state: ReinforceState, batch: TransitionBatch, noise: tuple[()] = (), *, actor: bool = True
    ) -> tuple[ReinforceState, Metrics]:
        """One step of Adam for the policy, under the baseline as it was; then `baseline_updates` of the baseline.

        With `actor=False` the baseline alone learns. Where a loss or its gradients are not usable (see `gate`), in any
        run, nothing of what it and later ones move moves; the metrics say so.
        """
        return _update(self, state, batch, actor)

    def policy_gradients(self, state: ReinforceState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the policy's loss, the negative of what is maximised; nothing is written."""
        return _policy_gradients(self, state, batch)

    def policy_log_prob(self, policy: MLP, state: ReinforceState, obs: Tensor, action: Tensor) -> Tensor:
        """Log-density [runs, rows] of actions under the policy with these parameters, in units of the environment."""
        bounds: Any = state.bounds
        own = squashed_gaussian_log_prob(*gaussian_head(mlp(policy, obs)), bounds.unit(action))
        return own - bounds.half_range.log().sum(-1)

    def log_prob(
        self, state: ReinforceState, obs: Float[Tensor, "runs rows obs"], action: Float[Tensor, "runs rows act"]
    ) -> Float[Tensor, "runs rows"]:
        """Log-density of actions under the policy, where it samples."""
        with torch.no_grad():
            return self.policy_log_prob(state.policy, state, obs, action)

    @torch.no_grad()
    def act(
        self, state: ReinforceState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Float[Tensor, "runs rows act"]:
        """Sampled actions; without noise, tanh of the mean."""
        mean, log_std = gaussian_head(mlp(state.policy, obs))
        unit = torch.tanh(mean) if noise is None else squashed_gaussian(mean, log_std, noise)[0]
        bounds: Any = state.bounds
        action: Tensor = bounds.action(unit)
        return action


@dataclass(frozen=True)
class DiscreteReinforceLearner:
    """REINFORCE with a probability for each action; a `mbrl.types.Learner` whose actions are int64 [runs, rows].

    Batches are those of `ReinforceLearner`.

    Args:
        obs_dim: size of an observation.
        actions: how many.
        config: the settings.
        dtype: of the parameters; batches must have it too.

    Raises:
        ValueError: a size that is not positive.
    """

    obs_dim: int
    actions: int
    config: DiscreteReinforceConfig = DiscreteReinforceConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if min(self.obs_dim, self.actions) < 1:
            raise ValueError(f"obs_dim, actions: expected positive sizes, got {self.obs_dim} and {self.actions}")

    def init(self, generators: list[Generator]) -> ReinforceState:
        """A fresh state; one generator a run."""
        return _init(self, self.actions, generators)

    def noise(self, batch_size: int, generators: list[Generator]) -> tuple[()]:
        """Nothing: an update is a function of state and batch."""
        return ()

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows"]:
        """Uniform numbers in [0, 1): which action to draw."""
        return torch.stack([torch.rand(rows, generator=g, device=g.device, dtype=self.dtype) for g in generators])

    def update(
        self, state: ReinforceState, batch: TransitionBatch, noise: tuple[()] = (), *, actor: bool = True
    ) -> tuple[ReinforceState, Metrics]:
        """See `ReinforceLearner.update`."""
        return _update(self, state, batch, actor)

    def policy_gradients(self, state: ReinforceState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the policy's loss, the negative of what is maximised; nothing is written."""
        return _policy_gradients(self, state, batch)

    def policy_log_prob(self, policy: MLP, state: ReinforceState, obs: Tensor, action: Tensor) -> Tensor:
        """Log-probability [runs, rows] of actions under the policy with these parameters."""
        return torch.log_softmax(mlp(policy, obs), -1).gather(-1, action[..., None])[..., 0]

    def log_prob(
        self, state: ReinforceState, obs: Float[Tensor, "runs rows obs"], action: Int[Tensor, "runs rows"]
    ) -> Float[Tensor, "runs rows"]:
        """Log-probability of actions under the policy, where it samples."""
        with torch.no_grad():
            return self.policy_log_prob(state.policy, state, obs, action)

    @torch.no_grad()
    def act(
        self, state: ReinforceState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Int[Tensor, "runs rows"]:
        """Actions drawn from the policy; without noise the likeliest."""
        logits = mlp(state.policy, obs)
        if noise is None:
            return logits.argmax(-1)
        below = torch.softmax(logits, -1).cumsum(-1)[..., :-1]  # without the last, which rounding may leave below 1
        return (below <= noise[..., None]).sum(-1)


AnyLearner: TypeAlias = ReinforceLearner | DiscreteReinforceLearner


def returns_to_go(
    reward: Float[Tensor, "rows"],
    ended: Tensor,
    value_behind: Float[Tensor, "rows"],
    discount: float,
) -> Float[Tensor, "rows"]:
    """Discounted sums of rewards from each step to the end of its episode.

    Args:
        reward: of steps of whole episodes, one after the other.
        ended: [rows] bool, where a step is the last of its episode, however it ended.
        value_behind: what is to come behind such a step: 0 where the episode terminated, and where it was cut what a
            baseline says, or 0 without one. Elsewhere it is not used.
        discount: per step.
    """
    ahead, sums = 0.0, []
    rows = zip(reward.tolist(), ended.tolist(), value_behind.tolist(), strict=True)
    for gained, last, behind in reversed(list(rows)):
        ahead = gained + discount * (behind if last else ahead)
        sums.append(ahead)
    return torch.tensor(sums[::-1], dtype=reward.dtype, device=reward.device)


def baseline_value(state: ReinforceState, obs: Float[Tensor, "runs rows obs"]) -> Float[Tensor, "runs rows"]:
    """What the baseline expects of observations; 0 without one."""
    return mlp(state.baseline, obs)[..., 0] if state.baseline else obs.new_zeros(obs.shape[:-1])


def _init(learner: AnyLearner, outputs: int, generators: list[Generator]) -> ReinforceState:
    sizes = (learner.obs_dim, *learner.config.hidden)
    policy = init_mlp((*sizes, outputs), generators, dtype=learner.dtype)
    learned = learner.config.baseline
    baseline = init_mlp((*sizes, 1), generators, dtype=learner.dtype) if learned else ()
    return ReinforceState(policy, baseline, init_adam(policy), init_adam(baseline) if learned else (), ())


def _policy_gradients(
    learner: AnyLearner, state: ReinforceState, batch: TransitionBatch
) -> tuple[list[Tensor], Metrics]:
    with torch.no_grad():
        advantage = batch.reward - baseline_value(state, batch.obs)
    policy = differentiable(state.policy)
    log_prob = learner.policy_log_prob(policy, state, batch.obs, batch.action)
    loss = -(log_prob * advantage).mean(1)
    # stable-baselines3's name: the negative entropy, from samples
    metrics = {"train/policy_loss": loss.detach(), "train/entropy_loss": log_prob.detach().mean(1)}
    return gradients(loss, policy), metrics


def _update(
    learner: AnyLearner, state: ReinforceState, batch: TransitionBatch, actor: bool
) -> tuple[ReinforceState, Metrics]:
    config, found_inf = learner.config, None
    metrics: Metrics = {}
    if actor:
        grads, metrics = learner.policy_gradients(state, batch)
        found_inf = gate(metrics, "train/policy_loss", grads)
        adam_update(state.policy, grads, state.policy_adam, lr=config.lr, found_inf=found_inf)
    if isinstance(state.baseline_adam, Adam):
        for _ in range(config.baseline_updates):
            baseline = differentiable(state.baseline)
            loss = (mlp(baseline, batch.obs)[..., 0] - batch.reward).square().mean(1)
            grads = gradients(loss, baseline)
            metrics["train/value_loss"] = loss.detach()
            found_inf = gate(metrics, "train/value_loss", grads, found_inf)
            adam_update(state.baseline, grads, state.baseline_adam, lr=config.baseline_lr, found_inf=found_inf)
    return state, metrics
