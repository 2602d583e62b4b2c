"""The lock of a run directory: one process at a time, reentrant within it, open again when its holder is killed."""

import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mbrl.experiments import runs
from mbrl.experiments.lock import LOCK, BusyError, is_locked, locked
from mbrl.experiments.run import Run

HOLD = """
import sys
from mbrl.experiments.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    with holder(tmp_path) as process:
        assert is_locked(tmp_path)
        with pytest.raises(BusyError, match=f"process {process.pid} on "), locked(tmp_path):
            pass
        process.kill()
    assert not is_locked(tmp_path)
    with locked(tmp_path), locked(tmp_path):  # who has it may ask again
        assert not is_locked(tmp_path)  # by another process
    with holder(tmp_path) as process:  # it was given back
        process.kill()


def test_to_look_changes_nothing_and_disturbs_nobody(tmp_path):
    assert not is_locked(tmp_path)
    assert not (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass
    before = (tmp_path / LOCK).read_bytes()
    assert not is_locked(tmp_path)
    assert (tmp_path / LOCK).read_bytes() == before
    with (tmp_path / LOCK).open("rb") as looking:  # as another process does for a moment
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        started = time.monotonic()
        with locked(tmp_path):
            assert time.monotonic() - started > 0.05


def test_a_run_that_another_process_trains_is_not_trained_twice(tmp_path):
    run = Run.create(tmp_path, "Pendulum-v1", "sac", 0, {})
    with holder(run.path) as process:
        with pytest.raises(BusyError, match="wait for its end, or stop it"):
            runs.train_run(run)
        process.kill()
