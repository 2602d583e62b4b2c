"""Off-policy evaluation: estimates of a small MDP together, of models, choices and their regret."""

import json
import math

import numpy as np
import pytest
import torch

from mbrl.envs.make import make_env
from mbrl.experiments.ope import (
    Choice,
    Estimate,
    OPEConfig,
    behaviour_value,
    choose,
    evaluate_policy,
    model_estimate,
    write_report,
)
from mbrl.experiments.ope_runs import choices_text
from mbrl.learners.fqe import FQEConfig
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.agents import DQN, SAC
from mbrl.pipelines.policy_evaluation import AgentPolicy, model_value
from mbrl.seeding import generator
from tests.mbrl.offline_cases import pendulum_data
from tests.mbrl.tabular_cases import BEHAVIOUR, DISCOUNT, Table, data_of, exact

FAST = OPEConfig(discount=DISCOUNT, fqe=FQEConfig((), 0.02, 0.2, 300, 256, 4))


def test_all_estimates_of_a_small_mdp_are_near_the_truth():
    found = {one.name: one for one in evaluate_policy(data_of(400, 0), Table(), FAST)}
    assert list(found) == ["data", "fqe", "per_decision", "weighted", "doubly_robust", "weighted_doubly_robust"]
    for name, one in found.items():
        truth = exact(BEHAVIOUR)[2] if name == "data" else exact()[2]
        assert one.low - 0.2 < truth < one.high + 0.2
        assert one.value == pytest.approx(truth, abs=0.35)
    assert "as good as" in found["weighted"].note


def test_unknown_behaviour_leaves_the_other_estimates():
    dataset = data_of(40, 0)
    unknown = type(dataset)(**{**vars(dataset), "log_probs": dataset.log_probs * np.nan})
    found = evaluate_policy(unknown, Table(), OPEConfig(discount=0.9, fqe=FQEConfig((), updates=5, members=2)))
    assert "too few updates, 5, for this discount: take 600" in found[1].note
    assert [one.name for one in found] == ["data", "fqe", "importance sampling"]
    assert math.isnan(found[-1].value)
    assert "got nan in episode 0, row 0" in str(found[-1])


class Still:
    draws = False

    def act(self, obs, generator):
        return obs.new_zeros(len(obs), 1)


def constant_ensemble(rewards) -> GaussianEnsemble:
    """Members that leave the state alone and promise a reward each, without noise."""
    ensemble = GaussianEnsemble(
        1, 1, members=len(rewards), hidden=(), deterministic=True, learned_reward=True, dtype=torch.float64
    )
    for tensor in (*ensemble.parameters.weights, *ensemble.parameters.biases):
        tensor.zero_()
    ensemble.parameters.biases[-1][..., 1] = torch.tensor(rewards, dtype=torch.float64).view(-1, 1)
    ensemble.version += 1
    return ensemble


def test_a_models_value_is_that_of_each_elite_for_the_whole_episode():
    """Members that promise 1, 2 and 9 a step, of which 9 is cut to the best of the data, 3."""
    dynamics = EnsembleDynamics(constant_ensemble([1.0, 2.0, 9.0]))
    made = model_value(
        dynamics,
        Still(),
        torch.zeros(700, 1, dtype=torch.float64),  # more rows than go through at once
        horizon=3,
        discount=0.5,
        reward_range=(0.0, 3.0),
        generator=generator(0),
    )
    assert made.members.tolist() == pytest.approx([1.75, 3.5, 5.25])
    assert made.starts.numpy() == pytest.approx([3.5] * 700)
    assert made.lost == 0
    own = EnsembleDynamics(dynamics.ensemble, reward=lambda obs, action, next_obs: obs[:, 0])
    starts = torch.arange(5, dtype=torch.float64)[:, None]
    told = model_value(own, Still(), starts, horizon=3, discount=0.5, reward_range=(0.0, 9.0), generator=generator(0))
    assert told.starts.numpy() == pytest.approx(1.75 * np.arange(5))
    loose, one = EnsembleDynamics(dynamics.ensemble, propagation="ts1"), torch.zeros(1, 1)
    with pytest.raises(ValueError, match="dynamics: expected propagation 'ts_inf'"):
        model_value(loose, Still(), one, horizon=1, discount=0.5, reward_range=(0, 1), generator=generator(0))


def test_a_models_interval_is_one_for_a_further_model():
    """Student's t of 2 degrees of freedom, 4.303, times the spread of three elites, sqrt(1 + 1/3) of it."""
    dynamics = EnsembleDynamics(constant_ensemble([0.0, 0.1, 0.2]))
    config, data = OPEConfig(discount=0.5), data_of(30, 0)
    one_dim = type(data)(**{**vars(data), "observations": data.observations[:, :1].copy()})
    made = model_estimate(one_dim, Still(), dynamics, config)
    total = 2 - 2 * 0.5**7  # 7 steps: 0.5^7 < 0.01
    assert config.horizon == 7
    assert made.value == pytest.approx(0.1 * total)
    assert made.high - made.value == pytest.approx(4.3027 * 0.1 * total * math.sqrt(4 / 3), rel=1e-3)


