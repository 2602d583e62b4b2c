"""Data and networks that the rows share: those of HalfCheetah, with made-up transitions."""

import torch
from torch import Tensor

from mbrl.types import TransitionBatch

OBS, ACT = 17, 6
HIDDEN = (200, 200, 200, 200)
OUT = OBS + 1
"""The reward is learned too."""
LAYERS = [(OBS + ACT, 200), (200, 200), (200, 200), (200, 200), (200, 2 * OUT)]


def transitions(rows: int, *, seed: int = 0) -> TransitionBatch:
    """Transitions of a smooth random system: s' = s + tanh((s, a) W), with the first coordinate as the reward."""
    stream = torch.Generator().manual_seed(seed)
    obs = torch.randn(rows, OBS, generator=stream)
    action = 2 * torch.rand(rows, ACT, generator=stream) - 1
    weights = 0.1 * torch.randn(OBS + ACT, OBS, generator=stream)
    next_obs = obs + torch.tanh(torch.cat([obs, action], 1) @ weights)
    no = torch.zeros(rows, dtype=torch.bool)
    return TransitionBatch(obs, action, obs[:, 0], next_obs, no, no, torch.ones(rows), torch.full((rows,), torch.nan))


class Products:
    """The matrix products of all members' layers alone, into memory that is already there: the floor.

    Args:
        members: networks.
        rows: of each member.
        backward: with the products of the gradient of weights and inputs.
    """

    def __init__(self, members: int, rows: int, *, backward: bool) -> None:
        stream = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return 0.05 * torch.randn(*shape, generator=stream)

        self.backward = backward
        self.inputs = [normal(members, rows, fan_in) for fan_in, _ in LAYERS]
        self.weights = [normal(members, fan_in, fan_out) for fan_in, fan_out in LAYERS]
        self.biases = [normal(members, 1, fan_out) for _, fan_out in LAYERS]
        self.outputs = [normal(members, rows, fan_out) for _, fan_out in LAYERS]
        self.weight_gradients = [torch.empty_like(w) for w in self.weights]
        self.input_gradients = [torch.empty_like(x) for x in self.inputs]

    def __call__(self) -> None:
        """One pass through the networks, and back."""
        for x, w, b, out in zip(self.inputs, self.weights, self.biases, self.outputs, strict=True):
            torch.baddbmm(b, x, w, out=out)
        if not self.backward:
            return
        for layer in reversed(range(len(LAYERS))):
            gradient = self.outputs[layer]
            torch.bmm(self.inputs[layer].mT, gradient, out=self.weight_gradients[layer])
            if layer > 0:
                torch.bmm(gradient, self.weights[layer].mT, out=self.input_gradients[layer])
