"""Training of an ensemble: every member minimises its own Gaussian negative log-likelihood on its own bootstrap sample,

    mean over rows and outputs of (target - mean)^2 / var + log var,
    plus 1/2 sum of decay_l ||W_l||^2, plus 0.01 (sum of upper log-variance bounds - sum of lower ones).

Members never meet: losses are summed over them and no term has two members in it. Source: Chua et al. (2018), appendix
A, https://arxiv.org/abs/1805.12114; early stopping and elites: Janner et al. (2019), https://arxiv.org/abs/1906.08253.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from mbrl.data.normalizer import Normalizer
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.models.network import ACTIVATIONS, Parameters, forward
from mbrl.models.trainer import Trainer
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves, map_rows

if TYPE_CHECKING:
    from mbrl.data.buffer import ReplayBuffer

IMPROVEMENT = 0.01
"""A member has improved where its holdout error fell by more than this share."""
SCORED = 1024
"""Rows of a holdout that are scored at once."""
MAX_EPOCHS = 1000
"""Where early stopping decides, an end that it is not meant to reach."""


class FitReport(NamedTuple):
    """What a fit did."""

    steps: int
    """Gradient steps, of the member that trained longest."""
    epochs: int
    """Passes over the data begun."""
    train_loss: Float[Tensor, "members"]
    """Mean loss over each member's last pass, without the penalties."""
    holdout_mse: Float[Tensor, "members"]
    """Squared error of the scaled targets on the holdout, of the weights that are kept; NaN without a holdout."""
    elites: Int[Tensor, "elites"]
    """The members to predict with, the best first where there was a holdout."""
    kept: Bool[Tensor, "members"]
    """Members whose weights this fit left as they were, for none of its epochs was better on the holdout. Under
    scalings that have moved they predict something else than before."""


class Rows(NamedTuple):
    """Scaled training data."""

    x: Float[Tensor, "rows in"]
    y: Float[Tensor, "rows out"]


def fit(
    ensemble: GaussianEnsemble,
    data: ReplayBuffer | TransitionBatch,
    *,
    seed: int,
    lr: float = 1e-3,
    batch_size: int = 256,
    epochs: int | None = None,
    steps: int | None = None,
    max_steps: int | None = None,
    holdout: float | None = None,
    patience: int = 5,
    max_holdout: int = 5000,
    elites: int | None = None,
    bootstrap: bool = True,
) -> FitReport:
    """Train the ensemble from the present weights, with a fresh Adam; the scalings are those of the training rows.

    Where these have moved since the last fit, the same weights predict something else: training starts from there.

    With a holdout, each member keeps the weights that were best on it, and stops alone after `patience` epochs in which
    its squared error there did not fall by more than 1 %. Without one, all train for `epochs` or `steps`.

    Args:
        ensemble: is changed in place, at the end; a fit that fails leaves it as it was.
        data: a buffer, whose holdout is whole episodes, though never those that its environments were in last, or a
            batch, whose holdout is random rows. So is that of a buffer whose earlier episodes are all longer than that
            share of them: neighbours of the rows are trained on, so that it flatters.
        seed: of bootstrap samples, shuffling and holdout.
        lr: of Adam.
        batch_size: rows per gradient step and member; all rows where there are fewer.
        epochs: passes over the data (at most, where there is a holdout).
        steps: gradient steps, in place of epochs; a holdout then only scores the result.
        max_steps: gradient steps at most, where a holdout decides; an epoch that would go beyond is cut short, and
            scored. None: no such end.
        holdout: share of the data; None: 0.2 where neither epochs nor steps are given, else 0.
        patience: epochs without improvement after which a member stops.
        max_holdout: rows of the holdout at most.
        elites: number of members to predict with, the best on the holdout; None: all.
        bootstrap: draw each member's rows with replacement, once; False: all members train on all rows.

    Raises:
        ValueError: an argument is out of range, the data don't fit the ensemble or are not finite, or training
            diverged.
    """
    holdout = holdout if holdout is not None else (0.2 if epochs is None and steps is None else 0.0)
    _check_arguments(ensemble, epochs, steps, max_steps, holdout, elites, batch_size, patience, max_holdout, lr)
    batch = data if isinstance(data, TransitionBatch) else data.all()
    inputs, targets = _columns(ensemble, batch)
    train, held = _split(data, len(inputs), holdout, max_holdout, generator(seed, "fit", "holdout"))
    train, held = train.to(inputs.device), held.to(inputs.device)
    # Refitted on the training part alone: the holdout must not leak into what the networks see.
    scale_in = _normalizer(inputs[train])
    scale_out = _normalizer(targets[train]) if ensemble.normalize_targets else _identity(ensemble)
    scaled = Rows(scale_in.normalize(inputs), scale_out.normalize(targets))

    trainer = Trainer(ensemble.parameters, ensemble.activation, ensemble.weight_decay, lr)
    rows = min(batch_size, len(train))
    batches = _Batches(train, ensemble.members, rows, bootstrap, generator(seed, "fit", "batches"))
    per_epoch = math.ceil(len(train) / rows)
    score = _Scorer(ensemble, Rows(*(column[held] for column in scaled)))
    if steps is not None or not len(held):
        total = steps if steps is not None else (epochs or 0) * per_epoch
        parameters, loss = _train_steps(trainer, scaled, batches, total, per_epoch)
    else:
        limit = per_epoch * (epochs if epochs is not None else MAX_EPOCHS)
        limit = limit if max_steps is None else min(limit, max_steps)
        parameters, loss, total = _train_until_stale(trainer, scaled, batches, score, per_epoch, limit, patience)

    if not all(bool(p.isfinite().all()) for p in leaves(parameters)):
        raise ValueError(f"lr: training diverged with {lr}; the ensemble is unchanged; try a smaller one")
    mse = score(parameters) if len(held) else torch.full_like(loss, torch.nan)
    best = mse.argsort()[:elites] if len(held) else torch.arange(ensemble.members, device=mse.device)
    pairs = zip(leaves(parameters), leaves(ensemble.parameters), strict=True)
    kept = torch.stack([(new == old).flatten(1).all(1) for new, old in pairs]).all(0)
    ensemble.replace(parameters, scale_in, _exact(scale_out, targets[train]), best)
    return FitReport(total, math.ceil(total / per_epoch), loss, mse, best, kept)


