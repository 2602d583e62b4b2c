"""Behaviour cloning: known policies, the laws of learners and the bugs that break them, files, bad input."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mbrl.data.buffer import ReplayBuffer
from mbrl.learners.behavior_cloning import BehaviorCloning, BehaviorCloningConfig, BehaviorCloningLearner
from mbrl.learners.testing import check_learner
from mbrl.seeding import generator
from mbrl.types import TransitionBatch
from planners.rows import leaves

OBS = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACT = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))


def transitions(obs, action):
    zeros = torch.zeros(len(obs), dtype=obs.dtype)
    return TransitionBatch(obs, action, zeros, obs, zeros.bool(), zeros.bool(), zeros, zeros + torch.nan)


def linear_policy(rows=2000, seed=0):
    """Observations of very different scales, and actions linear in them."""
    z = torch.randn(rows, 3, generator=generator(seed, "obs"), dtype=torch.float64).clamp(-3, 3)
    action = z @ torch.tensor([[0.2, 0.5], [-0.3, 0.5], [0.1, 0.5]], dtype=torch.float64) + torch.tensor([0.0, 5.0])
    return transitions(z * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 500.0, 3.0]), action)


def test_clones_a_linear_policy():
    policy = BehaviorCloning(OBS, ACT, seed=0, hidden=(64, 64)).learn(linear_policy(), updates=800, batch_size=128)
    unseen = linear_policy(500, seed=1)
    action, _ = policy.predict(unseen.obs.numpy())
    error = (action - unseen.action.numpy()) / np.array([2.0, 5.0])
    assert np.square(error).mean() < 1e-3
    assert policy.loss(unseen) == pytest.approx(np.square(error).mean(), rel=1e-3)


def test_clone_of_a_scripted_controller_keeps_the_pendulum_up():
    env, rng = gym.make("InvertedPendulum-v5"), np.random.default_rng(0)

    def controller(obs):
        return np.clip(obs @ [0.6, 8.0, 1.2, 2.0], -3, 3)[None].astype(np.float32)

    shown, obs = [], env.reset(seed=0)[0]
    for step in range(1000):
        shown.append((obs, controller(obs)))
        # Disturbed, so that the clone sees what its own errors will lead to; the undisturbed action is the lesson.
        obs, _, ended, _, _ = env.step(np.clip(shown[-1][1] + rng.normal(size=1), -3, 3).astype(np.float32))
        if ended or step % 100 == 99:
            obs, _ = env.reset()
    data = transitions(*(torch.as_tensor(np.array(x)) for x in zip(*shown, strict=True)))
    policy = BehaviorCloning(env.observation_space, env.action_space, seed=0).learn(data, updates=500, batch_size=64)

    (obs, _), steps, ended, cut = env.reset(seed=1), 0, False, False
    while not (ended or cut):
        action, _ = policy.predict(obs, deterministic=True)
        obs, _, ended, cut, _ = env.step(action)
        steps += 1
    env.close()
    assert (steps, ended) == (1000, False)


def test_learning_in_two_calls_is_learning_in_one():
    data = linear_policy(200)
    once = BehaviorCloning(OBS, ACT, hidden=(8,)).learn(data, updates=20, batch_size=16)
    twice = BehaviorCloning(OBS, ACT, hidden=(8,)).learn(data, updates=7, batch_size=16).learn(data, 13, 16)
    assert all(torch.equal(a, b) for a, b in zip(leaves(once.state), leaves(twice.state), strict=True))


def test_mini_batches_differ_and_the_normaliser_stays():
    seen = []

    class Recorder(BehaviorCloningLearner):
        def update(self, state, batch, noise=(), *, actor=True):
            seen.append(batch.obs)
            return super().update(state, batch, noise, actor=actor)

    policy, data = BehaviorCloning(OBS, ACT, hidden=(8,)), linear_policy(200)
    policy.learner = Recorder(3, policy.learner.low, policy.learner.high, policy.learner.config)
    mean = policy.learn(data, 2, 16).state.mean.clone()
    assert not torch.equal(*seen)
    policy.learn(data._replace(obs=data.obs + 1), 1, 16)
    assert torch.equal(policy.state.mean, mean)


def test_a_buffer_is_as_good_as_its_transitions():
    data = linear_policy(50)
    buffer = ReplayBuffer(100, 3, 2)
    buffer.extend_rows(data)
    one, other = (BehaviorCloning(OBS, ACT, hidden=(8,)).learn(d, 5, 16) for d in (data, buffer))
    torch.testing.assert_close(leaves(one.state), leaves(other.state))


def test_seeds_differ():
    one, other = (BehaviorCloning(OBS, ACT, seed=seed, hidden=(8,)) for seed in (0, 1))
    assert not torch.equal(one.state.policy[0][0], other.state.policy[0][0])


def test_predicts_one_or_many_within_the_action_space():
    policy = BehaviorCloning(OBS, ACT, hidden=(8,))
    many = np.random.default_rng(0).normal(size=(5, 3)) * 1e6
    actions, memory = policy.predict(many, state="kept", episode_start=np.ones(5, bool))
    one, _ = policy.predict(many[2])
    assert (actions.shape, one.shape, actions.dtype, memory) == ((5, 2), (2,), np.float32, "kept")
    assert all(ACT.contains(a) for a in actions)
    np.testing.assert_allclose(one, actions[2], rtol=1e-5)
    np.testing.assert_array_equal(actions, policy.predict(many, deterministic=True)[0])


def test_saturated_actions_are_rounded_into_the_box():
    low, high = np.array([-0.13210486], np.float32), np.array([0.12573022], np.float32)
    space = gym.spaces.Box(low, high)  # in float32, middle minus half the range is below `low`
    policy = BehaviorCloning(OBS, space, hidden=(2,))
    policy.state.policy[-1][1].fill_(-100)
    assert policy.learner.act(policy.state, torch.zeros(1, 1, 3)).item() < low
    np.testing.assert_array_equal(policy.predict(np.zeros(3))[0], low)


def test_rounding_is_not_taken_for_variation():
    learner = BehaviorCloningLearner(1, (-1.0,), (1.0,), dtype=torch.float64)
    state, noise = learner.init([generator(0)]), torch.randn(1, 50, 1, generator=generator(1), dtype=torch.float64)
    learner.fit_normalizer(state, 1000 + 1e-9 * noise)
    assert state.std.item() == 1
    learner.fit_normalizer(state, 1000 + noise)
    assert state.std.item() == pytest.approx(noise.std(correction=0).item())


def test_a_constant_observation_does_no_harm():
    data = linear_policy(200)
    data.obs[:, 1] = 0.1
    policy = BehaviorCloning(OBS, ACT, hidden=(8,)).learn(data, updates=5, batch_size=16)
    assert policy.state.std[0, 0, 1] == 1
    near, _ = policy.predict(data.obs[0].numpy() + np.array([0, 1e-3, 0]))
    np.testing.assert_allclose(near, policy.predict(data.obs[0].numpy())[0], atol=0.05)


def test_a_loaded_policy_acts_and_learns_on_as_the_saved_one(tmp_path):
    data = linear_policy(200)
    policy = BehaviorCloning(OBS, ACT, seed=3, hidden=(8,), lr=2e-3).learn(data, 10, 16)
    path = policy.save(tmp_path / "made" / "policy-0.5")
    assert path.name == "policy-0.5.safetensors"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    loaded = BehaviorCloning.load(tmp_path / "made" / "policy-0.5")
    assert (loaded.observation_space, loaded.action_space, loaded.updates) == (OBS, ACT, 10)
    np.testing.assert_array_equal(loaded.predict(data.obs.numpy())[0], policy.predict(data.obs.numpy())[0])
    for p in (policy, loaded):
        p.learn(data, 10, 16)
    assert all(torch.equal(a, b) for a, b in zip(leaves(loaded.state), leaves(policy.state), strict=True))


def test_every_flipped_byte_is_noticed(tmp_path):
    path = BehaviorCloning(OBS, ACT, hidden=(2,)).save(tmp_path / "policy")
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="path"):
            BehaviorCloning.load(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="damaged"):
        BehaviorCloning.load(path)


@pytest.mark.parametrize(("change", "message"), [({"format": "99"}, "newer|upgrade"), ({"kind": "SAC"}, "SAC")])
def test_files_of_others_are_refused(tmp_path, change, message):
    path = BehaviorCloning(OBS, ACT, hidden=(2,)).save(tmp_path / "policy")
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert json.loads(header["config"])["hidden"] == [2]
    save_file(tensors, path, metadata=header | change)
    with pytest.raises(ValueError, match=message):
        BehaviorCloning.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    policy = BehaviorCloning(OBS, ACT, hidden=(2,))
    path = policy.save(tmp_path / "policy")
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mbrl.learners.files.os.fsync", full)
    policy.state.mean.add_(1)
    with pytest.raises(OSError, match="No space"):
        policy.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.safetensors"):
        BehaviorCloning.load(tmp_path / "nowhere")


def test_bad_demonstrations_are_named():
    policy, good = BehaviorCloning(OBS, ACT, hidden=(2,)), linear_policy(4)
    bad_obs, bad_action = good.obs.clone(), good.action.clone()
    bad_obs[2, 0], bad_action[1, 1] = torch.nan, 11.0
    cases = [
        (good._replace(obs=bad_obs), r"data\.obs.*row 2"),
        (good._replace(action=bad_action), r"data\.action.*11\.0.*row 1"),
        (good._replace(obs=good.obs[:, :2]), r"data\.obs.*\[rows, 3\].*\[4, 2\]"),
        (transitions(good.obs[:0], good.action[:0]), r"data\.obs.*one row or more"),
    ]
    for data, message in cases:
        with pytest.raises(ValueError, match=message):
            policy.learn(data)
    with pytest.raises(ValueError, match="updates"):
        policy.learn(good, updates=0)
    assert policy.updates == 0


@pytest.mark.parametrize(("obs", "message"), [(np.zeros(4), r"\[3\].*\[4\]"), (np.array([0, np.inf, 0]), "finite")])
def test_bad_observations_are_named(obs, message):
    with pytest.raises(ValueError, match=f"observation.*{message}"):
        BehaviorCloning(OBS, ACT, hidden=(2,)).predict(obs)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="observation_space"):
        BehaviorCloning(gym.spaces.Discrete(3), ACT)
    with pytest.raises(ValueError, match="space"):
        BehaviorCloning(OBS, gym.spaces.Discrete(3))
    for wrong, message in [({"lr": 0.0}, "lr"), ({"hidden": (0,)}, "hidden")]:
        with pytest.raises(ValueError, match=message):
            BehaviorCloningConfig(**wrong)
    for wrong, message in [({"obs_dim": 0}, "obs_dim"), ({"high": (-1.0,)}, "low")]:
        with pytest.raises(ValueError, match=message):
            BehaviorCloningLearner(**({"obs_dim": 3, "low": (-1.0,), "high": (1.0,)} | wrong))


# The conformance kit: it passes on what is shipped and fails on each planted bug, with the law that is broken.

SMALL = BehaviorCloningConfig(hidden=(8,))
LEARNER = {"obs_dim": 3, "low": (-1.0,) * 2, "high": (1.0,) * 2, "config": SMALL, "dtype": torch.float64}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_learner_obeys_the_laws(dtype):
    check_learner(BehaviorCloningLearner(**(LEARNER | {"dtype": dtype})), 3, 2)


def test_measuring_moves_nothing():
    learner, data = BehaviorCloningLearner(**LEARNER), linear_policy(5)
    state = learner.init([generator(0)])
    before = [t.clone() for t in leaves(state)]
    batch = TransitionBatch(*(x[None] for x in data))
    _, metrics = learner.update(state, batch, actor=False)
    assert all(torch.equal(a, b) for a, b in zip(before, leaves(state), strict=True))
    expected = (learner.act(state, batch.obs) - batch.action).square().mean((1, 2))
    torch.testing.assert_close(metrics["train/loss"], expected)


class Planted(BehaviorCloningLearner):
    """The learner with bugs: each method breaks one law where the bug of that name is planted."""

    bug = ""

    def init(self, generators):
        state = super().init(generators[:1] * len(generators) if self.bug == "one generator" else generators)
        if self.bug == "0-dim":
            return state._replace(adam=state.adam._replace(step=torch.tensor(0.0)))
        return state

    def act_noise(self, rows, generators):
        return torch.stack([0.01 * torch.randn(rows, 2, generator=g) for g in generators])

    def update(self, state, batch, noise=(), *, actor=True):
        if self.bug == "conventional":
            return super().update(type(state)(*_clone(state)), batch, noise, actor=actor)
        if self.bug == "leak":
            batch = batch._replace(obs=batch.obs - batch.obs.mean((0, 1)))
        if self.bug == "batch changed":
            batch.action.clamp_(-0.5, 0.5)
        if self.bug == "unseeded":
            batch = batch._replace(obs=batch.obs + torch.randn(batch.obs.shape, dtype=batch.obs.dtype))
        state, metrics = super().update(state, batch, noise, actor=actor)
        if self.bug == "one metric":
            metrics = {name: value.sum() for name, value in metrics.items()}
        if self.bug == "not finite":
            state.policy[0][0].mul_(torch.nan)
        return state, metrics

    def act(self, state, obs, noise=None):
        if self.bug == "batch statistics":
            obs = obs - obs.mean(1, keepdim=True)
        if self.bug == "act remembers":
            state.mean.add_(0.1)
        action = super().act(state, obs)
        if self.bug == "noisy":
            action = action + 0.01 * torch.randn(action.shape)
        if self.bug == "out of bounds":
            action = action + 2
        return action


def _clone(tree):
    return tuple(t.clone() if isinstance(t, torch.Tensor) else _remake(t) for t in tree)


def _remake(t):
    return type(t)(*_clone(t)) if hasattr(t, "_fields") else _clone(t)


BUGS = {
    "one generator": "its own generator",
    "0-dim": "leads with the 2 runs",
    "conventional": "the same tensors",
    "leak": "what it learns alone",
    "batch changed": "leaves the batch",
    "unseeded": "the same state, batch and noise",
    "one metric": "metric train/loss has shape",
    "not finite": "keeps the state finite",
    "batch statistics": "rows beside it",
    "act remembers": "act without noise|leaves the state",
    "noisy": "act without noise is deterministic",
    "out of bounds": "lie within",
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_kit_fails_on_a_planted_bug(bug):
    learner = type("Buggy", (Planted,), {"bug": bug})(**LEARNER)
    with pytest.raises(AssertionError, match=BUGS[bug]):
        check_learner(learner, 3, 2)


def test_the_kit_passes_where_no_bug_is_planted():
    check_learner(Planted(**LEARNER), 3, 2)


def test_the_kit_fails_on_a_learner_that_does_not_learn():
    class Idle(Planted):
        def update(self, state, batch, noise=(), *, actor=True):
            return super().update(state, batch, noise, actor=False)

    with pytest.raises(AssertionError, match="changes the state"):
        check_learner(Idle(**LEARNER), 3, 2)


def test_the_kit_needs_two_rows():
    with pytest.raises(ValueError, match="batch_size"):
        check_learner(Planted(**LEARNER), 3, 2, batch_size=1)
