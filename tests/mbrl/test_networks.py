"""Networks and Adam against torch.nn and torch.optim, in float64."""

import math

import pytest
import torch

from mbrl.learners import relu_network
from mbrl.learners.networks import (
    adam_update,
    differentiable,
    dropout_masks,
    gate,
    gradients,
    init_adam,
    init_mlp,
    mlp,
    polyak_update,
)
from mbrl.seeding import generator
from planners.rows import leaves, map_rows

SIZES = (3, 16, 8, 2)


def network(runs=2, dtype=torch.float64):
    return init_mlp(SIZES, [generator(0, "init", run) for run in range(runs)], dtype=dtype)


def module(params, run):
    """The same network made of torch.nn.Linear."""
    parts = []
    for weight, bias in params:
        linear = torch.nn.Linear(*weight.shape[1:], dtype=weight.dtype)
        linear.weight.data.copy_(weight[run].T)
        linear.bias.data.copy_(bias[run, 0])
        parts += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*parts[:-1])


def test_the_network_of_each_run_is_the_one_of_torch_nn():
    params, x = network(), torch.randn(2, 5, 3, generator=generator(1), dtype=torch.float64)
    for run in (0, 1):
        torch.testing.assert_close(mlp(params, x, torch.tanh)[run], module(params, run)(x[run]))


def test_initial_weights_are_uniform_with_the_bound_of_torch_nn_linear():
    weight, bias = init_mlp((100, 400), [generator(0)], dtype=torch.float64)[0]
    for values in (weight, bias):
        assert values.abs().max() <= 0.1
        assert values.abs().max() > 0.099
    assert abs(weight.std() - 0.1 / 3**0.5) < 1e-3
    assert weight.shape == (1, 100, 400)
    assert bias.shape == (1, 1, 400)


def test_a_run_depends_on_its_own_generator_alone():
    both = network()
    other = init_mlp(SIZES, [generator("another"), generator(0, "init", 1)], dtype=torch.float64)
    for a, b in zip(leaves(both), leaves(other), strict=True):
        assert torch.equal(a[1], b[1])
        assert not torch.equal(a[0], b[0])


@pytest.mark.parametrize("sizes", [(3,), (3, 0, 1)])
def test_sizes_are_checked(sizes):
    with pytest.raises(ValueError, match="sizes"):
        init_mlp(sizes, [generator(0)])


def test_no_generator_is_an_error():
    with pytest.raises(ValueError, match="generators"):
        init_mlp(SIZES, [])


def test_two_hundred_updates_equal_those_of_torch_optim_for_every_run():
    params = network()
    adam, kept = init_adam(params), leaves(params)
    nets = [module(params, run) for run in (0, 1)]
    optimizers = [torch.optim.Adam(net.parameters(), lr=3e-3, eps=1e-6, betas=(0.8, 0.99)) for net in nets]
    g = generator(2)
    for _ in range(200):
        x, y = (torch.randn(2, 4, n, generator=g, dtype=torch.float64) for n in (3, 2))
        graph = differentiable(params)
        loss = (mlp(graph, x, torch.tanh) - y).square().mean((1, 2))
        adam_update(params, gradients(loss, graph), adam, lr=3e-3, beta1=0.8, beta2=0.99, eps=1e-6)
        for net, optimizer, a, b in zip(nets, optimizers, x, y, strict=True):
            optimizer.zero_grad()
            (net(a) - b).square().mean().backward()
            optimizer.step()
    for run, net in enumerate(nets):
        for (weight, bias), linear in zip(params, [m for m in net if hasattr(m, "weight")], strict=True):
            torch.testing.assert_close(weight[run], linear.weight.detach().T, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(bias[run, 0], linear.bias.detach(), rtol=1e-8, atol=1e-8)
    assert adam.step.tolist() == [200.0]
    assert all(a is b and not a.requires_grad for a, b in zip(leaves(params), kept, strict=True))


def test_first_step_of_adam_has_the_length_of_the_learning_rate():
    p, g = torch.zeros(1, 2, 3), torch.tensor([[[1.0, -2, 3], [-4, 5, -6]]])
    adam_update((p,), [g], init_adam((p,)), lr=0.1)
    torch.testing.assert_close(p, -0.1 * g.sign())


def test_a_transposed_gradient_reaches_the_right_weights():
    g = torch.tensor([[[1.0, -1], [1, -1], [-1, 1]]]).transpose(1, 2)
    p = torch.zeros(1, 2, 3)
    adam_update((p,), [g], init_adam((p,)), lr=0.1)
    torch.testing.assert_close(p, -0.1 * g.sign())


def test_found_inf_freezes_parameters_optimiser_and_count():
    p, adam = torch.ones(1, 2), init_adam((torch.ones(1, 2),))
    adam_update((p,), [torch.full((1, 2), torch.nan)], adam, lr=0.1, found_inf=torch.ones(1))
    assert [t.tolist() for t in (p, *leaves(adam))] == [[[1, 1]], [[0, 0]], [[0, 0]], [0]]
    adam_update((p,), [torch.ones(1, 2)], adam, lr=0.1, found_inf=torch.zeros(1))
    torch.testing.assert_close(p, torch.full((1, 2), 0.9))
    assert adam.step.tolist() == [1.0]


def test_a_missing_gradient_is_an_error():
    p = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="grads"):
        adam_update((p, p), [p], init_adam((p, p)), lr=0.1)


