"""One process at a time trains a run: a lock that the operating system opens when its holder ends, however it ends."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK = ".lock"
PATIENCE = 1.0
"""Seconds for which a lock is asked for again: somebody may have looked at it just then (`is_locked`)."""
_HELD: set[Path] = set()
"""Locks of this process, which may ask again for what it has."""


class BusyError(ValueError):
    """Another process has the lock."""


@contextlib.contextmanager
def locked(folder: str | Path, *, wait: bool = False, file_name: str = LOCK, argument: str = "run") -> Iterator[None]:
    """Hold the lock of a directory, such as a run's.

    The lock is advisory (`flock`) and lasts until the block or the process ends, kill -9 included. Shared file systems
    keep it between machines where they support locks, as NFS does since version 4.

    Args:
        folder: which must exist.
        wait: whether to wait for another process that has it.
        file_name: of the lock, where a directory has several.
        argument: what the message calls the directory.

    Raises:
        BusyError: another process has it, and `wait` is False.
    """
    path = Path(folder).resolve() / file_name
    if path in _HELD:
        yield
        return
    with path.open("a+b") as file:
        if not _taken(file, None if wait else PATIENCE):
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            raise BusyError(
                f"{argument}: expected {folder} to be free, but {holder} works on it; wait for its end, or stop it"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        _HELD.add(path)
        try:
            yield
        finally:
            _HELD.discard(path)


def is_locked(folder: str | Path) -> bool:
    """Whether another process has the lock of a directory. Nothing is written, and others may look at the same time."""
    path = Path(folder).resolve() / LOCK
    if path in _HELD or not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _taken(file: IO[bytes], patience: float | None) -> bool:
    """Lock an open file; whether that came to pass within `patience` seconds (None: however long it takes)."""
    if patience is None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
