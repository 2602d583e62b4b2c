"""Compiled and captured updates against eager ones; what can be tried without a GPU of the captured ones is."""

import shutil
from dataclasses import replace

import pytest
import torch

from mbrl.learners import fast, relu_network
from mbrl.learners.awac import AWACConfig, AWACLearner
from mbrl.learners.behavior_cloning import BehaviorCloningConfig, BehaviorCloningLearner
from mbrl.learners.cql import CQLConfig, CQLLearner
from mbrl.learners.ddpg import DDPGConfig, DDPGLearner
from mbrl.learners.discrete_sac import DiscreteSACConfig, DiscreteSACLearner
from mbrl.learners.dqn import DQNConfig, DQNLearner
from mbrl.learners.fast import GraphedUpdates, ParityError, blocks, check_parity, compiled, unpack
from mbrl.learners.fqe import FQELearner
from mbrl.learners.iql import IQLConfig, IQLLearner
from mbrl.learners.networks import polyak_update
from mbrl.learners.sac import DROQ, REDQ, SACConfig, SACLearner
from mbrl.learners.td3 import TD3Config, TD3Learner
from mbrl.learners.td3_bc import TD3BCConfig, TD3BCLearner
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves, map_rows

OBS, ACT, ROWS = 3, 2, 16
BOUNDS = (OBS, (-2.0,) * ACT, (1.0,) * ACT)
LEARNERS = {
    "sac": (SACLearner, SACConfig(), BOUNDS),
    "redq": (SACLearner, REDQ, BOUNDS),
    "droq": (SACLearner, DROQ, BOUNDS),
    "td3": (TD3Learner, TD3Config(), BOUNDS),
    "ddpg": (DDPGLearner, DDPGConfig(), BOUNDS),
    "dqn": (DQNLearner, DQNConfig(), (OBS, ACT)),
    "discrete_sac": (DiscreteSACLearner, DiscreteSACConfig(), (OBS, ACT)),
    "td3_bc": (TD3BCLearner, TD3BCConfig(), BOUNDS),
    "cql": (CQLLearner, CQLConfig(actions=3, threshold=1.0), BOUNDS),
    "iql": (IQLLearner, IQLConfig(), BOUNDS),
    "awac": (AWACLearner, AWACConfig(), BOUNDS),
    "bc": (BehaviorCloningLearner, BehaviorCloningConfig(), BOUNDS),
}
EACH = pytest.mark.parametrize("kind", LEARNERS)


def learner(kind="sac", dtype=torch.float64, **settings):
    made, config, arguments = LEARNERS[kind]
    return made(*arguments, replace(config, hidden=(16, 16), **settings), dtype)


def state_of(made, seed=0):
    return made.init([generator(seed, "init")])


def batch_of(made, n, runs=1):
    g = generator(1, "batch", n)
    obs, next_obs = torch.randn(2, runs, ROWS, OBS, generator=g, dtype=made.dtype)
    reward = torch.randn(runs, ROWS, generator=g, dtype=made.dtype)
    if hasattr(made, "actions"):
        action = torch.randint(ACT, (runs, ROWS), generator=g)
    else:
        action = -2 + 3 * torch.rand(runs, ROWS, ACT, generator=g, dtype=made.dtype)
    ended = torch.rand(runs, ROWS, generator=g) < 0.2
    discount = (0.99 * ~ended).to(made.dtype)
    return TransitionBatch(obs, action, reward, next_obs, ended, ended, discount, torch.full_like(reward, torch.nan))


def updates_of(made, away=0.0):
    """`update(state, i)`: update number i, every second one of the actor too; observations lie around `away`."""

    def update(state, i):
        batch = batch_of(made, i)
        batch = batch._replace(obs=batch.obs + away, next_obs=batch.next_obs + away)
        return made.update(state, batch, made.noise(ROWS, [generator(1, "noise", i)]), actor=i % 2 == 0)[1]

    return update


