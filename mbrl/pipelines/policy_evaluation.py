"""The value of a policy that stands fixed, from a dataset: fitted Q evaluation, and rollouts in a learned model.

Sources: see `mbrl.learners.fqe`; rollouts of whole episodes in an ensemble are the direct method with PETS's model,
Chua et al. (2018), https://arxiv.org/abs/1805.12114, as compared by Fu et al. (2021), https://arxiv.org/abs/2103.16596.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.data.datasets import Dataset
from mbrl.learners.fqe import FQEConfig, FQELearner, FQEState
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.pipelines.agents import Agent
from mbrl.rollout import CHUNK, rollout
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import repeat_rows

ROWS = 4096
"""Rows that are looked at together where all of them are."""
LOOKS = 10
"""How often a fit of critics looks at what they say."""


class TargetPolicy(Protocol):
    """A policy to be evaluated."""

    @property
    def draws(self) -> bool:
        """Whether `act` needs its generator."""

    def act(self, obs: Float[Tensor, "rows obs"], generator: Generator) -> Tensor:
        """Actions [rows, act], or int64 [rows] where they are discrete."""

    def log_prob(self, obs: Float[Tensor, "rows obs"], action: Tensor) -> Float[Tensor, "rows"]:
        """Log-probabilities of actions; ValueError where the policy has no density."""


@dataclass(frozen=True, eq=False)
class AgentPolicy:
    """The policy of an agent, as `predict` has it.

    Args:
        agent: learner and state.
        sampled: whether actions are drawn, as in training; else they are the deterministic ones that `mbrl evaluate`
            takes.
    """

    agent: Agent
    sampled: bool = False

    @property
    def draws(self) -> bool:
        return self.sampled

    def act(self, obs: Float[Tensor, "rows obs"], generator: Generator) -> Tensor:
        agent = self.agent
        rows = obs[None].to(agent.device, agent.learner.dtype)
        noise = agent.learner.act_noise(len(obs), [generator]) if self.sampled else None
        action: Tensor = agent.learner.act(agent.state, rows, noise)[0]
        return action

    def log_prob(self, obs: Float[Tensor, "rows obs"], action: Tensor) -> Float[Tensor, "rows"]:
        if self.sampled:
            return torch.from_numpy(self.agent.log_prob(obs.cpu().numpy(), action.cpu().numpy())).to(obs)
        if not self.agent.discrete:
            raise ValueError(
                "policy: expected one that draws its actions, as a deterministic one has no density of continuous "
                "actions; evaluate the sampled policy (--sampled), or by FQE and by a model"
            )
        best = self.act(obs, torch.Generator()).to(action)
        return torch.where(best == action, 0.0, -math.inf).to(obs)


class FittedQ:
    """Critics of a policy, fitted to bootstrap samples of a dataset's episodes.

    Args:
        dataset: of any policy.
        policy: whose value is asked for.
        config: the settings.
        discount: of rewards, per step; below 1.
        seed: of initial weights, bootstrap, batches and sampled actions.
        device: where the critics live.

    Attributes:
        initial: [members] value of the policy where episodes begin, each by its own bootstrap sample of the dataset's
            first observations.
        history: [looks, members] likewise, during the fit.

    Raises:
        ValueError: the dataset has one episode only, an update is not finite, or `discount` is not in [0, 1).
    """

    def __init__(
        self,
        dataset: Dataset,
        policy: TargetPolicy,
        config: FQEConfig = FQEConfig(),  # noqa: B008, frozen
        *,
        discount: float = 0.99,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        check_bootstrap(dataset)
        self.policy, self.config, self.seed = policy, config, seed
        self.learner = learner_for(dataset, config)
        self._data = data = dataset.transitions(device=device)
        self.state: FQEState = self.learner.init(
            [generator(seed, "fqe", "init", m, device=device) for m in range(config.members)]
        )
        self.learner.fit_scales(self.state, data, discount)
        self._data = data = data._replace(discount=discount * data.discount)
        self._lengths = torch.tensor(dataset.lengths, device=device)
        self._first = self._lengths.cumsum(0) - self._lengths
        drawn = [generator(seed, "fqe", "bootstrap", m, device=device) for m in range(config.members)]
        self._episodes = torch.stack(
            [torch.randint(dataset.episodes, (dataset.episodes,), generator=g, device=g.device) for g in drawn]
        )
        self._ends = self._lengths[self._episodes].cumsum(1)
        fixed = self._fixed_choice(data.next_obs)
        looks = []
        for n in range(config.updates):
            self._update(n, fixed)
            if (n + 1) % max(1, config.updates // LOOKS) == 0:
                looks.append(self._initial())
        self.history = torch.stack(looks or [self._initial()])
        self.initial: Float[Tensor, "members"] = self.history[-1]

    def q(self, obs: Float[Tensor, "rows obs"], action: Tensor) -> Float[Tensor, "rows"]:
        """Mean over members of Q(s, a)."""
        return torch.cat(
            [
                self.learner.q(self.state, *(self._to_all(x) for x in part)).mean(0)
                for part in zip(obs.split(ROWS), action.split(ROWS), strict=True)
            ]
        )

    def v(self, obs: Float[Tensor, "rows obs"]) -> Float[Tensor, "rows"]:
        """Mean over members of V(s) = E Q(s, a): over `config.samples` actions where the policy draws them."""
        return torch.cat([self._member_values(part).mean(0) for part in obs.split(ROWS)])

    def _member_values(self, obs: Tensor) -> Float[Tensor, "members rows"]:
        repeats = self.config.samples if self.policy.draws and self.learner.actions is None else 1
        rows = obs.repeat_interleave(repeats, 0)
        choice = self._choice(rows, generator(self.seed, "fqe", "value", device=obs.device))
        values = self.learner.values(self.state.targets, self.state, self._to_all(rows), self._to_all(choice))
        return values.view(self.config.members, len(obs), repeats).mean(2)

    def _to_all(self, x: Tensor) -> Tensor:
        return x.expand(self.config.members, *x.shape)

    def _choice(self, obs: Tensor, g: Generator) -> Tensor:
        """One action of the policy in each row; or, where actions are discrete, its probabilities."""
        actions = self.learner.actions
        if actions is None:
            return self.policy.act(obs, g).to(obs)
        numbers = torch.arange(actions, device=obs.device)
        return torch.stack([self.policy.log_prob(obs, a.expand(len(obs))) for a in numbers], -1).exp().to(obs)

    def _fixed_choice(self, obs: Tensor) -> Tensor | None:
        """What the policy does in all rows, where asking once is enough."""
        if self.policy.draws and self.learner.actions is None:
            return None
        g = generator(self.seed, "fqe", "fixed", device=obs.device)
        return torch.cat([self._choice(part, g) for part in obs.split(ROWS)])

    def _update(self, n: int, fixed: Tensor | None) -> None:
        config, device = self.config, self._data.obs.device
        g = generator(self.seed, "fqe", "batch", n, device=device)
        draws = torch.rand(config.members, config.batch_size, generator=g, device=device, dtype=torch.float64)
        place = (draws * self._ends[:, -1:]).long()  # in the rows of the drawn episodes, one after the other
        slot = torch.searchsorted(self._ends, place, right=True)
        episode = self._episodes.gather(1, slot)
        row = self._first[episode] + place - (self._ends.gather(1, slot) - self._lengths[episode])
        batch = TransitionBatch(*(x[row] for x in self._data))
        choice = self._choice(batch.next_obs.flatten(0, 1), g).view(*row.shape, -1) if fixed is None else fixed[row]
        lr = 0.5 * config.lr * (1 + math.cos(math.pi * n / config.updates))
        _, metrics = self.learner.update(self.state, batch, choice, lr)
        if n % 100 == 0 and not bool(metrics["train/loss"].isfinite().all()):
            raise ValueError(f"fqe: expected a finite loss, got {metrics['train/loss'].tolist()} in update {n}")

    def _initial(self) -> Tensor:
        values = torch.cat([self._member_values(part) for part in self._data.obs[self._first].split(ROWS)], 1)
        return values.gather(1, self._episodes).double().mean(1)


def check_bootstrap(dataset: Dataset) -> None:
    """Raises ValueError where a dataset has too few episodes for a fit of critics."""
    if dataset.episodes < 2:
        raise ValueError("dataset: expected 2 episodes or more, for a bootstrap over them, got 1")


def learner_for(dataset: Dataset, config: FQEConfig) -> FQELearner:
    """The learner for a dataset's spaces."""
    _, space = dataset.spaces()
    if dataset.action_dim is None:
        return FQELearner(dataset.obs_dim, int(space.n), config=config)  # type: ignore[union-attr]
    low, high = (tuple(x.tolist()) for x in (space.low, space.high))  # type: ignore[union-attr]
    return FQELearner(dataset.obs_dim, None, low, high, config)


