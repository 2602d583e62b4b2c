"""MVE and STEVE: the formulas by hand, and the rollouts that feed them in a model with known answers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl.learners.targets import expanded_targets, inverse_variance_mean
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.value_expansion import expand
from mbrl.types import TransitionBatch


def double(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_expanded_targets_by_hand() -> None:
    reward = double([1, 1, 1], [2, 2, 2], [4, 4, torch.nan])
    discount = double([0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5])
    value = double([8, 8, 8], [16, 16, 16], [32, 32, torch.nan])
    # T_0 = 1 + 8 / 2; T_1 = 1 + 2 / 2 + 16 / 4, or without a value where it ended; T_2 = ... + 4 / 4 + 32 / 8.
    expected = double([5, 5, 5], [6, 6, 2], [7, 3, 2])
    torch.testing.assert_close(expanded_targets(reward, discount, value), expected)


def test_inverse_variances_weigh_horizons() -> None:
    # Variances 1 and 4, means 1 and 6: (1 * 1 + 6 / 4) / (1 + 1 / 4) = 2.
    targets = double([0, 2], [4, 8])[..., None]
    torch.testing.assert_close(inverse_variance_mean(targets, floor=0.0), double(2.0))
    # One that is sure outweighs all others; equal ones share.
    torch.testing.assert_close(inverse_variance_mean(double([3, 3], [0, 100])[..., None]), double(3.0))
    torch.testing.assert_close(inverse_variance_mean(double([3, 3], [5, 5])[..., None]), double(4.0))


class Known:
    """A learner whose actions are 1, and whose critics say `scale * s`."""

    def __init__(self, *scales: float) -> None:
        self.scales = torch.tensor(scales)

    def act_noise(self, rows: int, generators: list[torch.Generator]) -> None:
        return None

    def act(self, state: Any, obs: Tensor, noise: Any) -> Tensor:
        return torch.ones_like(obs)

    def target_values(self, state: Any, obs: Tensor, noise: Any) -> Tensor:
        return self.scales[:, None] * obs[:, None, :, 0]


def model(*changes: float) -> EnsembleDynamics:
    """Member m says s' = s + changes[m]; the reward is s', and it ends where s' >= 10."""
    ensemble = GaussianEnsemble(1, 1, members=len(changes), hidden=(2,), deterministic=True)
    parameters = ensemble.parameters
    weights = tuple(torch.zeros_like(w) for w in parameters.weights)
    biases = (torch.zeros_like(parameters.biases[0]), torch.tensor(changes)[:, None, None])
    ensemble.replace(
        parameters._replace(weights=weights, biases=biases), ensemble.inputs, ensemble.targets, ensemble.elites
    )
    return EnsembleDynamics(
        ensemble, propagation="ts1", reward=lambda o, a, n: n[:, 0], termination=lambda o, a, n: n[:, 0] >= 10
    )


def batch() -> TransitionBatch:
    """Next observations 1, 8 and 5; the last transition terminated."""
    next_obs, no = torch.tensor([[1.0], [8.0], [5.0]]), torch.zeros(3, dtype=torch.bool)
    reward, discount = torch.tensor([100.0, 100.0, 7.0]), torch.tensor([0.5, 0.5, 0.0])
    return TransitionBatch(next_obs, torch.zeros(3, 1), reward, next_obs, discount == 0, no, discount, 0 * reward)


def expanded(kind: Any, dynamics: EnsembleDynamics, learner: Known) -> list[float]:
    g = torch.Generator().manual_seed(0)
    got = expand(batch(), learner, None, dynamics, kind=kind, horizon=2, discount=0.5, generator=g)
    assert got.discount.tolist() == [0, 0, 0]
    return got.reward.tolist()


def test_mve_takes_the_longest_horizon_and_the_least_critic() -> None:
    # Row 0: 100 + 2 / 2 + 3 / 4 + min(2 * 3, 3) / 8; row 1 ends at s = 10: 100 + 9 / 2 + 10 / 4; row 2 is over.
    assert expanded("mve", model(1.0), Known(2.0, 1.0)) == pytest.approx([102.125, 107.0, 7.0])


def test_steve_weighs_what_members_and_critics_agree_on() -> None:
    # Two members that agree and critics that agree: every horizon has variance 0, and they share the weight.
    # T = 100 + 1 / 2, 100 + 2 / 2 + 2 / 4, 100 + 2 / 2 + 3 / 4 + 3 / 8.
    targets = expanded("steve", model(1.0, 1.0), Known(1.0, 1.0))
    assert targets[0] == pytest.approx((100.5 + 101.5 + 102.125) / 3)
    # Members that disagree: only the shortest horizon is sure.
    assert expanded("steve", model(1.0, 2.0), Known(1.0, 1.0))[0] == pytest.approx(100.5, abs=1e-4)
    # Members that agree and critics that don't: the longest horizon leans on them least.
    sure = expanded("steve", model(1.0, 1.0), Known(0.0, 2.0))[0]
    assert sure > (100.5 + 101.5 + 102.125) / 3
