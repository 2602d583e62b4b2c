"""The ensemble against single networks, its fast form against the plain one, and what it stores."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mbrl.data.normalizer import Normalizer
from mbrl.models.gaussian_ensemble import GaussianEnsemble


def make(seed: int = 0, **kwargs) -> GaussianEnsemble:
    """An ensemble in float64 whose scalings and bounds are not the initial ones."""
    ensemble = GaussianEnsemble(3, 2, seed=seed, dtype=torch.float64, **{"hidden": (8, 7), **kwargs})
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    inputs = Normalizer(len(ensemble.seen), dtype=torch.float64).fit(5 + 3 * normal(20, len(ensemble.seen)))
    targets = Normalizer(ensemble.out_dim, dtype=torch.float64).fit(2 + 0.1 * normal(20, ensemble.out_dim))
    p = ensemble.parameters
    p = p._replace(biases=tuple(b + 0.3 * normal(*b.shape) for b in p.biases))
    p = p._replace(max_logvar=p.max_logvar + 0.1, min_logvar=p.min_logvar + 8)
    ensemble.replace(p, inputs, targets, ensemble.elites)
    return ensemble


def rows(n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(9)
    return (torch.randn(n, 3, generator=g, dtype=torch.float64), torch.rand(n, 2, generator=g, dtype=torch.float64))


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh"])
def test_members_are_networks_of_their_own(activation: str) -> None:
    ensemble = make(members=3, activation=activation)
    obs, action = rows()
    mean, std = ensemble.predict(obs, action)
    layers = list(zip(ensemble.parameters.weights, ensemble.parameters.biases, strict=True))
    for m in range(3):
        x = (torch.cat([obs, action], -1) - ensemble.inputs.mean) / ensemble.inputs.std
        for i, (w, b) in enumerate(layers):
            x = functional.linear(x, w[m].T, b[m, 0])
            x = getattr(functional, activation)(x) if i < len(layers) - 1 else x
        high, low = ensemble.parameters.max_logvar[m], ensemble.parameters.min_logvar[m]
        logvar = high - functional.softplus(high - x[:, 3:])
        logvar = low + functional.softplus(logvar - low)
        torch.testing.assert_close(mean[m], x[:, :3] * ensemble.targets.std + ensemble.targets.mean)
        torch.testing.assert_close(std[m], logvar.exp().sqrt() * ensemble.targets.std)


def test_a_member_does_not_depend_on_how_many_there_are() -> None:
    two, five = (GaussianEnsemble(3, 2, members=n, hidden=(8,), seed=4) for n in (2, 5))
    for few, many in zip(two.parameters.weights, five.parameters.weights, strict=True):
        assert torch.equal(few, many[:2])
        assert not torch.equal(many[0], many[1])


def test_initial_weights_are_truncated_normal() -> None:
    ensemble = GaussianEnsemble(50, 50, members=2, hidden=(400,))
    weight = ensemble.parameters.weights[0]
    std = 0.5 / 100**0.5
    assert weight.abs().max() <= 2 * std
    # A normal distribution cut at two standard deviations keeps 0.8796 of its own.
    assert weight.std() == pytest.approx(0.8796 * std, rel=0.02)
    assert all(not bias.any() for bias in ensemble.parameters.biases)


@pytest.mark.parametrize("hidden", [(), (8, 7)])
def test_the_default_penalty_grows_from_layer_to_layer(hidden: tuple[int, ...]) -> None:
    assert GaussianEnsemble(3, 1).weight_decay == (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)  # of the paper's code
    decay = GaussianEnsemble(3, 1, hidden=hidden).weight_decay
    assert len(decay) == len(hidden) + 1
    assert decay[-1] == 1e-4
    assert GaussianEnsemble(3, 1, hidden=hidden, weight_decay=0.5).weight_decay == (0.5,) * len(decay)


@pytest.mark.parametrize(
    "kwargs", [{}, {"deterministic": True}, {"learned_reward": True, "ignored_inputs": (1,)}, {"hidden": ()}]
)
def test_the_folded_form_is_the_same_function(kwargs: dict) -> None:
    ensemble = make(members=2, **kwargs)
    obs, action = rows()
    mean, std = ensemble.predict(obs, action)
    folded = ensemble.folded()
    x = torch.cat([obs, action], -1).expand(2, -1, -1)
    for w, b in zip(folded.weights, folded.biases, strict=True):
        x = functional.silu(torch.baddbmm(b, x, w))
    out = torch.baddbmm(folded.head_bias, folded.head_weight, x.transpose(1, 2))
    torch.testing.assert_close(out[:, : ensemble.out_dim].transpose(1, 2), mean)
    if not ensemble.deterministic:
        variance = folded.floor + 1 / (folded.inverse_ceiling + out[:, ensemble.out_dim :].exp())
        torch.testing.assert_close(variance.sqrt().transpose(1, 2), std)


def test_variances_stay_within_their_bounds() -> None:
    ensemble = GaussianEnsemble(3, 2, members=2, hidden=(8,), dtype=torch.float64)
    obs, action = rows()
    for scale in (1e-3, 1.0, 1e6):
        std = ensemble.predict(scale * obs, action).std
        # The lower bound acts on what the upper one leaves, and adds its own variance on top.
        assert (std**2 >= (1 - 1e-9) * math.exp(-10)).all()
        assert (std**2 <= (1 + 1e-9) * (math.exp(0.5) + math.exp(-10))).all()


def test_ignored_inputs_do_not_matter_but_are_predicted() -> None:
    ensemble = make(members=2, ignored_inputs=(1,))
    obs, action = rows()
    moved = obs + torch.tensor([0.0, 100.0, 0.0])
    assert torch.equal(ensemble.predict(obs, action).mean, ensemble.predict(moved, action).mean)
    assert ensemble.predict(obs, action).mean.shape == (2, 6, 3)
    elsewhere = obs + torch.tensor([0.0, 0.0, 1.0])
    assert not torch.allclose(ensemble.predict(obs, action).mean, ensemble.predict(elsewhere, action).mean)


def test_members_may_get_rows_of_their_own() -> None:
    ensemble = make(members=2)
    obs, action = rows()
    together = ensemble.predict(obs, action).mean
    apart = ensemble.predict(torch.stack([obs, obs.flip(0)]), torch.stack([action, action.flip(0)])).mean
    torch.testing.assert_close(apart[0], together[0])
    torch.testing.assert_close(apart[1], together[1].flip(0))


def test_state_dict_round_trip() -> None:
    old, new = make(0, members=3, learned_reward=True), make(1, members=3, learned_reward=True)
    old.elites = torch.tensor([2, 0])
    stored = old.state_dict()
    new.folded()  # must not survive
    new.load_state_dict(stored)
    for a, b in zip(old.predict(*rows()), new.predict(*rows()), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(new.elites, old.elites)
    assert all(torch.equal(a, b) for a, b in zip(new.folded().weights, old.folded().weights, strict=True))
    stored["weights.0"].zero_()
    assert new.parameters.weights[0].any()
    assert old.parameters.weights[0].any()


def test_state_dict_of_another_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weights\.2"):
        make(members=3).load_state_dict(GaussianEnsemble(3, 2, members=3, hidden=(8,)).state_dict())
    with pytest.raises(ValueError, match=r"state\['weights\.0'\]: expected shape \[3, 5, 8\], got \[2, 5, 8\]"):
        make(members=3).load_state_dict(make(members=2).state_dict())
    with pytest.raises(ValueError, match=r"state\['elites'\]: expected some of 0 to 1, got \[7\]"):
        make(members=2).load_state_dict({**make(members=2).state_dict(), "elites": torch.tensor([7])})


def test_observations_in_double_precision_are_taken() -> None:
    """As MuJoCo's are."""
    ensemble = GaussianEnsemble(3, 2, members=2, hidden=(8,))
    obs, action = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(ensemble.predict(obs, action), ensemble.predict(obs.float(), action.float()))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"members": 0}, "members: expected at least 1"),
        ({"hidden": (8, 0)}, "hidden: expected positive"),
        ({"activation": "sine"}, "activation: expected one of"),
        ({"ignored_inputs": (3,)}, "ignored_inputs: expected indices of the observation, 0 to 2"),
        ({"weight_decay": (1e-4,), "hidden": (8,)}, "weight_decay: expected 2 numbers"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianEnsemble(3, 2, **kwargs)
