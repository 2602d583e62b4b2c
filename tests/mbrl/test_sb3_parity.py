"""Updates of SAC, TD3 and DDPG against those of stable-baselines3: same weights, batches and noise, in float64.

Its conventions, and how they are matched:

- it casts observations to float32: that is left out;
- its buffer holds actions scaled to [-1, 1], ours the environment's: our learners scale them;
- it masks with `1 - dones` and multiplies with gamma, ours has both in `discount`; a time limit is not `done`;
- it adds 1e-6 in log(1 - tanh^2 u + 1e-6), ours has the exact form: its epsilon is set to 0;
- its actor has a layer for the mean and one for log_std, ours one layer for both; its weights are [out, in];
- it draws noise with torch's global generator: here it is handed ours, first that at `obs`, then that at `next_obs`;
- SAC's critic loss is half the sum over critics of mean squared errors, TD3's the whole sum: ours are the same;
- SAC's temperature loss has log alpha in front, and the alpha of an update is that before it: as in ours;
- TD3's actor and all its targets move with every second update, from the second on: `actor=` says which;
- its DDPG is its TD3 with one critic, no smoothing and no delay.
"""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.learners.ddpg import DDPGConfig, DDPGLearner
from mbrl.learners.sac import SACConfig, SACLearner
from mbrl.learners.td3 import TD3Config, TD3Learner
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves

sb3 = pytest.importorskip("stable_baselines3")

OBS, LOW, HIGH, HIDDEN, ROWS, GAMMA = 5, (-2.0, 0.0), (1.0, 3.0), (32, 32), 64, 0.97


