"""A first reading of an HDF5 file in a process of its own: a damaged one can make the library hang or crash."""

import subprocess
import sys
from pathlib import Path

from mbrl.data.dataset_info import DatasetError

SECONDS, PER_SECOND = 20.0, 5_000_000
"""Time that a reading may take, and bytes that are granted another second each."""
_SCRIPT = """
import h5py, sys
def read(name, item):
    if isinstance(item, h5py.Dataset) and item.ndim:
        step = max(1, 10_000_000 // max(1, item[:1].nbytes))
        for start in range(0, len(item), step):
            item[start:start + step]
try:
    with h5py.File(sys.argv[1], "r") as file:
        file.visititems(read)
        dict(file.attrs)
except Exception:
    pass
"""


def probe(path: Path, *, script: str = _SCRIPT, seconds: float = SECONDS) -> None:
    """Read a file that carries no checksum of ours, all of it; errors that h5py raises are left for the real reading.

    Raises:
        DatasetError: the reading crashed, or did not come to an end.
    """
    limit = seconds + path.stat().st_size / PER_SECOND
    try:
        done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=limit, capture_output=True)
    except subprocess.TimeoutExpired:
        raise DatasetError(f"{path}: damaged: reading it did not end within {limit:.0f} s") from None
    if done.returncode < 0:
        raise DatasetError(f"{path}: damaged: reading it crashed (signal {-done.returncode})")
