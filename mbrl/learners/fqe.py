"""Fitted Q evaluation: what a given policy is worth, from data of others, by regression on its own predictions.

    minimise    E_data[(Q(s, a) - r - discount E_{a' ~ pi(.|s')} Qtarget(s', a'))^2]
    targets:    Qtarget <- (1 - tau) Qtarget + tau Q
    value:      E_{s_0}[E_{a ~ pi(.|s_0)} Q(s_0, a)]

The axis of runs is one of bootstrap samples: each run learns from episodes drawn with replacement, so that the spread
of their values tells the error that comes from having few episodes (Hao et al. 2021, https://arxiv.org/abs/2102.03607).
It does not tell that of actions which the data don't show.

Source: Le et al. (2019), https://arxiv.org/abs/1903.08738, section 4.2. Deviations: stochastic gradient descent with a
target network in place of whole regressions one after the other; observations are standardised, values are in units of
what the rewards can add up to, and targets are cut to what the rewards of the data can add up to at all.
"""

from __future__ import annotations

import math
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
    polyak_update,
)
from mbrl.learners.settings import check_numbers
from mbrl.learners.targets import squared_error, td_target, value_of_action
from mbrl.types import Metrics, TransitionBatch
from planners.rows import map_rows


@dataclass(frozen=True)
class FQEConfig:
    """Settings of fitted Q evaluation.

    Raises:
        ValueError: a number is out of range.
    """

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers (ReLU); (): values are linear in the observation (one number an action)."""
    lr: float = 1e-3
    """Step size of Adam at the start; it falls to 0 with a cosine."""
    tau: float = 0.05
    """Share of the network that goes into the target network with every update: values spread over the steps of
    episodes in about 1 / (tau (1 - discount)) updates."""
    updates: int = 10_000
    batch_size: int = 256
    members: int = 5
    """Bootstrap samples of the episodes, each with critics of its own."""
    samples: int = 8
    """Actions, of a policy that draws them, that its value in a state is the mean over; discrete ones are summed."""

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("updates", "batch_size", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.members < 2:
            raise ValueError(f"members: expected at least 2, for an interval, got {self.members}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden: expected positive widths, got {self.hidden}")
        if not 0 < self.lr < math.inf or not 0 < self.tau <= 1:
            raise ValueError(f"lr, tau: expected a positive number and one in (0, 1], got {self.lr} and {self.tau}")


class FQEState(NamedTuple):
    """Everything that learning goes on from."""

    q: MLP
    targets: MLP
    adam: Adam
    mean: Float[Tensor, "runs 1 obs"]
    """Of the observations in the data; 0 until `fit_scales`."""
    std: Float[Tensor, "runs 1 obs"]
    """Likewise; 1 until `fit_scales`, and where an observation does not vary."""
    scale: Float[Tensor, "runs 1"]
    """What the network's outputs are multiplied with; 1 until `fit_scales`."""
    least: Float[Tensor, "runs 1"]
    """The worst that rewards like those of the data can add up to; -inf until `fit_scales`."""
    most: Float[Tensor, "runs 1"]
    """The best, likewise."""
    bounds: ActionBounds | tuple[()]
    """Of continuous actions."""


