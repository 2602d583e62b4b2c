"""Regulators against a dense solution of the optimality conditions, against scipy, and against simulated noise."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are
from torch import Tensor

from planners.lqr import LQR, lqr, lqr_infinite

OBS, ACT, T = 4, 2, 6


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(*shape: int, seed: int) -> Tensor:
    """Positive definite matrices [..., n, n]."""
    root = random(*shape, seed=seed)
    return root @ root.mT / shape[-1] + 0.1 * torch.eye(shape[-1], dtype=torch.float64)


def problem(*leading: int) -> dict[str, Tensor]:
    """All terms there are: time-varying, with cross, linear and affine ones."""
    stage = positive(*leading, OBS + ACT, OBS + ACT, seed=1)
    batch = leading[:-1]
    return {
        "A": 0.6 * random(*leading, OBS, OBS, seed=2),
        "B": random(*leading, OBS, ACT, seed=3),
        "Q": stage[..., :OBS, :OBS],
        "R": stage[..., OBS:, OBS:],
        "N": stage[..., :OBS, OBS:],
        "q": random(*leading, OBS, seed=4),
        "r": random(*leading, ACT, seed=5),
        "c": random(*leading, OBS, seed=6),
        "P_final": positive(*batch, OBS, OBS, seed=7),
        "p_final": random(*batch, OBS, seed=8),
    }


def dense(terms: dict[str, Tensor], x0: Tensor, discount: float) -> tuple[Tensor, Tensor, Tensor]:
    """States, actions and cost of one problem: its optimality conditions as one linear system."""
    width = OBS + ACT
    n = T * width + OBS
    H, g = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    G, h = torch.zeros((T + 1) * OBS, n, dtype=torch.float64), torch.zeros((T + 1) * OBS, dtype=torch.float64)
    G[:OBS, :OBS], h[:OBS] = torch.eye(OBS), x0
    for t in range(T):
        at, w = t * width, discount**t
        stage = torch.cat(
            [torch.cat([terms["Q"][t], terms["N"][t]], 1), torch.cat([terms["N"][t].T, terms["R"][t]], 1)]
        )
        H[at : at + width, at : at + width] = w * stage
        g[at : at + width] = w * torch.cat([terms["q"][t], terms["r"][t]])
        row = (t + 1) * OBS
        G[row : row + OBS, at : at + width] = -torch.cat([terms["A"][t], terms["B"][t]], 1)
        G[row : row + OBS, at + width : at + width + OBS] = torch.eye(OBS)
        h[row : row + OBS] = terms["c"][t]
    H[-OBS:, -OBS:], g[-OBS:] = discount**T * terms["P_final"], discount**T * terms["p_final"]
    zero = torch.zeros(len(G), len(G), dtype=torch.float64)
    kkt = torch.cat([torch.cat([H, G.T], 1), torch.cat([G, zero], 1)])
    z = torch.linalg.solve(kkt, torch.cat([-g, h]))[:n]
    steps = torch.cat([z, z.new_zeros(ACT)]).view(T + 1, width)
    return steps[:, :OBS], steps[:T, OBS:], 0.5 * z @ H @ z + g @ z


def follow(solution: LQR, terms: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    xs, us = [x], []
    for t in range(T):
        us.append(solution.K[t] @ xs[-1] + solution.k[t])
        xs.append(terms["A"][t] @ xs[-1] + terms["B"][t] @ us[-1] + terms["c"][t])
    return torch.stack(xs), torch.stack(us)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_a_batch_equals_dense_solutions_of_the_optimality_conditions(discount: float) -> None:
    batch = problem(3, T)
    solution = lqr(**batch, discount=discount)
    x0 = random(3, OBS, seed=9)
    for i in range(3):
        terms = {name: x[i] for name, x in batch.items()}
        states, actions, cost = dense(terms, x0[i], discount)
        xs, us = follow(LQR(*(x[i] for x in solution)), terms, x0[i])
        torch.testing.assert_close(xs, states, rtol=0, atol=1e-9)
        torch.testing.assert_close(us, actions, rtol=0, atol=1e-9)
        value = 0.5 * x0[i] @ solution.P[i, 0] @ x0[i] + solution.p[i, 0] @ x0[i] + solution.s[i, 0]
        torch.testing.assert_close(value, cost, rtol=0, atol=1e-9)


def test_shapes_without_time_or_batch_mean_the_same() -> None:
    terms = {name: x[0] for name, x in problem(T).items() if not name.endswith("final")}
    plain = lqr(**terms, horizon=T)
    assert plain.K.shape == (T, ACT, OBS)
    assert plain.s.shape == (T + 1,)
    repeated = lqr(**{name: x.expand(T, *x.shape) for name, x in terms.items()})
    batched = lqr(**{name: x.expand(2, 1, *x.shape) for name, x in terms.items()}, horizon=T)
    for one, two, three in zip(plain, repeated, batched, strict=True):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one, three[1])


def test_a_long_horizon_equals_the_algebraic_equation() -> None:
    terms = {name: x[0] for name, x in problem(1).items() if name in "ABQRN"}
    expected = solve_discrete_are(*(terms[name].numpy() for name in "ABQR"), s=terms["N"].numpy())
    finite, infinite = lqr(**terms, horizon=200), lqr_infinite(**terms)
    np.testing.assert_allclose(finite.P[0].numpy(), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(infinite.P.numpy(), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(infinite.K, finite.K[0], rtol=0, atol=1e-9)


def test_infinite_batches_broadcast_and_discount() -> None:
    A, B = 1.1 * random(3, 1, OBS, OBS, seed=2) / 2, random(2, OBS, ACT, seed=3)
    Q, R = torch.eye(OBS, dtype=torch.float64), torch.eye(ACT, dtype=torch.float64)
    batched = lqr_infinite(A, B, Q, R, discount=0.9)
    assert batched.K.shape == (3, 2, ACT, OBS)
    finite = lqr(A[2, 0], B[1], Q, R, horizon=300, discount=0.9)
    torch.testing.assert_close(batched.P[2, 1], finite.P[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(batched.K[2, 1], finite.K[0], rtol=0, atol=1e-9)


def test_noise_costs_what_a_simulation_pays_and_changes_no_gain() -> None:
    terms = problem(T)
    W = 0.1 * positive(OBS, OBS, seed=10)
    quiet, noisy = lqr(**terms, discount=0.95), lqr(**terms, W=W, discount=0.95)
    torch.testing.assert_close(noisy.K, quiet.K)
    torch.testing.assert_close(noisy.k, quiet.k)
    runs, root = 200_000, torch.linalg.cholesky(W)
    x, cost = torch.zeros(runs, OBS, dtype=torch.float64), torch.zeros(runs, dtype=torch.float64)
    noise = random(T, runs, OBS, seed=11)

    def quadratic(a: Tensor, M: Tensor, b: Tensor) -> Tensor:
        return ((a @ M) * b).sum(1)

    for t in range(T):
        u = x @ noisy.K[t].T + noisy.k[t]
        stage = 0.5 * quadratic(x, terms["Q"][t], x) + 0.5 * quadratic(u, terms["R"][t], u)
        stage += quadratic(x, terms["N"][t], u) + x @ terms["q"][t] + u @ terms["r"][t]
        cost += 0.95**t * stage
        x = x @ terms["A"][t].T + u @ terms["B"][t].T + terms["c"][t] + noise[t] @ root.T
    cost += 0.95**T * (0.5 * quadratic(x, terms["P_final"], x) + x @ terms["p_final"])
    error = float(cost.std()) / runs**0.5
    assert abs(float(cost.mean() - noisy.s[0])) < 4 * error
    assert float(noisy.s[0] - quiet.s[0]) > 40 * error  # the noise is worth seeing


def test_noise_for_ever_is_the_limit_of_the_finite_cost() -> None:
    A, B = random(OBS, OBS, seed=2) / 2, random(OBS, ACT, seed=3)
    Q, R, W = positive(OBS, OBS, seed=4), positive(ACT, ACT, seed=5), positive(OBS, OBS, seed=6)
    discounted = lqr_infinite(A, B, Q, R, W=W, discount=0.9)
    torch.testing.assert_close(discounted.noise / 0.1, lqr(A, B, Q, R, W=W, discount=0.9, horizon=400).s[0])
    average = lqr(A, B, Q, R, W=W, horizon=400).s
    torch.testing.assert_close(lqr_infinite(A, B, Q, R, W=W).noise, average[0] - average[1])


def test_the_finite_regulator_is_differentiable() -> None:
    terms = problem(2, 3)
    names = list(terms)

    def cost(*tensors: Tensor) -> tuple[Tensor, ...]:
        solution = lqr(**dict(zip(names, tensors, strict=True)), W=torch.eye(OBS, dtype=torch.float64), discount=0.9)
        return solution.K, solution.k, solution.P[:, 0], solution.s[:, 0]

    assert torch.autograd.gradcheck(cost, [x.requires_grad_() for x in terms.values()], fast_mode=True)


def test_the_infinite_regulator_is_differentiable() -> None:
    tensors = [(0.6 * random(3, 3, seed=2)), random(3, 2, seed=3), positive(3, 3, seed=4), positive(2, 2, seed=5)]
    tensors += [0.1 * random(3, 2, seed=6), positive(3, 3, seed=7)]

    def solve(A: Tensor, B: Tensor, Q: Tensor, R: Tensor, N: Tensor, W: Tensor) -> tuple[Tensor, ...]:
        return tuple(lqr_infinite(A, B, Q, R, N=N, W=W, discount=0.95))

    assert torch.autograd.gradcheck(solve, [x.requires_grad_() for x in tensors])


EYE = torch.eye(2, dtype=torch.float64)
GOOD = {"A": EYE, "B": EYE, "Q": EYE, "R": EYE}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": torch.diag(torch.tensor([1.0, -2.0]))}, "R: expected a positive definite cost of actions, .* -2"),
        ({"R": torch.diag(torch.tensor([1.0, 0.0]))}, "R: expected a positive definite .* add a small multiple"),
        ({"Q": torch.diag(torch.tensor([1.0, -3.0]))}, "Q: expected Q to be positive semidefinite, .* -3 .* use ILQR"),
        ({"N": 2 * EYE}, r"Q, N: expected \[\[Q, N\], \[N', R\]\] to be positive semidefinite, .* -1"),
        ({"W": -EYE}, "W: expected W to be positive semidefinite"),
        ({"P_final": -EYE}, "P_final: expected P_final to be positive semidefinite"),
        ({"Q": torch.stack([EYE, EYE - 5 * torch.diag(EYE[1])])}, r"Q: .* -4 at \[0, 1\]"),
        (
            {"A": EYE.expand(3, 2, 2)},
            r"horizon: expected 2 steps in every argument that varies with time, got \{'A': 3\}",
        ),
        (
            {"A": EYE.expand(3, 2, 2), "B": EYE.expand(4, 2, 2), "horizon": None},
            r"horizon: expected 4 .* got \{'A': 3\}",
        ),
        ({"horizon": None}, "horizon: expected a number of steps"),
        ({"A": EYE[None], "horizon": None}, "horizon: expected a number of steps, for no argument has more than one"),
        ({"horizon": 0}, "horizon: expected at least 1, got 0"),
        ({"horizon": 5.0}, r"horizon: expected a whole number of at least 1, got 5\.0"),
        (
            {"A": EYE.expand(3, 1, 2, 2), "B": EYE.expand(4, 1, 2, 2)},
            r"batch: expected one size .* got \{'A': 3, 'B': 4\}",
        ),
        ({"B": torch.ones(3, 2)}, r"B: expected shape \[\[batch, \[T\]\], 2, 2\], got \[3, 2\]"),
        ({"A": torch.ones(2)}, "A, B: expected matrices"),
        ({"q": torch.ones(3)}, r"q: expected shape .* got \[3\]"),
        ({"Q": EYE * torch.nan}, "Q: expected finite numbers"),
        ({"discount": 0.0}, r"discount: expected a number in \(0, 1\]"),
        ({"A": EYE.numpy()}, r"A: expected a torch tensor, got ndarray; use torch.as_tensor"),
        ({"Q": EYE.numpy()}, r"Q: expected a torch tensor, got ndarray"),
        ({"p_final": [0.0, 0.0]}, r"p_final: expected a torch tensor, got list"),
    ],
)
def test_bad_input_is_named(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        lqr(**{**GOOD, "horizon": 2, **change})


def test_a_system_that_no_action_stabilises_is_named() -> None:
    A = torch.diag(torch.tensor([0.5, 1.2]))
    B = torch.tensor([[1.0], [0.0]])
    with pytest.raises(ValueError, match=r"A, B: expected a system that can be stabilised, .* eigenvalue 1\.2"):
        lqr_infinite(A, B, EYE, EYE[:1, :1])
    lqr_infinite(A, B, EYE, EYE[:1, :1], discount=0.6)  # 0.6 * 1.2^2 < 1


def test_a_free_mode_on_the_unit_circle_is_named() -> None:
    with pytest.raises(ValueError, match="Q: expected a cost that sees every mode on the unit circle"):
        lqr_infinite(EYE, EYE, 0 * EYE, EYE)


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(random(size, size, seed=seed))[0]


@pytest.mark.parametrize("seed", range(40))
def test_a_double_mode_that_no_action_reaches_is_named_whatever_the_rounding(seed: int) -> None:
    """The eigenvalues of a double mode are known to half the digits only."""
    T = rotation(2, seed)
    A = T @ torch.tensor([[1.1, 1.0], [0.0, 1.1]], dtype=torch.float64) @ T.T
    with pytest.raises(ValueError, match=r"A, B: expected a system that can be stabilised, .* eigenvalue 1\.1"):
        lqr_infinite(A, T[:, :1], EYE, EYE[:1, :1])
    best = lqr_infinite(A, T[:, 1:], EYE, EYE[:1, :1])  # the other end of the chain reaches both
    assert float(torch.linalg.eigvals(A + T[:, 1:] @ best.K).abs().max()) < 1


@pytest.mark.parametrize("seed", range(20))
def test_free_modes_on_the_unit_circle_are_named_whatever_the_rounding(seed: int) -> None:
    """Two modes turn for ever and two fade, and only those that fade cost anything."""
    T, eye = rotation(4, seed), torch.eye(4, dtype=torch.float64)
    turn, half = rotation(2, seed), 0.5 * torch.eye(2, dtype=torch.float64)
    A, cost = T @ torch.block_diag(turn, half) @ T.T, T @ torch.block_diag(0 * half, half) @ T.T
    for some in (cost, 0 * eye):
        with pytest.raises(ValueError, match="Q: expected a cost that sees every mode on the unit circle"):
            lqr_infinite(A, eye, some, eye)
        lqr_infinite(A, eye, some, eye, discount=0.99)
    lqr_infinite(A, eye, cost + 1e-6 * eye, eye)


def test_a_free_unstable_mode_is_stabilised() -> None:
    """It costs nothing to let it grow, yet the stabilising solution is what is asked for: P = (a^2 - 1) R / b^2."""
    best = lqr_infinite(2 * EYE, EYE, 0 * EYE, EYE)
    torch.testing.assert_close(best.P, 3 * EYE)
    torch.testing.assert_close(2 * EYE + best.K, 0.5 * EYE)


def test_a_cross_term_can_hide_a_mode() -> None:
    """With Q = N = R = 1 the cost is (x + u)^2: u = -x costs nothing, and A - B leaves the mode on the circle."""
    with pytest.raises(ValueError, match=r"Q: expected a cost that sees every mode on the unit circle, .* -1"):
        lqr_infinite(0 * EYE[:1, :1], EYE[:1, :1], EYE[:1, :1], EYE[:1, :1], N=EYE[:1, :1])


def test_costs_that_were_made_in_single_precision_are_semidefinite() -> None:
    """Of rank 2 in 6 dimensions: rounding leaves eigenvalues of -1e-8."""
    A, B, R = 0.9 * torch.eye(6), torch.eye(6), torch.eye(6)
    for seed in range(20):
        C = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed))
        lqr_infinite(A, B, C.T @ C, R)
        lqr(A, B, C.T @ C, R, P_final=C.T @ C, horizon=3)
    with pytest.raises(ValueError, match="positive semidefinite"):
        lqr(A, B, C.T @ C - 1e-4 * A, R, horizon=3)
