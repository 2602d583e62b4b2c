"""Tree search: the laws of planners and of trees, and what bad input gets."""

from dataclasses import replace
from typing import NamedTuple

import gymnasium as gym
import pytest
import torch

from planners import PUCT, UCT, Box, FunctionDynamics, Gumbel, Problem, Step
from planners.mcts import Leaf, action_count
from planners.risk import worst
from planners.rows import leaves
from planners.testing import check_planner
from tests.planners.mcts_cases import CHANCE, PATHS, START, Critic, generator, make_plan


class Masked(Critic):
    """The first action is never allowed, the second not in every state."""

    def evaluate(self, state, obs, *, generator):
        mask = torch.ones(len(obs), 3, dtype=torch.bool)
        mask[:, 0] = False
        mask[:, 1] = obs[:, 1] % 2 == 0
        return super().evaluate(state, obs, generator=generator)._replace(mask=mask)


class MaskedByLogits(Masked):
    """The same by logits of -inf, but for one action, which stays in a mask."""

    def evaluate(self, state, obs, *, generator):
        leaf = super().evaluate(state, obs, generator=generator)
        forbidden = ~leaf.mask
        leaf.mask[:, 1] = True
        return leaf._replace(logits=leaf.logits.masked_fill(forbidden, -torch.inf))


class Opponent(Critic):
    """The sides take turns."""

    def evaluate(self, state, obs, *, generator):
        return super().evaluate(state, obs, generator=generator)._replace(sign=1 - 2 * (obs[:, 0] % 2))


PLANNERS = {
    "uct": UCT(3, simulations=60, rollout=2),
    "uct, max": UCT(3, simulations=60, rollout=0, backup="max"),
    "puct": PUCT(3, simulations=60, evaluator=Critic()),
    "puct, noisy": PUCT(3, simulations=60, noise_fraction=0.25),
    "gumbel": Gumbel(3, simulations=30),
    "uct, stochastic": UCT(3, simulations=40, rollout=2, stochastic=True),
}


@pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS)
def test_the_laws_of_planners(planner):
    check_planner(planner, PATHS, START)


@pytest.mark.parametrize("kind", [UCT, PUCT, Gumbel])
def test_the_laws_of_planners_on_tensors(kind):
    check_planner(kind(3, simulations=20, rollout=1, compiled=False), PATHS, START)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", [UCT, Gumbel])
def test_a_neighbour_moves_no_draw_where_outcomes_are_drawn(kind, compiled):
    """Trees of the batch end their descents at different depths, and rollouts draw after them."""
    planner = kind(3, simulations=40, rollout=2, stochastic=True, compiled=compiled)
    moved = START.clone()
    moved[1:] = torch.tensor([[3.0, 7.0], [0.0, 9.0], [2.0, 1.0]])  # nearer to the end: shallower trees
    one, other = make_plan(planner, CHANCE), make_plan(planner, CHANCE, moved)
    assert not torch.equal(one.info.q[1], other.info.q[1])
    for x, y in zip(leaves(tuple(one)), leaves(tuple(other)), strict=True):
        assert torch.equal(x[0].nan_to_num(), y[0].nan_to_num())


