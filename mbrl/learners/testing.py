"""A conformance kit for learners, one's own included: `check_learner(MyLearner(...), obs_dim, action_dim)`, or
`check_learner(MyLearner(...), obs_dim, actions=4)` where actions are discrete.

Each law is stated in the sentence it fails with. The law that matters most: runs that share a state are the runs
that each have their own.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl.seeding import generator
from mbrl.types import Learner, TransitionBatch
from planners.rows import leaves, map_rows


def check_learner(
    learner: Learner[Any],
    obs_dim: int,
    action_dim: int | None = None,
    *,
    actions: int | None = None,
    low: float = -1.0,
    high: float = 1.0,
    batch_size: int = 8,
    updates: int = 3,
    seed: int = 0,
) -> None:
    """Check a learner against the laws of `mbrl.types.Learner` on random transitions.

    The comparison of runs is exact to rounding where the learner's state is float64 (1e-9); float32 hides small leaks.

    Args:
        learner: whose actions are vectors within `low` and `high`, or numbers below `actions`.
        obs_dim: size of its observations.
        action_dim: size of its actions; None: they are discrete.
        actions: how many there are, where they are discrete.
        low: lower bound of every action dimension.
        high: upper bound of every action dimension.
        batch_size: rows of a batch, at least 2.
        updates: updates that are compared; every second one leaves the actor alone.
        seed: of everything random.

    Raises:
        AssertionError: a law is broken; the message says which and how.
        ValueError: batch_size is below 2, or updates below 1, or not one of action_dim and actions is given.
    """
    if batch_size < 2 or updates < 1:
        raise ValueError(f"batch_size, updates: expected at least 2 and 1, got {batch_size} and {updates}")
    if (action_dim is None) == (actions is None):
        raise ValueError(f"action_dim, actions: expected one of the two, got {action_dim} and {actions}")
    kind = _Discrete(actions) if actions is not None else _Vectors(action_dim or 0, low, high)
    kit = _Kit(learner, obs_dim, kind, batch_size, seed)
    global_state = torch.get_rng_state()
    kit.check_init()
    kit.check_update()
    kit.check_runs(updates)
    kit.check_act()
    own = torch.equal(torch.get_rng_state(), global_state)
    _expect(own, "randomness comes from the generators given, not from torch's global one")


class _Vectors(NamedTuple):
    """Actions that are vectors."""

    dim: int
    low: float
    high: float

    def draw(self, rows: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
        return self.low + (self.high - self.low) * torch.rand(rows, self.dim, generator=g, dtype=dtype)

    def check(self, action: Tensor, rows: tuple[int, int]) -> None:
        shape = [*rows, self.dim]
        _expect(list(action.shape) == shape, f"act: actions of shape {shape}, got {list(action.shape)}")
        slack = 1e-5 * (self.high - self.low)
        inside = (action >= self.low - slack) & (action <= self.high + slack)  # False for NaN
        _expect(bool(inside.all()), f"act: actions lie within {self.low} and {self.high}")


class _Discrete(NamedTuple):
    """Actions that are numbers."""

    number: int

    def draw(self, rows: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
        return torch.randint(self.number, (rows,), generator=g)

    def check(self, action: Tensor, rows: tuple[int, int]) -> None:
        got = f"got {action.dtype} of shape {list(action.shape)}"
        whole = list(action.shape) == list(rows) and action.dtype == torch.int64
        _expect(whole, f"act: discrete actions are int64 of shape {list(rows)}, {got}")
        inside = (action >= 0) & (action < self.number)
        _expect(bool(inside.all()), f"act: discrete actions are from 0 to {self.number - 1}, got {action.tolist()}")


class _Kit:
    """A learner, and the two runs it is tried on."""

    def __init__(self, learner: Any, obs_dim: int, kind: _Vectors | _Discrete, size: int, seed: int) -> None:
        self.learner, self.size, self.seed = learner, size, seed
        self.obs_dim, self.kind = obs_dim, kind
        floats = (t.dtype for t in leaves(self.init((0,))) if t.is_floating_point() and t.shape != (1,))
        self.dtype = next(floats, torch.float32)

    def generators(self, purpose: str, runs: tuple[int, ...], count: int = 0) -> list[torch.Generator]:
        return [generator(self.seed, purpose, run, count) for run in runs]

    def init(self, runs: tuple[int, ...] = (0, 1)) -> Any:
        return self.learner.init(self.generators("init", runs))

    def batch(self, runs: tuple[int, ...] = (0, 1), count: int = 0) -> TransitionBatch:
        """Random transitions, [runs, size, ...]; those of a run depend on its number and on `count`."""
        made = []
        for g in self.generators("batch", runs, count):
            obs, next_obs = torch.randn(2, self.size, self.obs_dim, generator=g, dtype=self.dtype)
            action = self.kind.draw(self.size, g, self.dtype)
            reward = torch.randn(self.size, generator=g, dtype=self.dtype)
            ended, cut = torch.rand(2, self.size, generator=g) < 0.2
            discount, unknown = 0.99 * ~ended, torch.full_like(reward, torch.nan)
            made.append(TransitionBatch(obs, action, reward, next_obs, ended, cut, discount.to(self.dtype), unknown))
        return TransitionBatch(*(torch.stack(column) for column in zip(*made, strict=True)))

    def update(self, state: Any, runs: tuple[int, ...] = (0, 1), count: int = 0) -> dict[str, Tensor]:
        noise = self.learner.noise(self.size, self.generators("noise", runs, count))
        return self.learner.update(state, self.batch(runs, count), noise, actor=count % 2 == 0)[1]

    def check_init(self) -> None:
        both = self.init()
        _expect(isinstance(both, tuple), f"a state is a NamedTuple of tensors, got {type(both).__name__}")
        for i, t in enumerate(leaves(both)):
            where = f"tensor {i} of the state, of shape {list(t.shape)},"
            _expect(t.dim() > 0 and (t.shape[0] == 2 or t.shape == (1,)), f"{where} leads with the 2 runs, or is (1,)")
            _expect(not t.requires_grad, f"{where} carries no gradient")
        _same(both, self.init(), "init: the same generators give the same state")
        for run in (0, 1):
            _same(_run(both, run), self.init((run,)), f"init: run {run} depends on its own generator alone", _close)

    def check_update(self) -> None:
        state, twin, batch = self.init(), self.init(), self.batch()
        self.update(twin)
        given, kept, before = leaves(state), _clone(batch), _clone(state)
        noise = self.learner.noise(self.size, self.generators("noise", (0, 1)))
        returned, metrics = self.learner.update(state, batch, noise)
        got = leaves(returned)
        in_place = len(got) == len(given) and all(a.data_ptr() == b.data_ptr() for a, b in zip(got, given, strict=True))
        _expect(in_place, "update writes into the state's tensors and returns the same tensors")
        _expect(not _equal(returned, before), "update changes the state")
        _expect(all(bool(t.isfinite().all()) for t in got), "update keeps the state finite")
        _expect(not any(t.requires_grad for t in got), "update returns a state without a graph of gradients")
        _same(returned, twin, "update: the same state, batch and noise give the same state")
        _same(batch, kept, "update leaves the batch as it is")
        for name, value in metrics.items():
            _expect(value.shape == (2,), f"update: metric {name} has shape [runs] = [2], got {list(value.shape)}")
            _expect(not value.requires_grad, f"update: metric {name} carries no gradient")
            _expect(bool(value.isfinite().all()), f"update: metric {name} is finite, got {value.tolist()}")

    def check_runs(self, updates: int) -> None:
        both, apart = self.init(), [self.init((run,)) for run in (0, 1)]
        for count in range(updates):
            together = self.update(both, (0, 1), count)
            for run in (0, 1):
                alone = self.update(apart[run], (run,), count)
                law = f"update {count}: run {run} of a state of two learns what it learns alone"
                _same(_run(both, run), apart[run], law, _close)
                for name in together:
                    _expect(_close(together[name][run : run + 1], alone[name]), f"{law}; metric {name} disagrees")

    def check_act(self) -> None:
        state, obs = self.init(), self.batch().obs
        self.update(state)
        kept, seen = _clone(state), obs.clone()
        action = self.learner.act(state, obs)
        self.kind.check(action, (2, self.size))
        _expect(not action.requires_grad, "act: actions carry no gradient")
        _expect(torch.equal(action, self.learner.act(state, obs)), "act without noise is deterministic")
        noise = self.learner.act_noise(self.size, self.generators("act", (0, 1)))
        noisy = [self.learner.act(state, obs, noise) for _ in range(2)]
        self.kind.check(noisy[0], (2, self.size))
        _expect(torch.equal(*noisy), "act: the same noise gives the same actions")
        _expect(_equal(state, kept) and torch.equal(obs, seen), "act leaves the state and the observations as they are")
        single = torch.cat([self.learner.act(state, row) for row in obs.split(1, 1)], 1)
        _expect(_close(action, single), "act: a row's action does not depend on the rows beside it")
        for run in (0, 1):
            alone = self.learner.act(_run(state, run), obs[run : run + 1])
            _expect(_close(action[run : run + 1], alone), f"act: run {run} of a state of two acts as it does alone")


def _run(state: Any, run: int) -> Any:
    """The state of one of two runs; what has shape (1,) belongs to both."""
    return map_rows(lambda t: t[run : run + 1] if len(t) == 2 else t, state)


def _clone(tree: Any) -> Any:
    return map_rows(torch.clone, tree)


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-9 if a.dtype == torch.float64 else 1e-4
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _identical(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())  # NaN equals NaN


def _equal(one: Any, other: Any) -> bool:
    return all(_identical(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


def _same(one: Any, other: Any, law: str, compare: Any = _identical) -> None:
    for i, (a, b) in enumerate(zip(leaves(one), leaves(other), strict=True)):
        _expect(compare(a, b), f"{law}; tensor {i} of the state disagrees")


def _expect(holds: bool, law: str) -> None:
    if not holds:
        raise AssertionError(law)
