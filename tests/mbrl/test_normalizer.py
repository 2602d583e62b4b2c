"""Standardisation: known means, the inverse, columns that never change."""

import pytest
import torch

from mbrl.data.normalizer import Normalizer
from mbrl.seeding import generator


def test_mean_and_standard_deviation_by_hand():
    normalizer = Normalizer(2, dtype=torch.float64).fit(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
    assert normalizer.mean.tolist() == [2, 20]
    assert normalizer.std.tolist() == [1, 10]
    assert normalizer.normalize(torch.tensor([[3.0, 10.0]])).tolist() == [[1, -1]]


def test_denormalize_inverts_normalize():
    x = 5 + 3 * torch.randn(50, 4, generator=generator(0), dtype=torch.float64)
    normalizer = Normalizer(4, dtype=torch.float64).fit(x)
    z = normalizer.normalize(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-14, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(normalizer.denormalize(z), x)


def test_columns_that_never_change_become_zero():
    x = torch.tensor([[0.1, 1e6, 0.0, 1e-9], [0.1, 1e6, 0.0, 3e-9], [0.1, 1e6, 0.0, 2e-9]])
    normalizer = Normalizer(4).fit(x)
    assert normalizer.std[:3].tolist() == [1, 1, 1]
    assert 0 < normalizer.std[3] < 1e-8  # small, but it changes
    assert normalizer.normalize(x)[:, :3].abs().max() == 0


def test_what_rounding_leaves_of_zero_is_no_change():
    """A row with a real number there would be 1e11 standard deviations away."""
    x = torch.tensor([[1e-17], [-2e-17], [0.0]], dtype=torch.float64)
    normalizer = Normalizer(1, dtype=torch.float64).fit(x)
    assert normalizer.normalize(torch.tensor([[1e-6]], dtype=torch.float64)).abs().max() < 1e-5


def test_before_fit_nothing_changes():
    x = torch.randn(3, 2, generator=generator(0))
    assert torch.equal(Normalizer(2).normalize(x), x)


def test_a_restored_normalizer_is_the_same():
    x = torch.randn(9, 3, generator=generator(0))
    original, copy = Normalizer(3).fit(x), Normalizer(3)
    state = original.state_dict()
    copy.load_state_dict(state)
    state["mean"].zero_()
    assert torch.equal(copy.normalize(x), original.normalize(x))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="dim"):
        Normalizer(0)
    with pytest.raises(ValueError, match=r"x: expected shape \[rows, 2\]"):
        Normalizer(2).fit(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="at least one row"):
        Normalizer(2).fit(torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"state\['std'\]: expected shape \[2\]"):
        Normalizer(2).load_state_dict({"mean": torch.zeros(2)})
