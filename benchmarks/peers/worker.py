"""Drives a peer's program, which waits in a process of its own and does one unit of work a line."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Cost

VARIABLE = "MBRL_LIB_PYTHON"


class Worker:
    """A waiting process. Calling it does one unit of work there and returns what it took, timed in that process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.versions: dict[str, str] = self._answer()

    def __call__(self) -> Cost:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return Cost(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer's process ended with status {self._process.wait()}; its error is above")
        return json.loads(line)


@contextmanager
def mbrl_lib(workload: str, sizes: Mapping[str, Any]) -> Iterator[Worker | None]:
    """mbrl-lib in its own environment; None where the variable MBRL_LIB_PYTHON does not name its Python.

    Args:
        workload: "ensemble_epoch" or "cem_plan".
        sizes: of the workload, as keyword arguments.
    """
    python = os.environ.get(VARIABLE)
    if not python:
        yield None
        return
    script = Path(__file__).with_name("mbrl_lib_worker.py")
    # Away from this checkout, whose package `mbrl` would hide the peer's of the same name.
    process = subprocess.Popen(
        [python, "-I", str(script), workload, json.dumps(sizes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield Worker(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=60)