@pytest.mark.parametrize("evaluator", [Critic(), Masked(), Opponent()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(
    "planner",
    [
        UCT(3, simulations=80, normalise=False, backup="max", capacity=30),
        PUCT(3, simulations=80, noise_fraction=0.25),
        Gumbel(3, simulations=50, considered=2),
        UCT(3, simulations=40, stochastic=True, horizon=3),
        Gumbel(3, simulations=30, stochastic=True),
    ],
    ids=["uct", "puct", "gumbel", "uct, chance", "gumbel, chance"],
)
def test_compiled_code_and_tensors_give_the_same_trees(planner, evaluator):
    problem = CHANCE if planner.stochastic else PATHS
    results = []
    for compiled in (True, False):
        own = replace(planner, evaluator=evaluator, compiled=compiled)
        first = make_plan(own, problem)
        memory = own.advance(problem, first.memory, first.actions[:, 0], START)
        state, _ = problem.dynamics.step(START, first.actions[:, 0], generator=generator(1))
        results.append((first, make_plan(own, problem, state, memory=memory)))
    for one, other in zip(*results, strict=True):
        assert one.info.nodes.max() > 5
        for x, y in zip(leaves(tuple(one)), leaves(tuple(other)), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", [UCT, PUCT])
def test_a_reused_subtree_equals_the_same_simulations_at_once(kind, compiled):
    planner = kind(3, simulations=40, evaluator=Critic(), compiled=compiled)
    first = make_plan(planner)
    action = first.actions[:, 0]
    memory = planner.advance(PATHS, first.memory, action, START)
    state, _ = PATHS.dynamics.step(START, action)
    reused = make_plan(replace(planner, simulations=20), start=state, memory=memory)
    for row in range(len(START)):
        kept = int(first.info.visits[row, action[row]]) - 1
        alone = make_plan(replace(planner, simulations=kept + 20), start=state[row : row + 1])
        assert torch.equal(alone.info.visits[0], reused.info.visits[row])
        torch.testing.assert_close(alone.info.q[0], reused.info.q[row], rtol=0, atol=1e-12, equal_nan=True)
        assert torch.equal(alone.actions[0], reused.actions[row])


@pytest.mark.parametrize("kind", [UCT, PUCT])
def test_one_plan_of_2n_simulations_equals_two_of_n(kind):
    at_once = make_plan(kind(3, simulations=40, capacity=100, evaluator=Critic()))
    half = kind(3, simulations=20, capacity=100, evaluator=Critic())
    twice = make_plan(half, memory=make_plan(half).memory)
    assert torch.equal(twice.info.visits, at_once.info.visits)
    torch.testing.assert_close(twice.info.q, at_once.info.q, rtol=0, atol=0, equal_nan=True)


def test_two_players_find_the_minimax_value():
    """Depth 4, the sides in turn: with exact leaves and enough simulations the tree is the whole game."""

    def minimax(x, depth):
        if depth == 4:
            return 0.0
        outcomes = []
        for a in range(3):
            after, step = PATHS.dynamics.step(x, torch.tensor([a]))
            outcomes.append(float(step.reward) + 0.9 * minimax(after, depth + 1))
        return min(outcomes) if depth % 2 else max(outcomes)

    plan = make_plan(UCT(3, simulations=1500, evaluator=Opponent(), backup="max", exploration=1.5))
    expected = [minimax(row[None], 0) for row in START]
    assert plan.value.tolist() == pytest.approx(expected, abs=1e-9)


def test_a_masked_action_is_never_taken():
    plan = make_plan(PUCT(3, simulations=60, evaluator=Masked()))
    assert plan.info.visits[:, 0].tolist() == [0] * 4
    assert plan.info.visits[[1, 3], 1].tolist() == [0, 0]
    assert (plan.memory.tree.visits[..., 0] == 0).all()
    assert plan.info.weights[:, 0].tolist() == [0] * 4


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", [UCT, PUCT, Gumbel])
def test_logits_of_minus_infinity_are_a_mask(kind, compiled):
    one, other = (
        make_plan(kind(3, simulations=60, evaluator=evaluator, compiled=compiled))
        for evaluator in (Masked(), MaskedByLogits())
    )
    assert one.valid.all()
    for x, y in zip(leaves(tuple(one)), leaves(tuple(other)), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)

    class NoPrior(Critic):
        def evaluate(self, state, obs, *, generator):
            leaf = super().evaluate(state, obs, generator=generator)
            return leaf._replace(logits=leaf.logits.masked_fill(obs[:, :1] > 0, -torch.inf))

    with pytest.raises(ValueError, match="mask: expected a valid action in every state"):
        make_plan(kind(3, evaluator=NoPrior(), compiled=compiled))


@pytest.mark.parametrize("planner", [UCT(3, 60), UCT(3, 60, backup="max"), PUCT(3, 60), Gumbel(3, 60)], ids=repr)
def test_an_action_found_to_be_invalid_has_no_value(planner):
    """Action 0 pays 100 and leads to a state from which every step is NaN: it is visited once before that shows."""

    def pays(x, a, next_x):
        trap = (x[:, 0] == 0) & (a == 0)
        return torch.where(trap, 100.0, torch.where((x[:, 1] == 5) & (x[:, 0] == 1), torch.nan, 1.0)).to(x)

    def step(x, a):
        return torch.stack([x[:, 0] + 1, torch.where((x[:, 0] == 0) & (a == 0), 5.0, 0.0).to(x)], 1)

    model = Problem(FunctionDynamics(step, pays, lambda x, a, n: n[:, 0] >= 2))
    for compiled in (True, False):
        info = make_plan(replace(planner, rollout=0, compiled=compiled), model).info
        assert (info.visits[:, 0] > 0).all()
        assert info.q[:, 0].isnan().all()
        assert (info.q[:, 1:] <= 2).all()
        assert (info.value <= 2).all()


@pytest.mark.parametrize("backup", ["mean", "max"])
@pytest.mark.parametrize("compiled", [True, False])
def test_where_all_that_was_tried_is_invalid_another_action_is_taken(backup, compiled):
    def pays(x, a, next_x):
        return torch.where(a < 2, torch.nan, 1.0).to(x)

    model = Problem(FunctionDynamics(lambda x, a: x + 1, pays))
    planner = UCT(4, simulations=2, rollout=0, backup=backup, compiled=compiled)
    made = make_plan(planner, model)
    assert made.valid.all()
    assert (made.actions[:, 0] >= 2).all()


def test_a_tree_that_holds_everything_is_not_full():
    info = make_plan(UCT(3, simulations=20, evaluator=Critic(), reuse=False)).info
    assert info.nodes.max() == 21  # the root, and a node each simulation
    assert not info.full.any()


def test_a_full_tree_goes_on_and_says_so():
    small, large = (make_plan(UCT(3, simulations=60, evaluator=Critic(), capacity=n)) for n in (5, 200))
    assert small.info.full.all()
    assert not large.info.full.any()
    assert small.info.nodes.tolist() == [5] * 4
    assert small.info.visits.sum(1).tolist() == large.info.visits.sum(1).tolist() == [60] * 4


def test_an_unforeseen_state_starts_a_new_tree():
    planner = UCT(3, simulations=30, evaluator=Critic())
    first = make_plan(planner)
    memory = planner.advance(PATHS, first.memory, first.actions[:, 0], START)
    elsewhere = START + 0.5
    plan = make_plan(planner, start=elsewhere, memory=memory)
    assert torch.equal(plan.info.visits, make_plan(planner, start=elsewhere).info.visits)


class HiddenState(NamedTuple):
    seen: torch.Tensor
    bit: torch.Tensor
    """Not observed: which action pays in the second step."""


class Hidden:
    """Two steps; only the second one pays, 1 for the action that equals the hidden bit, which action 1 flips."""

    def __init__(self, dtype):
        self.dtype = dtype

    def state(self, seen, bit):
        return HiddenState(torch.tensor([[float(seen)]]).double(), torch.tensor([bit]).to(self.dtype))

    def observe(self, state):
        return state.seen

    def assign(self, state, particles, *, generator):
        return state

    def step(self, state, action, *, generator=None):
        first = state.seen[:, 0] == 0
        pays = ~first & (action == state.bit.long())
        bit = torch.where(first, (state.bit.long() + action) % 2, state.bit.long()).to(self.dtype)
        after = HiddenState(state.seen + 1, bit)
        return after, Step(after.seen, pays.double(), ~first)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.bool])
def test_a_subtree_is_that_of_the_whole_state_not_of_what_is_seen(dtype):
    model = Hidden(dtype)
    problem, planner = Problem(model), UCT(2, simulations=30, rollout=0)
    first = make_plan(planner, problem, model.state(0, 0))
    zero = torch.tensor([0])
    memory = planner.advance(problem, first.memory, zero, model.state(0, 0))
    foreseen, other = model.state(1, 0), model.state(1, 1)
    assert int(make_plan(planner, problem, foreseen, memory=memory).info.visits.sum()) > 30
    plan = make_plan(planner, problem, other, memory=memory)
    assert int(plan.info.visits.sum()) == 30
    assert plan.info.q.tolist() == [[0.0, 1.0]]
    # nor is the root of another state: nothing is known of what its action led to
    memory = planner.advance(problem, first.memory, zero, model.state(0, 1))
    assert int(make_plan(planner, problem, foreseen, memory=memory).info.visits.sum()) == 30


def test_bad_input():
    class NoAction(Critic):
        def evaluate(self, state, obs, *, generator):
            leaf = super().evaluate(state, obs, generator=generator)
            return leaf._replace(mask=(obs[:, :1] < self.limit).expand(-1, 3))

    for limit in (0, 1):  # at the root, and one step further
        evaluator = NoAction()
        evaluator.limit = limit
        for compiled in (True, False):
            with pytest.raises(ValueError, match="mask: expected a valid action in every state"):
                make_plan(PUCT(3, evaluator=evaluator, compiled=compiled))

    class Crooked:
        def evaluate(self, state, obs, *, generator):
            return Leaf(obs[:, :1], obs[:, 0])

    with pytest.raises(ValueError, match=r"evaluator: expected floating-point logits of shape \[4, 3\]"):
        make_plan(PUCT(3, evaluator=Crooked()))
    with pytest.raises(ValueError, match="problem: tree search maximises the mean"):
        make_plan(UCT(3), Problem(PATHS.dynamics, particles=4))
    with pytest.raises(ValueError, match="problem: tree search maximises the mean"):
        make_plan(UCT(3), Problem(PATHS.dynamics, risk=worst))
    for wrong in ({"simulations": 0}, {"capacity": 0}, {"exploration": 0.0}, {"horizon": 0}, {"backup": "min"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            UCT(3, **wrong)
    for space in (gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3), 2.5, None, True):
        for kind in (UCT, PUCT, Gumbel):
            with pytest.raises(ValueError, match=r"actions: expected a whole number.*action_count\(space\).*CEM, iCEM"):
                kind(space)
    with pytest.raises(ValueError, match=r"simulations: expected a whole number of at least 1, got 10\.5"):
        UCT(3, simulations=10.5)


@pytest.mark.parametrize("rollout", [0, 2])
@pytest.mark.parametrize("stochastic", [False, True])
def test_a_model_for_continuous_actions_is_refused(rollout, stochastic):
    moves = Problem(FunctionDynamics(lambda x, a: x + a[:, :1], lambda x, a, n: n[:, 0]))
    with pytest.raises(ValueError, match=r"expected dynamics that take discrete actions.*use CEM, iCEM or MPPI"):
        make_plan(UCT(3, rollout=rollout, stochastic=stochastic), moves)


def test_action_spaces():
    assert action_count(gym.spaces.Discrete(5)) == 5
    with pytest.raises(ValueError, match="for continuous actions use CEM, iCEM or MPPI"):
        action_count(gym.spaces.Box(-1, 1, (2,)))
    with pytest.raises(ValueError, match="expected actions from 0"):
        action_count(gym.spaces.Discrete(3, start=1))
    with pytest.raises(ValueError, match="for discrete actions use tree search"):
        Box.from_space(gym.spaces.Discrete(2))


def test_outcomes_that_differ_in_the_state_alone_are_nodes_of_their_own():
    """A coin decides which of two states follows; only the next step pays, and differently."""

    def toss(x, a, g):
        coin = torch.rand(len(x), generator=g) < 0.5
        return torch.stack([torch.zeros_like(x[:, 0]), (x[:, 0] == 0) * coin.to(x)], 1)

    def step(x, a):
        return torch.stack([x[:, 0] + 1, x[:, 1]], 1)

    def pays(x, a, next_x):
        return torch.where((x[:, 0] == 1) & (a == x[:, 1]), 1.0, 0.0).to(x)

    coin = Problem(FunctionDynamics(step, pays, lambda x, a, n: n[:, 0] >= 2, toss))
    for compiled in (True, False):
        planner = UCT(2, simulations=300, rollout=0, stochastic=True, backup="max", compiled=compiled)
        plan = make_plan(planner, coin, torch.zeros(2, 2, dtype=torch.float64))
        assert plan.info.nodes.tolist() == [5, 5]  # the root, and two outcomes of each action
        assert plan.value.tolist() == [1.0, 1.0]  # who takes them for one state gets half of it


def test_noise_belongs_to_the_root():
    planner = Gumbel(3, simulations=10, evaluator=Critic())
    first = make_plan(planner)
    again = make_plan(planner, memory=first.memory, seed=1)
    assert torch.equal(again.memory.noise, first.memory.noise)
    memory = planner.advance(PATHS, first.memory, first.actions[:, 0], START)
    state, _ = PATHS.dynamics.step(START, first.actions[:, 0])
    assert not torch.equal(make_plan(planner, start=state, memory=memory, seed=1).memory.noise, first.memory.noise)
