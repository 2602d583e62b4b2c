"""The networks of an ensemble as plain tensors with members leading, and the one function that evaluates them."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mbrl.seeding import generator

Activation = Literal["silu", "relu", "tanh"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": torch.relu,
    "tanh": torch.tanh,
}
ACTIVATIONS_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: functional.silu(x, inplace=True),
    "relu": torch.relu_,
    "tanh": torch.tanh_,
}


class Parameters(NamedTuple):
    """What training changes. Members lead everywhere and never mix."""

    weights: tuple[Float[Tensor, "members in out"], ...]
    biases: tuple[Float[Tensor, "members 1 out"], ...]
    max_logvar: Float[Tensor, "members 1 out"]
    """Learned bounds of the log-variances, in units of the scaled targets; empty where the ensemble has no variance."""
    min_logvar: Float[Tensor, "members 1 out"]


def init_parameters(
    members: int, sizes: Sequence[int], bounded: int, *, seed: int, device: torch.device, dtype: torch.dtype
) -> Parameters:
    """Fresh networks with layers of `sizes`, and log-variance bounds for `bounded` outputs.

    Weights are normal with standard deviation 1 / (2 sqrt(inputs of the layer)), truncated at two of these; biases are
    0. They are drawn on the CPU, member by member, so that a seed gives the same networks on every device.
    """

    def weight(layer: int, rows: int, columns: int) -> Tensor:
        std = 0.5 / math.sqrt(rows)
        w = torch.empty(members, rows, columns, dtype=dtype)
        for member in range(members):
            stream = generator(seed, "ensemble", member, layer)
            torch.nn.init.trunc_normal_(w[member], std=std, a=-2 * std, b=2 * std, generator=stream)
        return w.to(device)

    def full(columns: int, value: float) -> Tensor:
        return torch.full((members, 1, columns), value, dtype=dtype, device=device)

    return Parameters(
        tuple(weight(i, rows, columns) for i, (rows, columns) in enumerate(pairwise(sizes))),
        tuple(full(columns, 0.0) for columns in sizes[1:]),
        full(bounded, 0.5),
        full(bounded, -10.0),
    )


def forward(
    parameters: Parameters, x: Float[Tensor, "members rows in"], activation: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "members rows out"], Float[Tensor, "members rows out"]]:
    """Means and bounded log-variances of the scaled targets, from scaled inputs, one batched product a layer.

    The log-variances are empty, [members, rows, 0], where the parameters have no bounds.
    """
    *hidden, (weight, bias) = zip(parameters.weights, parameters.biases, strict=True)
    for w, b in hidden:
        x = activation(torch.baddbmm(b, x, w))
    out = torch.baddbmm(bias, x, weight)
    columns = parameters.max_logvar.shape[-1]
    if columns == 0:
        return out, out[..., :0]
    logvar = parameters.max_logvar - functional.softplus(parameters.max_logvar - out[..., columns:])
    return out[..., :columns], parameters.min_logvar + functional.softplus(logvar - parameters.min_logvar)