def test_float32_parameters_follow_the_float64_ones():
    params = [network(dtype=d) for d in (torch.float32, torch.float64)]
    for small, large in zip(leaves(params[0]), leaves(params[1]), strict=True):
        small.copy_(large)
    adams = [init_adam(p) for p in params]
    g = generator(3)
    for _ in range(20):
        x = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
        for p, adam in zip(params, adams, strict=True):
            graph = differentiable(p)
            loss = (mlp(graph, x.to(p[0][0])) - 1).square().mean((1, 2))
            adam_update(p, gradients(loss, graph), adam, lr=1e-3)
    for small, large in zip(leaves(params[0]), leaves(params[1]), strict=True):
        torch.testing.assert_close(small.double(), large, rtol=1e-4, atol=1e-5)


def test_members_are_networks_of_their_own():
    params = init_mlp(SIZES, [generator(0, "init", run) for run in (0, 1)], members=4, dtype=torch.float64)
    x = torch.randn(2, 5, 3, generator=generator(1), dtype=torch.float64)
    own = torch.randn(2, 4, 5, 3, generator=generator(2), dtype=torch.float64)
    shared, apart = mlp(params, x), mlp(params, own)
    for member in range(4):
        alone = map_rows(lambda t, i=member: t[:, i], params)
        torch.testing.assert_close(shared[:, member], mlp(alone, x))
        torch.testing.assert_close(apart[:, member], mlp(alone, own[:, member]))


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("asked", ["everything", "parameters", "inputs"])
@pytest.mark.parametrize("block", [2, 1024])
def test_gradients_of_relu_networks_are_those_of_torch_nn(block, asked, members, outputs, monkeypatch):
    monkeypatch.setattr(relu_network, "BLOCK", block)
    params = init_mlp((3, 16, 8, outputs), [generator(0), generator(1)], members=members, dtype=torch.float64)
    x = torch.randn(2, 5, 3, generator=generator(2), dtype=torch.float64)
    weigh = torch.randn(2, members or 1, 5, outputs, generator=generator(3), dtype=torch.float64)
    graph, inputs = differentiable(params), x.clone().requires_grad_()
    wanted = {"everything": [*leaves(graph), inputs], "parameters": leaves(graph), "inputs": [inputs]}[asked]
    out = mlp(graph if asked != "inputs" else params, inputs if asked != "parameters" else x)
    got = torch.autograd.grad((out.view(weigh.shape) * weigh).sum(), wanted)

    plain, leaf = differentiable(params), x.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for run in range(2):
        for member in range(members or 1):
            y = leaf[run]
            for number, (weight, bias) in enumerate(plain):
                w, b = (t[run] if members is None else t[run, member] for t in (weight, bias))
                y = torch.nn.functional.linear(y, w.T, b[0])
                y = y.relu() if number < 2 else y
            total = total + (y * weigh[run, member]).sum()
    sources = {"everything": [*leaves(plain), leaf], "parameters": leaves(plain), "inputs": [leaf]}[asked]
    torch.testing.assert_close(got, torch.autograd.grad(total, sources))


