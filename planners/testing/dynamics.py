"""The laws of `Dynamics` and `Smooth`, checked on a part that is given."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from planners.dynamics import Dynamics, Smooth, Step
from planners.rows import first_leaf
from planners.testing.laws import (
    copy,
    named_leaves,
    no_global_randomness,
    require,
    require_rows,
    require_same,
    seeded,
    take,
    with_nan_rows,
    with_other_rows,
)
from planners.testing.unroll import check_shortcuts


def check_dynamics(
    dynamics: Dynamics[Any],
    start: Any,
    actions: Tensor,
    *,
    particles: int = 2,
    shared_noise: bool = True,
    seed: int = 0,
) -> None:
    """Check the laws of `Dynamics` along a trajectory.

    Checked at every step: shapes, dtypes and devices; `observe` gives what the step returned; inputs are not written
    to, and earlier results stay what they were; the same generator state gives the same result and nothing else is
    drawn from; without a generator the mean transition is deterministic (or ValueError says that there is none); the
    contents of other rows, NaN included, change neither a row's result nor the number of draws. At the start: `reset`
    inverts `observe` (or raises ValueError), refuses a single observation, and `assign` makes row i the particle
    `i % particles`, with the same member, world and noise as the other rows of that particle. Where the model has an
    `unroll` or is `endless`, these agree with its steps.

    Args:
        dynamics: the part to check.
        start: states, rows leading: a multiple of `particles`, twice as many at least, and not all alike.
        actions: one step after the other; [steps, rows, act], or int64 [steps, rows] where they are discrete.
        particles: as in `Problem`.
        shared_noise: False for models whose state does not carry the particle, such as `FunctionDynamics` with noise:
            there, rows of the same particle meet different noise.
        seed: of the generators that the checks use.

    Raises:
        AssertionError: a law is broken; the message says which, where and by how much.
        ValueError: `start` or `actions` do not fit.
    """
    rows = len(first_leaf(start))
    if rows < 2 * particles or rows % particles:
        raise ValueError(
            f"start: expected rows in multiples of particles={particles}, twice as many at least; got {rows}"
        )
    if actions.dim() != (3 if actions.is_floating_point() else 2) or actions.shape[1] != rows:
        raise ValueError(
            f"actions: expected shape [steps, {rows}, act], or integers [steps, {rows}], got {actions.dtype} "
            f"{list(actions.shape)}"
        )
    generator = seeded(seed, actions.device)
    obs = _check_reset(dynamics, start, rows)
    state = _check_assign(dynamics, start, particles, generator)
    first = state
    for t, action in enumerate(actions):
        before = generator.clone_state()
        next_state = _check_step(dynamics, state, action, obs, generator, t)
        _check_mean(dynamics, state, action, particles, f"step {t} without a generator")
        _check_neighbours(dynamics, state, action, particles, before, f"step {t}")
        if shared_noise:
            _check_particles(dynamics, state, action, particles, before, t)
        state = next_state
    check_shortcuts(dynamics, first, actions, seed=seed)


def check_smooth(
    dynamics: Smooth[Any],
    state: Any,
    action: Float[Tensor, "rows act"],
    *,
    step: float = 1e-5,
    gauss_newton: bool = False,
) -> None:
    """Check the laws of `Smooth` at (state, action), by central differences: use float64.

    `difference(s, s)` is zero, `retract` inverts `difference`, and `expand` agrees with differences of the mean
    transition and of the reward: to 1e-4 relative for first derivatives, and for the Hessian to 1e-2, which admits no
    wrong sign or missing factor.

    Args:
        dynamics: the part to check.
        state: states, rows leading, in float64.
        action: [rows, act], in float64.
        step: of the differences, in the units of the tangent vector and of the action.
        gauss_newton: the Hessian leaves second derivatives of the transition out, as that of the simulator does: then
            only its shape and symmetry are checked.

    Raises:
        AssertionError: a law is broken; the message says which and where.
        ValueError: `action` is not float64.
    """
    if action.dtype != torch.float64:
        raise ValueError(f"action: expected float64, in which differences mean something, got {action.dtype}")
    zero = dynamics.difference(state, state)
    require_same("difference(s, s) is zero", "difference", zero, torch.zeros_like(zero))
    generator = seeded(0, action.device)
    dx = 0.1 * torch.randn(zero.shape, generator=generator, dtype=zero.dtype, device=zero.device)
    back = dynamics.difference(dynamics.retract(state, dx), state)
    require_same("retract inverts difference", "difference(retract(s, dx), s)", back, dx)

    expansion = dynamics.expand(state, action)
    size, reached = zero.shape[1], dynamics.step(state, action)[0]

    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        after, result = dynamics.step(dynamics.retract(state, z[:, :size]), action + z[:, size:])
        return dynamics.difference(after, reached), result.reward

    basis = torch.eye(size + action.shape[1], dtype=zero.dtype, device=zero.device)
    ahead = [both((step * e).expand(len(zero), -1)) for e in basis]
    behind = [both((-step * e).expand(len(zero), -1)) for e in basis]
    jacobian, gradient = (
        torch.stack([(a[part] - b[part]) / (2 * step) for a, b in zip(ahead, behind, strict=True)], -1)
        for part in (0, 1)
    )
    _require_close("state_jacobian", expansion.state_jacobian, jacobian[..., :size], 1e-4)
    _require_close("action_jacobian", expansion.action_jacobian, jacobian[..., size:], 1e-4)
    _require_close("reward_gradient", expansion.reward_gradient, gradient, 1e-4)

    hessian = expansion.reward_hessian
    require_same("The Hessian is symmetric", "reward_hessian", hessian.mT, hessian)
    if gauss_newton:
        wanted = (len(zero), len(basis), len(basis))
        require(
            tuple(hessian.shape) == wanted, f"reward_hessian must have shape {wanted}, it has {tuple(hessian.shape)}."
        )
        return
    wide = step**0.5  # second differences divide by its square
    far = torch.stack(
        [torch.stack([_mixed(both, wide * e, wide * f, len(zero)) for f in basis], -1) for e in basis], -1
    )
    _require_close("reward_hessian", expansion.reward_hessian, far / (4 * wide**2), 1e-2)


def _mixed(both: Any, e: Tensor, f: Tensor, rows: int) -> Tensor:
    plus, minus = (both((sign * e + f).expand(rows, -1))[1] for sign in (1, -1))
    plus_back, minus_back = (both((sign * e - f).expand(rows, -1))[1] for sign in (1, -1))
    return plus - minus - plus_back + minus_back


def _require_close(name: str, got: Tensor, expected: Tensor, tolerance: float) -> None:
    require(
        got.shape == expected.shape,
        f"expand returns one matrix a row: {name} must have shape {list(expected.shape)}, it has {list(got.shape)}.",
    )
    error = (got - expected).abs().max()
    scale = 1 + expected.abs().max()
    require(
        bool(error <= tolerance * scale),
        f"expand returns derivatives of the mean transition: {name} differs from central differences by {error:.3g}, "
        f"where the largest entry is {expected.abs().max():.3g}.",
    )


def _check_reset(dynamics: Dynamics[Any], start: Any, rows: int) -> Tensor:
    require_rows(start, rows, "state")
    obs = dynamics.observe(start)
    require(
        isinstance(obs, Tensor) and obs.dim() == 2 and len(obs) == rows and obs.is_floating_point(),
        f"Observations are floating-point tensors [rows, obs]: observe returned {_shape(obs)} for {rows} rows.",
    )
    try:
        state = dynamics.reset(obs)
    except ValueError:  # An observation does not determine the state.
        return obs
    require_rows(state, rows, "state")
    require_same("reset inverts observe", "observe(reset(obs))", dynamics.observe(state), obs)
    try:
        dynamics.reset(obs[0])
    except ValueError:
        return obs
    raise AssertionError(f"reset refuses wrong shapes with ValueError: it accepted {list(obs[0].shape)}, without rows.")


def _check_assign(dynamics: Dynamics[Any], start: Any, particles: int, generator: Generator) -> Any:
    before, again = copy(start), generator.clone_state()
    with no_global_randomness("assign"):
        state = dynamics.assign(start, particles, generator=generator)
    require_same("Inputs are not written to", "the state given to assign", start, before, exact=True)
    require_rows(state, len(first_leaf(start)), "state")
    second = dynamics.assign(start, particles, generator=again)
    require_same("The same generator state gives the same assignment", "state", second, state, exact=True)
    require_same(
        "assign leaves the observation alone", "observe", dynamics.observe(state), dynamics.observe(start), exact=True
    )
    index = torch.arange(len(first_leaf(start)), device=first_leaf(start).device)
    alike = dynamics.assign(take(start, torch.zeros_like(index)), particles, generator=generator.clone_state())
    law = f"assign makes row i the particle i % {particles}, so from equal states rows of one particle are equal"
    require_same(law, "state", alike, take(alike, index % particles), exact=True)
    return state


def _check_mean(dynamics: Dynamics[Any], state: Any, action: Tensor, particles: int, what: str) -> None:
    try:
        with no_global_randomness(what):
            first = dynamics.step(state, action)
    except ValueError:  # There is no mean transition.
        return
    second = dynamics.step(state, action)
    require_same(f"The mean transition is deterministic ({what})", "result", second, first, exact=True)
    _check_neighbours(dynamics, state, action, particles, None, what)


def _check_neighbours(
    dynamics: Dynamics[Any], state: Any, action: Tensor, particles: int, generator: Generator | None, what: str
) -> None:
    """Other rows' contents are changed by whole blocks of particles: row i stays the particle `i % particles`."""
    own = generator.clone_state() if generator else None
    expected = dynamics.step(state, action, generator=own)
    index = torch.arange(len(action), device=action.device)
    for half in (0, 1):
        keep = index // particles % 2 == half
        for kind, other in (
            ("other contents", with_other_rows((state, action), keep, particles)),
            ("NaN", with_nan_rows((state, action), keep)),
        ):
            fresh = generator.clone_state() if generator else None
            got = dynamics.step(other[0], other[1], generator=fresh)
            law = f"A row's result never depends on the contents of other rows ({what}, {kind} in the other rows)"
            require_same(law, "result", got, expected, rows=keep)
            require(
                own is None or fresh is None or torch.equal(own.get_state(), fresh.get_state()),
                f"The number of draws depends on the number of rows alone: {what} drew another number of values with "
                f"{kind} in half of the rows.",
            )


