"""The ensemble in its fastest form: both scalings folded into the layers, and the variance in closed form."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mbrl.data.normalizer import Normalizer
from mbrl.models.network import ACTIVATIONS_IN_PLACE, Parameters
from planners.rows import map_rows

CACHED_ROWS = 280
"""Rows a member whose activations fit a CPU's cache beside the weights, at widths of 200."""


class Folded(NamedTuple):
    """The ensemble with both scalings folded into the first and the last layer, for fast prediction.

    The head, the last layer, gives the mean in raw units, then minus the unbounded log-variance in raw units. The two
    softplus bounds have the closed form `variance = floor + 1 / (inverse_ceiling + exp(-logvar))`. Its outputs come
    before the rows, [members, out, rows]: for a few outputs of many rows that is twice as fast on the CPU.
    """

    weights: tuple[Float[Tensor, "members in out"], ...]
    """Of all layers but the last."""
    biases: tuple[Float[Tensor, "members 1 out"], ...]
    head_weight: Float[Tensor, "members out in"]
    head_bias: Float[Tensor, "members out 1"]
    inverse_ceiling: Float[Tensor, "members out 1"]
    floor: Float[Tensor, "members out 1"]


@torch.no_grad()
def fold(
    parameters: Parameters, inputs: Normalizer, targets: Normalizer, seen: Int[Tensor, "in"], columns: int
) -> Folded:
    """Fold the scalings into the layers, in float64: a large mean over a small deviation costs digits.

    Args:
        parameters: of the networks.
        inputs: scaling of what the networks see.
        targets: scaling of what they predict.
        seen: which of the `columns` inputs they see; the others get weight 0.
        columns: number of inputs of the result.
    """
    p = map_rows(Tensor.double, parameters)
    (in_mean, in_std), (mean, std) = ((scale.mean.double(), scale.std.double()) for scale in (inputs, targets))
    weights, biases = list(p.weights), list(p.biases)
    shift = 2 * std.log()  # variances in raw units
    if p.max_logvar.shape[-1] == 0:
        weights[-1] = weights[-1] * std
        biases[-1] = biases[-1] * std + mean
    else:
        ones = torch.ones_like(std)
        scale = torch.cat([std, -ones])
        weights[-1] = weights[-1] * scale
        biases[-1] = biases[-1] * scale + torch.cat([mean, -shift])
        p = p._replace(max_logvar=(-p.max_logvar - shift).exp(), min_logvar=(p.min_logvar + shift).exp())

    first = weights[0] / in_std[:, None]
    biases[0] = biases[0] - (in_mean[:, None] * first).sum(1, keepdim=True)
    weights[0] = first.new_zeros(len(first), columns, first.shape[-1]).index_copy(1, seen, first)
    head = (weights[-1], biases[-1], p.max_logvar, p.min_logvar)
    folded = Folded(tuple(weights[:-1]), tuple(biases[:-1]), *(x.transpose(1, 2) for x in head))
    return map_rows(lambda x: x.to(parameters.max_logvar.dtype).contiguous(), folded)


@torch.no_grad()
def heads(folded: Folded, x: Float[Tensor, "members rows in"], activation: str) -> Float[Tensor, "members out rows"]:
    """What the last layers say of raw inputs.

    On a CPU in parts that stay in its cache: what lies between layers is never written to memory.
    """
    activate = ACTIVATIONS_IN_PLACE[activation]
    said = []
    for part in x.split(CACHED_ROWS, 1) if x.device.type == "cpu" else (x,):
        hidden = part
        for w, b in zip(folded.weights, folded.biases, strict=True):
            hidden = activate(torch.baddbmm(b, hidden.to(w.dtype), w))
        last = hidden.to(folded.head_weight.dtype).transpose(1, 2)
        said.append(torch.baddbmm(folded.head_bias, folded.head_weight, last))
    return torch.cat(said, -1)


def deviation(folded: Folded, raw: Float[Tensor, "members out rows"]) -> Float[Tensor, "members out rows"]:
    """Standard deviations of the second half of what `heads` returned."""
    return raw.exp().add_(folded.inverse_ceiling).reciprocal_().add_(folded.floor).sqrt_()


def with_bfloat16_products(folded: Folded) -> Folded:
    """The layers between hidden layers in bfloat16, which processors with such products multiply twice as fast.

    Scalings are folded into the first and the last layer: there, offsets that are large beside the deviations would
    cost all of bfloat16's eight bits. They are thin, and stay as they are.
    """
    first, *weights = folded.weights
    first_bias, *biases = folded.biases
    return folded._replace(
        weights=(first, *(w.bfloat16() for w in weights)), biases=(first_bias, *(b.bfloat16() for b in biases))
    )
