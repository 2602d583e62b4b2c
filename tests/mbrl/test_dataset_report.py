"""What inspection and verification of a dataset say."""

import re
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from mbrl.cli import main
from mbrl.data.collect import RandomPolicy, collect
from mbrl.data.datasets import Dataset, DatasetError, DatasetInfo, from_buffer, save_dataset
from mbrl.envs.make import make_env
from mbrl.experiments.behaviours import Uniform
from mbrl.experiments.collection import collect_dataset, play_dataset
from mbrl.experiments.dataset_report import inspect_dataset, report
from mbrl.experiments.dataset_verify import verify_dataset
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.mopo_config import MOPOConfig
from mbrl.pipelines.offline_model import learned_model
from tests.mbrl.dataset_cases import a_dataset


def line(*, late: bool = False, episodes: int = 20, steps: int = 10) -> Dataset:
    """x' = x + a, in one dimension; `late`: actions are stored one row too late."""
    stream = np.random.default_rng(0)
    observations, actions = [], []
    for _ in range(episodes):
        a = stream.uniform(-1, 1, steps)
        observations.append(np.cumsum(np.concatenate([[stream.normal()], a])))
        actions.append(np.roll(a, 1) if late else a)
    ends = np.arange(episodes * steps) % steps == steps - 1
    return Dataset(
        np.concatenate(observations)[:, None],
        np.concatenate(actions)[:, None],
        np.arange(episodes * steps, dtype=np.float64),
        np.zeros_like(ends),
        ends,
        np.full(len(ends), np.nan),
        np.full(episodes, steps),
        DatasetInfo(action_low=(-1.0,), action_high=(1.0,)),
    )


def test_alignment_tells_shifted_actions() -> None:
    good = inspect_dataset(line())
    assert good.fit[0] == pytest.approx(1)
    assert good.fit[1] < 0.2
    assert good.warnings == ()
    assert good.directions == pytest.approx(1)
    for wrong in (line(late=True), early()):
        found = inspect_dataset(wrong)
        assert found.fit[0] < 0.2
        assert found.fit[1] == pytest.approx(1)
        assert any("shifted by one" in text for text in found.warnings)
    assert good.returns.tolist() == line().returns().tolist()


class Autoregressive:
    """Actions that hang on the one before: a neighbour's tells something of the row's own."""

    def __init__(self, space: gym.spaces.Box) -> None:
        self.high, self.stream, self.x = space.high, np.random.default_rng(0), np.zeros((1, *space.shape))

    def predict(self, obs: object, *_: object) -> tuple[np.ndarray, None]:
        self.x = 0.9 * self.x + 0.44 * self.stream.normal(size=self.x.shape)
        return np.clip(self.x, -1, 1) * self.high, None


class Feedback:
    """A policy without noise, whose next action tells where the step led."""

    def __init__(self, obs_dim: int, space: gym.spaces.Box, seed: int) -> None:
        stream = np.random.default_rng(seed)
        self.high = space.high
        self.inner = stream.normal(size=(obs_dim, 32)) / np.sqrt(obs_dim)
        self.outer = stream.normal(size=(32, *space.shape)) / np.sqrt(32)

    def predict(self, obs: np.ndarray, *_: object) -> tuple[np.ndarray, None]:
        return np.tanh(1.5 * np.tanh(np.atleast_2d(obs) @ self.inner) @ self.outer) * self.high, None


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Reacher-v5"])
@pytest.mark.parametrize("policy", [RandomPolicy, Autoregressive])
def test_a_shift_that_shows_in_few_dimensions_is_noticed(env_id: str, policy: type) -> None:
    env = gym.make(env_id)
    data = from_buffer(collect(env, policy(env.action_space), 1_000))
    assert inspect_dataset(data).misaligned == ()
    velocities = {2} if env_id == "Pendulum-v1" else {6, 7}
    for way in (1, -1):
        found = inspect_dataset(replace(data, actions=np.roll(data.actions, way, 0)))
        assert velocities & set(found.misaligned)
        assert any("shifted by one" in text for text in found.warnings)


