"""Datasets in memory and in native files, and what is found wrong with them."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl.data import RandomPolicy, ReplayBuffer, collect
from mbrl.data.dataset_checks import check_dataset
from mbrl.data.datasets import (
    Dataset,
    DatasetError,
    DatasetInfo,
    dataset_buffer,
    from_buffer,
    load_dataset,
    save_dataset,
)
from mbrl.data.formats import parts_of, pieces, save_parts
from mbrl.data.hdf5 import new_file
from tests.mbrl.dataset_cases import INFO, a_dataset

DATA = a_dataset()


def test_a_row_leads_to_its_own_episodes_next_observation() -> None:
    """Two episodes by hand: observations 0 1 2 | 10 11 belong to rows (0 1) (1 2) | (10 11)."""
    numbers = np.array([0, 1, 2, 10, 11], dtype=np.float32)[:, None]
    flags = {"terminated": np.array([False, True, False]), "truncated": np.array([False, False, True])}
    ones = np.ones(3)
    data = Dataset(numbers, np.array([0, 1, 1]), ones, **flags, log_probs=ones, lengths=np.array([2, 1]))
    batch = data.transitions()
    assert batch.obs[:, 0].tolist() == [0, 1, 10]
    assert batch.next_obs[:, 0].tolist() == [1, 2, 11]
    assert batch.discount.tolist() == [1, 0, 1]
    assert batch.action.dtype == torch.int64
    assert data.episode_ids().tolist() == [0, 0, 1]
    assert data.returns().tolist() == [2, 1]
    assert data.spaces()[1] == gym.spaces.Discrete(2)
    assert data.transitions(rows=slice(1, 3)).obs[:, 0].tolist() == [1, 10]


def test_what_a_buffer_holds_comes_back_by_episode() -> None:
    envs = gym.vector.SyncVectorEnv([lambda: gym.make("Hopper-v5")] * 2)
    buffer = collect(envs, RandomPolicy(envs.single_action_space), 100)
    data = from_buffer(buffer)
    order = torch.argsort(buffer.episode_ids(), stable=True)
    batch, expected = data.transitions(), buffer.all()
    for name in ("obs", "action", "reward", "next_obs", "terminated"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)[order]), name
    assert data.episodes == len(buffer.episode_ids().unique())
    ends = torch.from_numpy(data.ends)
    assert (batch.terminated | batch.truncated)[ends].all()
    assert (batch.terminated | batch.truncated).sum() == data.episodes
    assert not (batch.terminated & batch.truncated).any()
    assert len(dataset_buffer(data, capacity=120)) == 100


def test_a_buffer_that_has_begun_to_give_way_keeps_whole_stretches() -> None:
    env = gym.make("Hopper-v5")
    buffer = ReplayBuffer(50, 11, 3)
    collect(env, RandomPolicy(env.action_space), 90, buffer=buffer)
    assert len(from_buffer(buffer)) == 50
    with pytest.raises(DatasetError, match="expected one with transitions, got an empty one"):
        from_buffer(ReplayBuffer(5, 1, 1))


def test_sampling_draws_what_the_buffer_draws() -> None:
    mine = DATA.sample(20, generator=torch.Generator().manual_seed(1), discount=0.9)
    its = dataset_buffer(DATA).sample(20, generator=torch.Generator().manual_seed(1), discount=0.9)
    for a, b in zip(mine, its, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("packed", [1, 5, 100])
def test_a_buffer_gives_back_the_dataset_with_its_episodes(monkeypatch: pytest.MonkeyPatch, packed: int) -> None:
    """However many rows go in at once; and steps behind them are another episode."""
    monkeypatch.setattr("mbrl.data.datasets.PACKED", packed)
    buffer = dataset_buffer(DATA, capacity=20, dtype=torch.float64, episodes=True)
    again = from_buffer(buffer)
    assert again.lengths.tolist() == [4, 3, 5]
    for name in ("observations", "actions", "rewards", "terminated", "truncated", "log_probs"):
        np.testing.assert_array_equal(getattr(again, name), getattr(DATA, name))
    one = DATA.transitions(dtype=torch.float64, rows=slice(0, 1))
    buffer.extend(one)
    assert from_buffer(buffer).lengths.tolist() == [4, 3, 5, 1]
    mine, its = (
        made.sample(20, generator=torch.Generator().manual_seed(1))
        for made in (buffer, dataset_buffer(DATA.concatenate(DATA.select([0]).head(1)), dtype=torch.float64))
    )
    assert torch.equal(mine.obs, its.obs)  # which rows are drawn does not depend on episodes
    with pytest.raises(ValueError, match="lengths: expected numbers from 1 that add up to 1 rows"):
        buffer.extend_rows(one, torch.tensor([2]))
    small = ReplayBuffer(6, 3, 2)
    small.extend_rows(DATA.transitions(), torch.tensor([4, 3, 5]))
    assert torch.unique(small.episode_ids(), return_counts=True)[1].tolist() == [1, 5]  # the oldest give way


def test_episodes_are_chosen_cut_and_joined() -> None:
    whole = DATA.select([0]).concatenate(DATA.select([1, 2]))
    assert whole.hash() == DATA.hash()
    assert whole.info == INFO
    assert DATA.select([2, 0]).lengths.tolist() == [5, 4]
    head = DATA.head(6)
    assert head.lengths.tolist() == [4, 2]
    assert head.truncated.tolist() == [False, False, False, True, False, True]
    np.testing.assert_array_equal(head.observations, DATA.observations[:8])
    assert DATA.head(7).terminated[-1]
    assert not DATA.head(7).truncated[-1]
    assert DATA.hash() != replace(DATA, rewards=DATA.rewards + 1e-9).hash()
    assert DATA.hash() == replace(DATA, info=DatasetInfo()).hash()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": DATA.rewards[:-1]}, "lengths: expected a sum of 11"),
        ({"actions": DATA.actions[1:]}, "actions: expected 12 for 12 rewards in 3 episodes .* got 11: the arrays are"),
        ({"observations": DATA.observations[:-1]}, "observations: expected 15 for 12 rewards .* misaligned"),
        ({"terminated": ~DATA.terminated}, r"terminated: .* in episode 0, row 0 \(step 0 of 4\)"),
        ({"truncated": np.zeros(12, bool)}, r"expected every episode to end or be cut .* episode 0, row 3 \(step 3"),
        ({"lengths": np.array([12, 0, 0])}, "expected at least 1 row an episode, got 0 in episode 1"),
        ({"rewards": DATA.rewards.astype(int)}, "rewards: expected floating-point numbers"),
        ({"actions": DATA.actions[:, :0]}, "actions: expected at least one number a row"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_their_place(change: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        replace(DATA, **change)


def test_an_empty_set_is_refused() -> None:
    none = {name: getattr(DATA, name)[:0] for name in ("actions", "rewards", "terminated", "truncated", "log_probs")}
    with pytest.raises(DatasetError, match="at least one episode"):
        Dataset(DATA.observations[:0], **none, lengths=np.zeros(0, np.int64))


def test_defects_are_told_together_with_their_first_place() -> None:
    obs, actions, rewards = DATA.observations.copy(), DATA.actions.copy(), DATA.rewards.copy()
    obs[9, 1] = np.nan  # episodes hold 5 and 4 observations: the first of the third, which row 7 begins with
    actions[5, 0] = 1.2
    rewards[11] = np.inf
    with pytest.raises(DatasetError) as caught:
        check_dataset(replace(DATA, observations=obs, actions=actions, rewards=rewards))
    text = str(caught.value)
    assert "observations: 1 with NaN or infinity, the first in episode 2, row 7 (step 0 of 5)" in text
    assert "actions: 1 outside [-1.0, -1.0] to [1.0, 1.0], the first in episode 1, row 5 (step 1 of 3)" in text
    assert "rewards: 1 with NaN or infinity, the first in episode 2, row 11 (step 4 of 5): inf" in text
    check_dataset(DATA)


def test_numbers_beyond_float32_are_defects_with_their_place() -> None:
    """float64 holds them, and training would meet infinity."""
    obs, rewards, logs = DATA.observations.astype(np.float64), DATA.rewards.copy(), DATA.log_probs.copy()
    obs[9, 1] = -3.5e38
    rewards[3] = 1e39
    rewards[5] = np.inf
    logs[2] = -1e39
    wrong = replace(DATA, observations=obs, rewards=rewards, log_probs=logs)
    with pytest.raises(DatasetError) as caught:
        check_dataset(wrong)
    text = str(caught.value)
    assert "observations: 1 with numbers beyond 3.4e+38, the first in episode 2, row 7 (step 0 of 5)" in text
    assert "rewards: 1 with numbers beyond 3.4e+38, the first in episode 0, row 3 (step 3 of 4): 1e+39" in text
    assert "rewards: 1 with NaN or infinity, the first in episode 1, row 5 (step 1 of 3): inf" in text
    assert "log_probs: 1 infinite, the first in episode 0, row 2" in text
    largest = np.finfo(np.float32).max
    check_dataset(replace(DATA, rewards=np.where(np.arange(12) == 3, -float(largest), DATA.rewards)))


def test_doubtful_data_can_be_let_through() -> None:
    constant = DATA.observations.copy()
    constant[:, 2] = 0.5
    with pytest.raises(DatasetError, match=r"dimension 2 never changes \(0.5"):
        check_dataset(replace(DATA, observations=constant))
    check_dataset(replace(DATA, observations=constant), allow=["constant"])
    with pytest.raises(DatasetError, match="only one episode, of 5 rows"):
        check_dataset(DATA.select([2]))
    check_dataset(DATA.select([2]), allow=["single"])
    shifted = DATA.observations.copy()
    shifted[8] = shifted[9]  # where the second episode, which terminates, ends and the third begins
    with pytest.raises(DatasetError, match=r"episode 1, row 6 \(step 2 of 3\) ends in the next episode's first"):
        check_dataset(replace(DATA, observations=shifted))
    check_dataset(replace(DATA, observations=shifted), allow=["jump"])
    with pytest.raises(ValueError, match="allow: expected constant, single, jump, got nonsense"):
        check_dataset(DATA, allow=["nonsense"])  # type: ignore[list-item]


def test_episodes_of_one_step_that_follow_each_other_are_no_jump() -> None:
    """There is no inner step to compare with; an end that leads on is one all the same."""
    chain = np.arange(5.0)[:, None]
    seen = np.stack([chain[:-1], chain[1:]], 1).reshape(-1, 1)
    yes, ones = np.ones(4, dtype=bool), np.ones(4)
    data = Dataset(seen, ones[:, None], ones, ~yes, yes, ones, np.ones(4, dtype=np.int64))
    check_dataset(data)
    with pytest.raises(DatasetError, match="next episode's first observation"):
        check_dataset(replace(data, terminated=yes, truncated=~yes))


@pytest.mark.parametrize(
    "change", [{"env_id": "Walker2d-v5"}, {"env_kwargs": {}}, {"action_low": (-2.0, -2.0)}, {"action_high": (0.5, 1.0)}]
)
def test_datasets_of_several_environments_are_not_joined(change: dict) -> None:
    other = replace(DATA, info=replace(INFO, **change))
    with pytest.raises(ValueError, match=f"others: expected {next(iter(change))} .* as this dataset has, got"):
        DATA.concatenate(other)
    assert len(DATA.concatenate(replace(DATA, info=DatasetInfo()))) == 24  # not known is no other one


def test_a_log_that_was_cut_in_the_middle_is_no_jump() -> None:
    """A walk of small steps, cut where it goes on: the seam is a step like any other. A leap there is not."""
    walk = np.cumsum(np.ones((10, 3)), 0)
    joined = np.concatenate([walk[:5], walk[4:]])  # the last of one episode is the first of the next
    data = a_dataset((4, 5), terminated=(), observations=joined)
    check_dataset(data)
    joined[4:] += 7
    with pytest.raises(DatasetError, match="episode 0, row 3"):
        check_dataset(replace(data, observations=joined))


@pytest.mark.parametrize("mapped", [False, True])
def test_a_native_file_gives_back_every_bit(tmp_path: Path, mapped: bool) -> None:
    path = save_dataset(DATA, tmp_path / "new" / "data.hdf5")
    before = path.read_bytes()
    again = load_dataset(path, mapped=mapped)
    assert again.hash() == DATA.hash()
    assert again.info == INFO
    assert isinstance(again.rewards.base, np.memmap) == mapped
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["data.hdf5"]
    with pytest.raises(ValueError, match="datasets are not overwritten"):
        save_dataset(DATA, path)


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_takes_its_name_whole_and_from_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Also where a file system has no hard links."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = save_dataset(DATA, tmp_path / "data.hdf5")
    assert load_dataset(path).hash() == DATA.hash()
    raced = tmp_path / "raced"

    def race() -> None:
        with new_file(raced) as staged:
            staged.write_text("mine")
            raced.write_text("theirs")

    with pytest.raises(FileExistsError):
        race()
    assert raced.read_text() == "theirs"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.hdf5", "raced"]


def test_pieces_make_the_same_file_as_the_whole(tmp_path: Path) -> None:
    path = save_parts((DATA.select([i]) for i in range(3)), tmp_path / "pieces.hdf5")
    assert load_dataset(path).hash() == DATA.hash()
    assert sum(len(part) for part in parts_of(path)) == len(DATA)
    assert list(pieces(DATA.lengths, 6)) == [(0, 2), (2, 3)]
    other = replace(DATA, rewards=DATA.rewards.astype(np.float32))
    with pytest.raises(DatasetError, match="rewards: expected float64"):
        save_parts(iter([DATA, other]), tmp_path / "mixed.hdf5")
    with pytest.raises(DatasetError, match="expected at least one episode"):
        save_parts(iter([]), tmp_path / "none.hdf5")
    assert [file.name for file in tmp_path.iterdir()] == ["pieces.hdf5"]


def test_numbers_that_are_never_right_are_found_when_a_file_is_read(tmp_path: Path) -> None:
    path = save_dataset(replace(DATA, rewards=np.full(12, np.nan)), tmp_path / "nan.hdf5")
    with pytest.raises(DatasetError, match="rewards: 12 with NaN or infinity, the first in episode 0, row 0"):
        load_dataset(path)
    with pytest.raises(DatasetError, match="there is none at"):
        load_dataset(tmp_path / "missing.hdf5")


def test_files_of_newer_versions_and_without_h5py_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_dataset(DATA, tmp_path / "data.hdf5")
    path.write_bytes(path.read_bytes().replace(b'{"mbrl-planners": 1', b'{"mbrl-planners": 7', 1))
    with pytest.raises(DatasetError, match="expected format 1 or older, got 7; upgrade"):
        load_dataset(path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ValueError, match=r"pip install \"\.\[datasets\]\""):
        save_dataset(DATA, tmp_path / "other.hdf5")
