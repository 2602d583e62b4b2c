"""kill -9 at random moments and `mbrl resume` give what an uninterrupted run gives, bit for bit."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from mbrl.experiments.checkpoint import load_checkpoint
from mbrl.experiments.metrics import read_metrics

STEPS = 240
SETTINGS = (
    f"--env-id InvertedPendulum-v5 --seed 3 --total-timesteps {STEPS} --initial-steps 40 --fit-every 40 --fit-steps 30 "
    "--hidden 16 16 --horizon 6 --population 16 --elites 4 --iterations 2 --checkpoint-every 20 --eval-every 0"
).split()


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mbrl", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error.decode()


def _only_run(root: Path) -> Path:
    (run,) = root.iterdir()
    return run


def _outcome(run: Path) -> tuple[list[dict[str, object]], dict[str, torch.Tensor]]:
    """The metrics without their timings, and everything that the last checkpoint holds."""
    rows = []
    for row in read_metrics(run):
        timing = {k for k in row if (k.startswith("time/") and k != "time/total_timesteps") or k.startswith("plan/ms_")}
        rows.append({k: v for k, v in row.items() if k not in timing})
    return rows, load_checkpoint(run)[0]


def _steps(run: Path) -> int:
    names = [path.name for path in (run / "checkpoints").glob("*-step*")]
    return max((int(name.split("-step")[1]) for name in names), default=0)


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _finish(_start("train", "pets", *SETTINGS, "--root", str(whole)))

    moments = random.Random()
    process = _start("train", "pets", *SETTINGS, "--root", str(broken))
    deadline = time.monotonic() + 60
    while not (broken.exists() and any(broken.glob("*/config.json"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    run, kills = _only_run(broken), []
    for _ in range(3):
        # Wait for some progress of this process, so that the kills meet training and not the start of Python.
        target = min(_steps(run) + moments.choice((0, 20, 40)), STEPS - 20)
        while process.poll() is None and _steps(run) < target:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills.append(_steps(run))
        process = _start("resume", str(run))
    _finish(process)

    rows, tensors = _outcome(_only_run(whole))
    resumed_rows, resumed_tensors = _outcome(run)
    assert kills[0] < STEPS
    assert resumed_rows == rows
    assert resumed_tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        # Bytes, since NaN, the log-probability of an unknown policy, does not equal itself.
        assert resumed_tensors[name].numpy().tobytes() == tensor.numpy().tobytes(), name
