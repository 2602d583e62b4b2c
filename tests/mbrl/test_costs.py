"""Formulas of floating-point operations against what torch counts while the real thing runs."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mbrl.envs.make import make_env
from mbrl.envs.tasks import task
from mbrl.experiments.costs import (
    Network,
    Sizes,
    cost_curves,
    discrete_sac_update,
    dqn_update,
    sac_update,
    td3_update,
)
from mbrl.learners.discrete_sac import DiscreteSACConfig, DiscreteSACLearner
from mbrl.learners.dqn import DQNConfig, DQNLearner
from mbrl.learners.sac import SACConfig, SACLearner
from mbrl.learners.td3 import TD3Config, TD3Learner
from mbrl.models.ensemble_dynamics import EnsembleDynamics
from mbrl.models.fit import fit
from mbrl.models.gaussian_ensemble import GaussianEnsemble
from mbrl.pipelines.pets_agent import PETSAgent
from mbrl.pipelines.pets_config import PETSConfig
from mbrl.types import TransitionBatch

OBS, ACT, ROWS = 5, 2, 32
LOW, HIGH = (-1.0,) * ACT, (1.0,) * ACT


def counted(function) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def one_column(passes: float, width: int) -> float:
    """What torch leaves out of `passes` over a last layer with one output: ours are sums, no matrix products."""
    return passes * 2 * width * ROWS


def batch(*leading: int, actions: int | None = None) -> TransitionBatch:
    """Of `actions` discrete ones, or of `ACT` numbers."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*leading, *shape, generator=g)

    never = torch.zeros(leading, dtype=torch.bool)
    ones = torch.ones(leading)
    action = normal(ACT).tanh() if actions is None else torch.randint(actions, leading, generator=g)
    return TransitionBatch(normal(OBS), action, normal(), normal(OBS), never, never, 0.99 * ones, ones)


