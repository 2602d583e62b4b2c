"""Tree search under MPC: how long a plan is, and that nothing beyond its end is executed."""

import pytest
import torch

from planners import MPC, PUCT, UCT, FunctionDynamics, Gumbel, Problem
from tests.planners.mcts_cases import START, Critic, ends, make_plan, transition


def count(x, a):
    return x + 1


def pays_by_turn(x, a, next_x):
    """In state x only action x mod 4 pays."""
    return (a == x[:, 0].long() % 4).to(x)


TURNS = Problem(FunctionDynamics(count, pays_by_turn), discount=0.5)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_plan_is_as_long_as_the_line_that_was_searched(compiled):
    """With one action each simulation goes one step farther; the action after the last one is in no return."""
    lonely = Problem(FunctionDynamics(transition, lambda x, a, y: 1 + 0 * y[:, 0], ends))
    start = torch.tensor([[0.0, 0.0], [2.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    for simulations, horizon, length in ((2, 8, [2, 2, 1]), (9, 8, [4, 2, 1]), (9, 3, [3, 2, 1])):
        planner = UCT(1, simulations, horizon=horizon, rollout=0, compiled=compiled)
        assert make_plan(planner, lonely, start).info.length.tolist() == length
    puct = PUCT(3, 60, evaluator=Critic(), compiled=compiled)
    plan = make_plan(puct)
    assert plan.info.length.min() > 1
    rest = torch.arange(puct.horizon) > plan.info.length[:, None]
    assert (plan.actions[rest] == 0).all()
    memory = puct.init(TURNS, START, generator=torch.Generator())
    stopped = puct.plan(TURNS, START, memory, generator=torch.Generator(), stop=lambda: True)
    assert stopped.info.length.tolist() == [0] * 4


@pytest.mark.parametrize("planner", [UCT(4, 4, rollout=0), Gumbel(4, 4, noise_scale=0.0)], ids=["uct", "gumbel"])
def test_only_actions_that_were_searched_are_executed(planner):
    """Searches of one step know which action pays next, and nothing beyond: there stands action 0."""
    mpc, state = MPC(planner, TURNS, replan_every=10), torch.tensor([[0.0], [1.0], [3.0]])
    for t in range(12):
        action = mpc.act_from(state)
        assert action.tolist() == [t % 4, (t + 1) % 4, (t + 3) % 4]
        state = state + 1


@pytest.mark.parametrize("offset", [0.0, 3e5])
def test_the_outcome_that_came_is_taken_where_another_is_within_rounding(offset):
    """A coin moves a large counter by one, and the next action pays by which way it fell."""

    def coin(x, a, g):
        side = torch.where(torch.rand(len(x), generator=g) < 0.5, 1.0, -1.0).to(x)
        return torch.stack([torch.where(x[:, 1] == 0, side, 0.0), torch.zeros_like(side)], 1)

    def pays(x, a, next_x):
        right = (x[:, 0] > offset) == (a == 1)
        return torch.where(x[:, 1] == 1, right.to(x), 0.0)

    step = lambda x, a: torch.stack([x[:, 0], x[:, 1] + 1], 1)  # noqa: E731
    problem = Problem(FunctionDynamics(step, pays, lambda x, a, y: y[:, 1] >= 2, noise=coin))
    for seed in range(6):
        mpc, side = MPC(UCT(2, simulations=100, stochastic=True, rollout=2), problem, seed=seed), 1 - 2 * (seed % 2)
        mpc.act_from(torch.tensor([[offset, 0.0]], dtype=torch.float64))
        action = mpc.act_from(torch.tensor([[offset + side, 1.0]], dtype=torch.float64))
        assert action.item() == (side > 0)


def test_integer_states_are_refused():
    problem, start = Problem(FunctionDynamics(lambda x, a: x + 1, lambda x, a, y: y[:, 0])), torch.zeros(1, 1).long()
    with pytest.raises(ValueError, match=r"obs: expected a floating-point type, .* got torch\.int64"):
        make_plan(UCT(2, 8), problem, start)
