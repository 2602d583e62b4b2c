"""D4RL's and Minari's layouts, there and back; and damage to every kind of file."""

import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbrl.cli import main
from mbrl.data import d4rl, formats, minari_io
from mbrl.data.dataset_checks import allowed_at_import, check_dataset
from mbrl.data.dataset_info import Doubt
from mbrl.data.datasets import DatasetError, load_dataset, save_dataset
from mbrl.data.probe import probe
from mbrl.experiments import dataset_commands
from mbrl.experiments.conversion import import_dataset
from mbrl.experiments.offline_runs import create_offline_run
from mbrl.experiments.ope_candidates import load_candidates
from mbrl.learners.behavior_cloning import BehaviorCloningConfig
from mbrl.pipelines.offline_config import OfflineConfig
from tests.mbrl.dataset_cases import INFO, a_dataset

DATA = a_dataset()


@pytest.fixture(autouse=True)
def a_shorter_probe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own for every reading takes its time: only where files are damaged there is one."""
    short = partial(probe, seconds=8.0) if "damage" in request.node.name else lambda path: None
    for module in (formats, minari_io):
        monkeypatch.setattr(module, "probe", short)


LARGE = a_dataset((400, 300, 500))
"""Whose numbers are most of a file."""


def foreign(path: Path, **changes: np.ndarray | None) -> Path:
    """A file as D4RL has it, of DATA, with other arrays, or without some."""
    inner = np.delete(np.arange(15), DATA.ends + np.arange(3) + 1)
    arrays: dict[str, np.ndarray | None] = {
        "observations": DATA.observations[inner],
        "next_observations": DATA.observations[inner + 1],
        "actions": DATA.actions,
        "rewards": DATA.rewards,
        "terminals": DATA.terminated,
        "timeouts": DATA.truncated,
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return path


def test_d4rl_keeps_where_the_last_step_of_an_episode_led(tmp_path: Path) -> None:
    data = load_dataset(foreign(tmp_path / "a.hdf5"))
    np.testing.assert_array_equal(data.observations, DATA.observations)
    np.testing.assert_array_equal(data.terminated, DATA.terminated)
    np.testing.assert_array_equal(data.truncated, DATA.truncated)  # a time-out is no terminal
    assert np.isnan(data.log_probs).all()


def test_d4rl_without_timeouts_shows_its_seams(tmp_path: Path) -> None:
    data = load_dataset(foreign(tmp_path / "a.hdf5", timeouts=None, rewards=DATA.rewards[:, None]))
    assert data.lengths.tolist() == [4, 3, 5]
    assert data.rewards.shape == (12,)
    with pytest.raises(DatasetError, match=r"expected timeouts or next_observations, .* got neither"):
        load_dataset(foreign(tmp_path / "b.hdf5", timeouts=None, next_observations=None))


def test_d4rl_without_next_observations_loses_the_last_steps_on_request_only(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.hdf5", next_observations=None)
    with pytest.raises(DatasetError, match=r"expected next_observations, got none: .* --drop-ends"):
        load_dataset(path)
    data = import_dataset(path, tmp_path / "out.hdf5", drop_ends=True)
    assert data.lengths.tolist() == [3, 2, 4]
    np.testing.assert_array_equal(data.observations[:4], DATA.observations[:4])
    np.testing.assert_array_equal(data.rewards[3:5], DATA.rewards[4:6])
    assert data.truncated.sum() == 3
    assert not data.terminated.any()


def shifted() -> np.ndarray:
    """The trap: the next row's observation for the next observation, also where an episode ends."""
    inner = np.delete(np.arange(15), DATA.ends + np.arange(3) + 1)
    obs = DATA.observations[inner]
    return np.concatenate([obs[1:], obs[-1:]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeouts": np.arange(12) == 2}, "not so in episode 1, row 3: arrays are misaligned, or the end"),
        ({"next_observations": np.roll(shifted(), 1, 0)}, "not so in episode 0, row 0"),
        ({"actions": DATA.actions[:-1]}, "expected 12 actions, as many as rewards, got 11: the arrays are misaligned"),
        ({"terminals": np.full(12, 2)}, "terminals: expected 0 or 1, got 2 in row 0"),
        ({"rewards": None}, "there is no rewards"),
        ({"observations": np.zeros((12, 2, 2))}, "expected floating-point numbers"),
        ({"rewards": np.full(12, np.nan)}, "rewards: 12 with NaN or infinity, the first in episode 0, row 0"),
    ],
)
def test_what_is_wrong_in_d4rls_layout_is_told_with_its_place(tmp_path: Path, changes: dict, message: str) -> None:
    path = foreign(tmp_path / "a.hdf5", **changes)
    before = path.read_bytes()
    with pytest.raises(DatasetError, match=message):
        load_dataset(path)
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("ignore:no evaluation", "ignore:action bounds")
@pytest.mark.parametrize("kind", ["native", "d4rl", "minari", "somebody's d4rl"])
def test_what_may_be_right_after_all_is_let_through_on_request_in_every_layout(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All readers read it; the commands that learn, evaluate, verify and import refuse it unless they are told."""
    seen = DATA.observations.copy()
    ends = DATA.ends + np.arange(3) + 1
    seen[ends[:-1]] = seen[ends[:-1] + 1]
    info = replace(INFO, env_id=None, env_kwargs={})
    data = replace(DATA, observations=seen, info=info)
    if kind == "native":
        path = save_dataset(data, tmp_path / "a.hdf5")
    elif kind == "minari":
        path = minari_io.write(iter([data]), tmp_path / "a-v0")
    elif kind == "d4rl":
        path = d4rl.write(data, tmp_path / "a.hdf5")
    else:
        path = foreign(tmp_path / "a.hdf5", next_observations=shifted())
    assert load_dataset(path).episodes == 3
    told = r"episode 1, row 6 \(step 2 of 3\) ends in the next episode's first observation"
    learner = BehaviorCloningConfig(hidden=(4,))
    with pytest.raises(DatasetError, match=told):
        create_offline_run(tmp_path, path, "bc", OfflineConfig(), learner, seed=0)
    with pytest.raises(DatasetError, match=told):
        load_candidates([tmp_path], load_dataset(path), sampled=False, with_model=False, episodes=0)
    with pytest.raises(DatasetError, match=told):
        import_dataset(path, tmp_path / "new.hdf5")
    assert main(["dataset", "verify", str(path)]) == 2
    assert re.search(told, capsys.readouterr().err)
    assert main(["dataset", "verify", str(path), "--allow", "jump"]) == 0
    assert "no defects in 12 rows of 3 episodes" in capsys.readouterr().out
    assert len(import_dataset(path, tmp_path / "new.hdf5", allow=["jump"])) == 12


@pytest.mark.parametrize("discrete", [False, True])
def test_all_comes_back_from_every_layout(tmp_path: Path, discrete: bool) -> None:
    data = DATA
    if discrete:
        info = replace(INFO, env_id="CartPole-v1", env_kwargs={}, action_low=None, action_high=None, actions=3)
        data = replace(DATA, actions=np.arange(12) % 3, info=info, log_probs=np.full(12, np.nan))
    d4rl.write(data, tmp_path / "d4rl.hdf5")
    minari_io.write(iter([data.select([0, 1]), data.select([2])]), tmp_path / "made-up-v0")
    for name in ("d4rl.hdf5", "made-up-v0"):
        again = load_dataset(tmp_path / name)
        assert again.hash() == data.hash(), name
        assert again.info == data.info, name


def test_minari_itself_reads_what_we_wrote_and_writes_what_we_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = a_dataset(info=replace(INFO, env_id="InvertedPendulum-v5"))
    minari_io.write(iter([data]), tmp_path / "walk-v0")
    theirs = minari.load_dataset("walk-v0")
    assert (theirs.total_episodes, theirs.total_steps) == (3, 12)
    assert theirs.env_spec.id == "InvertedPendulum-v5"
    for number, episode in enumerate(theirs.iterate_episodes()):
        mine = data.select([number])
        np.testing.assert_array_equal(episode.observations, mine.observations)
        np.testing.assert_array_equal(episode.actions, mine.actions)
        np.testing.assert_array_equal(episode.rewards, mine.rewards)
        np.testing.assert_array_equal(episode.terminations, mine.terminated)
        np.testing.assert_array_equal(episode.truncations, mine.truncated)
        np.testing.assert_array_equal(episode.infos["action_log_prob"][1:], mine.log_probs)
    from minari.data_collector import EpisodeBuffer

    copies = [
        EpisodeBuffer(
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
        )
        for episode in theirs.iterate_episodes()
    ]
    spaces = {"observation_space": theirs.observation_space, "action_space": theirs.action_space}
    with pytest.warns(UserWarning, match="is set to None"):
        minari.create_dataset_from_buffers("copy-v1", copies, env="InvertedPendulum-v5", **spaces)
    back = load_dataset(tmp_path / "copy-v1")
    assert replace(back, log_probs=data.log_probs).hash() == data.hash()
    assert back.info.env_id == "InvertedPendulum-v5"
    assert back.info.action_high == (1.0, 1.0)


def test_minaris_layout_is_checked(tmp_path: Path) -> None:
    folder = minari_io.write(iter([DATA]), tmp_path / "a-v0")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]
    with pytest.raises(DatasetError, match="does not match its checksum"):
        load_dataset(folder)
    unseal(folder)
    with pytest.raises(DatasetError, match="expected 3 episodes, as its metadata say, got 2"):
        load_dataset(folder)
    with pytest.raises(ValueError, match="whose name ends in a version"):
        minari_io.write(iter([DATA]), tmp_path / "no-version")
    with pytest.raises(DatasetError, match="as Minari makes it"):
        load_dataset(tmp_path)


def test_minaris_numbers_are_brought_into_ours(tmp_path: Path) -> None:
    """Whole rewards become float32, as those of D4RL's layout; actions that don't start at 0 are refused."""
    rows = len(DATA)
    count = {"actions": np.arange(rows) % 2, "info": replace(DATA.info, action_low=None, action_high=None, actions=2)}
    folder = minari_io.write(iter([replace(DATA, **count)]), tmp_path / "a-v0")
    unseal(folder)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        for name in [name for name in file if name.startswith("episode_")]:
            steps = len(file[name]["rewards"])
            del file[name]["rewards"]
            file[name]["rewards"] = np.arange(steps)
    data = load_dataset(folder)
    assert data.rewards.dtype == np.float32
    assert data.rewards[:4].tolist() == [0, 1, 2, 3]
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    space = {**json.loads(metadata["action_space"]), "start": 1}
    path.write_text(json.dumps({**metadata, "action_space": json.dumps(space)}))
    with pytest.raises(DatasetError, match="action_space: expected discrete actions from 0, got some from 1"):
        load_dataset(folder)


def test_what_was_let_through_at_import_is_remembered(tmp_path: Path) -> None:
    """And the source's own options stay where --env-id names the environment that it names."""
    seen = DATA.observations.copy()
    seen[4] = seen[5] = 100.0  # the first episode jumps into the second
    jumping = replace(DATA, observations=seen)
    save_dataset(jumping, tmp_path / "jump.hdf5")
    with pytest.raises(DatasetError, match="mbrl dataset import --allow jump makes a file"):
        import_dataset(tmp_path / "jump.hdf5", tmp_path / "x.hdf5")
    assert allowed_at_import(jumping.info) == []
    made = import_dataset(tmp_path / "jump.hdf5", tmp_path / "y.hdf5", allow=("jump",))
    assert allowed_at_import(made.info) == ["jump"]
    check_dataset(made, allow=allowed_at_import(made.info))
    info = replace(DATA.info, env_id="HalfCheetah-v5", env_kwargs={"reset_noise_scale": 0.05})
    seen, actions = np.tile(DATA.observations, (1, 17))[:, :17], 0.1 * np.tile(DATA.actions, (1, 6))[:, :6]
    own = replace(DATA, observations=seen, actions=actions, info=replace(info, action_low=None, action_high=None))
    save_dataset(own, tmp_path / "own")
    same = import_dataset(tmp_path / "own", tmp_path / "z.hdf5", env_id="HalfCheetah-v5")
    assert same.info.env_kwargs == {"reset_noise_scale": 0.05}
    other = import_dataset(tmp_path / "own", tmp_path / "w.hdf5", env_id="Walker2d-v5")
    assert other.info.env_kwargs == {}


@pytest.mark.parametrize(
    ("env_id", "message"),
    [("CartPole-v1", "observations: expected 4 numbers"), ("Pendulum-v1", "actions: 2 numbers each, but bounds for 1")],
)
def test_data_of_another_environment_are_refused_at_import(env_id: str, message: str, tmp_path: Path) -> None:
    save_dataset(DATA, tmp_path / "own.hdf5")
    with pytest.raises(DatasetError, match=message):
        import_dataset(tmp_path / "own.hdf5", tmp_path / "x.hdf5", env_id=env_id)
    assert not (tmp_path / "x.hdf5").exists()


def test_the_commands_know_every_doubt() -> None:
    assert get_args(dataset_commands.Doubt) == get_args(Doubt)


def unseal(folder: Path) -> None:
    """Make a Minari dataset of ours look like one of somebody else's."""
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in metadata.items() if not k.startswith("mbrl_")}))