def _check_particles(
    dynamics: Dynamics[Any], state: Any, action: Tensor, particles: int, generator: Generator, t: int
) -> None:
    first = torch.arange(len(action), device=action.device) % particles
    result = dynamics.step(take(state, first), action[first], generator=generator.clone_state())
    law = f"Rows of one particle share its member, world and noise (step {t}, with equal states and actions)"
    require_same(law, "result", result, take(result, first))


def _check_step(dynamics: Dynamics[Any], state: Any, action: Tensor, obs: Tensor, generator: Generator, t: int) -> Any:
    before, again = copy((state, action)), generator.clone_state()
    with no_global_randomness(f"step {t}"):
        result = dynamics.step(state, action, generator=generator)
    require_same("Inputs are not written to", f"(state, action) of step {t}", (state, action), before, exact=True)
    next_state, step = result
    _check_result(next_state, step, state, obs, t)
    law = f"observe(state) equals Step.obs of the step that made it (step {t})"
    require_same(law, "obs", dynamics.observe(next_state), step.obs, exact=True)

    kept = copy(result)
    second = dynamics.step(state, action, generator=again)
    require_same(f"The same generator state gives the same result (step {t})", "result", second, kept, exact=True)
    dynamics.step(next_state, action.flip(0), generator=again)
    law = "A state is a value: a later step must not write into an earlier result (clone what is a live view)"
    require_same(law, f"result of step {t}", result, kept, exact=True)
    return next_state


def _check_result(next_state: Any, step: Step, state: Any, obs: Tensor, t: int) -> None:
    rows = len(obs)
    require_rows(next_state, rows, "state", like=state)
    require(
        isinstance(step, Step),
        f"step returns (state, Step): step {t} returned a {type(step).__name__} in second place.",
    )
    require(
        step.obs.shape == obs.shape and step.obs.dtype == obs.dtype,
        f"Step.obs has the shape and dtype of observe: expected {_shape(obs)}, step {t} returned {_shape(step.obs)}.",
    )
    require(
        step.reward.shape == (rows,) and step.reward.is_floating_point(),
        f"Step.reward is one floating-point number a row: expected [{rows}], step {t} returned {_shape(step.reward)}.",
    )
    require(
        step.terminated.shape == (rows,) and step.terminated.dtype == torch.bool,
        f"Step.terminated is one bool a row: expected [{rows}], step {t} returned {_shape(step.terminated)}.",
    )
    devices = {path: leaf.device for path, leaf in named_leaves(step, "Step") if leaf.device != obs.device}
    require(not devices, f"Step lives where the state lives, on {obs.device}: {devices}.")


def _shape(x: object) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
