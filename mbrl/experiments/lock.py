"""One process at a time trains a run: a lock that the operating system opens when its holder ends, however it ends."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"
_HELD: set[Path] = set()
"""Locks of this process, which may ask again for what it has."""


class BusyError(ValueError):
    """Another process has the lock."""


@contextlib.contextmanager
def locked(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a directory, such as a run's.

    The lock is advisory (`flock`) and lasts until the block or the process ends, kill -9 included. Shared file systems
    keep it between machines where they support locks, as NFS does since version 4.

    Args:
        folder: which must exist.
        wait: whether to wait for another process that has it.

    Raises:
        BusyError: another process has it, and `wait` is False.
    """
    path = Path(folder).resolve() / LOCK
    if path in _HELD:
        yield
        return
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            raise BusyError(
                f"run: expected {folder} to be free, but {holder} works on it; wait for its end, or stop it"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        _HELD.add(path)
        try:
            yield
        finally:
            _HELD.discard(path)


def is_locked(folder: str | Path) -> bool:
    """Whether another process has the lock of a directory."""
    try:
        with locked(folder):
            return False
    except BusyError:
        return True
