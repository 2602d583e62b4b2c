"""Gradient steps of an ensemble, for the members that are still learning."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mbrl.models.gradients import loss_and_gradients
from mbrl.models.network import Parameters
from planners.rows import leaves, map_rows

TOGETHER = 4
"""Members that take a step together on a CPU: what lies between the layers of more leaves its cache."""


class Trainer:
    """Members in training, with an Adam that starts fresh.

    Args:
        parameters: where to start from; they are copied.
        activation: between layers.
        weight_decay: L2 penalty of each layer's weights.
        lr: step size of Adam (Kingma and Ba 2015, beta 0.9 and 0.999).
    """

    def __init__(self, parameters: Parameters, activation: str, weight_decay: Sequence[float], lr: float) -> None:
        self.parameters = map_rows(lambda p: p.clone(), parameters)
        self.activation = activation
        self.weight_decay = weight_decay
        self.lr = lr
        self._first = map_rows(torch.zeros_like, parameters)
        self._second = map_rows(torch.zeros_like, parameters)
        self._steps = torch.zeros((), dtype=torch.float32, device=parameters.max_logvar.device)

    def update(self, x: Float[Tensor, "members rows in"], y: Float[Tensor, "members rows out"]) -> Tensor:
        """One step of Adam on a batch a member; returns each member's loss before it, without the penalties."""
        self._steps += 1
        members = len(x)
        size = members if x.device.type != "cpu" else -(-members // -(-members // TOGETHER))  # even groups
        losses = []
        for start in range(0, members, size):
            part = slice(start, start + size)
            parameters = map_rows(lambda p, part=part: p[part], self.parameters)
            loss, gradients = loss_and_gradients(parameters, x[part], y[part], self.activation)
            self._adam(part, leaves(gradients))
            losses.append(loss)
        return torch.cat(losses)

    def keep(self, members: Int[Tensor, "kept"]) -> None:
        """Go on with these members (positions) only: the others stay as they are, and cost nothing any more."""
        self.parameters = map_rows(lambda p: p[members], self.parameters)
        self._first = map_rows(lambda p: p[members], self._first)
        self._second = map_rows(lambda p: p[members], self._second)

    def _adam(self, members: slice, gradients: Sequence[Tensor]) -> None:
        assert all(g.is_contiguous() for g in gradients)  # the kernel walks memory
        parameters, first, second = (
            [p[members] for p in leaves(tree)] for tree in (self.parameters, self._first, self._second)
        )
        layers = len(self.weight_decay)
        # One call for each layer's weights, which differ in decay, and one for all that has none.
        groups = [(i, i + 1, decay) for i, decay in enumerate(self.weight_decay)]
        for start, end, decay in [*groups, (layers, len(parameters), 0.0)]:
            torch._fused_adam_(
                parameters[start:end],
                list(gradients[start:end]),
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