class Blank(gym.Env):
    """Spaces only: the replay buffer's `sample` is replaced."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    action_space = gym.spaces.Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))


@pytest.fixture(autouse=True)
def _no_cast(monkeypatch):
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs)


def peer(algorithm, **settings):
    """A model of stable-baselines3 in float64 that records what it logs."""
    from stable_baselines3.common.logger import configure

    model = getattr(sb3, algorithm)(
        "MlpPolicy", Blank(), gamma=GAMMA, policy_kwargs={"net_arch": list(HIDDEN)}, seed=0, device="cpu", **settings
    )
    model.policy.double()
    model.set_logger(configure(None, []))
    return model


def batches(count):
    made = []
    for k in range(count):
        g = generator(k, "batch")
        obs, next_obs = torch.randn(2, 1, ROWS, OBS, generator=g, dtype=torch.float64)
        low, high = torch.tensor(LOW, dtype=torch.float64), torch.tensor(HIGH, dtype=torch.float64)
        action = low + (high - low) * torch.rand(1, ROWS, 2, generator=g, dtype=torch.float64)
        reward = 3 * torch.randn(1, ROWS, generator=g, dtype=torch.float64)
        ended, cut = torch.rand(2, 1, ROWS, generator=g) < 0.3
        made.append(TransitionBatch(obs, action, reward, next_obs, ended, cut, GAMMA * ~ended, reward))
    return made


def their_batch(batch):
    low, high = torch.tensor(LOW, dtype=torch.float64), torch.tensor(HIGH, dtype=torch.float64)
    return SimpleNamespace(
        observations=batch.obs[0],
        actions=2 * (batch.action[0] - low) / (high - low) - 1,
        next_observations=batch.next_obs[0],
        rewards=batch.reward[0, :, None],
        dones=batch.terminated[0, :, None].double(),
        discounts=None,
    )


def linears(module):
    return [m for m in module.modules() if isinstance(m, torch.nn.Linear)]


def as_layers(*modules):
    """Our layers of one run from networks of theirs, which become the members."""
    stacked = []
    for column in zip(*(linears(m) for m in modules), strict=True):
        stacked.append((torch.stack([m.weight.T for m in column]), torch.stack([m.bias[None] for m in column])))
    return tuple((w[None].detach().clone(), b[None].detach().clone()) for w, b in stacked)


def without_members(layers):
    return tuple((w[:, 0], b[:, 0]) for w, b in layers)


def sac_actor(actor):
    *hidden, mean, log_std = linears(actor)
    layers = [(m.weight.T[None], m.bias[None, None]) for m in hidden]
    layers.append((torch.cat([mean.weight, log_std.weight]).T[None], torch.cat([mean.bias, log_std.bias])[None, None]))
    return tuple((w.detach().contiguous(), b.detach().contiguous().clone()) for w, b in layers)


def assert_same(ours, theirs):
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def assert_same_metrics(metrics, model):
    logged = model.logger.name_to_value
    ours = {k: v.item() for k, v in metrics.items() if k != "train/q_mean"}
    assert set(ours) == {k for k in logged if k not in ("train/n_updates", "train/learning_rate")}
    for name, value in ours.items():
        assert value == pytest.approx(logged[name], rel=1e-6, abs=1e-6), name  # logged through float32


@pytest.mark.parametrize("updates", [1, 5])
def test_sac(updates, monkeypatch):
    model = peer("SAC", learning_rate=1e-3)
    model.actor.action_dist.epsilon = 0.0
    model.log_ent_coef.data = model.log_ent_coef.data.double()
    made = SACLearner(OBS, LOW, HIGH, SACConfig(hidden=HIDDEN, lr=1e-3), torch.float64)
    state = made.init([generator(0)])._replace(
        actor=sac_actor(model.actor),
        critics=as_layers(*model.critic.q_networks),
        targets=as_layers(*model.critic_target.q_networks),
    )
    for k, batch in enumerate(batches(updates)):
        noise = made.noise(ROWS, [generator(k, "noise")])
        drawn = iter((noise.action[0], noise.next_action[0]))
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, b=batch, **__: their_batch(b))
        monkeypatch.setattr(torch.distributions.normal, "_standard_normal", lambda *_, d=drawn, **__: next(d))
        model.train(1, ROWS)
        _, metrics = made.update(state, batch, noise)
        assert_same_metrics(metrics, model)
    assert_same(state.actor, sac_actor(model.actor))
    assert_same(state.critics, as_layers(*model.critic.q_networks))
    assert_same(state.targets, as_layers(*model.critic_target.q_networks))
    assert_same(state.log_temperature, model.log_ent_coef.detach())


@pytest.mark.parametrize("updates", [1, 2, 5])
@pytest.mark.parametrize("algorithm", ["TD3", "DDPG"])
def test_td3_and_ddpg(algorithm, updates, monkeypatch):
    model = peer(algorithm, tau=0.01)
    twin = algorithm == "TD3"
    if twin:
        made = TD3Learner(OBS, LOW, HIGH, TD3Config(hidden=HIDDEN, tau=0.01), torch.float64)
    else:
        made = DDPGLearner(OBS, LOW, HIGH, DDPGConfig(hidden=HIDDEN, tau=0.01), torch.float64)

    def theirs():
        critics = (as_layers(*c.q_networks) for c in (model.critic, model.critic_target))
        critics = critics if twin else (without_members(c) for c in critics)
        actor, target_actor = (without_members(as_layers(a.mu)) for a in (model.actor, model.actor_target))
        critic, target_critic = critics
        return actor, critic, target_actor, target_critic

    state = made.init([generator(0)])
    state = type(state)(*theirs(), *state[4:])
    for k, batch in enumerate(batches(updates)):
        noise = made.noise(ROWS, [generator(k, "noise")])
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, b=batch, **__: their_batch(b))
        with monkeypatch.context() as patch:
            patch.setattr(
                torch.Tensor, "normal_", lambda x, _, std, n=noise: x.copy_(std * n[0]) if twin else x.zero_()
            )
            model.logger.name_to_value.clear()
            model.train(1, ROWS)
        _, metrics = made.update(state, batch, noise, actor=(k + 1) % made.config.actor_every == 0)
        assert_same_metrics(metrics, model)
    assert_same(state[:4], theirs())
