"""`python -m mbrl` is the command `mbrl`."""

import os
import sys
import warnings

from mbrl.cli import main


def run() -> int:
    """The command in a process of its own: warnings are sentences, each said once, and a closed pipe ends it quietly.

    Returns:
        The exit status: that of `main`, or 141, as of other programs, where whoever read the output has gone.
    """
    if not sys.warnoptions:
        warnings.simplefilter("once", UserWarning)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        return 141


if __name__ == "__main__":
    sys.exit(run())
