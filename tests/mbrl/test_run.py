"""Run directories: what is written comes back, and what was damaged is noticed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mbrl.experiments.metrics import STEP, UPDATE, _complete, _end, read_metrics
from mbrl.experiments.provenance import machine, seal, unseal
from mbrl.experiments.run import X_AXIS, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "module:My/Env-v0", "pets", 3, {"hidden": (200, 200), "lr": 1e-3, "risk": None})


def test_a_run_is_found_again_as_it_was_made(run: Run) -> None:
    opened = Run.open(run.path)
    assert (opened.env_id, opened.algo, opened.seed) == ("module:My/Env-v0", "pets", 3)
    assert opened.config == run.config == {"hidden": [200, 200], "lr": 1e-3, "risk": None}
    assert opened.header["versions"]["torch"] == torch.__version__
    assert run.path.name.startswith("module-My-Env-v0__pets__3__")
    assert opened.metrics() == []
    assert opened.offset == 0


def test_two_runs_of_one_second_have_directories_of_their_own(tmp_path: Path) -> None:
    assert len({Run.create(tmp_path, "E-v0", "a", 0, {}).path for _ in range(5)}) == 5


def test_the_machines_that_train_a_run_are_noted(run: Run) -> None:
    file = run.path / "config.json"
    run.note_process()
    noted = file.read_bytes()
    opened = Run.open(run.path)
    assert opened.header["machines"] == [machine()]
    opened.note_process()  # goes on where it was
    assert file.read_bytes() == noted
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        opened.change({**opened.config, "lr": 1.0})
        opened.note_process()
    finally:
        torch.set_num_threads(before)
    assert file.read_bytes() == noted  # with settings that may not fit
    opened.keep_changes()
    again = Run.open(run.path)
    assert [noted["threads"] for noted in again.header["machines"]] == [before, before + 1]
    assert again.config["lr"] == 1.0


def test_config_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config: .*JSON"):
        Run.create(tmp_path, "E-v0", "a", 0, {"device": torch.device("cpu")})


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a run directory with a config\.json"):
        Run.open(tmp_path / "nowhere")


def test_every_flipped_byte_of_the_config_is_noticed_or_harmless(run: Run) -> None:
    file = run.path / "config.json"
    whole = file.read_bytes()
    noticed = 0
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
        try:
            header = Run.open(run.path).header
        except ValueError:
            noticed += 1
        else:
            assert header == run.header, position  # one kind of white space for another
    assert noticed > 0.8 * len(whole)


def test_a_newer_format_is_refused(run: Run) -> None:
    (run.path / "config.json").write_text(seal({**run.header, "format": 2}))
    with pytest.raises(ValueError, match=r"format 2.*formats up to 1.*Upgrade: git pull; pip install"):
        Run.open(run.path)


def test_rows_come_back_and_what_is_not_finite_is_null(run: Run) -> None:
    run.log({STEP: 1, "a": 0.1, "b": np.float32(0.5), "c": torch.tensor(2), "d": float("nan"), "e": -np.inf})
    run.log({STEP: np.int64(2), "s": "text", "l": [1.5, float("inf")], "t": True})
    assert run.metrics() == [
        {STEP: 1, "a": 0.1, "b": 0.5, "c": 2, "d": None, "e": None},
        {STEP: 2, "s": "text", "l": [1.5, None], "t": True},
    ]
    for line in run.metrics_path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # strict readers take no NaN


def test_a_value_that_is_no_number_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"row\['x'\]: expected a number.*got object"):
        run.log({"x": object()})
    assert run.offset == 0


def test_metrics_are_cut_back_to_an_offset(run: Run) -> None:
    run.log({STEP: 1})
    mark = {"offset": run.offset, "digest": run.digest}
    run.log({STEP: 2})
    run.log({STEP: 3})
    again = Run.open(run.path)
    again.truncate(**mark)
    assert again.metrics() == [{STEP: 1}]
    again.log({STEP: 20})
    assert again.metrics() == [{STEP: 1}, {STEP: 20}]
    again.truncate(0)
    assert again.metrics() == []


@pytest.mark.parametrize(("offset", "message"), [(10_000, "expected at most"), (-1, "at most"), (3, "end of a line")])
def test_an_offset_that_is_no_end_of_a_line_is_refused(run: Run, offset: int, message: str) -> None:
    run.log({STEP: 1})
    with pytest.raises(ValueError, match=message):
        run.truncate(offset)
    assert run.metrics() == [{STEP: 1}]


def test_a_changed_digit_before_the_offset_is_noticed(run: Run) -> None:
    run.log({STEP: 1, "rollout/ep_rew_mean": 1.0})
    mark = {"offset": run.offset, "digest": run.digest}
    run.metrics_path.write_text(run.metrics_path.read_text().replace("1.0", "9.0"))
    with pytest.raises(ValueError, match="damaged"):
        run.truncate(**mark)


def test_an_unfinished_last_line_is_left_out_and_then_overwritten(run: Run) -> None:
    run.log({STEP: 1})
    with run.metrics_path.open("ab") as file:
        file.write(b'{"time/total_times')
    assert run.metrics() == [{STEP: 1}]
    assert run.offset == len(f'{{"{STEP}": 1}}\n')
    run.log({STEP: 2})
    assert run.metrics() == [{STEP: 1}, {STEP: 2}]


def test_a_damaged_line_is_named(run: Run) -> None:
    run.metrics_path.write_bytes(b'{"a": 1}\n{"a: 2}\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: .*damaged"):
        read_metrics(run.path)


@given(st.lists(st.integers(0, 6000), max_size=4), st.integers(0, 6000))
def test_the_offset_is_the_length_of_the_complete_lines(tmp_path_factory, lengths: list[int], rest: int) -> None:
    file = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    file.write_bytes(b"".join(b"x" * length + b"\n" for length in lengths) + b"y" * rest)
    assert _end(file) == len(_complete(file)) == sum(lengths) + len(lengths)


FULL_DISK = """
import resource, signal, sys
from mbrl.experiments.run import Run
run = Run.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    for step in range(1000):
        run.log({"time/total_timesteps": step})