class ModelValue(NamedTuple):
    """What an ensemble says a policy is worth."""

    members: Float[Tensor, "elites"]
    """Mean discounted return over starts of each elite, which every row of it keeps to its end."""
    starts: Float[Tensor, "starts"]
    """Mean over elites, of each start."""
    lost: float
    """Share of rollouts in which the model returned something that is not finite."""


def model_value(
    dynamics: EnsembleDynamics,
    policy: TargetPolicy,
    start_obs: Float[Tensor, "starts obs"],
    *,
    horizon: int,
    discount: float,
    reward_range: tuple[float, float],
    generator: Generator,
) -> ModelValue:
    """Roll a policy out in every elite from every start, for whole episodes.

    Args:
        dynamics: with `propagation="ts_inf"`, so that each row keeps its elite.
        policy: whose value is asked for.
        start_obs: where episodes begin.
        horizon: steps; the rest is worth discount^horizon of a value.
        discount: of rewards, per step.
        reward_range: the model's rewards are cut to it: those of the data. A model that drifts away from the data may
            promise anything.
        generator: of all randomness.

    Raises:
        ValueError: the model's rows don't keep their elites, or `horizon` is below 1.
    """
    if dynamics.propagation != "ts_inf":
        raise ValueError(
            f"dynamics: expected propagation 'ts_inf', so that rows keep elites, got {dynamics.propagation!r}"
        )
    elites = len(dynamics.ensemble.elites)
    per_chunk = max(1, CHUNK // elites)
    returns, lost = [], 0.0
    powers = discount ** torch.arange(horizon, device=start_obs.device, dtype=torch.float64)[:, None]
    for part in start_obs.split(per_chunk):  # row i of what `reset` is given belongs to elite i % elites
        made = rollout(dynamics, policy.act, repeat_rows(part, elites), horizon, generator=generator, chunk=CHUNK)
        reward = made.batch.reward.double().clamp(*reward_range)
        returns.append(torch.where(made.alive, powers * reward, 0.0).sum(0).view(-1, elites))
        ended = (made.alive & made.batch.terminated).any(0)
        lost += float((~ended & ~made.alive[-1]).sum())
    table = torch.cat(returns)
    return ModelValue(table.mean(0), table.mean(1), lost / table.numel())
