"""The training loss of an ensemble and its gradient, written out: no graph is recorded, and nothing is made twice."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mbrl.models.network import ACTIVATIONS, Parameters

BOUND_WEIGHT = 0.01
"""Pull of the log-variance bounds towards each other, per output."""

# Gradient before an activation, from the gradient after it, its input and its output.
_BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "silu": lambda gradient, before, after: torch.ops.aten.silu_backward(gradient, before),
    "relu": lambda gradient, before, after: torch.ops.aten.threshold_backward(gradient, after, 0),
    "tanh": lambda gradient, before, after: torch.ops.aten.tanh_backward(gradient, after),
}


@torch.no_grad()
def loss_and_gradients(
    parameters: Parameters,
    x: Float[Tensor, "members rows in"],
    y: Float[Tensor, "members rows out"],
    activation: str,
) -> tuple[Float[Tensor, "members"], Parameters]:
    """Each member's loss on its batch, and the gradient of loss and penalty on the log-variance bounds.

    The loss is the mean over rows and outputs of `(y - mean)^2 / var + log var`, or of the squared error where the
    parameters have no bounds; the penalty, which is not part of the loss returned, is `BOUND_WEIGHT` times the sum of
    the upper bounds less the lower ones. Returns contiguous tensors.
    """
    weights, biases = parameters.weights, parameters.biases
    before, after = [], [x]  # of each activation
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        before.append(torch.baddbmm(b, after[-1], w))
        after.append(ACTIVATIONS[activation](before[-1]))
    out = torch.baddbmm(biases[-1], after[-1], weights[-1])

    if parameters.max_logvar.shape[-1] == 0:
        loss, gradient = _squared_error(out, y)
        bounds = [torch.zeros_like(parameters.max_logvar), torch.zeros_like(parameters.min_logvar)]
    else:
        loss, gradient, *bounds = _likelihood(out, y, parameters.max_logvar, parameters.min_logvar)
    weight_gradients, bias_gradients = [], []
    for layer in reversed(range(len(weights))):
        weight_gradients.append(torch.bmm(after[layer].transpose(1, 2), gradient))
        bias_gradients.append(gradient.sum(1, keepdim=True))
        if layer > 0:
            gradient = torch.bmm(gradient, weights[layer].transpose(1, 2))
            gradient = _BACKWARD[activation](gradient, before[layer - 1], after[layer])
    return loss, Parameters(tuple(weight_gradients[::-1]), tuple(bias_gradients[::-1]), *bounds)


def _squared_error(out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    error = out - y
    return error.square().mean((1, 2)), error * (2 / y[0].numel())


def _likelihood(out: Tensor, y: Tensor, upper: Tensor, lower: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, and its gradients for the output of the last layer and for both bounds."""
    columns = y.shape[-1]
    share = 1 / y[0].numel()  # of one number in the mean
    below_upper = upper - out[..., columns:]
    above_lower = upper - functional.softplus(below_upper) - lower
    logvar = lower + functional.softplus(above_lower)
    error, precision = out[..., :columns] - y, (-logvar).exp()
    scaled = error.square() * precision
    loss = (scaled + logvar).mean((1, 2))

    # Each softplus passes on a sigmoid's share of the gradient of log var; the rest goes to its bound.
    for_logvar = (1 - scaled).mul_(share)
    for_clamped = for_logvar * above_lower.sigmoid()
    for_raw = for_clamped * below_upper.sigmoid()
    for_upper = (for_clamped - for_raw).sum(1, keepdim=True) + BOUND_WEIGHT
    for_lower = (for_logvar - for_clamped).sum(1, keepdim=True) - BOUND_WEIGHT
    for_mean = error.mul_(precision).mul_(2 * share)
    return loss, torch.cat([for_mean, for_raw], -1), for_upper, for_lower
