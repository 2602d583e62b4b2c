"""Tree search: rules against hand-made tables, the laws of trees, and what bad input gets."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from planners import PUCT, UCT, Box, FunctionDynamics, Gumbel, Problem
from planners.mcts import Leaf, Rollouts, action_count
from planners.mcts.policies import GUMBEL, Edges, Rule, choose, halving_schedule, improved_policy, sigma
from planners.mcts.policies import PUCT as PUCT_RULE
from planners.mcts.policies import UCT as UCT_RULE
from planners.risk import worst
from planners.rows import leaves
from planners.testing import check_planner

START = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
PRIORS = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transition(x, a):
    """A tree that never meets itself: the second column numbers the paths."""
    return torch.stack([x[:, 0] + 1, 3 * x[:, 1] + a.to(x)], 1)


def reward(x, a, next_x):
    return (7.3 * next_x[:, 1] + 3.1 * next_x[:, 0]).sin()


def ends(x, a, next_x):
    return next_x[:, 0] >= 4


def noise(x, a, g):
    """A coin adds 10 to the number of the path."""
    coin = torch.rand(len(x), generator=g) < 0.3
    return torch.stack([torch.zeros_like(x[:, 0]), 10.0 * coin.to(x)], 1)


PATHS = Problem(FunctionDynamics(transition, reward, ends), discount=0.9)
CHANCE = Problem(FunctionDynamics(transition, reward, ends, noise), discount=0.9)


class Critic:
    """An evaluator with opinions: no draws."""

    def evaluate(self, state, obs, *, generator):
        logits = torch.stack([obs[:, 1].cos(), obs[:, 0].sin(), (obs[:, 0] * obs[:, 1]).sin()], 1)
        return Leaf(logits, obs[:, 1].sin())


class Masked(Critic):
    """The first action is never allowed, the second not in every state."""

    def evaluate(self, state, obs, *, generator):
        mask = torch.ones(len(obs), 3, dtype=torch.bool)
        mask[:, 0] = False
        mask[:, 1] = obs[:, 1] % 2 == 0
        return super().evaluate(state, obs, generator=generator)._replace(mask=mask)


class Opponent(Critic):
    """The sides take turns."""

    def evaluate(self, state, obs, *, generator):
        return super().evaluate(state, obs, generator=generator)._replace(sign=1 - 2 * (obs[:, 0] % 2))


def make_plan(planner, problem=PATHS, start=START, seed=0, memory=None):
    g = generator(seed)
    if memory is None:
        memory = planner.init(problem, start, generator=g)
    return planner.plan(problem, start, memory, generator=g)


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


def edges(visits, q, *, value=0.0, raw=0.0, mask=None):
    visits, q = torch.tensor([visits]), torch.tensor([q], dtype=torch.float64)
    numbers = [torch.tensor([x], dtype=torch.float64) for x in (value, raw)]
    allowed = torch.ones_like(visits, dtype=torch.bool) if mask is None else torch.tensor([mask])
    return Edges(visits, q, *numbers, PRIORS.log(), allowed)


def test_uct_by_hand():
    rule = Rule(UCT_RULE, exploration=0.5, normalise=False)
    # bonus = sqrt(2 ln 10 / N): 1.073, 1.239, 1.517 for 4, 3, 2 visits
    assert choose(rule, edges([4, 3, 2], [0.5, 0.3, 0.0])).item() == 0
    assert choose(rule, edges([4, 3, 2], [0.4, 0.3, 0.0])).item() == 1
    assert choose(rule, edges([4, 3, 2], [0.4, 0.3, 0.1])).item() == 2
    assert choose(rule, edges([4, 0, 0], [9.0, 0.0, 0.0])).item() == 1
    assert choose(rule, edges([4, 0, 0], [9.0, 0.0, 0.0], mask=[True, False, True])).item() == 2


def test_puct_by_hand():
    rule = Rule(PUCT_RULE, exploration=1.25, base=19652.0, normalise=False)
    # weight = sqrt(10) (1.25 + ln(1 + 11 / 19652)) = 3.9546; prior / (1 + N): 0.04, 0.075, 0.1667
    weight = 10**0.5 * (1.25 + np.log((10 + 19652 + 1) / 19652))
    gap = weight * (0.5 / 3 - 0.2 / 5)
    assert choose(rule, edges([4, 3, 2], [gap + 0.01, 0.0, 0.0])).item() == 0
    assert choose(rule, edges([4, 3, 2], [gap - 0.01, 0.0, 0.0])).item() == 2


@pytest.mark.parametrize("kind", [UCT_RULE, PUCT_RULE])
def test_scaled_values_do_not_see_scale_or_offset(kind):
    rule = Rule(kind, exploration=0.7)
    g = generator()
    for _ in range(50):
        visits = torch.randint(0, 5, (3,), generator=g).tolist()
        q = torch.randn(3, generator=g, dtype=torch.float64)
        q = torch.where(torch.tensor(visits) > 0, q, 0.0)
        moved = torch.where(torch.tensor(visits) > 0, 70 * q - 300, 0.0)
        plain, far = edges(visits, q.tolist(), value=0.1), edges(visits, moved.tolist(), value=70 * 0.1 - 300)
        assert choose(rule, plain).item() == choose(rule, far).item()


def test_completed_values_by_hand():
    rule = Rule(GUMBEL, visit_offset=50.0, value_scale=0.1)
    table = edges([3, 1, 0], [1.0, 0.0, 0.0], raw=0.5)
    # mixed = (0.5 + 4 * (0.2 * 1 + 0.3 * 0) / 0.5) / 5 = 0.42; already within [0, 1]; (50 + 3) * 0.1 = 5.3
    expected = torch.tensor([[5.3, 0.0, 5.3 * 0.42]], dtype=torch.float64)
    torch.testing.assert_close(sigma(rule, table), expected)
    torch.testing.assert_close(improved_policy(rule, table), (PRIORS.log() + expected).softmax(1))


def test_halving_schedule_by_hand():
    # 4 actions, 16 simulations: 2 phases of 8; 4 actions twice each, then 2 actions four times each
    assert halving_schedule(4, 16) == [0] * 4 + [1] * 4 + [2, 2, 3, 3, 4, 4, 5, 5]
    assert halving_schedule(1, 3) == [0, 1, 2]
    assert halving_schedule(3, 2) == [0, 0]


def test_gumbel_improves_the_policy_in_expectation():
    """E[q(chosen)] >= sum p q: Danihelka et al. (2022), for every q and prior, at every budget."""
    batch, actions = 4000, 5
    q = torch.tensor([0.3, -0.2, 0.9, 0.1, -0.7], dtype=torch.float64)
    logits = torch.tensor([1.5, 2.0, -1.0, 0.0, 1.0], dtype=torch.float64)
    bandit = FunctionDynamics(lambda x, a: x + 1, lambda x, a, n: q[a], lambda x, a, n: n[:, 0] > 0)

    class Prior:
        def evaluate(self, state, obs, *, generator):
            return Leaf(logits.expand(len(obs), -1), obs.new_zeros(len(obs)))

    start, expected = torch.zeros(batch, 1, dtype=torch.float64), float(logits.softmax(0) @ q)
    for simulations in (1, 2, 4, 8):
        plan = make_plan(Gumbel(actions, simulations=simulations, evaluator=Prior()), Problem(bandit), start)
        chosen = q[plan.actions[:, 0]]
        error = float(chosen.std()) / batch**0.5
        assert float(chosen.mean()) > expected - 3 * error
        if simulations > 1:  # with one, the action is a draw from the prior
            assert float(chosen.mean()) > expected + 0.05
    frequency = torch.bincount(
        make_plan(Gumbel(actions, simulations=1, evaluator=Prior()), Problem(bandit), start).actions[:, 0], minlength=5
    )
    torch.testing.assert_close(frequency / batch, logits.softmax(0).float(), rtol=0, atol=0.03)


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
