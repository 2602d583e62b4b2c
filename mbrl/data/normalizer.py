"""Standardisation of rows: x -> (x - mean) / std, column by column."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

_RELATIVE_ROUNDING = 1e-7
"""A standard deviation below this share of the mean is what float32 leaves of a column that never changes."""
_ROUNDING_OF_ZERO = 1e-12
"""And below this, what float64 leaves of one that is 0."""


class Normalizer:
    """Mean and standard deviation (of the population) of the columns of data; before `fit` it changes nothing.

    Columns that never change get a standard deviation of 1, so that they come out as 0 and a new value stays finite.

    Args:
        dim: number of columns.
        device: where mean and std live.
        dtype: of mean and std.

    Raises:
        ValueError: `dim` is below 1.
    """

    def __init__(self, dim: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        if dim < 1:
            raise ValueError(f"dim: expected at least 1 column, got {dim}")
        self.dim = dim
        self.mean: Float[Tensor, "dim"] = torch.zeros(dim, device=device, dtype=dtype)
        self.std: Float[Tensor, "dim"] = torch.ones(dim, device=device, dtype=dtype)

    def fit(self, x: Float[Tensor, "rows dim"]) -> "Normalizer":
        """Take mean and standard deviation from rows; sums are made in float64.

        Raises:
            ValueError: `x` is not [rows, dim] with at least one row.
        """
        if x.dim() != 2 or x.shape[1] != self.dim or x.shape[0] == 0:
            raise ValueError(f"x: expected shape [rows, {self.dim}] with at least one row, got {list(x.shape)}")
        std, mean = torch.std_mean(x.double(), dim=0, correction=0)
        constant = std <= (_RELATIVE_ROUNDING * mean.abs()).clamp(min=_ROUNDING_OF_ZERO)
        self.mean = mean.to(self.mean)
        self.std = torch.where(constant, 1.0, std).to(self.std)
        return self

    def normalize(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """Columns with mean 0 and standard deviation 1, on the data of `fit`."""
        return (x - self.mean) / self.std

    def denormalize(self, x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        """The inverse of `normalize`."""
        return x * self.std + self.mean

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of mean and std."""
        return {"mean": self.mean.clone(), "std": self.std.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        for name in ("mean", "std"):
            if name not in state or tuple(state[name].shape) != (self.dim,):
                got = list(state[name].shape) if name in state else "nothing"
                raise ValueError(f"state[{name!r}]: expected shape [{self.dim}], got {got}")
        self.mean, self.std = state["mean"].to(self.mean, copy=True), state["std"].to(self.std, copy=True)


def fit_runs(
    mean: Float[Tensor, "runs 1 dim"], std: Float[Tensor, "runs 1 dim"], x: Float[Tensor, "runs rows dim"]
) -> None:
    """Set means and standard deviations, in place, to those of each run's rows."""
    for run, rows in enumerate(x):
        fitted = Normalizer(rows.shape[-1], device=rows.device, dtype=rows.dtype).fit(rows)
        mean[run, 0] = fitted.mean
        std[run, 0] = fitted.std