except OSError as error:
    print(error)
    assert run.metrics_path.read_bytes().endswith(b"}\\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    print(len(run.metrics()))
"""


def test_a_full_disk_leaves_whole_lines(run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, run.path], capture_output=True, text=True, check=True, timeout=60
    )
    message, rows = done.stdout.strip().splitlines()
    assert "What was logged before is intact" in message
    assert "mbrl resume" in message
    assert [row[STEP] for row in run.metrics()] == list(range(int(rows)))
    assert 25 < int(rows) < 1000


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_what_is_sealed_comes_back(value: object) -> None:
    assert unseal(seal({"value": value}).encode()) == {"value": value}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_the_same_numbers(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = Run.create(tmp_path, "E-v0", "a", 0, {}, tensorboard=True)
    run.log({STEP: 10, "rollout/ep_rew_mean": 1.5})
    offset = run.offset
    run.log({STEP: 20, "rollout/ep_rew_mean": 99.0})
    run.close()
    again = Run.open(run.path, tensorboard=True)
    again.truncate(offset)
    again.log({STEP: 20, "rollout/ep_rew_mean": 2.5})
    again.close()
    shown = events.EventAccumulator(str(run.path / "tensorboard"))
    shown.Reload()
    assert [(event.step, event.value) for event in shown.Scalars("rollout/ep_rew_mean")] == [(10, 1.5), (20, 2.5)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_takes_the_x_axis_of_runs_without_real_steps(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = Run.create(tmp_path, "E-v0", "a", 0, {X_AXIS: UPDATE}, tensorboard=True)
    assert (run.x, Run.open(run.path).x) == (UPDATE, UPDATE)
    run.log({STEP: 0, UPDATE: 300, "eval/mean_reward": 1.5})
    run.close()
    shown = events.EventAccumulator(str(run.path / "tensorboard"))
    shown.Reload()
    assert [(event.step, event.value) for event in shown.Scalars("eval/mean_reward")] == [(300, 1.5)]
