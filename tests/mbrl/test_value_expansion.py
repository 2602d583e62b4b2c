"""MVE and STEVE: the formulas by hand, and the rollouts that feed them in a model with known answers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl.learners.sac import ValuedActions
from mbrl.learners.targets import expanded_targets, inverse_variance_mean
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.value_expansion import Expansion
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
    """A learner whose actions are 1, without a price on entropy, and whose critics say `scale * s`."""

    def __init__(self, *scales: float) -> None:
        self.scales = torch.tensor(scales)

    def act_noise(self, rows: int, generators: list[torch.Generator]) -> None:
        return None

    def valued_actions(self, state: Any, obs: Tensor, noise: Any) -> ValuedActions:
        values = self.scales[:, None] * obs[:, None, :, 0]
        return ValuedActions(torch.ones_like(obs), torch.zeros_like(obs[..., 0]), values)


def model(*changes: float, std: float = 0.0, propagation: Any = "ts1_independent") -> EnsembleDynamics:
    """Member m says s' = s + changes[m], with noise; the reward is s', and it ends where s' >= 10."""
    ensemble = GaussianEnsemble(1, 1, members=len(changes), hidden=(2,), deterministic=std == 0, learned_reward=False)
    parameters = ensemble.parameters
    weights = tuple(torch.zeros_like(w) for w in parameters.weights)
    head = torch.zeros_like(parameters.biases[1])
    head[:, 0, 0] = torch.tensor(changes)
    if std:
        head[:, 0, 1] = 2 * math.log(std)
        parameters = parameters._replace(
            max_logvar=torch.full_like(parameters.max_logvar, 20),
            min_logvar=torch.full_like(parameters.min_logvar, -20),
        )
    biases = (torch.zeros_like(parameters.biases[0]), head)
    ensemble.replace(
        parameters._replace(weights=weights, biases=biases), ensemble.inputs, ensemble.targets, ensemble.elites
    )
    return EnsembleDynamics(
        ensemble, propagation=propagation, reward=lambda o, a, n: n[:, 0], termination=lambda o, a, n: n[:, 0] >= 10
    )


def batch() -> TransitionBatch:
    """Next observations 1, 8 and 5; the last transition terminated."""
    next_obs, no = torch.tensor([[1.0], [8.0], [5.0]]), torch.zeros(3, dtype=torch.bool)
    reward, discount = torch.tensor([100.0, 100.0, 7.0]), torch.tensor([0.5, 0.5, 0.0])
    return TransitionBatch(next_obs, torch.zeros(3, 1), reward, next_obs, discount == 0, no, discount, 0 * reward)


def expanded(
    kind: Any, dynamics: EnsembleDynamics, learner: Any, rows: TransitionBatch | None = None, horizon: int = 2
) -> list[float]:
    expand = Expansion(kind, learner, dynamics, horizon=horizon, discount=0.5)
    rows = batch() if rows is None else rows
    got = expand(rows, None, generator=torch.Generator().manual_seed(0))
    assert not got.discount.any()
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


def alike(rows: int) -> TransitionBatch:
    """Transitions with reward 0 to a state 0."""
    zeros, no = torch.zeros(rows), torch.zeros(rows, dtype=torch.bool)
    return TransitionBatch(
        zeros[:, None], zeros[:, None], zeros, zeros[:, None], no, no, torch.full((rows,), 0.5), zeros
    )


def test_rows_of_mve_draw_elites_and_noise_of_their_own() -> None:
    """T_1 = s' / 2 + 0 / 4 of equal rows: with noise all differ, and without it both elites are met."""
    assert len(set(expanded("mve", model(0.0, std=0.1), Known(0.0), alike(50), horizon=1))) == 50
    assert set(expanded("mve", model(1.0, 3.0), Known(0.0), alike(50), horizon=1)) == {0.5, 1.5}


@pytest.mark.parametrize("propagation", ["ts1_independent", "ts1"])
def test_steve_expands_once_with_every_elite(propagation: Any) -> None:
    """Elites that are right on average: every elite has its step in every row, so that each row has the same target."""
    dynamics = model(1.0, 2.0, 3.0, 4.0, propagation=propagation)
    targets = expanded("steve", dynamics, Known(0.0), alike(50), horizon=2)
    # T_1 = m / 2 over m = 1 ... 4, and T_2 = m / 2 + 2 m / 4 = m where an elite keeps its row.
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    by_hand = torch.stack([0 * values, values / 2, values])[..., None]
    assert targets == pytest.approx([inverse_variance_mean(by_hand).item()] * 50)
    noisy = expanded("steve", model(0.0, 0.0, std=0.1, propagation=propagation), Known(0.0), alike(50), horizon=1)
    assert len(set(noisy)) == 50


class Soft:
    """A learner with an entropy bonus of 1 a step, whose critics know that it is worth 1 / (1 - 1/2) = 2 for ever."""

    def act_noise(self, rows: int, generators: list[torch.Generator]) -> None:
        return None

    def valued_actions(self, state: Any, obs: Tensor, noise: Any) -> ValuedActions:
        return ValuedActions(0 * obs, torch.ones_like(obs[..., 0]), torch.full_like(obs[:, None, :, 0], 2.0))


@pytest.mark.parametrize("horizon", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["mve", "steve"])
def test_entropies_on_the_way_count(kind: Any, horizon: int) -> None:
    """Where critics are right, looking further changes nothing: 0 + (1 + 0) / 2 + (1 + 0) / 4 + ... + 2 / 2^(H + 1)."""
    assert expanded(kind, model(0.0, 0.0), Soft(), alike(2), horizon) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("said", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["mve", "steve"])
def test_rows_in_which_the_model_fails_keep_the_target_without_it(kind: Any, said: float) -> None:
    dynamics = model(1.0, 1.0)
    known = dynamics.reward
    assert known is not None
    dynamics.reward = lambda o, a, n: torch.where(n[:, 0] == 3, said, known(o, a, n))  # in the second step of row 0
    targets = expanded(kind, dynamics, Known(1.0, 1.0))
    fine = expanded(kind, model(1.0, 1.0), Known(1.0, 1.0))
    assert targets == pytest.approx([100.5, *fine[1:]])  # 100 + 1 / 2; row 1 is fine, and row 2 over
    broken = model(1.0, torch.inf)
    broken.reward = lambda o, a, n: torch.zeros_like(n[:, 0])  # finite, and it looks like an end
    if kind == "steve":
        assert expanded(kind, broken, Known(1.0, 1.0)) == pytest.approx([100.5, 104.0, 7.0])