@dataclass(frozen=True)
class FQELearner:
    """Critics of a policy that stands fixed. Not a `mbrl.types.Learner`: there is nothing to act with.

    Args:
        obs_dim: size of an observation.
        actions: how many discrete actions there are; None: actions are continuous.
        low: lower action bounds, where they are continuous.
        high: upper action bounds.
        config: the settings.
        dtype: of the parameters; batches must have it too.

    Raises:
        ValueError: a size is not positive, or bounds are not finite or not in order.
    """

    obs_dim: int
    actions: int | None = None
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    config: FQEConfig = FQEConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.obs_dim < 1 or (self.actions is not None and self.actions < 1):
            raise ValueError(f"obs_dim, actions: expected positive sizes, got {self.obs_dim} and {self.actions}")
        if (self.actions is None) != (len(self.low) > 0):
            raise ValueError("actions, low: expected a number of discrete actions or bounds of continuous ones")

    def init(self, generators: list[Generator]) -> FQEState:
        """A fresh state; one generator a run."""
        inputs, outputs = (self.obs_dim + len(self.low), 1) if self.actions is None else (self.obs_dim, self.actions)
        q = init_mlp((inputs, *self.config.hidden, outputs), generators, dtype=self.dtype)
        like, runs = q[0][0], len(generators)
        mean, one = like.new_zeros(runs, 1, self.obs_dim), like.new_ones(runs, 1)
        bounds = action_bounds(self.low, self.high, runs, like) if self.actions is None else ()
        unbounded = one * math.inf
        return FQEState(
            q,
            map_rows(torch.clone, q),
            init_adam(q),
            mean,
            torch.ones_like(mean),
            one,
            -unbounded,
            unbounded,
            bounds,
        )

    def fit_scales(self, state: FQEState, data: TransitionBatch, discount: float) -> None:
        """Set, in place, what observations and values are measured by, from all rows of the data.

        Raises:
            ValueError: `discount` is not in [0, 1).
        """
        if not 0 <= discount < 1:
            raise ValueError(f"discount: expected a number in [0, 1), for values are sums without end, got {discount}")
        horizon = 1 / (1 - discount)
        std = data.obs.std(0, correction=0)
        state.mean.copy_(data.obs.mean(0))
        state.std.copy_(torch.where(std > 1e-6, std, 1.0))
        size = data.reward.square().mean().sqrt()
        state.scale.copy_(torch.where(size > 0, size * horizon, 1.0))
        least, most = data.reward.min() * horizon, data.reward.max() * horizon
        if bool(
            data.terminated.any()
        ):  # behind an end there is nothing, which may be better or worse than what is here
            least, most = least.clamp(max=0), most.clamp(min=0)
        state.least.copy_(least.expand_as(state.least))
        state.most.copy_(most.expand_as(state.most))

    def update(
        self, state: FQEState, batch: TransitionBatch, policy_t: Tensor, lr: float | None = None
    ) -> tuple[FQEState, Metrics]:
        """One step of Adam; then the targets follow. Where a loss is not finite, nothing moves.

        Args:
            state: is written into.
            batch: [runs, batch_size, ...].
            policy_t: what the policy does at `next_obs`: one action of it, [runs, batch_size, act]; or, where actions
                are discrete, its probabilities [runs, batch_size, actions].
            lr: step size; None: the configuration's.
        """
        value_t = self.values(state.targets, state, batch.next_obs, policy_t)
        target = td_target(batch.reward, batch.discount, value_t).clamp(state.least, state.most) / state.scale
        q = differentiable(state.q)
        loss = 0.5 * squared_error(self._outputs(q, state, batch.obs, batch.action), target)
        grads = gradients(loss, q)
        metrics = {"train/loss": loss.detach()}
        found_inf = gate(metrics, "train/loss", grads)
        adam_update(state.q, grads, state.adam, lr=self.config.lr if lr is None else lr, found_inf=found_inf)
        polyak_update(state.targets, state.q, self.config.tau, found_inf)
        return state, metrics

    @torch.no_grad()
    def q(self, state: FQEState, obs: Float[Tensor, "runs rows obs"], action: Tensor) -> Float[Tensor, "runs rows"]:
        """Q(s, a) of the slow critics, for actions [runs, rows, act], or int64 [runs, rows]."""
        return self._outputs(state.targets, state, obs, action) * state.scale

    @torch.no_grad()
    def values(
        self, critics: MLP, state: FQEState, obs: Float[Tensor, "runs rows obs"], policy: Tensor
    ) -> Float[Tensor, "runs rows"]:
        """Q(s, a) of an action of the policy [runs, rows, act]; or the mean of Q by its probabilities."""
        if self.actions is None:
            return self._outputs(critics, state, obs, policy) * state.scale
        return (policy * mlp(critics, (obs - state.mean) / state.std)).sum(-1) * state.scale

    def _outputs(self, critics: MLP, state: FQEState, obs: Tensor, action: Tensor) -> Float[Tensor, "runs rows"]:
        seen = (obs - state.mean) / state.std
        if isinstance(state.bounds, ActionBounds):
            return mlp(critics, torch.cat([seen, state.bounds.unit(action)], -1))[..., 0]
        return value_of_action(mlp(critics, seen), action)