def test_a_model_that_breaks_down_is_told():
    dynamics = EnsembleDynamics(constant_ensemble([1.0, math.inf]))
    made = model_value(
        dynamics,
        Still(),
        torch.zeros(4, 1, dtype=torch.float64),
        horizon=2,
        discount=0.5,
        reward_range=(0, 1),
        generator=generator(0),
    )
    assert made.lost == 0.5


def test_weights_that_are_all_0_say_nothing():
    """A policy that never does what was done is worth NaN by importance sampling, not 0.00."""

    class Never(Table):
        def log_prob(self, obs, action):
            return torch.full((len(obs),), -math.inf, dtype=torch.float64)

    config = OPEConfig(discount=0.9, fqe=FQEConfig((), updates=5, members=2))
    for one in evaluate_policy(data_of(20, 0), Never(), config)[2:]:
        assert math.isnan(one.value)
        assert "all weights are 0" in str(one)


def said(value, low=None):
    return [Estimate("data", 0, 0, 0), Estimate("fqe", value, value - 1 if low is None else low, value + 1)]


def test_choices_and_their_regret():
    """By value a is chosen, whose lower end is below b's; the truth favours c."""
    estimates = {"a": said(3.0, low=0.0), "b": said(2.0, low=1.5), "c": said(1.0, low=0.5)}
    by_value, by_low = choose(estimates, {"a": 10.0, "b": 20.0, "c": 50.0})
    assert by_value == Choice("fqe", "value", "a", 40.0, -1.0)
    assert by_low == Choice("fqe", "low", "b", 30.0, pytest.approx(0.5))
    unknown = choose(estimates)[0]
    assert unknown.chosen == "a"
    assert math.isnan(unknown.regret)
    assert choose({"a": said(math.nan)}) == []
    with pytest.raises(ValueError, match="estimates: expected one candidate"):
        choose({})


def test_a_choice_by_an_estimator_that_is_not_to_be_believed_is_marked():
    doubted = {"a": said(3.0), "b": [*said(2.0)[:1], said(2.0)[1]._replace(doubtful=True)]}
    assert all(one.doubtful for one in choose(doubted))
    assert "fqe (value) ! " in choices_text(choose(doubted))
    assert "! says itself of one run" in choices_text(choose(doubted))
    assert "!" not in choices_text(choose({"a": said(3.0), "b": said(2.0)}))


@pytest.mark.parametrize(("discount", "note"), [(0.99, ": 61% of a value comes behind"), (0.9, None)])
def test_what_lies_behind_the_cuts_of_the_data_is_told(discount, note):
    """Episodes of 50 steps: 0.99^50 = 0.605, and 0.9^50 = 0.005."""
    one = behaviour_value(pendulum_data(episodes=2, steps=50), OPEConfig(discount=discount))
    assert one.note.endswith(f"cut{note}" if note else "of whoever collected them")


def test_policies_of_agents():
    """Deterministic ones of discrete actions have probabilities of 0 and 1; of continuous ones no density."""
    box = make_env("Pendulum-v1").observation_space
    agent = DQN(box, make_env("CartPole-v1", discrete=True).action_space, hidden=(8,))
    policy, obs = AgentPolicy(agent), torch.randn(6, 3, generator=generator(0))
    action = policy.act(obs, generator(0))
    assert policy.log_prob(obs, action).tolist() == [0.0] * 6
    assert policy.log_prob(obs, 1 - action).tolist() == [-math.inf] * 6
    continuous = SAC(box, make_env("Pendulum-v1").action_space, hidden=(8,))
    with pytest.raises(ValueError, match="policy: expected one that draws its actions"):
        AgentPolicy(continuous).log_prob(obs, obs[:, :1])
    drawn = AgentPolicy(continuous, sampled=True)
    assert not torch.equal(drawn.act(obs, generator(0)), drawn.act(obs, generator(1)))
    assert drawn.log_prob(obs, obs[:, :1]).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"discount": 1.0}, "discount"), ({"confidence": 1.0}, "confidence"), ({"starts": 1}, "starts")],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=f"^{message}: expected"):
        OPEConfig(**settings)


def test_reports_hold_no_numbers_that_json_lacks(tmp_path):
    write_report(tmp_path / "x.json", {"a": (math.nan, 1.0), "b": Estimate("e", math.inf, 0.0, 1.0)})
    read = json.loads((tmp_path / "x.json").read_text())
    assert read == {
        "a": [None, 1.0],
        "b": {"name": "e", "value": None, "low": 0.0, "high": 1.0, "note": "", "doubtful": False},
    }
