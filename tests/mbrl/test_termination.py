"""A learned termination: rare ends are found, and their frequency is not exaggerated."""

import pytest
import torch
from torch import Tensor

from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.models.termination import LearnedTermination
from mbrl.types import TransitionBatch


def transitions(rows: int, end: float, seed: int = 0) -> TransitionBatch:
    """Ends where the first coordinate of next_obs is above `end`."""
    g = torch.Generator().manual_seed(seed)
    obs, change = (torch.randn(rows, 2, generator=g) for _ in range(2))
    action = torch.rand(rows, 1, generator=g)
    next_obs = obs + 0.1 * change
    ended, no = next_obs[:, 0] > end, torch.zeros(rows, dtype=torch.bool)
    return TransitionBatch(obs, action, torch.zeros(rows), next_obs, ended, no, torch.ones(rows), torch.zeros(rows))


def told(termination: LearnedTermination, batch: TransitionBatch) -> Tensor:
    return termination(batch.obs, batch.action, batch.next_obs)


def test_rare_ends_are_found() -> None:
    termination = LearnedTermination(2, 1)
    data, unseen = transitions(5000, 2.3), transitions(5000, 2.3, seed=1)
    assert 0.005 < data.terminated.double().mean() < 0.015
    errors = termination.fit(data, seed=0, steps=800)
    assert errors["model/missed_ends"] < 0.2
    assert errors["model/false_ends"] < 0.002
    wrong = told(termination, unseen) != unseen.terminated
    assert wrong[unseen.terminated].double().mean() < 0.3
    assert wrong[~unseen.terminated].double().mean() < 0.003


def test_odds_are_those_of_the_data_where_inputs_tell_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    data = transitions(4000, 0.0)._replace(terminated=torch.rand(4000, generator=g) < 0.03)
    termination = LearnedTermination(2, 1, hidden=(8,))
    termination.fit(data, seed=0, steps=300)
    probability = termination.logit(data.obs, data.action, data.next_obs).sigmoid().mean()
    assert 0.015 < probability < 0.06  # the share is 0.03; without the correction it would be 0.5


def test_without_ends_nothing_ends_and_without_others_everything() -> None:
    data = transitions(50, torch.inf)
    termination = LearnedTermination(2, 1)
    assert not told(termination, data).any()
    errors = termination.fit(data, seed=0)
    assert errors["model/false_ends"] == 0
    assert not told(termination, data).any()
    termination.fit(transitions(50, -torch.inf), seed=0)
    assert told(termination, data).all()


def test_discrete_actions_are_seen() -> None:
    g = torch.Generator().manual_seed(0)
    action = torch.randint(3, (600,), generator=g)
    data = transitions(600, 0.0)._replace(action=action, terminated=action == 2)  # the action alone tells
    termination = LearnedTermination(2, 3)
    errors = termination.fit(data, seed=0, steps=200)
    assert errors == {"model/missed_ends": 0.0, "model/false_ends": 0.0}
    with pytest.raises(ValueError, match="data: expected rows of obs"):
        termination.fit(data._replace(action=action[:, None]), seed=0)


def test_a_state_is_restored_and_training_repeats() -> None:
    data = transitions(300, 1.0)
    one, two = (LearnedTermination(2, 1, seed=s) for s in (0, 1))
    one.fit(data, seed=0, steps=20)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.logit(data.obs, data.action, data.next_obs), two.logit(data.obs, data.action, data.next_obs))
    for each in (one, two):
        each.fit(data, seed=1, steps=20)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="state: expected"):
        LearnedTermination(3, 1).load_state_dict(one.state_dict())


def test_a_model_ends_by_it() -> None:
    termination = LearnedTermination(2, 1)
    termination.fit(transitions(2000, 1.0), seed=0, steps=300)
    ensemble = GaussianEnsemble(2, 1, members=2, hidden=(8,))
    dynamics = EnsembleDynamics(ensemble, reward=lambda o, a, n: n[:, 0], termination=termination)
    state = dynamics.reset(torch.tensor([[5.0, 0.0], [-5.0, 0.0]]))
    assert dynamics.step(state, torch.zeros(2, 1))[1].terminated.tolist() == [True, False]


@pytest.mark.parametrize("field", ["obs", "action", "next_obs"])
def test_data_that_are_not_finite_are_named_and_change_nothing(field: str) -> None:
    batch, termination = transitions(50, 0.5), LearnedTermination(2, 1)
    termination.fit(batch, seed=0, steps=5)
    before = termination.state_dict()
    broken = getattr(batch, field).clone()
    broken[7, 0] = torch.nan
    with pytest.raises(ValueError, match="data: expected finite numbers, got in row 7 obs"):
        termination.fit(batch._replace(**{field: broken}), seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in termination.state_dict().items())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"steps": 0}, "steps, batch_size, lr"), ({"batch_size": 1}, "steps, batch_size, lr"), ({"lr": 0.0}, "steps, ")],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedTermination(2, 1).fit(transitions(10, 0.0), seed=0, **kwargs)
    with pytest.raises(ValueError, match="data: expected rows of obs"):
        LearnedTermination(3, 1).fit(transitions(10, 0.0), seed=0)
    with pytest.raises(ValueError, match="expected positive sizes"):
        LearnedTermination(0, 1)
