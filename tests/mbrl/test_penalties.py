"""Penalties: by hand, their laws, and the one-step cliff that a policy must not walk over."""

from typing import Any

import pytest
import torch

from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble, Prediction
from mbrl.models.penalties import aleatoric, ensemble_std, pairwise, penalty_function
from mbrl.types import TransitionBatch

# Two members, one row, two outputs.
BY_HAND = Prediction(torch.tensor([[[1.0, 0.0]], [[-1.0, 4.0]]]), torch.tensor([[[3.0, 4.0]], [[6.0, 2.0]]]))
SCALE = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    ("function", "raw", "scaled"),
    [
        (aleatoric, 40**0.5, ((36 + 1) / 2) ** 0.5),  # the second member: ||(6, 2)||, rms of (6, 1)
        (pairwise, 5**0.5, 1.0),  # means are (1, 0) and (-1, 4), their mean (0, 2): both are (1, 2) away
        (ensemble_std, (5 / 2) ** 0.5, 1.0),  # standard deviations of 1 and 2
    ],
)
def test_penalties_by_hand(function: Any, raw: float, scaled: float) -> None:
    assert function(BY_HAND).tolist() == pytest.approx([raw])
    assert function(BY_HAND, SCALE).tolist() == pytest.approx([scaled])


@pytest.mark.parametrize("function", [aleatoric, pairwise, ensemble_std])
def test_laws(function: Any) -> None:
    g = torch.Generator().manual_seed(0)
    mean, std = torch.randn(5, 7, 3, generator=g), torch.rand(5, 7, 3, generator=g)
    scale = torch.tensor([0.1, 1.0, 30.0])
    size = function(Prediction(mean, std), scale)
    # Units of the data: it does not matter in which units the environment tells its outputs, ...
    units = torch.tensor([100.0, 0.5, 3.0])
    torch.testing.assert_close(function(Prediction(mean * units, std * units), scale * units), size)
    # ... nor how often one is repeated: the weight means the same in environments with many outputs.
    twice = Prediction(mean.repeat(1, 1, 2), std.repeat(1, 1, 2))
    torch.testing.assert_close(function(twice, scale.repeat(2)), size)
    order = torch.randperm(5, generator=g)
    torch.testing.assert_close(function(Prediction(mean[order], std[order]), scale), size)
    assert torch.equal(function(Prediction(mean[:, 2:3], std[:, 2:3]), scale), size[2:3])


def test_members_that_agree_are_not_penalised() -> None:
    same = Prediction(torch.ones(4, 2, 3), torch.ones(4, 2, 3))
    assert pairwise(same).tolist() == ensemble_std(same).tolist() == [0, 0]


def data(seed: int, rows: int = 300) -> TransitionBatch:
    """A walk along a line: x' = x + step(action) + noise, reward x'. Actions beyond 0.6 are hardly ever taken."""
    g = torch.Generator().manual_seed(seed)
    x = 0.2 * torch.rand(rows, 1, generator=g) - 0.1
    action = (0.2 * torch.randn(rows, 1, generator=g)).clamp(-1, 1)
    next_x = x + torch.sin(3 * action) / 3 + 0.5 * action + 0.01 * torch.randn(rows, 1, generator=g)
    reward, no = torch.where(action[:, 0] > EDGE, -100.0, next_x[:, 0]), torch.zeros(rows, dtype=torch.bool)
    keep = action[:, 0] < EDGE  # whoever went over the edge did not come back with a log
    batch = TransitionBatch(x, action, reward, next_x, no, no, (~no).float(), torch.full((rows,), torch.nan))
    return TransitionBatch(*(column[keep] for column in batch))


EDGE = 0.6
"""Actions beyond it lead over the cliff."""


@pytest.fixture(scope="module", params=range(6))
def ensemble(request: pytest.FixtureRequest) -> GaussianEnsemble:
    made = GaussianEnsemble(1, 1, hidden=(64, 64), learned_reward=True, seed=request.param)
    fit(made, data(request.param), seed=request.param, batch_size=64, max_steps=400, patience=20)
    return made


