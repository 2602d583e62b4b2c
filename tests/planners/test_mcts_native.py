"""A search in one piece of compiled code gives the trees that the other forms give."""

import numpy as np
import pytest
import torch
from numba import njit

from planners import UCT, Gumbel, Problem
from planners.mcts.native import NativeDynamics, NativeEvaluator, uniform
from planners.testing import check_dynamics, check_planner

START = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)


@njit
def transition(state, action, after, luck):
    after[0], after[1] = state[0] + 1, 3 * state[1] + action
    return np.sin(7.3 * after[1] + 3.1 * after[0]), after[0] >= 4


@njit
def critic(state, logits, mask, luck):
    logits[0], logits[1], mask[2] = np.cos(state[1]), np.sin(state[0]), state[1] % 2 == 0
    return np.sin(state[1]), 1.0 - 2.0 * (state[0] % 2)


@njit
def critic_by_logits(state, logits, mask, luck):
    value, sign = critic(state, logits, mask, luck)
    if not mask[2]:
        mask[2], logits[2] = True, -np.inf
    return value, sign


@njit
def coin(state, action, after, luck):
    after[0], after[1] = state[0] + 1, 1.0 if uniform(luck) < 0.25 else 0.0
    return after[1] * action, after[0] >= 2


PROBLEM = Problem(NativeDynamics(transition, 2), discount=0.9)


def make_plan(planner, problem=PROBLEM):
    g = torch.Generator().manual_seed(0)
    return planner.plan(problem, START, planner.init(problem, START, generator=g), generator=g)


@pytest.mark.parametrize("kind", [UCT, Gumbel])
def test_native_search_gives_the_same_trees(kind):
    plans = [make_plan(kind(3, 60, evaluator=NativeEvaluator(critic, 3), compiled=c)) for c in (True, False)]
    assert torch.equal(plans[0].info.visits, plans[1].info.visits)
    assert torch.equal(plans[0].actions, plans[1].actions)
    torch.testing.assert_close(plans[0].info.q, plans[1].info.q, rtol=0, atol=1e-12, equal_nan=True)


def test_logits_of_minus_infinity_are_a_mask():
    for compiled in (True, False):
        functions = (critic, critic_by_logits)
        one, other = (make_plan(UCT(3, 60, evaluator=NativeEvaluator(f, 3), compiled=compiled)) for f in functions)
        assert (one.info.visits[:, 2] > 0).any()
        assert torch.equal(one.info.visits, other.info.visits)
        assert torch.equal(one.memory.tree.mask, other.memory.tree.mask)


def test_models_and_evaluators_of_rows():
    start = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 4.0]], dtype=torch.float64)
    actions = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    check_dynamics(PROBLEM.dynamics, start, actions)
    check_dynamics(NativeDynamics(coin, 2, stochastic=True), start, actions, shared_noise=False)
    leaf = NativeEvaluator(critic, 3).evaluate(start, start, generator=torch.Generator())
    expected = torch.stack([start[:, 1].cos(), start[:, 0].sin(), torch.zeros(4)], 1)
    torch.testing.assert_close(leaf.logits, expected)
    torch.testing.assert_close(leaf.value, start[:, 1].sin())
    assert leaf.mask[:, 2].tolist() == [True, False, True, True]
    assert leaf.sign.tolist() == [1, 1, 1, 1]


def test_native_rollouts_obey_the_laws():
    check_planner(UCT(3, simulations=40, rollout=3), PROBLEM, START)


def test_a_neighbour_moves_no_draw_where_outcomes_are_drawn():
    """Not even a neighbour whose root is not kept, so that it draws to evaluate a new one."""
    problem = Problem(NativeDynamics(coin, 2, stochastic=True), discount=0.9)
    planner, plans = UCT(3, 50, rollout=3, stochastic=True), []
    first = make_plan(planner, problem)
    for start in (START, START + torch.tensor([[0.0, 0.0], [0.0, 5.0], [0.0, 0.0]])):
        plans.append(planner.plan(problem, start, first.memory, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(plans[0].info.visits[1], plans[1].info.visits[1])
    assert torch.equal(plans[0].info.visits[0], plans[1].info.visits[0])
    assert torch.equal(plans[0].info.q[0], plans[1].info.q[0])
    check_planner(planner, problem, START)


def test_chance_by_hand():
    problem = Problem(NativeDynamics(coin, 2, stochastic=True))
    plan = make_plan(UCT(2, 2000, exploration=1.5, rollout=0, stochastic=True, backup="max"), problem)
    assert plan.actions[:, 0].tolist() == [1, 1, 1]
    assert plan.value.tolist() == pytest.approx([0.5] * 3, abs=0.05)  # two tosses of a quarter each
    assert plan.info.nodes.tolist() == [5] * 3  # the root, and two outcomes of each action (action 0 pays 0 for both)


def test_states_in_another_type_are_refused():
    """Compared with what compiled code computes, no outcome would be known again."""
    planner, start, g = UCT(3, simulations=5), START.float(), torch.Generator()
    memory = planner.init(PROBLEM, start, generator=g)
    with pytest.raises(ValueError, match=r"start: expected states in float64, as NativeDynamics.reset makes them"):
        planner.plan(PROBLEM, start, memory, generator=g)


def test_bad_input():
    with pytest.raises(ValueError, match="transition: expected a function decorated with numba"):
        NativeDynamics(lambda state: 0, 2)
    with pytest.raises(ValueError, match="no mean transition; plan with stochastic=True"):
        NativeDynamics(coin, 2, stochastic=True).step(START, torch.zeros(3, dtype=torch.long))
    luck = Problem(NativeDynamics(coin, 2, stochastic=True))
    for compiled in (True, False):
        for evaluator in (NativeEvaluator(critic, 3), None):
            with pytest.raises(ValueError, match="no mean transition; plan with stochastic=True"):
                make_plan(UCT(3, 20, evaluator=evaluator, rollout=2, compiled=compiled), luck)
    with pytest.raises(ValueError, match=r"obs: expected shape \[rows, 2\]"):
        PROBLEM.dynamics.reset(torch.zeros(3, 4))
