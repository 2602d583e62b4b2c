"""What the end of a plan is worth beyond its rewards: with it, a short plan does not walk into a fall beyond it.

A plan of a third of a second pays no heed to a body that will fall in half a second. So its last state is asked whether
the body could still come to a stand: a terminal value for planners (`planners.Problem`), never a score.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_GRAVITY = 9.81


def half_cheetah_upright(first: int) -> Callable[[Tensor], Tensor]:
    """What HalfCheetah-v5 loses by leaning, in units of its reward: -30 pitch^2, with the pitch in rad.

    On its back it slides on at a third of the speed, which a short plan takes for the best that there is.

    Args:
        first: index of the height in the observation.
    """

    def value(obs: Tensor) -> Tensor:
        return -30 * obs[:, first + 1] ** 2

    return value


def hopper_stance(first: int) -> Callable[[Tensor], Tensor]:
    """How near Hopper-v5 is to a stand, in units of its reward: at most 300, and below that by squared deviations.

    What counts most is the capture point, where a foot has to be for the body to come to rest above it: that of an
    inverted pendulum of height h lies v / sqrt(g / h) ahead of the body (Pratt et al. 2006,
    https://doi.org/10.1109/ICHR.2006.321385). Here h is 1.25 m and the foot is the middle of the sole. An episode that
    ends gets none of it, so that staying up pays.

    Args:
        first: index of the height in the observation.
    """

    def value(obs: Tensor) -> Tensor:
        z, pitch, turn, velocity = obs[:, first], obs[:, first + 1], obs[:, first + 7], obs[:, first + 5]
        foot = hopper_foot(obs[:, first + 1 : first + 4])
        capture = velocity / (_GRAVITY / 1.25) ** 0.5
        low = (1.2 - z).clamp(min=0)
        return 300 - 1000 * (capture - foot) ** 2 - 500 * pitch**2 - 400 * low**2 - 3 * turn**2

    return value


def hopper_foot(angles: Tensor) -> Tensor:
    """How far in m the middle of the sole lies before the torso, with the sole level: pitch, thigh, leg [rows, 3].

    Lengths of Gymnasium's hopper: torso to hip, thigh, leg, and ankle to the middle of the sole. A positive pitch leans
    forward, positive joint angles swing forward.
    """
    pitch, thigh, leg = angles.unbind(1)
    thigh = thigh - pitch
    return -0.2 * torch.sin(pitch) + 0.45 * torch.sin(thigh) + 0.5 * torch.sin(thigh + leg) + 0.065
