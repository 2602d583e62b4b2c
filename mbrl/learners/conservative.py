"""Conservative Q-learning's regulariser: values of actions that a policy might take go down, those in the data go up.

    gap_i(s, a) = scale log sum_j exp(Q_i(s, a_j) / scale - log p(a_j)) - Q_i(s, a)

where the a_j are N uniform actions, N of the policy at s and N of the policy at s', each weighted by the inverse of its
density p: an estimate of scale log integral exp(Q / scale) that prefers no proposal. The sum is not divided by the
3 N, so that thresholds of a Lagrange multiplier mean what they mean elsewhere; the gradient is the same.

Sources: CQL, Kumar et al. (2020), https://arxiv.org/abs/2006.04779, appendix F; COMBO, Yu et al. (2021),
https://arxiv.org/abs/2102.08363.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from mbrl.learners.distributions import gaussian_head, squashed_gaussian
from mbrl.learners.networks import MLP, mlp, normal


class ProposalNoise(NamedTuple):
    """What the actions a_j of one update are made of: `actions` of each kind a row, a row's actions side by side."""

    uniform: Float[Tensor, "runs rows actions act"]
    """In [-1, 1]: these are the actions."""
    policy: Float[Tensor, "runs rows actions act"]
    """Standard normal, for actions of the policy at `obs`."""
    next_policy: Float[Tensor, "runs rows actions act"]
    """Likewise at `next_obs`."""


class Proposals(NamedTuple):
    """Actions in [-1, 1] and their log-densities, by where they come from."""

    uniform: Float[Tensor, "runs rows actions act"]
    policy: Float[Tensor, "runs rows actions act"]
    next_policy: Float[Tensor, "runs rows actions act"]
    log_uniform: Float[Tensor, "runs rows actions"]
    log_policy: Float[Tensor, "runs rows actions"]
    log_next_policy: Float[Tensor, "runs rows actions"]


def proposal_noise(
    rows: int, actions: int, action_dim: int, generators: list[Generator], dtype: torch.dtype
) -> ProposalNoise:
    """The noise of one update; run i depends on `generators[i]` alone."""
    shape = (rows, actions, action_dim)
    uniform = [torch.rand(*shape, generator=g, dtype=dtype, device=g.device) for g in generators]
    policy, next_policy = normal((2, *shape), generators, dtype=dtype).unbind(1)
    return ProposalNoise(2 * torch.stack(uniform) - 1, policy, next_policy)


@torch.no_grad()
def propose(
    actor: MLP, obs: Float[Tensor, "runs rows obs"], next_obs: Float[Tensor, "runs rows obs"], noise: ProposalNoise
) -> Proposals:
    """The actions a_j of each row: uniform ones, and those of a tanh-Gaussian policy at `obs` and at `next_obs`."""
    policy, log_policy = _sampled(actor, obs, noise.policy)
    next_policy, log_next = _sampled(actor, next_obs, noise.next_policy)
    log_uniform = torch.full_like(log_policy, -noise.uniform.shape[-1] * math.log(2))
    return Proposals(noise.uniform, policy, next_policy, log_uniform, log_policy, log_next)


def soft_maximum(
    critics: MLP,
    obs: Float[Tensor, "runs rows obs"],
    proposals: Proposals,
    *,
    scale: float = 1.0,
    triples: bool = False,
) -> Float[Tensor, "runs critics rows"]:
    """Every critic's soft maximum over the proposals at `obs`: see `conservative_logsumexp`."""
    p = proposals
    q = proposal_values(critics, obs, torch.cat([p.uniform, p.policy, p.next_policy], 2))
    uniform, policy, next_policy = q.chunk(3, -1)
    logs = (p.log_uniform, p.log_policy, p.log_next_policy)
    return conservative_logsumexp(uniform, policy, next_policy, *logs, scale=scale, triples=triples)


def proposal_values(
    critics: MLP, obs: Float[Tensor, "runs rows obs"], actions: Float[Tensor, "runs rows actions act"]
) -> Float[Tensor, "runs critics rows actions"]:
    """Q(s, a) of every critic for several actions at each observation."""
    runs, rows, count, _ = actions.shape
    repeated = obs[:, :, None].expand(-1, -1, count, -1)
    q = mlp(critics, torch.cat([repeated, actions], -1).flatten(1, 2))[..., 0]
    return q.view(runs, -1, rows, count)


def conservative_logsumexp(
    q_uniform: Float[Tensor, "runs critics rows actions"],
    q_policy: Float[Tensor, "runs critics rows actions"],
    q_next_policy: Float[Tensor, "runs critics rows actions"],
    log_uniform: Float[Tensor, "runs rows actions"],
    log_policy: Float[Tensor, "runs rows actions"],
    log_next_policy: Float[Tensor, "runs rows actions"],
    *,
    scale: float = 1.0,
    triples: bool = False,
) -> Float[Tensor, "runs critics rows"]:
    """scale log sum_j exp(q_j / scale - log p_j) over the 3 N actions of each row.

    Args:
        q_uniform: values of N uniform actions.
        q_policy: of N actions of the policy at the row's observation.
        q_next_policy: of N actions of the policy at its next observation, valued at the observation.
        log_uniform: the log-densities of those actions.
        log_policy: likewise.
        log_next_policy: likewise.
        scale: the temperature: towards 0 the sum becomes a maximum.
        triples: take N sums over three actions each, one of every kind, and return their mean, as OfflineRL-Kit does
            (it computes the shape that would span all 3 N and throws it away); log p is divided by `scale`, too. For
            reproducing its results.
    """
    kinds = ((q_uniform, log_uniform), (q_policy, log_policy), (q_next_policy, log_next_policy))
    if triples:
        weighted = torch.stack([(q - log[:, None]) / scale for q, log in kinds], -1)
        return scale * weighted.logsumexp(-1).mean(-1)
    return scale * torch.cat([q / scale - log[:, None] for q, log in kinds], -1).logsumexp(-1)


def _sampled(actor: MLP, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_std = gaussian_head(mlp(actor, obs))  # once a row: its actions differ in noise alone
    return squashed_gaussian(mean[:, :, None], log_std[:, :, None], noise)
