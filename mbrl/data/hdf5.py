"""Files of datasets in HDF5: the native format, and which format a file or folder has.

A native file starts with a block of 512 bytes, which HDF5 leaves to its users: one line of JSON with the format's
version and the SHA-256 of all that follows. It is compared before anything else is read, so that a damaged file is
never interpreted. Behind it stand the arrays of `Dataset` by name, and `info` as JSON in an attribute.
"""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mbrl.data.dataset_info import info_from, info_text
from mbrl.data.datasets import ARRAYS, Dataset, DatasetError, DatasetInfo

FORMAT = 1
BLOCK = 512
KINDS = ("native", "d4rl")
MAGIC = b'{"mbrl-planners'
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What making a second name of a file fails with where a file system has none, such as FAT and many of FUSE."""
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def h5() -> Any:
    """The module h5py.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError('datasets need h5py: pip install ".[datasets]"') from None
    return h5py


def write(dataset: Dataset, path: Path) -> Path:
    """See `mbrl.data.datasets.save_dataset`."""

    def fill(file: Any) -> None:
        for name in ARRAYS:
            file.create_dataset(name, data=getattr(dataset, name))

    return write_sealed(path, dataset.info, fill)


def write_sealed(path: Path, info: DatasetInfo, fill: Callable[[Any], None], *, kind: str = "native") -> Path:
    """A new file with a checksum, and the arrays that `fill(file)` puts into it; nothing stays if that fails."""
    text = info_text(info)
    with new_file(path) as staged:
        with h5().File(staged, "w", userblock_size=BLOCK, libver="v110") as file:
            file.attrs["info"] = text
            fill(file)
        with staged.open("r+b") as raw:
            head = json.dumps({"mbrl-planners": FORMAT, "kind": kind, "sha256": digest(staged, BLOCK)})
            raw.write(head.encode().ljust(BLOCK - 1) + b"\n")
            raw.flush()
            os.fsync(raw.fileno())
    return path


def check_free(path: Path) -> None:
    """Raises ValueError where there is something at `path`: datasets are never overwritten."""
    if path.exists():
        raise ValueError(f"path: expected a new file, for datasets are not overwritten, but {path} is there already")


def prepare(path: Path) -> None:
    """Make the folder of a new file, and try whether one can be made in it, before there is anything to lose.

    Raises:
        ValueError: see `check_free`.
        OSError: it can't.
    """
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
        pass


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A hidden file beside `path` to write to, which takes that name once it is whole.

    Raises:
        ValueError: see `check_free`.
        FileExistsError: somebody else has made the file since.
    """
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.parent / f".{path.name}.{os.getpid()}"
    try:
        yield staged
        _take_name(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def _take_name(staged: Path, path: Path) -> None:
    """Give a file its name: unlike a rename alone, this fails where somebody else has taken it."""
    try:
        os.link(staged, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(staged, path)
        except OSError:
            path.unlink()
            raise


def read(path: Path, *, mapped: bool = False) -> Dataset:
    """A native file whose seal is whole; `mapped`: leave the arrays on the disk, and read what is asked for."""
    with opened(path) as file:
        if missing := [name for name in ARRAYS if name not in file]:
            raise DatasetError(f"{path}: expected arrays {', '.join(ARRAYS)}, there is no {', '.join(missing)}")
        array = _mapped if mapped else _array
        return Dataset(**{name: array(file[name], path) for name in ARRAYS}, info=info_from(file.attrs["info"], path))


def check_seal(path: Path) -> str:
    """The kind of a file with a checksum of ours.

    Raises:
        DatasetError: it is not, byte for byte, what was written; or a newer version wrote it.
    """
    with path.open("rb") as file:
        head = file.read(BLOCK)
    try:
        said = json.loads(head)
        # The first files named their kind in the key: {"mbrl-planners dataset": 1}.
        version, kind = int(said.get("mbrl-planners", 0) or said["mbrl-planners dataset"]), said.get("kind", "native")
        sha256 = said["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DatasetError(f"{path}: the head of the file is damaged; restore it from a copy") from None
    if version > FORMAT:
        raise DatasetError(
            f"{path}: expected format {FORMAT} or older, got {version}; upgrade: git pull; pip install ."
        )
    if sha256 != digest(path, BLOCK):
        raise DatasetError(
            f"{path}: the content does not match its checksum: the file was cut off, damaged or changed; restore it "
            "from a copy"
        )
    if kind not in KINDS:
        raise DatasetError(f"{path}: the head of the file is damaged; restore it from a copy")
    return str(kind)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file to read from; whatever h5py finds wrong with it is a DatasetError."""
    module = h5()
    try:
        with module.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, UnicodeError, MemoryError) as error:
        raise DatasetError(f"{path}: not readable as HDF5, or damaged: {error}") from error


def _array(stored: Any, path: Path) -> np.ndarray:
    array: np.ndarray = stored[()]
    return array


def _mapped(stored: Any, path: Path) -> np.ndarray:
    """An array in place: `write` puts each in one piece."""
    offset = stored.id.get_offset()
    if offset is None:
        raise DatasetError(f"{path}: expected arrays in one piece, got {stored.name} in chunks; read it into memory")
    return np.memmap(path, dtype=stored.dtype, mode="r", offset=offset, shape=stored.shape)


def digest(path: Path, start: int = 0) -> str:
    """SHA-256 of a file from byte `start` on."""
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()
