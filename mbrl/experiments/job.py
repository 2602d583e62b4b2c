"""One run of a comparison in a process of its own: `python -m mbrl.experiments.job RUN EPISODES`.

It trains the run from its newest checkpoint to its end, evaluates it, and for PETS measures the oracle gap; what is
there already is not done again. It ends when the process that started it does.
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


def work(path: Path, *, oracle_episodes: int) -> None:
    """Bring a run to its end.

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

            oracle_gap(run, episodes=oracle_episodes)


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
        work(Path(path), oracle_episodes=int(episodes))
    except BusyError:
        return BUSY
    except KeyboardInterrupt:
        return STOPPED
    except Exception as error:
        traceback.print_exc()
        print(REASON + " ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr, flush=True)
        return FAILED
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
