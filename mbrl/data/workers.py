"""Workers of an AsyncVectorEnv that die or hang: say which, with exit code and traceback, within a finite time.

Gymnasium shows a dead worker as a bare EOFError, raises a worker's exception without saying whose it was, and waits for
one that hangs for ever. `guard` puts a watcher on each pipe of a vector, so whatever talks to the workers is covered.
"""

import contextlib
import os
import queue
import signal
import time
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from gymnasium.vector import AsyncVectorEnv

_LOOK_EVERY = 1.0
"""Seconds between looks at the other workers while one is waited for."""


class WorkerError(RuntimeError):
    """An environment's process died, raised an exception or gave no answer; all of them are ended by then."""


def guard(env: AsyncVectorEnv, timeout: float) -> None:
    """Make every wait for a worker end: with its answer, or with a WorkerError.

    After that error the vector is closed, and no process of it is left.

    Args:
        env: the vector, on which pipes are replaced; a second call sets the timeout.
        timeout: seconds that a worker may take for one answer.

    Raises:
        ValueError: `timeout` is not positive.
    """
    if not timeout > 0:
        raise ValueError(f"worker_timeout: expected a positive number of seconds, got {timeout}")
    pipes = [pipe.pipe if isinstance(pipe, _Guarded) else pipe for pipe in env.parent_pipes]
    guarded: list[Any] = [_Guarded(env, index, pipe, timeout) for index, pipe in enumerate(pipes)]
    env.parent_pipes = guarded


class _Guarded:
    """A pipe to a worker, with the methods of a `multiprocessing.connection.Connection` that AsyncVectorEnv calls."""

    def __init__(self, env: AsyncVectorEnv, index: int, pipe: Connection, timeout: float) -> None:
        self.env, self.index, self.pipe, self.timeout = env, index, pipe, timeout
        self._closing = False

    @property
    def closed(self) -> bool:
        return self.pipe.closed

    def close(self) -> None:
        self.pipe.close()

    def poll(self, timeout: float = 0.0) -> bool:
        return self.pipe.poll(timeout)

    def send(self, message: Any) -> None:
        self._closing = message[0] == "close"
        try:
            self.pipe.send(message)
        except OSError:  # a broken pipe
            self._fail(self.index, "died")

    def recv(self) -> Any:
        self._wait()
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self._fail(self.index, "died")
        if not answer[1]:  # (result, success)
            self._fail(self.index, "raised an exception")
        return answer

    def _wait(self) -> None:
        """Until there is something to read, which an end of file is too."""
        deadline = time.monotonic() + self.timeout
        while not self.pipe.poll(max(0.0, min(_LOOK_EVERY, deadline - time.monotonic()))):
            dead = [i for i, process in enumerate(self.env.processes) if process.exitcode is not None]
            if dead and not self._closing:  # then the others have ended as they were asked to
                self._fail(dead[0], "died")
            if time.monotonic() >= deadline:
                self._fail(self.index, f"gave no answer within {self.timeout:g} s", hangs=True)

    def _fail(self, index: int, what: str, hangs: bool = False) -> NoReturn:
        """End all workers, and say what happened to one of them."""
        process = self.env.processes[index]
        if hangs:
            if process.pid and hasattr(signal, "SIGUSR1"):  # Windows has none
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGUSR1)  # environments of `make_vector_env` print where they are
            time.sleep(0.2)
        else:
            process.join(5)
        code, trace = None if hangs else process.exitcode, _traceback(self.env, index)
        _end(self.env)
        if code is not None and code < 0:
            exited = f", exit code {code} ({signal.Signals(-code).name})"
        else:
            exited = "" if code is None else f", exit code {code}"
        last = f"its traceback:\n{trace}" if trace else "what it printed stands above"
        raise WorkerError(
            f"env: expected {self.env.num_envs} workers that answer, but worker {index} {what}{exited}; {last}"
        )


def _traceback(env: AsyncVectorEnv, index: int) -> str:
    """The traceback that a worker left; "" where it left none."""
    with contextlib.suppress(queue.Empty, OSError, EOFError):
        while True:
            who, _, _, trace = env.error_queue.get(timeout=0.2)
            if who == index:
                return trace.rstrip()
    return ""


def _end(env: AsyncVectorEnv) -> None:
    """Kill and reap all workers, and leave the vector closed."""
    for process in env.processes:
        process.kill()
    for process in env.processes:
        process.join()
    for pipe in env.parent_pipes:
        pipe.close()
    env.closed = True
