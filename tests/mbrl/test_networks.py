"""Networks and Adam against torch.nn and torch.optim, in float64."""

import pytest
import torch

from mbrl.learners.networks import adam_update, differentiable, gradients, init_adam, init_mlp, leaves, mlp
from mbrl.seeding import generator

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
    adam_update([p], [g], init_adam([p]), lr=0.1)
    torch.testing.assert_close(p, -0.1 * g.sign())


def test_a_transposed_gradient_reaches_the_right_weights():
    g = torch.tensor([[[1.0, -1], [1, -1], [-1, 1]]]).transpose(1, 2)
    p = torch.zeros(1, 2, 3)
    adam_update([p], [g], init_adam([p]), lr=0.1)
    torch.testing.assert_close(p, -0.1 * g.sign())


def test_found_inf_freezes_parameters_optimiser_and_count():
    p, adam = torch.ones(1, 2), init_adam([torch.ones(1, 2)])
    adam_update([p], [torch.full((1, 2), torch.nan)], adam, lr=0.1, found_inf=torch.ones(1))
    assert [t.tolist() for t in (p, *leaves(adam))] == [[[1, 1]], [[0, 0]], [[0, 0]], [0]]
    adam_update([p], [torch.ones(1, 2)], adam, lr=0.1, found_inf=torch.zeros(1))
    torch.testing.assert_close(p, torch.full((1, 2), 0.9))
    assert adam.step.tolist() == [1.0]


def test_a_missing_gradient_is_an_error():
    p = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="grads"):
        adam_update([p, p], [p], init_adam([p, p]), lr=0.1)


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
