"""Rules of tree search by hand: selection, improvement of the policy, noise at the root, rollouts."""

import numpy as np
import pytest
import torch

from planners import PUCT, FunctionDynamics, Gumbel, Problem
from planners.mcts import Leaf, Rollouts
from planners.mcts.policies import GUMBEL, Edges, Rule, choose, halving_schedule, improved_policy, sigma
from planners.mcts.policies import PUCT as PUCT_RULE
from planners.mcts.policies import UCT as UCT_RULE
from tests.planners.mcts_cases import PATHS, START, Critic, generator, make_plan

PRIORS = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)


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


def test_dirichlet_noise_moves_the_priors_of_the_root_alone():
    planner = PUCT(3, simulations=200, noise_fraction=0.9, noise_concentration=0.3, evaluator=Critic())
    one, same, other = make_plan(planner), make_plan(planner), make_plan(planner, seed=1)
    assert torch.equal(one.info.visits, same.info.visits)
    assert not torch.equal(one.info.visits, other.info.visits)
    torch.testing.assert_close(one.memory.noise.sum(1), torch.full((4,), 0.9, dtype=torch.float64))
    plain = make_plan(PUCT(3, simulations=200, evaluator=Critic()))
    torch.testing.assert_close(one.memory.tree.logits[:, 0], plain.memory.tree.logits[:, 0])


def test_rollouts_by_hand():
    problem = Problem(PATHS.dynamics, discount=0.5, terminal_value=lambda obs: 10 + obs[:, 0])
    evaluator = Rollouts(problem, 3, depth=2, policy=lambda obs, g: torch.ones(len(obs), dtype=torch.long))
    x = START[:1]
    one, first = problem.dynamics.step(x, torch.tensor([1]))
    _, second = problem.dynamics.step(one, torch.tensor([1]))
    leaf = evaluator.evaluate(x, x, generator=generator())
    assert leaf.value.item() == pytest.approx(float(first.reward + 0.5 * second.reward + 0.25 * 12))
    late = torch.tensor([[3.0, 0.0]], dtype=torch.float64)  # the next step ends the episode: no value after it
    _, last = problem.dynamics.step(late, torch.tensor([1]))
    assert evaluator.evaluate(late, late, generator=generator()).value.item() == pytest.approx(float(last.reward))
