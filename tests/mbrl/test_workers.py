"""Worker processes that die, raise or hang are named, and none is left behind."""

import ctypes
import multiprocessing
import os
import signal
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from mbrl.data.collect import Collector
from mbrl.data.workers import WorkerError, guard
from mbrl.divergence import Watched
from mbrl.envs import make_vector_env


class Troubled(gym.Env):
    """Counts steps; in its second step it gets into trouble."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, trouble: str = "", seconds: float = 60.0, render_mode: str | None = None):
        self.trouble, self.seconds = trouble, seconds

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        if self.trouble == "reset":
            raise KeyError("no such start")
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.count += 1
        if self.count == 2:
            self.fail()
        return np.full(1, self.count, dtype=np.float32), 0.0, False, False, {}

    def fail(self):
        match self.trouble:
            case "exit":
                os._exit(7)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "crash":
                ctypes.string_at(0)
            case "raise":
                raise ValueError("broken on purpose")
            case "hang" | "slow":
                time.sleep(self.seconds)


def vector(troubles: list[str], **kwargs) -> AsyncVectorEnv:
    makes = [lambda trouble=trouble: Troubled(trouble, **kwargs) for trouble in troubles]
    return AsyncVectorEnv(makes, autoreset_mode=AutoresetMode.DISABLED)


def nothing_left() -> bool:
    """Whether no child process is left, not even one that ended and was not waited for."""
    if multiprocessing.active_children():
        return False
    try:
        return os.waitpid(-1, os.WNOHANG) == (0, 0)  # children of others, such as multiprocessing's own tracker
    except ChildProcessError:
        return True


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("exit", r"worker 1 died, exit code 7; what it printed"),
        ("kill", r"worker 1 died, exit code -9 \(SIGKILL\)"),
        ("crash", r"worker 1 died, exit code -11 \(SIGSEGV\)"),
        ("raise", r"worker 1 raised an exception, exit code 0; its traceback:\n(.|\n)*ValueError: broken on purpose"),
        ("hang", r"worker 1 gave no answer within 0.5 s;"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_trouble_is_named(trouble, message, wrapped):
    env = vector(["", trouble, ""])
    collector = Collector(RecordEpisodeStatistics(env) if wrapped else env, seed=0, worker_timeout=0.5)
    collector.step(np.zeros((3, 1)))
    began = time.monotonic()
    with pytest.raises(WorkerError, match=message):
        collector.step(np.zeros((3, 1)))
    assert time.monotonic() - began < 4.0
    assert env.closed
    assert nothing_left()


def test_a_dead_worker_is_found_while_another_one_hangs():
    env = vector(["hang", "", "exit"])
    collector = Collector(env, seed=0, worker_timeout=30.0)
    collector.step(np.zeros((3, 1)))
    with pytest.raises(WorkerError, match="worker 2 died, exit code 7"):
        collector.step(np.zeros((3, 1)))
    assert nothing_left()


def test_a_worker_killed_between_steps_is_named():
    env = vector(["", ""])
    collector = Collector(env, seed=0)
    os.kill(env.processes[0].pid, signal.SIGKILL)
    env.processes[0].join()
    with pytest.raises(WorkerError, match=r"worker 0 died, exit code -9"):
        collector.step(np.zeros((2, 1)))
    assert nothing_left()


def test_an_exception_in_a_reset_is_named():
    with pytest.raises(WorkerError, match=r"worker 1 raised an exception(.|\n)*KeyError: 'no such start'"):
        Collector(vector(["", "reset"]), seed=0)
    assert nothing_left()


def test_slow_is_not_dead():
    env = vector(["slow", ""], seconds=1.2)
    collector = Collector(env, seed=0, worker_timeout=5.0)
    for _ in range(3):
        assert collector.step(np.zeros((2, 1))).valid.all()
    env.close()
    assert nothing_left()


def test_closing_slowly_is_not_dying():
    for slow in (0, 1):
        env = vector(["", ""])
        Collector(env, seed=0, worker_timeout=30.0).step(np.zeros((2, 1)))
        process = env.processes[slow]
        os.kill(process.pid, signal.SIGSTOP)
        timer = threading.Timer(1.5, os.kill, (process.pid, signal.SIGCONT))  # by then the other one has ended
        timer.start()
        env.close()
        timer.join()
        assert nothing_left()


def test_a_worker_that_hangs_and_is_gone_when_it_is_signalled(monkeypatch):
    env = vector(["hang", ""])
    collector = Collector(env, seed=0, worker_timeout=0.5)
    collector.step(np.zeros((2, 1)))

    kill = os.kill

    def gone(pid, number):
        if number == signal.SIGUSR1:
            raise ProcessLookupError
        kill(pid, number)

    monkeypatch.setattr(os, "kill", gone)
    with pytest.raises(WorkerError, match="worker 0 gave no answer"):
        collector.step(np.zeros((2, 1)))
    monkeypatch.undo()
    assert nothing_left()


def test_a_guard_is_put_on_once():
    env = vector([""])
    guard(env, 60.0)
    guard(env, 5.0)
    assert env.parent_pipes[0].timeout == 5.0
    assert isinstance(env.parent_pipes[0].pipe, multiprocessing.connection.Connection)
    env.close()
    with pytest.raises(ValueError, match="worker_timeout: expected a positive number of seconds, got 0"):
        guard(env, 0)


def test_a_worker_that_hangs_or_crashes_prints_where(capfd):
    gym.register("mbrl-test/Troubled-v0", entry_point=Troubled)
    for trouble, code in (("hang", "gave no answer"), ("crash", "exit code -11")):
        env = make_vector_env("mbrl-test/Troubled-v0", 1, kind="async", trouble=trouble, seconds=61.0)
        collector = Collector(env, seed=0, worker_timeout=0.5)
        collector.step(np.zeros((1, 1)))
        with pytest.raises(WorkerError, match=code):
            collector.step(np.zeros((1, 1)))
        assert "in fail" in capfd.readouterr().err
    del gym.registry["mbrl-test/Troubled-v0"]
    assert nothing_left()


def test_a_simulation_that_diverges_in_a_worker_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo would write a log
    env = make_vector_env("HalfCheetah-v5", 2, kind="async", as_registered=True)
    collector = Collector(env, seed=0)
    velocity = np.zeros(9)
    velocity[0] = 1e30
    for tick in range(3):
        if tick == 1:
            env.call("set_state", np.zeros(9), velocity)  # in both workers
        collected = collector.step(np.zeros((2, 6)))
        assert collected.valid.tolist() == [tick != 1] * 2
    assert collector.diverged == 2
    env.close()


def test_a_divergence_that_a_reset_in_the_same_step_follows_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    makes = [lambda: Watched(gym.make("HalfCheetah-v5", max_episode_steps=1))] * 2
    env = AsyncVectorEnv(makes, autoreset_mode=AutoresetMode.SAME_STEP)
    collector = Collector(env, seed=0)
    env.call("set_state", np.zeros(9), np.full(9, 1e30))
    assert collector.step(np.zeros((2, 6))).valid.tolist() == [False, False]
    assert collector.step(np.zeros((2, 6))).valid.tolist() == [True, True]
    env.close()


def test_a_worker_that_dies_while_it_makes_its_environment_is_named():
    class Unmakable(Troubled):
        def __init__(self, render_mode=None):
            super().__init__()
            if multiprocessing.parent_process() is not None:
                os._exit(3)

    gym.register("mbrl-test/Unmakable-v0", entry_point=Unmakable)
    with pytest.raises(
        RuntimeError, match=r"a worker died while it made 'mbrl-test/Unmakable-v0': number [01] with exit code 3"
    ):
        make_vector_env("mbrl-test/Unmakable-v0", 2, kind="async")
    del gym.registry["mbrl-test/Unmakable-v0"]
    assert nothing_left()
