"""Files of datasets in HDF5: the native format, and which format a file or folder has.

A native file starts with a block of 512 bytes, which HDF5 leaves to its users: one line of JSON with the format's
version and the SHA-256 of all that follows. It is compared before anything else is read, so that a damaged file is
never interpreted. Behind it stand the arrays of `Dataset` by name, and `info` as JSON in an attribute.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mbrl.data.dataset_info import info_text
from mbrl.data.datasets import ARRAYS, Dataset, DatasetError, DatasetInfo

FORMAT = 1
BLOCK = 512
MAGIC = b'{"mbrl-planners dataset": '
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def h5() -> Any:
    """The module h5py.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError('datasets need h5py: pip install "mbrl-planners[datasets]"') from None
    return h5py


def write(dataset: Dataset, path: Path) -> Path:
    """See `mbrl.data.datasets.save_dataset`."""

    def fill(file: Any) -> None:
        for name in ARRAYS:
            file.create_dataset(name, data=getattr(dataset, name))

    return write_native(path, dataset.info, fill)


def write_native(path: Path, info: DatasetInfo, fill: Callable[[Any], None]) -> Path:
    """A new native file with the arrays that `fill(file)` puts into it; nothing stays if that fails."""
    text = info_text(info)
    with new_file(path) as staged:
        with h5().File(staged, "w", userblock_size=BLOCK, libver="v110") as file:
            file.attrs["info"] = text
            fill(file)
        with staged.open("r+b") as raw:
            head = json.dumps({"mbrl-planners dataset": FORMAT, "sha256": _digest(staged)})
            raw.write(head.encode().ljust(BLOCK - 1) + b"\n")
            raw.flush()
            os.fsync(raw.fileno())
    return path


def check_free(path: Path) -> None:
    """Raises ValueError where there is something at `path`: datasets are never overwritten."""
    if path.exists():
        raise ValueError(f"path: expected a new file, for datasets are not overwritten, but {path} is there already")


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A hidden file beside `path` to write to, which takes that name once it is whole.

    Raises:
        ValueError: see `check_free`.
    """
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.parent / f".{path.name}.{os.getpid()}"
    try:
        yield staged
        os.link(staged, path)  # unlike a rename, fails where somebody else has made the file since
    finally:
        staged.unlink(missing_ok=True)


def read(path: Path) -> Dataset:
    """See `mbrl.data.datasets.load_dataset`."""
    if not path.is_file():
        raise DatasetError(f"path: expected the file of a dataset, got {path}, which is none")
    check_native(path)
    with opened(path) as file:
        return Dataset(**{name: _array(file, name, path) for name in ARRAYS}, info=read_info(file, path))


def check_native(path: Path) -> None:
    """Raises DatasetError where a native file is not, byte for byte, what was written."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
    try:
        said = json.loads(head)
        version, sha256 = int(said["mbrl-planners dataset"]), said["sha256"]
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f"{path}: the head of the file is damaged; restore it from a copy") from None
    if version > FORMAT:
        raise DatasetError(
            f"{path}: expected format {FORMAT} or older, got {version}; upgrade: pip install --upgrade mbrl-planners"
        )
    if sha256 != _digest(path):
        raise DatasetError(
            f"{path}: the content does not match its checksum: the file was cut off, damaged or changed; restore it "
            "from a copy"
        )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file to read from; whatever h5py finds wrong with it is a DatasetError."""
    module = h5()
    try:
        with module.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, UnicodeError, MemoryError) as error:
        raise DatasetError(f"{path}: not readable as HDF5, or damaged: {error}") from error


def read_info(file: Any, path: Path) -> DatasetInfo:
    """The `info` of a native file."""
    try:
        fields = json.loads(file.attrs["info"])
        bounds = {k: tuple(fields[k]) for k in ("action_low", "action_high") if fields[k] is not None}
        return DatasetInfo(**{**fields, **bounds})
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: what the file says of itself can't be read: {error}") from None


def _array(file: Any, name: str, path: Path) -> np.ndarray:
    if name not in file:
        raise DatasetError(f"{path}: expected an array {name!r}, the file has {sorted(file)}")
    array: np.ndarray = file[name][()]
    return array


def _digest(path: Path) -> str:
    """SHA-256 of a file behind its first block."""
    with path.open("rb") as file:
        file.seek(BLOCK)
        return hashlib.file_digest(file, "sha256").hexdigest()