def best_action(ensemble: GaussianEnsemble, **penalty: Any) -> float:
    """Of the penalised model, at x = 0."""
    actions = torch.linspace(-1, 1, 81)[:, None]
    dynamics = EnsembleDynamics(ensemble, penalty=penalty_function(ensemble=ensemble, **penalty))
    _, step = dynamics.step(dynamics.reset(torch.zeros_like(actions)), actions)
    return float(actions[step.reward.argmax()])


def test_no_penalty_goes_over_the_cliff(ensemble: GaussianEnsemble) -> None:
    assert best_action(ensemble, kind="none") > EDGE


@pytest.mark.parametrize(("kind", "units"), [("pairwise", "data"), ("ensemble_std", "data"), ("pairwise", "raw")])
def test_disagreement_stops_before_the_cliff(ensemble: GaussianEnsemble, kind: str, units: str) -> None:
    assert 0 < best_action(ensemble, kind=kind, units=units, weight=5) < EDGE


def test_noise_does_not_stop_before_the_cliff(ensemble: GaussianEnsemble) -> None:
    for weight in (0.5, 1, 2, 5):
        assert best_action(ensemble, kind="aleatoric", units="raw", weight=weight) > EDGE
    for weight in (10, 20, 50):  # over it, or not forward at all: no weight makes it stop in between
        action = best_action(ensemble, kind="aleatoric", units="raw", weight=weight)
        assert not 0.1 < action < EDGE


def test_the_penalty_is_subtracted_and_follows_fits(ensemble: GaussianEnsemble) -> None:
    x, action = torch.tensor([[0.0], [0.05]]), torch.tensor([[0.1], [0.9]])
    free = EnsembleDynamics(ensemble)
    penalty = penalty_function("pairwise", ensemble, weight=3.0)
    assert penalty is not None
    reward = [one.step(one.reset(x), action)[1].reward for one in (free, EnsembleDynamics(ensemble, penalty=penalty))]
    means = ensemble.predict(x, action).mean[..., :1]  # of the observation; the reward's disagreement does not count
    expected = 3.0 * (means - means.mean(0)).abs().amax(0)[:, 0] / ensemble.targets.std[0]
    torch.testing.assert_close(reward[0] - reward[1], expected, rtol=1e-4, atol=1e-5)
    before = penalty(ensemble.predict(x, action))
    old, ensemble.targets.std = ensemble.targets.std, 2 * ensemble.targets.std
    prediction = ensemble.predict(x, action)._replace(mean=means)
    torch.testing.assert_close(2 * penalty(prediction), before)
    ensemble.targets.std = old


def test_noise_counts_the_reward(ensemble: GaussianEnsemble) -> None:
    raw = penalty_function("aleatoric", ensemble, units="raw")
    assert raw is not None
    std = torch.tensor([[[3.0, 4.0]]])
    assert raw(Prediction(torch.zeros_like(std), std)).tolist() == [5.0]


def test_without_penalty_or_weight_there_is_no_function() -> None:
    one = GaussianEnsemble(2, 1, members=1)
    assert penalty_function("none", one, weight=5.0) is None
    assert penalty_function("pairwise", one, weight=0.0) is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "variance"}, "penalty: expected one of aleatoric, pairwise, ensemble_std, none, got 'variance'"),
        ({"units": "metres"}, "penalty_units: expected one of data, raw, got 'metres'"),
        ({"weight": -1.0}, "penalty_weight: expected a finite number of 0 or more, got -1.0"),
        ({"weight": float("nan")}, "penalty_weight: expected a finite number"),
        ({"ensemble": GaussianEnsemble(2, 1, members=1)}, "penalty: expected 'aleatoric' or 'none' with one member"),
        (
            {"ensemble": GaussianEnsemble(2, 1, normalize_targets=False), "units": "data"},
            r"penalty_units: expected 'raw', for this ensemble \(normalize_targets=False\) does not know the units",
        ),
        (
            {"kind": "aleatoric", "ensemble": GaussianEnsemble(2, 1, deterministic=True)},
            "this ensemble is deterministic and expects no noise, got 'aleatoric'",
        ),
    ],
)
def test_bad_arguments(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"kind": "pairwise", "ensemble": GaussianEnsemble(2, 1), **changed}
    with pytest.raises(ValueError, match=message):
        penalty_function(**arguments)