@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize("env_id", ["Hopper-v5", "Reacher-v5", "Swimmer-v5"])
def test_a_policy_that_reads_off_where_a_step_led_is_no_shift(env_id: str, seed: int) -> None:
    env = gym.make(env_id)
    policy = Feedback(env.observation_space.shape[0], env.action_space, seed)
    assert inspect_dataset(from_buffer(collect(env, policy, 600, seed=seed - 7))).misaligned == ()


def test_few_rows_say_nothing_of_a_shift() -> None:
    """A fit of 3 numbers to 24 rows."""
    assert inspect_dataset(line(late=True, episodes=3)).misaligned == ()


def early() -> Dataset:
    """Actions stored one row too early: row t - 1 has what moved row t."""
    data = line()
    return replace(data, actions=np.roll(data.actions.reshape(20, 10), -1, 1).reshape(-1, 1))


def test_saturation_duplicates_and_constant_dimensions_are_counted() -> None:
    data = line(episodes=4)
    actions = np.clip(data.actions, -1, 0.0)
    actions[:30] = 1
    found = inspect_dataset(replace(data, actions=actions))
    assert found.saturated[0] == pytest.approx((actions <= -0.98).mean() + 0.75, abs=0.001)
    assert any("at a bound in dimension 0" in text for text in found.warnings)
    twice = inspect_dataset(data.concatenate(data.select([1])))
    assert twice.repeated_episodes == 1
    assert twice.duplicates == pytest.approx(0.2)
    flat = inspect_dataset(replace(data, observations=np.ones_like(data.observations)))
    assert flat.constant == (0,)


def test_a_time_limit_stored_as_an_end_is_noticed() -> None:
    data = line(episodes=3)
    wrong = replace(data, terminated=data.truncated, truncated=np.zeros_like(data.truncated))
    assert inspect_dataset(data).terminated_at_limit == 0
    assert inspect_dataset(wrong).terminated_at_limit == 3
    assert "is a time limit stored as an end?" in report(wrong, inspect_dataset(wrong))


