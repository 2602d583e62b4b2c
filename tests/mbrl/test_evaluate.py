"""Evaluation against environments whose returns are known."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mbrl.experiments.episode import play
from mbrl.experiments.evaluate import Evaluation, evaluate, evaluate_together


class Count(gym.Env):
    """Observation [seed's random number, t], reward t; ends after 4 steps, by a time limit unless told otherwise."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (3,))

    def __init__(self, *, terminates: bool = False, bad: float | None = None) -> None:
        self.terminates, self.bad, self.seeds = terminates, bad, []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.t, self.start = 0, self.np_random.normal()
        return np.array([self.start, 0.0]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        reward = self.bad if self.bad is not None and self.t == 3 else float(self.t)
        end = self.t == 4
        return np.array([self.start, self.t]), reward, end and self.terminates, end and not self.terminates, {}


class Spy:
    """Remembers how it was called; its state counts the steps of an episode."""

    def __init__(self, shape: tuple[int, ...] = (3,)) -> None:
        self.shape, self.calls = shape, []

    def predict(
        self, obs: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        self.calls.append((obs.tolist(), state, episode_start.tolist(), deterministic))
        return np.zeros(self.shape), 1 if state is None else state + 1


def test_returns_and_lengths_are_those_of_whole_episodes() -> None:
    result = evaluate(Spy(), Count(), episodes=3, seed=0)
    assert result.returns.tolist() == [10.0, 10.0, 10.0]
    assert result.lengths.tolist() == [4, 4, 4]
    assert (result.mean, result.std, result.diverged, result.video) == (10.0, 0.0, 0, None)
    assert result.metrics()["eval/mean_reward"] == 10.0


def test_mean_and_std_over_episodes() -> None:
    result = Evaluation(returns=np.array([1.0, 3.0]), lengths=np.array([2, 4]))
    assert (result.mean, result.std) == (2.0, 1.0)
    assert result.metrics()["eval/mean_ep_length"] == 3.0


def test_the_policy_is_called_as_stable_baselines3_calls_it() -> None:
    spy, env = Spy(), Count()
    evaluate(spy, env, episodes=2, seed=0)
    for episode in range(2):
        calls = spy.calls[4 * episode : 4 * episode + 4]
        assert [call[0][1] for call in calls] == [0.0, 1.0, 2.0, 3.0]
        assert [call[1] for call in calls] == [None, 1, 2, 3]  # no state goes from one episode to the next
        assert [call[2] for call in calls] == [[True], [False], [False], [False]]
        assert all(call[3] for call in calls)


def test_episodes_differ_and_the_seed_repeats_them() -> None:
    first, again, other = Count(), Count(), Count()
    evaluate(Spy(), first, episodes=3, seed=1)
    evaluate(Spy(), again, episodes=3, seed=1)
    evaluate(Spy(), other, episodes=3, seed=2)
    assert len(set(first.seeds)) == 3
    assert first.seeds == again.seeds
    assert not set(first.seeds) & set(other.seeds)


@pytest.mark.parametrize("terminates", [True, False])
def test_an_episode_says_how_it_ended(terminates: bool) -> None:
    assert play(Spy(), Count(terminates=terminates), seed=0) == (10.0, 4, terminates, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reward_that_is_not_finite_is_shown(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"env: expected finite .* got reward {bad} .* at step 3"):
        evaluate(Spy(), Count(bad=bad), episodes=1, seed=0)


def test_an_action_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"policy: expected actions of shape \(3,\).*got \(1, 3\)"):
        evaluate(Spy((1, 3)), Count(), episodes=1, seed=0)


def test_no_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match="episodes: expected at least 1, got 0"):
        evaluate(Spy(), Count(), episodes=0, seed=0)


def test_a_vector_of_environments_is_refused() -> None:
    with pytest.raises(ValueError, match="env: expected a single Gymnasium environment"):
        evaluate(Spy(), gym.vector.SyncVectorEnv([Count]), episodes=1, seed=0)  # type: ignore[arg-type]


def test_a_diverged_simulation_is_never_scored_as_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file where it diverges
    env = gym.make("InvertedPendulum-v5")

    class Breaker(Spy):
        def predict(self, obs: np.ndarray, state: Any = None, *rest: Any) -> tuple[np.ndarray, Any]:
            if state == 2:
                env.unwrapped.data.qvel[:] = 1e30  # type: ignore[attr-defined]
            return np.zeros(1), (state or 0) + 1

    result = evaluate(Breaker(), env, episodes=2, seed=0)
    env.close()
    assert result.returns.tolist() == [-np.inf, -np.inf]
    assert result.lengths.tolist() == [3, 3]
    assert result.diverged == 2
    assert result.mean == -np.inf
    assert np.isnan(result.std)
    assert "2 diverged" in str(result)


class Balance:
    """A linear policy for one observation [obs] of InvertedPendulum-v5, or for several [n, obs]; counts its calls."""

    def __init__(self, gain: float) -> None:
        self.gain, self.starts = gain, []

    def predict(
        self, obs: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        self.starts.append(episode_start.tolist())
        return self.gain * np.clip(obs[..., 1:2] + obs[..., 3:4], -3, 3), None


@pytest.mark.parametrize("gain", [0.0, 3.0])
def test_episodes_side_by_side_are_those_one_after_the_other(gain: float) -> None:
    envs = [gym.make("InvertedPendulum-v5", max_episode_steps=60) for _ in range(4)]
    apart, together = Balance(gain), Balance(gain)
    expected = evaluate(apart, envs[0], episodes=4, seed=3)
    result = evaluate_together(together, envs, seed=3)
    assert result.returns.tolist() == expected.returns.tolist()
    assert result.lengths.tolist() == expected.lengths.tolist()
    assert (len(set(result.lengths.tolist())) > 1) == (gain == 0.0)  # some end before others, where the pole falls
    assert len(together.starts) == max(result.lengths)
    assert together.starts == [[True] * 4] + [[False] * 4] * (max(result.lengths) - 1)
    for env in envs:
        env.close()


def test_side_by_side_an_episode_that_diverged_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file where it diverges
    envs = [gym.make("InvertedPendulum-v5") for _ in range(2)]

    class Breaker(Balance):
        def predict(self, obs: np.ndarray, *rest: Any) -> tuple[np.ndarray, Any]:
            assert np.isfinite(obs).all()
            if len(self.starts) == 2:
                envs[0].unwrapped.data.qvel[:] = 1e30  # type: ignore[attr-defined]
            return super().predict(obs, *rest)

    broken = evaluate_together(Breaker(0.0), envs, seed=0)
    whole = evaluate_together(Balance(0.0), envs, seed=0)
    assert broken.returns.tolist() == [-np.inf, whole.returns[1]]
    assert (broken.lengths[0], broken.diverged) == (3, 1)
    for env in envs:
        env.close()


def test_side_by_side_needs_an_environment_and_an_action_for_each() -> None:
    with pytest.raises(ValueError, match="envs: expected at least 1 environment, got none"):
        evaluate_together(Spy(), [], seed=0)
    with pytest.raises(ValueError, match="policy: expected 2 actions, one an observation, got 3"):
        evaluate_together(Spy(), [Count(), Count()], seed=0)
