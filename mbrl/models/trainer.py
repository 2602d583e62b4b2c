"""Gradient steps of an ensemble: the loss, its gradient, and Adam, for the members that are still learning."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mbrl.models.network import Parameters, forward
from planners.rows import leaves, map_rows

BOUND_WEIGHT = 0.01
"""Pull of the log-variance bounds towards each other, per output."""


class Trainer:
    """Members in training, with an Adam that starts fresh.

    Args:
        parameters: where to start from; they are copied.
        activation: between layers.
        weight_decay: L2 penalty of each layer's weights.
        lr: step size of Adam (Kingma and Ba 2015, beta 0.9 and 0.999).
    """

    def __init__(
        self, parameters: Parameters, activation: Callable[[Tensor], Tensor], weight_decay: Sequence[float], lr: float
    ) -> None:
        self.parameters = map_rows(lambda p: p.detach().clone().requires_grad_(), parameters)
        self.activation = activation
        self.weight_decay = weight_decay
        self.lr = lr
        self._first = map_rows(torch.zeros_like, parameters)
        self._second = map_rows(torch.zeros_like, parameters)
        self._steps = torch.zeros((), dtype=torch.float32, device=parameters.max_logvar.device)

    def update(self, x: Float[Tensor, "members rows in"], y: Float[Tensor, "members rows out"]) -> Tensor:
        """One step of Adam on a batch a member; returns each member's loss before it, without the penalties."""
        fitted, penalty = losses(self.parameters, x, y, self.activation)
        gradients = torch.autograd.grad((fitted + penalty).sum(), leaves(self.parameters), materialize_grads=True)
        self._adam(gradients)
        return fitted.detach()

    def keep(self, members: Int[Tensor, "kept"]) -> None:
        """Go on with these members (positions) only: the others stay as they are, and cost nothing any more."""
        self.parameters = map_rows(lambda p: p.detach()[members].requires_grad_(), self.parameters)
        self._first = map_rows(lambda p: p[members], self._first)
        self._second = map_rows(lambda p: p[members], self._second)

    @torch.no_grad()
    def _adam(self, gradients: Sequence[Tensor]) -> None:
        self._steps += 1
        parameters, first, second = leaves(self.parameters), leaves(self._first), leaves(self._second)
        layers = len(self.weight_decay)
        # One call for each layer's weights, which differ in decay, and one for all that has none.
        groups = [(i, i + 1, decay) for i, decay in enumerate(self.weight_decay)]
        for start, end, decay in [*groups, (layers, len(parameters), 0.0)]:
            torch._fused_adam_(
                parameters[start:end],
                # The kernel walks memory: a transposed gradient would go to the wrong weights.
                [g.contiguous() for g in gradients[start:end]],
                first[start:end],
                second[start:end],
                [],
                [self._steps] * (end - start),
                lr=self.lr,
                beta1=0.9,
                beta2=0.999,
                weight_decay=decay,  # added to the gradient: the L2 penalty of the loss
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )


def losses(
    parameters: Parameters, x: Tensor, y: Tensor, activation: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "members"], Float[Tensor, "members"]]:
    """Each member's loss on its batch, and its penalty on the log-variance bounds.

    The loss is the mean over rows and outputs of `(y - mean)^2 / var + log var`, or of the squared error where the
    parameters have no bounds.
    """
    mean, logvar = forward(parameters, x, activation)
    error = (mean - y).square()
    if logvar.shape[-1] == 0:
        return error.mean((1, 2)), torch.zeros_like(error[:, 0, 0])
    penalty = BOUND_WEIGHT * (parameters.max_logvar.sum((1, 2)) - parameters.min_logvar.sum((1, 2)))
    return (error * (-logvar).exp() + logvar).mean((1, 2)), penalty