def _train_steps(
    trainer: Trainer, data: Rows, batches: _Batches, steps: int, per_epoch: int
) -> tuple[Parameters, Tensor]:
    loss = torch.zeros(batches.members, dtype=data.x.dtype, device=data.x.device)
    for step in range(steps):
        latest = trainer.update(*_gather(data, batches.next()))
        if step >= steps - per_epoch:
            loss += latest
    return trainer.parameters, loss / min(steps, per_epoch)


def _train_until_stale(
    trainer: Trainer, data: Rows, batches: _Batches, score: _Scorer, per_epoch: int, limit: int, patience: int
) -> tuple[Parameters, Tensor, int]:
    """Each member trains until it is stale, `limit` steps at most, and ends with its own best weights."""
    best = map_rows(Tensor.clone, trainer.parameters)
    best_mse = score(best)
    stale = torch.zeros_like(best_mse, dtype=torch.long)
    loss = torch.zeros_like(best_mse)
    active = torch.arange(batches.members, device=best_mse.device)  # members that still train
    total = 0
    while total < limit and len(active):
        steps = min(per_epoch, limit - total)
        epoch_loss = torch.zeros_like(best_mse[active])
        for _ in range(steps):
            epoch_loss += trainer.update(*_gather(data, batches.next()[active]))
        total += steps
        loss[active] = epoch_loss / steps
        mse = score(trainer.parameters)
        # NaN is no improvement: a member that diverges goes back to its best weights.
        improved = mse < (1 - IMPROVEMENT) * best_mse[active]
        winners = active[improved]
        for p, new in zip(leaves(best), leaves(trainer.parameters), strict=True):
            p.index_copy_(0, winners, new[improved])
        best_mse[active] = torch.where(improved, mse, best_mse[active])
        stale[active] = torch.where(improved, 0, stale[active] + 1)
        going = stale[active] < patience
        if not bool(going.all()):
            trainer.keep(going.nonzero()[:, 0])
            active = active[going]
    return best, loss, total


class _Batches:
    """Mini-batches of row indices: each member goes through its own rows in a new order each pass.

    Batches are always full: one may end a pass and begin the next.
    """

    def __init__(self, train: Tensor, members: int, rows: int, bootstrap: bool, stream: Generator) -> None:
        n = len(train)
        pick = torch.randint(n, (members, n), generator=stream) if bootstrap else torch.arange(n).expand(members, n)
        self.members = members
        self._of_member = train.cpu()[pick]
        self._rows = rows
        self._stream = stream
        self._device = train.device
        self._left = self._of_member[:, :0].to(train.device)

    def next(self) -> Int[Tensor, "members rows"]:
        """Indices of the next batch."""
        while self._left.shape[1] < self._rows:
            n = self._of_member.shape[1]
            order = torch.stack([torch.randperm(n, generator=self._stream) for _ in range(self.members)])
            more = self._of_member.gather(1, order).to(self._device)
            self._left = torch.cat([self._left, more], 1)
        batch, self._left = self._left[:, : self._rows], self._left[:, self._rows :]
        return batch


class _Scorer:
    """Mean squared error on the holdout, in scaled units: [members]."""

    def __init__(self, ensemble: GaussianEnsemble, held: Rows) -> None:
        self._activation = ACTIVATIONS[ensemble.activation]
        self._held = held

    @torch.no_grad()
    def __call__(self, parameters: Parameters) -> Float[Tensor, "members"]:
        total = self._held.y.new_zeros(len(parameters.max_logvar))
        # In parts: the hidden layers of a whole holdout take more memory than most models, and leave the cache.
        for x, y in zip(self._held.x.split(SCORED), self._held.y.split(SCORED), strict=True):
            mean, _ = forward(parameters, x.expand(len(total), -1, -1), self._activation)
            total += (mean - y).square().sum((1, 2))
        return total / self._held.y.numel()


