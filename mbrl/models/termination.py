"""A learned termination: a classifier of (obs, action, next_obs), for environments whose rule is not known.

    p(end | obs, action, next_obs) = sigmoid(f(obs, action, next_obs))

Ends are rare. Half of every batch are ends, so that the network sees them at all, and the logarithm of the true odds is
added to what it has learned from such batches, so that it says how likely an end is and not how likely it would be if
ends were as frequent (King and Zeng 2001, "Logistic regression in rare events data", section 4.1).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from mbrl.data.normalizer import Normalizer
from mbrl.models.network import forward, init_parameters
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves

_NEVER = -1e9
"""Log odds of an end where none has been seen."""


class LearnedTermination:
    """`termination(obs, action, next_obs)` for `EnsembleDynamics`; until it has seen an end, there are none.

    Args:
        obs_dim: length of an observation.
        action_dim: length of an action; how many there are where they are discrete, int64 [rows].
        hidden: widths of the hidden layers (ReLU).
        seed: of the initial weights.
        device: where the network lives.
        dtype: of its parameters.

    Raises:
        ValueError: a size is below 1.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if min(obs_dim, action_dim, *hidden) < 1:
            raise ValueError(
                f"obs_dim, action_dim, hidden: expected positive sizes, got {obs_dim}, {action_dim}, {tuple(hidden)}"
            )
        self.obs_dim, self.action_dim = obs_dim, action_dim
        columns, where = 2 * obs_dim + action_dim, torch.device(device)
        self.parameters = init_parameters(1, (columns, *hidden, 1), 0, seed=seed, device=where, dtype=dtype)
        self.inputs = Normalizer(columns, device=where, dtype=dtype)
        self.log_odds = torch.full((1,), _NEVER, device=where, dtype=dtype)
        """Of an end, in the data."""

    @torch.no_grad()
    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Bool[Tensor, "rows"]:
        """Whether an end is likelier than none."""
        return self.logit(obs, action, next_obs) > 0

    def logit(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Float[Tensor, "rows"]:
        """The logarithm of the odds of an end."""
        return self._balanced(self.inputs.normalize(self._columns(obs, action, next_obs))) + self.log_odds

    def fit(
        self, data: TransitionBatch, *, seed: int, steps: int = 500, batch_size: int = 256, lr: float = 1e-3
    ) -> dict[str, float]:
        """Train from where it is, with a fresh Adam.

        Args:
            data: real transitions, one a row.
            seed: of the batches.
            steps: gradient steps; none where all rows are ends, or none is.
            batch_size: rows a step, half of them ends, drawn with replacement.
            lr: of Adam.

        Returns:
            Shares of ends and of other rows in `data` that are told wrongly; NaN where there are no such rows.

        Raises:
            ValueError: a number is out of range, or the data don't fit or are not finite; it is left as it was.
        """
        if steps < 1 or batch_size < 2 or not lr > 0:
            raise ValueError(
                f"steps, batch_size, lr: expected at least 1, at least 2, and positive, got {steps}, {batch_size}, {lr}"
            )
        action_shape = (self.action_dim,) if data.action.is_floating_point() else ()
        if data.obs.shape[1:] != (self.obs_dim,) or data.action.shape[1:] != action_shape or not len(data.obs):
            raise ValueError(
                f"data: expected rows of obs [{self.obs_dim}] and action [{self.action_dim}], got "
                f"{list(data.obs.shape)} and {list(data.action.shape)}"
            )
        like = self.log_odds
        rows = self._columns(data.obs, data.action, data.next_obs)
        finite = rows.isfinite().all(-1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0, 0])
            raise ValueError(
                f"data: expected finite numbers, got in row {row} obs {data.obs[row].tolist()}, "
                f"action {data.action[row].tolist()}, next_obs {data.next_obs[row].tolist()}; leave such rows out"
            )
        self.inputs.fit(rows)
        ends, others = (mask.to(like.device).nonzero()[:, 0] for mask in (data.terminated, ~data.terminated))
        odds = torch.tensor([float(len(ends)), float(len(others))]).log()
        self.log_odds.copy_((odds[0] - odds[1]).clamp(_NEVER, -_NEVER))
        if len(ends) and len(others):
            self._train(self.inputs.normalize(rows), ends, others, seed, steps, batch_size, lr)
        told = self(data.obs, data.action, data.next_obs)
        return {
            "model/missed_ends": float((~told[ends]).double().mean()),
            "model/false_ends": float(told[others].double().mean()),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that the answers depend on, under flat names."""
        return {name: tensor.clone() for name, tensor in self._named().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned, from one built with the same arguments.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape.
        """
        mine = self._named()
        shapes = {name: list(tensor.shape) for name, tensor in mine.items()}
        got = {name: list(tensor.shape) for name, tensor in state.items()}
        if shapes != got:
            raise ValueError(f"state: expected {shapes}, got {got}; build it with the arguments it was saved with")
        for name, tensor in mine.items():
            tensor.copy_(state[name])

    def _named(self) -> dict[str, Tensor]:
        weights = {str(i): tensor for i, tensor in enumerate(leaves(self.parameters)) if tensor.numel()}
        return {**weights, "mean": self.inputs.mean, "std": self.inputs.std, "log_odds": self.log_odds}

    def _columns(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Float[Tensor, "rows in"]:
        """What the network sees, unscaled, on its device; discrete actions one-hot."""
        if not action.is_floating_point():
            action = functional.one_hot(action, self.action_dim)
        return torch.cat([x.to(self.log_odds) for x in (obs, action, next_obs)], -1)

    def _balanced(self, x: Float[Tensor, "rows in"]) -> Float[Tensor, "rows"]:
        """The logarithm of the odds that there would be if ends were as frequent as other rows."""
        return forward(self.parameters, x[None], torch.relu)[0][0, :, 0]

    def _train(
        self, x: Tensor, ends: Tensor, others: Tensor, seed: int, steps: int, batch_size: int, lr: float
    ) -> None:
        stream = generator(seed, "termination", device=x.device)
        half = batch_size // 2
        label = torch.cat([x.new_ones(half), x.new_zeros(half)])
        weights = [tensor.requires_grad_() for tensor in leaves(self.parameters) if tensor.numel()]
        adam = torch.optim.Adam(weights, lr=lr)
        for _ in range(steps):
            picked = [
                group[torch.randint(len(group), (half,), generator=stream, device=x.device)] for group in (ends, others)
            ]
            loss = functional.binary_cross_entropy_with_logits(self._balanced(x[torch.cat(picked)]), label)
            adam.zero_grad()
            loss.backward()
            adam.step()
        for tensor in weights:
            tensor.requires_grad_(False).grad = None
