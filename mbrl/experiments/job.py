"""One run of a comparison in a process of its own: `python -m mbrl.experiments.job RUN EPISODES`.

It trains the run from its newest checkpoint to its end, evaluates it, and for PETS measures the oracle gap; what is
there already is not done again. A gap that can't be measured is a note, for the run is there. The process ends when
the one that started it does.
"""

import contextlib
import os
import sys
import threading
import traceback
from pathlib import Path

DONE, FAILED, BUSY, STOPPED = 0, 1, 75, 130
"""Exit statuses."""
REASON = "failed because: "
"""Begins the last line of the log of a job that failed."""
NOTE = "done, but: "
"""Begins the line of what a job could not do beside its run."""


def work(path: Path, *, oracle_episodes: int) -> str:
    """Bring a run to its end; returns why there is no oracle gap where it could not be measured, or nothing.

    Args:
        path: run directory.
        oracle_episodes: of each arm of PETS's oracle gap; 0: without one.

    Raises:
        BusyError: another process has it.
        KeyboardInterrupt: SIGINT ended it, with a checkpoint.
    """
    from mbrl.experiments import runs
    from mbrl.experiments.final_evaluation import final_evaluation
    from mbrl.experiments.lock import locked
    from mbrl.experiments.run import Run

    run = Run.open(path)
    with locked(run.path):
        runs.train_run(run, progress=False)
        final_evaluation(run)
        if run.algo == runs.PETS and oracle_episodes > 0:
            from mbrl.experiments.oracle_gap import oracle_gap

            try:
                oracle_gap(run, episodes=oracle_episodes)
            except Exception as error:
                traceback.print_exc()
                return f"no oracle gap: {describe(error)}"
    return ""


def describe(error: Exception) -> str:
    """An exception in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def main(args: list[str]) -> int:
    """Do a job; returns the exit status."""
    path, episodes = args
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import torch

        from mbrl.experiments.lock import BusyError

        torch.set_num_threads(1)
    except KeyboardInterrupt:
        return STOPPED
    try:
        note = work(Path(path), oracle_episodes=int(episodes))
    except BusyError:
        return BUSY
    except KeyboardInterrupt:
        return STOPPED
    except Exception as error:
        traceback.print_exc()
        print(REASON + describe(error), file=sys.stderr, flush=True)
        return FAILED
    if note:
        print(NOTE + note, file=sys.stderr, flush=True)
    return DONE


def _end_with_parent() -> None:
    """The parent holds the other end of standard input and never writes: it ends when the parent does, killed or not.

    Whoever starts the comparison again must not meet workers of the one that was killed.
    """
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 1):
            pass
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