def _gather(data: Rows, index: Int[Tensor, "members rows"]) -> tuple[Tensor, Tensor]:
    flat = index.flatten()
    x, y = data.x.index_select(0, flat), data.y.index_select(0, flat)
    return x.view(*index.shape, -1), y.view(*index.shape, -1)


def _columns(ensemble: GaussianEnsemble, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
    """What the networks see and what they shall predict, unscaled."""
    for name, value, size in (("obs", batch.obs, ensemble.obs_dim), ("action", batch.action, ensemble.action_dim)):
        discrete = name == "action" and ensemble.discrete_actions
        if value.shape[1:] != (() if discrete else (size,)) or value.dim() == 0:
            expected = "[rows], int64" if discrete else f"[rows, {size}]"
            raise ValueError(f"data: expected {name} of shape {expected}, got {list(value.shape)}")
    if len(batch.obs) == 0:
        raise ValueError("data: expected at least one transition, got none")
    ensemble.check_actions(batch.action)
    # Differences in the precision of the data, which may be float64, before they are rounded.
    columns = [batch.next_obs - batch.obs]
    if ensemble.learned_reward:
        columns.append(batch.reward[:, None])
    targets = torch.cat(columns, -1).to(ensemble.device, ensemble.dtype)
    joined = torch.cat([batch.obs.to(ensemble.device, ensemble.dtype), ensemble.encode(batch.action)], -1)
    finite = joined.isfinite().all(-1) & targets.isfinite().all(-1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0, 0])
        raise ValueError(
            f"data: expected finite numbers, got in row {row} obs {batch.obs[row].tolist()}, "
            f"action {batch.action[row].tolist()}, next_obs {batch.next_obs[row].tolist()}, "
            f"reward {batch.reward[row].item()}; leave such transitions out"
        )
    return joined.index_select(-1, ensemble.seen), targets


def _normalizer(x: Float[Tensor, "rows columns"]) -> Normalizer:
    return Normalizer(x.shape[1], device=x.device, dtype=x.dtype).fit(x)


def _identity(ensemble: GaussianEnsemble) -> Normalizer:
    return Normalizer(ensemble.out_dim, device=ensemble.device, dtype=ensemble.dtype)


def _exact(scale: Normalizer, targets: Float[Tensor, "rows out"]) -> Normalizer:
    """The scaling with which targets that are the same in all rows are predicted exactly, by a deviation of 0.

    A goal in the observation never changes within an episode. Scaled by 1, what the networks say of its change, and of
    the noise, would be small but not 0: over a plan the goal would wander, and the reward with it.
    """
    still = (targets == targets[0]).all(0)
    scale.mean, scale.std = torch.where(still, targets[0], scale.mean), scale.std.masked_fill(still, 0.0)
    return scale


def check_holdout(rows: int, holdout: float, max_holdout: int) -> int:
    """Rows of a holdout that is drawn by rows, as `fit` takes it from data without episodes.

    Raises:
        ValueError: it would be none, or all.
    """
    held = round(min(holdout, max_holdout / rows) * rows)
    if not 0 < held < rows:
        raise ValueError(f"holdout: expected a share that leaves rows on both sides, got {holdout} of {rows} rows")
    return held


def _split(
    data: ReplayBuffer | TransitionBatch, rows: int, holdout: float, max_holdout: int, stream: Generator
) -> tuple[Int[Tensor, "train"], Int[Tensor, "held"]]:
    share = min(holdout, max_holdout / rows)
    if share == 0:
        return torch.arange(rows), torch.arange(0)
    if not isinstance(data, TransitionBatch):
        train, held = data.split(share, generator=stream)
        if len(held):
            return train, held
    held_rows = check_holdout(rows, holdout, max_holdout)
    order = torch.randperm(rows, generator=stream)
    return order[held_rows:], order[:held_rows]


def _check_arguments(
    ensemble: GaussianEnsemble,
    epochs: int | None,
    steps: int | None,
    max_steps: int | None,
    holdout: float,
    elites: int | None,
    batch_size: int,
    patience: int,
    max_holdout: int,
    lr: float,
) -> None:
    numbers = {"epochs": epochs, "steps": steps, "max_steps": max_steps, "batch_size": batch_size, "patience": patience}
    numbers["max_holdout"] = max_holdout
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive step size, got {lr}")
    if epochs is not None and steps is not None:
        raise ValueError(f"steps: expected either steps or epochs, got steps={steps} and epochs={epochs}")
    if max_steps is not None and (steps is not None or holdout == 0):
        raise ValueError(
            f"max_steps: expected a holdout that decides, without steps, got {max_steps} and steps={steps}"
        )
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout: expected a share in [0, 1), got {holdout}")
    if epochs is None and steps is None and holdout == 0:
        raise ValueError("holdout: expected more than 0 where neither epochs nor steps say when to stop, got 0")
    if elites is not None and not 1 <= elites <= ensemble.members:
        raise ValueError(f"elites: expected 1 to {ensemble.members} (the members), or None for all, got {elites}")
    if elites is not None and elites < ensemble.members and holdout == 0:
        raise ValueError(f"elites: expected a holdout to choose {elites} members by, got holdout=0")