def test_the_command_shows_text_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_dataset(a_dataset(), tmp_path / "walk.hdf5")
    assert main(["dataset", "inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "rows: 12 in 3 episodes; observations: 3, actions: 2 continuous" in text
    assert "ends: 1 episodes terminated, 2 were cut" in text
    assert "known of 67 % of actions" in text
    assert (tmp_path / "walk.hdf5.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "Hopper-v5", "CartPole-v1"])
def test_task_functions_agree_with_what_was_collected(env_id: str) -> None:
    data = collect_dataset("random", env_id=env_id, steps=200)
    done = verify_dataset(data)
    assert done.rows == 200
    assert done.termination
    single = replace(data, observations=data.observations.astype(np.float32))
    assert verify_dataset(single).rows == 200
    if not done.reward:
        return
    rewards = data.rewards.copy()
    rewards[123] += 1
    with pytest.raises(DatasetError, match=r"episode \d+, row 123 \(step .*reward disagrees"):
        verify_dataset(replace(data, rewards=rewards))


@pytest.mark.parametrize(("env_id", "x"), [("HalfCheetah-v5", 400.0), ("Hopper-v5", 20.0), ("Swimmer-v5", 100.0)])
def test_float32_far_from_the_origin_is_judged_alike_before_and_in_training(env_id: str, x: float) -> None:
    """Positions lose digits there, and velocities with them; a reward that is wrong by more is found at its place."""
    env = make_env(env_id)
    data = play_dataset(env, Uniform(env.action_space, 0), 500, seed=0, info=DatasetInfo.of(env))
    far = data.observations.copy()
    far[:, 0] += x
    data = replace(data, observations=far.astype(np.float32), rewards=data.rewards.astype(np.float32))
    config = MOPOConfig(members=1, elites=1, model_hidden=(4,), reward="task")
    agent = SAC(*data.spaces(), seed=0, hidden=(4,))
    assert verify_dataset(data).rows == 500
    learned_model(data, agent, config, seed=0)
    rewards = data.rewards.copy()
    rewards[321] += 0.05 * max(1, abs(rewards[321]))
    wrong = replace(data, rewards=rewards)
    told = rf"^{re.escape(wrong.place(321))}: {env_id}: the task's reward disagrees .* in row 321 of 500"
    with pytest.raises(DatasetError, match=told):
        verify_dataset(wrong)
    with pytest.raises(DatasetError, match=told):
        learned_model(wrong, agent, config, seed=0)


def test_the_place_is_that_of_the_row_which_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends are looked at before rewards, in every part of a large dataset."""
    data = collect_dataset("random", env_id="InvertedPendulum-v5", steps=60)
    row = int(data.ends[2])
    rewards, terminated = data.rewards.copy(), data.terminated.copy()
    rewards[1] += 1
    terminated[row] = False
    open_end = data.truncated | (np.arange(60) == row)
    both = replace(data, rewards=rewards, terminated=terminated, truncated=open_end)
    with pytest.raises(DatasetError, match=rf"^episode 2, row {row} .* terminated disagrees .* in row {row} of 60"):
        verify_dataset(both)
    monkeypatch.setattr("mbrl.pipelines.dataset_agreement.PART", 1)  # an episode is a part
    with pytest.raises(DatasetError, match=r"^episode 0, row 1 .* reward disagrees .* in row 1 of 60"):
        verify_dataset(both)
    with pytest.raises(DatasetError, match=rf"^episode 2, row {row} .* terminated disagrees .* in row {row} of 60"):
        verify_dataset(replace(both, rewards=data.rewards))


def test_ends_that_the_task_does_not_know_are_refused() -> None:
    data = collect_dataset("random", env_id="InvertedPendulum-v5", steps=60)
    row = int(data.ends[2])
    hidden = data.terminated.copy()
    hidden[row] = False
    with pytest.raises(DatasetError, match=rf"episode 2, row {row} .* terminated disagrees"):
        verify_dataset(replace(data, terminated=hidden, truncated=data.truncated | (np.arange(60) == row)))


def test_another_environment_is_refused() -> None:
    data = collect_dataset("random", env_id="InvertedPendulum-v5", steps=30)
    with pytest.raises(DatasetError, match="expected 11 numbers, as Hopper-v5 has, got 4: the dataset is of another"):
        verify_dataset(data, env_id="Hopper-v5")
    with pytest.raises(DatasetError, match="expected whole numbers below 2, as CartPole-v1 has"):
        verify_dataset(data, env_id="CartPole-v1")
    with pytest.raises(ValueError, match="the dataset does not name its environment"):
        verify_dataset(replace(data, info=DatasetInfo()))


def test_the_datasets_options_are_those_of_its_environment_however_its_module_is_named() -> None:
    """With x, a Hopper observes 12 numbers instead of 11."""
    env = make_env("Hopper-v5")
    data = play_dataset(env, Uniform(env.action_space, 0), 30, seed=0, info=DatasetInfo.of(env))
    assert verify_dataset(data, env_id="gymnasium.envs:Hopper-v5").reward
    unknown = replace(data, info=replace(data.info, env_kwargs={"foo": 1}))
    with pytest.raises(ValueError, match=r"env_id: can't make 'Hopper-v5', or not with options {'foo': 1}"):
        verify_dataset(unknown)


def test_a_missing_termination_is_a_warning_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = collect_dataset("random", env_id="MountainCar-v0", steps=40).concatenate(
        collect_dataset("random", env_id="MountainCar-v0", steps=40, seed=5)
    )
    ended = data.terminated.copy()
    ended[-1] = True
    path = save_dataset(replace(data, terminated=ended), tmp_path / "car.hdf5")
    assert main(["dataset", "verify", str(path)]) == 0
    text = capsys.readouterr().out
    assert "no defects in 80 rows of 2 episodes" in text
    assert "below 7 of 100" in text
    assert "LearnedTermination" in text