def test_masks_and_normalisation_stand_before_the_activation():
    """One hidden layer of two units: 1 and 3, the mask keeps both or drops the first."""
    weight, bias = torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64), torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    gain, shift = torch.full_like(bias, 2.0), torch.full_like(bias, 0.5)
    last = (torch.tensor([[[[1.0], [10.0]]]], dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64))
    x = torch.ones(1, 1, 1, dtype=torch.float64)
    out = mlp(((weight, bias, gain, shift), last), x)
    # (1, 3) is normalised to (-1, 1), scaled and shifted to (-1.5, 2.5), rectified to (0, 2.5)
    assert out.item() == pytest.approx(25.0, rel=1e-4)
    mask = (torch.tensor([[[[0.0, 2.0]]]], dtype=torch.float64),)
    assert mlp(((weight, bias), last), x, masks=mask).item() == 60.0  # (0, 6)
    assert mlp(((weight, bias, gain, shift), last), x, masks=mask).item() == pytest.approx(25.0, rel=1e-4)


def test_dropout_keeps_the_mean_and_drops_the_share():
    masks = dropout_masks(3, 200, (64, 32), 0.25, [generator(0), generator(1)])
    assert [m.shape for m in masks] == [(2, 3, 200, 64), (2, 3, 200, 32)]
    for mask in masks:
        assert set(mask.unique().tolist()) == {0.0, torch.tensor(4 / 3).item()}
        assert abs(mask.mean() - 1) < 0.02
    alone = dropout_masks(3, 200, (64, 32), 0.25, [generator(1)])
    assert all(torch.equal(a[1], b[0]) for a, b in zip(masks, alone, strict=True))


def test_layer_norm_starts_as_the_identity_and_spares_the_last_layer():
    params = init_mlp((3, 8, 8, 1), [generator(0)], members=2, layer_norm=True)
    assert [len(layer) for layer in params] == [4, 4, 2]
    for _, bias, gain, shift in params[:2]:
        assert torch.equal(gain, torch.ones_like(bias))
        assert torch.equal(shift, torch.zeros_like(bias))


def test_polyak_moves_the_target_by_its_share():
    target, params = (torch.zeros(1, 2), torch.full((1, 1), 4.0)), (torch.full((1, 2), 8.0), torch.zeros(1, 1))
    polyak_update(target, params, 0.25)
    assert [t.tolist() for t in target] == [[[2, 2]], [[3]]]
    assert [t.tolist() for t in params] == [[[8, 8]], [[0]]]
    polyak_update(target, params, 0.25, torch.ones(1))
    assert [t.tolist() for t in target] == [[[2, 2]], [[3]]]
    polyak_update(target, params, 0.25, torch.zeros(1))
    assert [t.tolist() for t in target] == [[[3.5, 3.5]], [[2.25]]]
    polyak_update(target, params, 1)
    assert [t.tolist() for t in target] == [t.tolist() for t in params]


BIG = 1e20
"""Finite in float32, as its square is not."""


@pytest.mark.parametrize(
    ("loss", "grads", "shown", "found"),
    [
        ((0.0, 1.0), (2.0, BIG / 100), (0.0, 1.0), 0.0),
        ((0.0, math.nan), (2.0, 3.0), (0.0, math.nan), 1.0),
        ((math.inf, 0.0), (2.0, 3.0), (math.inf, 0.0), 1.0),
        ((5.0, 6.0), (2.0, BIG), (5.0, math.nan), 1.0),
        ((5.0, 6.0), (math.inf, 2.0), (math.nan, 6.0), 1.0),
        ((5.0, 6.0), (2.0, math.nan), (5.0, math.nan), 1.0),
    ],
)
def test_what_an_update_may_not_use_is_found_by_run(loss, grads, shown, found):
    metrics = {"loss": torch.tensor(loss)}
    given = [torch.zeros(2, 3), torch.tensor(grads), torch.tensor(grads).expand(1, 4, 2).permute(2, 0, 1)]
    flag = gate(metrics, "loss", given)
    assert flag.tolist() == [found]
    assert flag.dtype == torch.float32
    torch.testing.assert_close(metrics["loss"], torch.tensor(shown), rtol=0, atol=0, equal_nan=True)
    assert gate(metrics, "loss", given, torch.ones(1)).tolist() == [1.0]
    assert gate(metrics, "loss", given, torch.zeros(1)).tolist() == [found]


def test_no_members_is_an_error():
    with pytest.raises(ValueError, match="members"):
        init_mlp(SIZES, [generator(0)], members=0)


def test_parameters_that_are_not_contiguous_are_an_error():
    p = torch.zeros(1, 3, 2).mT
    with pytest.raises(ValueError, match=r"params: expected contiguous tensors, got strides \(6, 1, 2\)"):
        adam_update((p,), [torch.zeros(1, 2, 3)], init_adam((p,)), lr=0.1)
