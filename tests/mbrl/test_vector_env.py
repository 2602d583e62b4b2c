"""Vectors of environments: the two kinds take the same steps."""

import multiprocessing

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from mbrl.data.collect import Collector, RandomPolicy
from mbrl.envs import make_vector_env


def test_both_kinds_collect_the_same_steps():
    rows = []
    for kind in ("sync", "async"):
        env = make_vector_env("CartPole-v1", 2, kind=kind, discrete=True)
        assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
        collector, policy, state = Collector(env, seed=3), RandomPolicy(env.single_action_space, seed=0), None
        episodes = []
        for _ in range(40):
            action, state = policy.predict(collector.obs, state)
            collected = collector.step(action)
            assert collected.valid.all()
            episodes += collected.episodes
        rows.append((collected.batch.obs.numpy(), episodes))
        env.close()
    assert len(rows[0][1]) >= 2  # episodes ended, and were begun again by a mask
    np.testing.assert_array_equal(rows[0][0], rows[1][0])
    assert rows[0][1] == rows[1][1]
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CartPole-v1", 0), "num_envs: expected at least 1"),
        (("CartPole-v1", 1), "Discrete actions"),
        (("Nothing-v0", 1), "no environment 'Nothing-v0'"),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_cant_be_made_says_why(arguments, message, kind):
    with pytest.raises(ValueError, match=message):
        make_vector_env(*arguments, kind=kind)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind: expected 'sync' or 'async', got 'threads'"):
        make_vector_env("CartPole-v1", 2, kind="threads")
