"""MPC at deployment that keeps to what the data show: planning on a penalised ensemble, with a gate.

Plans are scored by rewards minus the penalty of `EnsembleDynamics`, so that they stay where the ensemble agrees. The
gate looks at what is about to be done: where the elites' disagreement about (s, a) is above a quantile of that of the
data, the action of another policy, such as a cloned one, is executed in its place. MPC goes on planning behind the
gate, from every observation, and takes over again where the ensemble agrees.

Planning with penalised rewards is MOPO's objective, Yu et al. (2020), https://arxiv.org/abs/2005.13239, in the place of
a learned policy, as MBOP has it, Argenson and Dulac-Arnold (2021), https://arxiv.org/abs/2008.05556; the gate is this
library's own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mbrl.data.collect import Predicts
from mbrl.data.datasets import Dataset
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from planners import MPC, Problem
from planners.planner import Planner

ROWS = 4096
"""Rows of the data that are looked at together."""


class GatedState(NamedTuple):
    """What `PessimisticMPC.predict` takes and returns."""

    mpc: Any
    fallback: Any
    disagreement: Float[Tensor, "batch"]
    """Of the elites about the action that MPC wanted to take."""
    gated: Tensor
    """Bool [batch]: whether the fallback's action was taken: MPC's was too uncertain, or of no valid plan."""


def disagreement_quantile(dynamics: EnsembleDynamics, dataset: Dataset, quantile: float = 0.99) -> float:
    """The quantile of the elites' disagreement over the rows of a dataset, in units of `EnsembleDynamics.uncertainty`.

    Best of data that the ensemble was not fitted to: where it was, it agrees more than elsewhere, and the gate shuts
    early.

    Raises:
        ValueError: `quantile` is not in (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile: expected a number in (0, 1], got {quantile}")
    found = []
    for start in range(0, len(dataset), ROWS):
        rows = dataset.transitions(device=dynamics.ensemble.device, rows=slice(start, start + ROWS))
        found.append(dynamics.uncertainty(dynamics.reset(rows.obs), rows.action).double().cpu())
    return float(np.quantile(torch.cat(found).numpy(), quantile))


class PessimisticMPC:
    """MPC on a penalised ensemble, with a policy to fall back to; predicts as stable-baselines3 does.

    Args:
        planner: of plans.
        problem: whose dynamics are an ensemble with a penalty.
        fallback: takes over where the ensemble disagrees: a cloned policy, or the one that collected the data.
        threshold: disagreement above which it does: `disagreement_quantile` of the data. inf: never.
        seed: of planning.
        replan_every: steps of a plan that are executed.

    Raises:
        ValueError: the dynamics have no penalty or are no ensemble, or the threshold is negative or not a number.
    """

    def __init__(
        self,
        planner: Planner[Any],
        problem: Problem,
        fallback: Predicts,
        threshold: float,
        *,
        seed: int = 0,
        replan_every: int = 1,
    ) -> None:
        dynamics = problem.dynamics
        if not isinstance(dynamics, EnsembleDynamics):
            raise ValueError(f"problem: expected dynamics of an ensemble, which can disagree, got {dynamics}")
        if dynamics.penalty is None:
            raise ValueError(
                "problem: expected EnsembleDynamics(penalty=...), as plans go where a model is wrong in their favour, "
                "got none; see mbrl.models.penalties.penalty_function"
            )
        if math.isnan(threshold) or threshold < 0:
            raise ValueError(f"threshold: expected a number of 0 or more, got {threshold}")
        self.mpc = MPC(planner, problem, seed=seed, replan_every=replan_every, on_invalid="hold")
        self.dynamics, self.fallback, self.threshold = dynamics, fallback, threshold

    def predict(
        self,
        observation: np.ndarray,
        state: GatedState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, GatedState]:
        """The action for an observation, [obs] or [batch, obs], and the state for the next call.

        Args:
            observation: what was observed.
            state: what the last call returned; None: nothing has been planned yet.
            episode_start: [batch], True where an episode begins.
            deterministic: handed to the fallback.

        Returns:
            MPC's action, or the fallback's where the gate is shut: where the ensemble disagrees, has said nothing
            finite, or no plan is valid.
        """
        planned, mpc = self.mpc.predict(observation, state.mpc if state else None, episode_start)
        safe, memory = self.fallback.predict(
            observation, state.fallback if state else None, episode_start, deterministic
        )
        safe = np.asarray(safe)
        rows = torch.as_tensor(np.asarray(observation)).reshape(-1, np.shape(observation)[-1])
        wanted = torch.as_tensor(planned).reshape(len(rows), *np.shape(planned)[np.ndim(observation) - 1 :])
        start = self.dynamics.reset(rows)
        disagreement = self.dynamics.uncertainty(start, wanted.to(start.obs.device))
        # NaN too; and MPC only holds its last action where the plan under way is not valid.
        shut = ~(disagreement <= self.threshold) | ~mpc.plan.valid.to(disagreement.device)
        mask = shut.cpu().numpy().reshape(np.shape(safe)[: np.ndim(observation) - 1])
        wide = mask.reshape(mask.shape + (1,) * (safe.ndim - mask.ndim))
        action = np.where(wide, safe, np.asarray(planned).astype(safe.dtype))
        return action, GatedState(mpc, memory, disagreement, shut)
