"""Deep Q-network (DQN), double and with n-step returns.

    minimise   E[huber(Q(s, a) - r - discount Qtarget(s', argmax_a' Q(s', a')))]
    act        with probability epsilon at random, else argmax_a Q(s, a)

Without `double` the maximum of Qtarget(s', .) takes its place. The buffer makes n-step returns: r is then the sum of n
discounted rewards, and `discount` gamma^n. epsilon falls linearly with the updates.

Sources: Mnih et al. (2015), https://www.nature.com/articles/nature14236; double, van Hasselt et al. (2016),
https://arxiv.org/abs/1509.06461. docs/learners/dqn.md lists the deviations.
"""

from __future__ import annotations

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
from mbrl.learners.targets import double_q_value, greedy_value, huber, td_target, value_of_action
from mbrl.types import Metrics, TransitionBatch
from planners.rows import map_rows


@dataclass(frozen=True)
class DQNConfig:
    """Settings of DQN."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers (ReLU)."""
    lr: float = 1e-3
    """Step size of Adam."""
    double: bool = True
    """Whether the network picks the action that the target network values."""
    tau: float = 1.0
    """Share of the network that goes into the target network, every `target_every` updates; 1 copies it."""
    target_every: int = 128
    """Updates between those of the target network."""
    huber_delta: float = 1.0
    """Errors of values above this have a constant slope."""
    exploration_initial: float = 1.0
    """Share of random actions at first."""
    exploration_final: float = 0.05
    """Share of random actions at last."""
    exploration_updates: int = 5_000
    """Updates over which the one becomes the other, linearly."""

    def __post_init__(self) -> None:
        check_settings(self, "target_every", "exploration_updates")
        if not self.huber_delta > 0:
            raise ValueError(f"huber_delta: expected a positive number, got {self.huber_delta}")
        for name in ("exploration_initial", "exploration_final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a share in [0, 1], got {getattr(self, name)}")


class DQNState(NamedTuple):
    """Everything that learning goes on from."""

    q: MLP
    target: MLP
    adam: Adam
    updates: Int[Tensor, "1"]
    """So far, one count for all runs: epsilon and the updates of the target network follow from it."""


@dataclass(frozen=True)
class DQNLearner:
    """DQN for discrete actions; a `mbrl.types.Learner` whose actions are int64 [runs, rows].

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
    config: DQNConfig = DQNConfig()
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if min(self.obs_dim, self.actions) < 1:
            raise ValueError(f"obs_dim, actions: expected positive sizes, got {self.obs_dim} and {self.actions}")

    def init(self, generators: list[Generator]) -> DQNState:
        """A fresh state; one generator a run."""
        q = init_mlp((self.obs_dim, *self.config.hidden, self.actions), generators, dtype=self.dtype)
        count = torch.zeros(1, dtype=torch.int64, device=generators[0].device)
        return DQNState(q, map_rows(torch.clone, q), init_adam(q), count)

    def noise(self, batch_size: int, generators: list[Generator]) -> tuple[()]:
        """Nothing: an update is a function of state and batch."""
        return ()

    def act_noise(self, rows: int, generators: list[Generator]) -> Float[Tensor, "runs rows 2"]:
        """Uniform numbers in [0, 1): whether to explore, and with which action."""
        return torch.stack([torch.rand(rows, 2, generator=g, device=g.device) for g in generators])

    def update(
        self, state: DQNState, batch: TransitionBatch, noise: tuple[()] = (), *, actor: bool = True
    ) -> tuple[DQNState, Metrics]:
        """One step of Adam; then the target network follows, where that is due. `actor` changes nothing.

        Where a loss or its gradients are not usable (see `gate`), in any run, nothing moves; the metrics say so.
        """
        config = self.config
        grads, metrics = self.q_gradients(state, batch)
        metrics["rollout/exploration_rate"] = self.epsilon(state).expand(len(batch.obs)).clone()
        found_inf = gate(metrics, "train/loss", grads)
        adam_update(state.q, grads, state.adam, lr=config.lr, found_inf=found_inf)
        state.updates.add_((1 - found_inf).long())
        waits = (state.updates.remainder(config.target_every) != 0).to(found_inf)  # asked on the device
        polyak_update(state.target, state.q, config.tau, torch.maximum(found_inf, waits))
        return state, metrics

    def q_gradients(self, state: DQNState, batch: TransitionBatch) -> tuple[list[Tensor], Metrics]:
        """Gradients of the loss; nothing is written."""
        with torch.no_grad():
            q_t = mlp(state.target, batch.next_obs)
            value_t = double_q_value(q_t, mlp(state.q, batch.next_obs)) if self.config.double else greedy_value(q_t)
            target_tm1 = td_target(batch.reward, batch.discount, value_t)
        q = differentiable(state.q)
        q_tm1 = value_of_action(mlp(q, batch.obs), batch.action)
        loss = huber(q_tm1 - target_tm1, self.config.huber_delta).mean(1)
        return gradients(loss, q), {"train/loss": loss.detach(), "train/q_mean": q_tm1.detach().mean(1)}

    def epsilon(self, state: DQNState) -> Float[Tensor, "1"]:
        """The share of random actions."""
        config = self.config
        fallen = (state.updates / config.exploration_updates).clamp(max=1.0)
        return config.exploration_initial + fallen * (config.exploration_final - config.exploration_initial)

    @torch.no_grad()
    def act(
        self, state: DQNState, obs: Float[Tensor, "runs rows obs"], noise: Tensor | None = None
    ) -> Int[Tensor, "runs rows"]:
        """Epsilon-greedy actions; without noise the greedy ones."""
        greedy = mlp(state.q, obs).argmax(-1)
        if noise is None:
            return greedy
        whether, which = noise.unbind(-1)
        return torch.where(whether < self.epsilon(state), (which * self.actions).long(), greedy)

    @torch.no_grad()
    def log_prob(
        self, state: DQNState, obs: Float[Tensor, "runs rows obs"], action: Int[Tensor, "runs rows"]
    ) -> Float[Tensor, "runs rows"]:
        """Log-probability of actions under the epsilon-greedy policy; -inf for what it never does."""
        epsilon = self.epsilon(state)
        greedy = mlp(state.q, obs).argmax(-1) == action
        return torch.where(greedy, 1 - epsilon + epsilon / self.actions, epsilon / self.actions).log()