def test_a_plain_network():
    net = torch.nn.Sequential(torch.nn.Linear(7, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    x = torch.randn(ROWS, 7, generator=torch.Generator().manual_seed(0))
    ours = Network((7, 16, 3))
    assert ours.weights == 7 * 16 + 16 * 3
    assert counted(lambda: net(x)) == ours.forward(ROWS)
    assert counted(lambda: net(x).sum().backward()) == ours.update(ROWS)
    inside = x.clone().requires_grad_()
    assert counted(lambda: net(inside).sum().backward()) == ours.forward(ROWS) + ours.backward(ROWS, inputs=True)


@pytest.mark.parametrize("critics", [2, 5])
def test_an_update_of_sac(critics):
    learner = SACLearner(OBS, LOW, HIGH, SACConfig(hidden=(16, 24), critics=critics))
    generators = [torch.Generator().manual_seed(0)]
    state = learner.init(generators)

    def update(actor: bool) -> float:
        noise = learner.noise(ROWS, generators)
        return counted(lambda: learner.update(state, batch(1, ROWS), noise, actor=actor))

    actor, critic = Network((OBS, 16, 24, 2 * ACT)), Network((OBS + ACT, 16, 24, 1))
    both = sac_update(actor, critic, ROWS, critics=critics)
    # Every pass of each critic's last layer but that for its weights: three forward, two backward.
    assert update(True) + one_column(5 * critics, 24) == both
    seldom = sac_update(actor, critic, ROWS, critics=critics, actor_every=4)
    counted_mean = (update(True) + 3 * update(False)) / 4
    assert counted_mean + one_column((5 + 3 * 3) / 4 * critics, 24) == pytest.approx(seldom)


def test_an_update_of_td3():
    learner = TD3Learner(OBS, LOW, HIGH, TD3Config(hidden=(16, 24)))
    generators = [torch.Generator().manual_seed(0)]
    state = learner.init(generators)

    def update(actor: bool) -> float:
        noise = learner.noise(ROWS, generators)
        return counted(lambda: learner.update(state, batch(1, ROWS), noise, actor=actor))

    actor, critic = Network((OBS, 16, 24, ACT)), Network((OBS + ACT, 16, 24, 1))
    # Of two critics in targets and values, forward, forward and backward; of one, every second time, both ways.
    assert (update(True) + update(False)) / 2 + one_column(2 * 3 + 1, 24) == td3_update(actor, critic, ROWS)


@pytest.mark.parametrize("double", [True, False])
def test_an_update_of_dqn(double):
    learner = DQNLearner(OBS, 3, DQNConfig(hidden=(16, 24), double=double))
    state, rows = learner.init([torch.Generator().manual_seed(0)]), batch(1, ROWS, actions=3)
    spent = counted(lambda: learner.update(state, rows))
    assert dqn_update(Network((OBS, 16, 24, 3)), ROWS, double=double) == spent


def test_an_update_of_discrete_sac():
    learner = DiscreteSACLearner(OBS, 3, DiscreteSACConfig(hidden=(16, 24), critics=3))
    state, rows = learner.init([torch.Generator().manual_seed(0)]), batch(1, ROWS, actions=3)
    network = Network((OBS, 16, 24, 3))
    spent = [counted(partial(learner.update, state, rows, actor=actor)) for actor in (True, False, False)]
    assert discrete_sac_update(network, network, ROWS, critics=3, actor_every=3) == pytest.approx(sum(spent) / 3)


@pytest.mark.parametrize("name", ["sb3-sac", "sb3-td3"])
def test_an_update_of_stable_baselines3(name):
    sb3 = pytest.importorskip("stable_baselines3")
    kind = {"sb3-sac": sb3.SAC, "sb3-td3": sb3.TD3}[name]
    env = gym.make("Pendulum-v1")
    model = kind("MlpPolicy", env, policy_kwargs={"net_arch": [16, 24]}, batch_size=ROWS, learning_starts=40, seed=0)
    model.learn(40)
    spent = counted(lambda: model.train(4, ROWS)) / 4
    settings = {"sb3": {"hyperparameters": {"policy_kwargs": {"net_arch": [16, 24]}, "batch_size": ROWS}}}
    assert flops(name, settings, sizes(env), {"train/n_updates": 1}) == pytest.approx(spent)
    env.close()


def test_an_update_of_stable_baselines3_dqn():
    sb3 = pytest.importorskip("stable_baselines3")
    env = gym.make("CartPole-v1")
    nets = {"net_arch": [16, 24]}
    model = sb3.DQN("MlpPolicy", env, policy_kwargs=nets, batch_size=ROWS, learning_starts=40, seed=0)
    model.learn(40)
    spent = counted(lambda: model.train(4, ROWS)) / 4
    settings = {"sb3": {"hyperparameters": {"policy_kwargs": nets, "batch_size": ROWS}}}
    assert flops("sb3-dqn", settings, Sizes(4, 2, True, task(env)), {"train/n_updates": 1}) == spent
    env.close()


def test_an_update_of_stable_baselines3_ppo():
    """Its gradient step, which is the last one's share of an epoch: acting is left out."""
    sb3 = pytest.importorskip("stable_baselines3")
    env = gym.make("Pendulum-v1")
    nets = {"pi": [16], "vf": [24]}
    model = sb3.PPO(
        "MlpPolicy", env, policy_kwargs={"net_arch": nets}, n_steps=128, batch_size=ROWS, n_epochs=1, seed=0
    )
    model.learn(128)
    spent = counted(model.train) / 4
    settings = {"sb3": {"hyperparameters": {"policy_kwargs": {"net_arch": nets}, "batch_size": ROWS}}}
    assert flops("sb3-ppo", settings, sizes(env), {"train/n_updates": 1}) == pytest.approx(spent)
    env.close()


def test_a_fit_and_a_plan_of_pets():
    env = make_env("mbrl/CartPoleSwingUp-v0")
    config = PETSConfig(
        members=4, hidden=(16, 24), batch_size=ROWS, fit_steps=3, horizon=3, population=10, elites=2, iterations=2,
        particles=4,
    )  # fmt: skip
    agent = PETSAgent(env, config, 0)
    g = torch.Generator().manual_seed(0)
    obs_dim = env.observation_space.shape[0]
    obs = torch.randn(64, obs_dim, generator=g)
    never, ones = torch.zeros(64, dtype=torch.bool), torch.ones(64)
    action = torch.rand(64, 1, generator=g)
    data = TransitionBatch(obs, action, ones, obs + 0.1 * action, never, never, ones, ones)
    settings = {"pets": {**vars(config), "hidden": [16, 24]}}
    fitted = counted(lambda: fit(agent.ensemble, data, seed=0, steps=3, batch_size=ROWS, holdout=0.0))
    assert flops("pets", settings, sizes(env), {"train/gradient_steps": 3, "plan/model_steps": 0}) == fitted
    first = env.reset(seed=0)[0][None]
    _, state = agent.policy.predict(first)
    steps = int(state.plan.info.sequences.sum()) * config.horizon * config.particles
    planned = counted(lambda: agent.policy.predict(first))
    assert flops("pets", settings, sizes(env), {"train/gradient_steps": 0, "plan/model_steps": steps}) == pytest.approx(
        planned, rel=1e-3
    )
    env.close()


def test_a_rollout_and_a_fit_of_mbpo():
    """A row of a rollout asks one elite and the actor; the ensemble learns the reward, too."""
    env = make_env("Pendulum-v1")
    obs_dim, act = 3, 1
    loop = {
        "batch_size": ROWS, "members": 4, "model_hidden": [16, 16], "model_batch_size": ROWS, "reward": "learned",
        "termination": "task",
    }  # fmt: skip
    settings = {"loop": loop, "agent": "SAC", "learner": {"hidden": [8], "critics": 2, "actor_every": 1}}
    ensemble = GaussianEnsemble(obs_dim, act, members=4, hidden=(16, 16), learned_reward=True)
    g = torch.Generator().manual_seed(0)
    obs, action = torch.randn(ROWS, obs_dim, generator=g), torch.rand(ROWS, act, generator=g)
    never, ones = torch.zeros(ROWS, dtype=torch.bool), torch.ones(ROWS)
    data = TransitionBatch(obs, action, ones, obs, never, never, ones, ones)
    fitted = counted(lambda: fit(ensemble, data, seed=0, steps=2, batch_size=ROWS, holdout=0.0))
    zero = {"train/n_updates": 0, "model/steps": 0, "model/gradient_steps": 0}
    assert flops("mbpo", settings, sizes(env), {**zero, "model/gradient_steps": 2}) == fitted
    dynamics = EnsembleDynamics(ensemble, propagation="ts1")
    state = dynamics.assign(dynamics.reset(obs), ROWS, generator=g)
    rolled = counted(lambda: dynamics.step(state, action, generator=g))
    acted = Network((obs_dim, 8, 2 * act)).forward(ROWS)
    assert flops("mbpo", settings, sizes(env), {**zero, "model/steps": ROWS}) == rolled + acted
    learner = sac_update(Network((obs_dim, 8, 2 * act)), Network((obs_dim + act, 8, 1)), ROWS)
    assert flops("mbpo", settings, sizes(env), {**zero, "train/n_updates": 7}) == 7 * learner
    env.close()


def test_dyna_with_discrete_actions():
    """Ensembles see actions one-hot; a row of the model asks one elite and the values of all actions."""
    loop = {
        "batch_size": ROWS, "members": 4, "model_hidden": [16, 16], "model_batch_size": ROWS, "reward": "learned",
        "termination": "task",
    }  # fmt: skip
    settings = {"loop": loop, "agent": "DQN", "learner": {"hidden": [8], "double": True}}
    ensemble = GaussianEnsemble(4, 2, members=4, hidden=(16, 16), learned_reward=True, discrete_actions=True)
    g = torch.Generator().manual_seed(0)
    obs, action = torch.randn(ROWS, 4, generator=g), torch.randint(2, (ROWS,), generator=g)
    dynamics = EnsembleDynamics(ensemble, propagation="ts1")
    state = dynamics.assign(dynamics.reset(obs), ROWS, generator=g)
    rolled = counted(lambda: dynamics.step(state, action, generator=g))
    q = Network((4, 8, 2))
    cartpole = Sizes(4, 2, True, None)
    zero = {"train/n_updates": 0, "model/steps": 0, "model/gradient_steps": 0}
    assert flops("dyna", settings, cartpole, {**zero, "model/steps": ROWS}) == rolled + q.forward(ROWS)
    assert flops("dyna", settings, cartpole, {**zero, "train/n_updates": 7}) == 7 * dqn_update(q, ROWS, double=True)
    assert flops("dyna", settings, cartpole, {**zero, "model/gradient_steps": 1}) > 0
    learned = {**settings, "loop": {**loop, "termination": "learned"}}  # a classifier, whose fits are not counted
    assert np.isnan(flops("dyna", learned, cartpole, {**zero, "train/n_updates": 7}))


def test_what_is_not_known_is_not_zero():
    nothing = Sizes(4, 2, True, None)
    rows = [{"time/total_timesteps": 10, "time/wall_clock": 30.0, "time/cpu_seconds": 15.0, "train/n_updates": 5}]
    found = cost_curves("reinforce", {"learner": {"hidden": [8]}}, rows, nothing)
    assert np.isnan(found["flops"]).all()
    assert (found["minutes"], found["cpu_minutes"]) == ([0.5], [0.25])
    assert found["gradient_steps"] == [5]
    assert found["model_steps"] == [0]
    unsaid = {"sb3": {"hyperparameters": {"policy_kwargs": {"net_arch": [8]}}}}
    assert np.isnan(cost_curves("sb3-ppo", unsaid, rows, nothing)["flops"]).all()  # whatever its batches are
    assert np.isnan(cost_curves("sb3-trpo", {"sb3": {"hyperparameters": {}}}, rows, nothing)["flops"]).all()


def test_gradient_steps_of_learner_and_model_add_up():
    rows = [{"time/total_timesteps": 1, "train/n_updates": 5, "model/gradient_steps": 7, "model/steps": 11}]
    found = cost_curves("reinforce", {}, rows, Sizes(4, 2, True, None))
    assert (found["gradient_steps"], found["model_steps"]) == ([12], [11])
    assert np.isnan(found["minutes"]).all()


def sizes(env: gym.Env) -> Sizes:
    return Sizes(env.observation_space.shape[0], env.action_space.shape[0], False, task(env))


def flops(algo: str, settings: dict, of: Sizes, counters: dict[str, int]) -> float:
    rows = [{"time/total_timesteps": 1, **counters}]
    return float(cost_curves(algo, settings, rows, of)["flops"][0])