KINDS = {
    "native": ("a.hdf5", "a.hdf5"),
    "d4rl": ("b.hdf5", "b.hdf5"),
    "minari": ("c-v0", "c-v0/data/main_data.hdf5"),
    "minari's metadata": ("c-v0", "c-v0/data/metadata.json"),
    "somebody's d4rl": ("d.hdf5", "d.hdf5"),
    "somebody's minari": ("e-v0", "e-v0/data/main_data.hdf5"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    save_dataset(LARGE, folder / "a.hdf5")
    d4rl.write(LARGE, folder / "b.hdf5")
    minari_io.write(iter([LARGE]), folder / "c-v0")
    foreign(folder / "d.hdf5")
    shutil.copytree(folder / "c-v0", folder / "e-v0")
    unseal(folder / "e-v0")
    return folder


def damaged(data: bytes, kind: str, where: float, size: int, value: int) -> bytes:
    at = int(where * len(data))
    if kind == "cut":
        return data[:at]
    if kind == "lost":
        return data[:at] + data[at + size :]
    filling = bytes([value]) if kind == "written" else bytes(size)
    return data[:at] + filling + data[at + len(filling) :]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_gives_an_error_or_the_same_data(files: Path, tmp_path: Path, kind: str) -> None:
    """Where a file carries no checksum, changed numbers can't be told from others: then a whole dataset may come."""
    ours = not kind.startswith("somebody")
    opened, hit = KINDS[kind]
    for name in {opened, hit.split("/")[0]}:
        copy = shutil.copytree if (files / name).is_dir() else shutil.copy
        copy(files / name, tmp_path / name)
    whole = (files / hit).read_bytes()
    met = set()

    @settings(
        max_examples=60 if ours else 6,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(["cut", "lost", "written", "blank"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 100),
        st.integers(0, 255),
    )
    def check(how: str, where: float, size: int, value: int) -> None:
        data = damaged(whole, how, where, size, value)
        (tmp_path / hit).write_bytes(data)
        try:
            read = load_dataset(tmp_path / opened)
        except DatasetError:
            met.add("error")
        else:
            assert not ours or read.hash() == LARGE.hash()
        assert (tmp_path / hit).read_bytes() == data

    check()
    assert met == {"error"}


def test_a_reading_that_hangs_or_crashes_is_damage(files: Path) -> None:
    with pytest.raises(DatasetError, match="did not end within 1 s"):
        probe(files / "d.hdf5", script="while True: pass", seconds=0.5)
    with pytest.raises(DatasetError, match="crashed"):
        probe(files / "d.hdf5", script="import os; os.abort()")
    probe(files / "d.hdf5", script="raise SystemExit(1)")


def test_the_commands_import_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = foreign(tmp_path / "somebody.hdf5")
    native, folder = tmp_path / "native.hdf5", tmp_path / "walk-v3"
    assert main(["dataset", "import", str(source), "--out", str(native)]) == 0
    assert "12 rows in 3 episodes" in capsys.readouterr().out
    assert load_dataset(native).info.origin == {"format": "D4RL", "file": "somebody.hdf5"}
    assert main(["dataset", "export", str(native), "--out", str(folder)]) == 0
    assert main(["dataset", "export", str(native), "--out", str(tmp_path / "b.hdf5"), "--to", "d4rl"]) == 0
    assert load_dataset(folder).hash() == load_dataset(native).hash() == load_dataset(tmp_path / "b.hdf5").hash()
    constant = np.zeros((12, 3), np.float32)
    foreign(tmp_path / "bad.hdf5", observations=constant, next_observations=constant)
    capsys.readouterr()
    assert main(["dataset", "import", str(tmp_path / "bad.hdf5"), "--out", str(tmp_path / "x.hdf5")]) == 2
    assert "dimension 0, 1, 2 never changes" in capsys.readouterr().err
    assert not [name for name in os.listdir(tmp_path) if "x.hdf5" in name]