@pytest.fixture
def traced(monkeypatch):
    """Traces run as they are, without the compiler, which takes seconds for each."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@EACH
def test_traced_updates_are_the_eager_ones(kind, traced):
    made, count = learner(kind), 200 if kind == "sac" else 20
    quick = updates_of(compiled(made))
    check_parity(updates_of(made), quick, state_of(made), updates=count, together=False, tolerance=1e-9)
    metrics = [updates_of(made)(state_of(made), 0), quick(state_of(made), 0)]
    assert list(metrics[0]) == list(metrics[1])
    torch.testing.assert_close(*metrics, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compiled_updates_are_the_eager_ones():
    made = learner("dqn", torch.float32)  # one function to compile: some seconds
    assert check_parity(updates_of(made), updates_of(compiled(made)), state_of(made)) < 1e-6


def test_batches_of_another_size_are_traced_anew(traced):
    made = learner()
    quick = compiled(made)
    state, noise = state_of(made), made.noise(ROWS // 2, [generator(0)])
    quick.update(state, batch_of(made, 0), made.noise(ROWS, [generator(0)]))
    half = TransitionBatch(*(x[:, : ROWS // 2] for x in batch_of(made, 0)))
    got, expected = (each.critic_gradients(state, half, noise)[0] for each in (quick, made))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_both_ways_take_batches_whole_when_they_are_compared(traced, monkeypatch):
    monkeypatch.setattr(relu_network, "BLOCK", 8)  # the sums over blocks of a plain update differ by 2e-6
    made = learner("cql", torch.float32)
    assert check_parity(updates_of(made, away=10.0), updates_of(compiled(made), away=10.0), state_of(made)) < 1e-7


def test_parity_leaves_the_state_as_it_was():
    made = learner()
    state = state_of(made)
    before = map_rows(torch.clone, state)
    assert check_parity(updates_of(made), updates_of(made), state) == 0
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), leaves(before), strict=True))


def flipped_polyak(made):
    def update(state, i):
        updates_of(made)(state, i)
        polyak_update(state.critics, state.targets, 0.001)

    return update


def skipping_the_actor(made):
    return lambda state, i: made.update(
        state, batch_of(made, i), made.noise(ROWS, [generator(1, "noise", i)]), actor=False
    )


def with_other_noise(made):
    return lambda state, i: made.update(
        state, batch_of(made, i), made.noise(ROWS, [generator(2, "noise", i)]), actor=i % 2 == 0
    )


def not_a_number(made):
    def update(state, i):
        updates_of(made)(state, i)
        state.log_temperature.fill_(torch.nan)

    return update


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("planted", [flipped_polyak, skipping_the_actor, with_other_noise, not_a_number])
def test_parity_finds_planted_errors(planted, dtype):
    made = learner(dtype=dtype)
    state = state_of(made)
    before = map_rows(torch.clone, state)
    with pytest.raises(ParityError, match="updates: the fast way differs"):
        check_parity(updates_of(made), planted(made), state)
    assert all(torch.equal(a, b) for a, b in zip(leaves(state), leaves(before), strict=True))


def test_a_few_updates_may_round_across_a_kink():
    made = learner(dtype=torch.float32)

    def rounding(state, i):
        updates_of(made)(state, i)
        if i in (3, 7):
            state.actor[0][0].add_(1e-4)

    assert check_parity(updates_of(made), rounding, state_of(made)) < 1e-6
    with pytest.raises(ParityError):
        check_parity(updates_of(made), rounding, state_of(made), together=False)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e3])
def test_nothing_may_go_wild_even_once(value):
    """What a quarter of the updates may differ by ends at a share of the norm, and before what is not finite."""
    made = learner(dtype=torch.float32)

    def wild(state, i):
        updates_of(made)(state, i)
        if i == 3:
            state.actor[0][0][0, 0, 0] = value

    with pytest.raises(ParityError, match="tensor 0 of the state"):
        check_parity(updates_of(made), wild, state_of(made))


def test_a_state_that_is_not_finite_is_no_reference():
    made = learner()
    state = state_of(made)
    state.actor[0][0][0, 0, 0] = torch.inf
    with pytest.raises(ParityError, match="inf of the norm"):
        check_parity(updates_of(made), updates_of(made), state)


def test_what_can_not_be_compiled_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="updates: expected 'eager', as FQELearner"):
        compiled(FQELearner(OBS, None, *BOUNDS[1:]))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler, and there is no no-such-compiler here"):
        compiled(learner())
    monkeypatch.setattr(fast, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs triton"):
        compiled(learner(), "cuda")


def test_graphs_need_a_cuda_device():
    made = learner()
    with pytest.raises(ValueError, match="updates: expected 'eager' or 'compile' on cpu, got 'graph'"):
        GraphedUpdates(made, state_of(made), seed=0)


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, [1]), (39, [39]), (40, [40]), (41, [40, 1]), (100, [40, 40, 20])]
)
def test_blocks(count, expected):
    assert blocks(count) == expected


def test_metrics_come_back_by_update_and_run():
    names = [["loss"], ["loss", "actor"]]
    metrics = unpack(names, torch.arange(6.0))
    assert [{name: value.tolist() for name, value in one.items()} for one in metrics] == [
        {"loss": [0.0, 1.0]},
        {"loss": [2.0, 3.0], "actor": [4.0, 5.0]},
    ]


def recorded(captures):
    """In place of a CUDA graph: what runs the body anew, into the same memory, and counts captures."""

    def capture(body, warm_up, generators):
        captures.append(generators)
        warm_up()
        memory = []

        def replay():
            values = body()
            memory[:] = memory or [torch.empty_like(values)]
            return memory[0].copy_(values)

        return replay

    return capture


def stacked(made, first, count, runs=1):
    each = [batch_of(made, n, runs) for n in range(first, first + count)]
    return TransitionBatch(*(torch.stack(column) for column in zip(*each, strict=True)))


@EACH
def test_blocks_are_the_eager_updates_from_the_first_on(kind):
    """Blocks of any size: their noise follows from their first update, and metrics come back for each."""
    made = learner(kind)
    state, plain, captures = state_of(made), state_of(made), []
    graphs = GraphedUpdates(made, state, seed=7, actor_every=2, capture=recorded(captures))
    first = 0
    for count in (4, 4, 3, 3):
        metrics = graphs.run(stacked(made, first, count), first)
        g, expected = generator(7, "graph", 0, first), []
        for n in range(first, first + count):
            expected.append(made.update(plain, batch_of(made, n), made.noise(ROWS, [g]), actor=n % 2 == 1)[1])
        torch.testing.assert_close(metrics, expected, rtol=0, atol=0, check_dtype=False)
        assert all(torch.equal(a, b) for a, b in zip(leaves(state), leaves(plain), strict=True))
        first += count
    # Of 4 updates from an even number on, and of 3 from an even and from an odd one; before these, two to be checked.
    assert len(captures) == 4


def test_metrics_of_a_block_outlive_the_next():
    made = learner()
    graphs = GraphedUpdates(made, state_of(made), seed=0, capture=recorded([]))
    kept = graphs.run(stacked(made, 0, 2), 0)
    before = [map_rows(torch.clone, tuple(one.values())) for one in kept]
    graphs.run(stacked(made, 2, 2), 2)
    assert [tuple(one.values()) for one in kept] == before


def test_runs_that_share_a_block_are_the_runs_alone():
    """Each draws from a generator of its own: the first of two is the one that there would be by itself."""
    made, batches = learner("td3"), stacked(learner("td3"), 0, 2, runs=2)
    both, one = (made.init([generator(0, "init", run) for run in range(runs)]) for runs in (2, 1))
    metrics = GraphedUpdates(made, both, seed=0, capture=recorded([])).run(batches, 0)
    assert [value.shape for one in metrics for value in one.values()] == [(2,)] * 6
    GraphedUpdates(made, one, seed=0, capture=recorded([])).run(map_rows(lambda x: x[:, :1], batches), 0)
    for shared, alone in zip(leaves(both[:4]), leaves(one[:4]), strict=True):
        torch.testing.assert_close(shared[:1], alone, rtol=1e-12, atol=1e-12)
    assert not torch.equal(made.noise(4, [generator(0, "graph", 0, 0)]), made.noise(4, [generator(0, "graph", 1, 0)]))


@pytest.mark.parametrize(
    ("actor_every", "counts", "kinds"),
    [
        (20, [1] * 60, 2),  # with the actor and without
        (20, [5] * 12, 3),  # the actor is the last of four blocks, or has no turn; and the short ones that are checked
        (20, [20] * 3, 2),
        (11, [13] * 2, 2),  # 11 places for the actor's turn: singly
    ],
)
def test_few_graphs_serve_all_turns_of_the_actor(actor_every, counts, kinds):
    made, captures, first = learner("dqn"), [], 0
    graphs = GraphedUpdates(made, state_of(made), seed=0, actor_every=actor_every, capture=recorded(captures))
    for count in counts:
        assert len(graphs.run(stacked(made, first, count), first)) == count
        first += count
    assert len(captures) == kinds


def test_a_graph_that_does_something_else_is_refused():
    made = learner()

    def broken(body, warm_up, generators):
        def replay():
            generators[0].manual_seed(0)  # the same noise in every replay
            return body()

        return replay

    with pytest.raises(ParityError):
        GraphedUpdates(made, state_of(made), seed=0, capture=broken).run(stacked(made, 0, 2), 0)


class Baking:
    """A learner whose updates go on with the first batch that they saw since `baking`."""

    def __init__(self, made):
        self.made, self.noise, self.baking, self.kept = made, made.noise, False, None

    def update(self, state, batch, noise, *, actor):
        if self.baking:
            self.kept = batch = self.kept or map_rows(torch.clone, batch)
        return self.made.update(state, batch, noise, actor=actor)


@pytest.mark.parametrize("kind", ["sac", "dqn"])
@pytest.mark.parametrize("count", [1, 5])
def test_a_graph_that_baked_in_its_batch_is_refused(kind, count):
    made = Baking(learner(kind))

    def baked(body, warm_up, generators):
        def replay():
            made.baking = True
            values = body()
            made.baking = False
            return values

        return replay

    with pytest.raises(ParityError):
        GraphedUpdates(made, state_of(made.made), seed=0, capture=baked).run(stacked(made.made, 0, count), 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device, and there is none here")
@EACH
def test_graphs_on_the_device(kind):
    made = learner(kind, torch.float32)
    state = made.init([generator(0, "init", device="cuda")])
    plain = map_rows(torch.clone, state)
    graphs, first = GraphedUpdates(made, state, seed=7, actor_every=2), 0
    for count in (4, 4, 3):
        batches = map_rows(lambda x: x.cuda(), stacked(made, first, count))
        graphs.run(batches, first)  # which checks itself against eager updates
        g = generator(7, "graph", 0, first, device="cuda")
        for i in range(count):
            batch = TransitionBatch(*(x[i] for x in batches))
            made.update(plain, batch, made.noise(ROWS, [g]), actor=(first + i) % 2 == 1)
        first += count
    torch.testing.assert_close(leaves(state), leaves(plain), rtol=1e-4, atol=1e-5)
