"""Row ensemble_epoch: one pass over 100,000 transitions by each of 7 networks of 4 x 200, batch 256, in seconds.

Timed on a part of the transitions and scaled: the work grows with the number of batches, and what is done once a call
(scaling the data, a fresh Adam, the bootstrap draw) is counted against us in full. The floor is the matrix products of
both passes alone.
"""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import CORE_SHARE, alternate, timed
from benchmarks.peers.worker import mbrl_lib
from benchmarks.report import compare
from benchmarks.workload import ACT, HIDDEN, OBS, Products, transitions
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.models.trainer import Trainer

MEMBERS, BATCH, EPOCH = 7, 256, 100_000
TARGET = 1.5


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: on a few batches, to see that it runs."""
    checks = {"float64_200_updates": agree(torch.float64, 200), "float32_20_updates": agree(torch.float32, 20)}
    rows = BATCH * (2 if small else 40)
    data = transitions(rows)
    ensemble = GaussianEnsemble(OBS, ACT, members=MEMBERS, hidden=HIDDEN, learned_reward=True)
    seeds = iter(range(1_000_000))
    products = Products(MEMBERS, BATCH, backward=True)

    def epoch() -> None:
        fit(ensemble, data, seed=next(seeds), epochs=1, holdout=0.0, batch_size=BATCH)

    def floor() -> None:
        for _ in range(rows // BATCH):
            products()

    contestants = {"ours": timed(epoch), "floor": timed(floor)}
    sizes = {"members": MEMBERS, "rows": rows, "batch_size": BATCH}
    with mbrl_lib("ensemble_epoch", sizes) as peer:
        if peer is not None:
            contestants["peer"] = peer
        readings = alternate(contestants, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
    return compare(
        "ensemble_epoch",
        readings,
        unit=f"s/epoch of {EPOCH} (timed on {rows} and scaled)",
        scale=EPOCH / rows,
        target=TARGET,
        peer_versions=peer.versions if peer else None,
        notes={"timed_rows": rows, "largest_difference_from_plain": checks},
    )


def agree(dtype: torch.dtype, updates: int) -> float:
    """Train all members at once and each one as a plain module with torch's Adam, on the same batches.

    Returns the largest difference of a parameter.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    members = 3
    ensemble = GaussianEnsemble(OBS, ACT, members=members, hidden=(64, 64), learned_reward=True, dtype=dtype)
    trainer = Trainer(ensemble.parameters, "silu", ensemble.weight_decay, 1e-3)
    plain = [_PlainMember(ensemble, member) for member in range(members)]
    stream = torch.Generator().manual_seed(1)
    for _ in range(updates):
        x = torch.randn(members, 64, OBS + ACT, generator=stream, dtype=dtype)
        y = torch.tanh(x[..., : OBS + 1]) + 0.1 * torch.randn(members, 64, OBS + 1, generator=stream, dtype=dtype)
        trainer.update(x, y)
        for i, member in enumerate(plain):
            member.update(x[i], y[i])
    worst = max(member.difference(trainer, i) for i, member in enumerate(plain))
    if not worst < (1e-7 if dtype == torch.float64 else 1e-4):
        raise RuntimeError(f"after {updates} updates in {dtype} parameters differ from plain training by {worst}")
    return worst


class _PlainMember:
    """One member as a module of its own."""

    def __init__(self, ensemble: GaussianEnsemble, member: int) -> None:
        parameters = ensemble.parameters
        self.linear: list[nn.Linear] = []
        for w, b in zip(parameters.weights, parameters.biases, strict=True):
            layer = nn.Linear(w.shape[1], w.shape[2], dtype=w.dtype)
            layer.weight.data = w[member].T.clone()
            layer.bias.data = b[member, 0].clone()
            self.linear.append(layer)
        self.upper = parameters.max_logvar[member, 0].clone().requires_grad_()
        self.lower = parameters.min_logvar[member, 0].clone().requires_grad_()
        rest = [layer.bias for layer in self.linear] + [self.upper, self.lower]
        groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": 0.0}]
        for layer, decay in zip(self.linear, ensemble.weight_decay, strict=True):
            groups.append({"params": [layer.weight], "weight_decay": decay})
        self.adam = torch.optim.Adam(groups, lr=1e-3)

    def update(self, x: Tensor, y: Tensor) -> None:
        for layer in self.linear[:-1]:
            x = nn.functional.silu(layer(x))
        mean, logvar = self.linear[-1](x).chunk(2, -1)
        logvar = self.upper - nn.functional.softplus(self.upper - logvar)
        logvar = self.lower + nn.functional.softplus(logvar - self.lower)
        loss = ((mean - y).square() / logvar.exp() + logvar).mean()
        loss = loss + 0.01 * (self.upper.sum() - self.lower.sum())
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()

    def difference(self, trainer: Trainer, member: int) -> float:
        pairs = [(self.upper, trainer.parameters.max_logvar[member, 0])]
        for layer, w, b in zip(self.linear, trainer.parameters.weights, trainer.parameters.biases, strict=True):
            pairs += [(layer.weight, w[member].T), (layer.bias, b[member, 0])]
        return max(float((a - b).detach().abs().max()) for a, b in pairs)
