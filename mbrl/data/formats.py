"""Which format a dataset has, and going from one to another piece by piece, so that it need not fit memory."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mbrl.data import d4rl, hdf5, minari_io
from mbrl.data.dataset_checks import check_dataset
from mbrl.data.dataset_info import Doubt
from mbrl.data.datasets import ARRAYS, Dataset, DatasetError, DatasetInfo
from mbrl.data.probe import probe

Format = Literal["native", "d4rl", "minari"]
PART = 250_000
"""Rows of a native file that are handled at once."""


def format_of(path: Path) -> Format:
    """The format of a file or folder, by what is in it.

    Raises:
        DatasetError: it is none of ours.
    """
    if path.is_dir():
        if minari_io.folder_of(path) is not None:
            return "minari"
        raise DatasetError(
            f"path: expected a file, or a folder with {minari_io.METADATA} as Minari makes it, got {path}"
        )
    if not path.is_file():
        raise DatasetError(f"path: expected the file or folder of a dataset, there is none at {path}")
    with path.open("rb") as file:
        head = file.read(len(hdf5.MAGIC))
    if head == hdf5.MAGIC:
        return "native" if hdf5.check_seal(path) == "native" else "d4rl"
    if head.startswith(hdf5.SIGNATURE):
        probe(path)
        return "d4rl"
    raise DatasetError(
        f"{path}: expected an HDF5 file (mbrl dataset collect or import makes one), got one that begins with {head!r}: "
        "it is another kind of file, or its head is damaged"
    )


def read(path: Path, *, mapped: bool = False) -> Dataset:
    """See `mbrl.data.datasets.load_dataset`."""
    if format_of(path) == "native":
        data = hdf5.read(path, mapped=mapped)
    elif mapped:
        raise DatasetError(f"{path}: expected a native file to be mapped; make one with mbrl dataset import")
    else:
        first, *others = list(parts_of(path))
        data = first.concatenate(*others) if others else first
    check_dataset(data, allow=get_args(Doubt))
    return data


def parts_of(path: Path, *, info: DatasetInfo | None = None, drop_ends: bool = False) -> Iterator[Dataset]:
    """The episodes of a dataset in any format, in pieces; see `mbrl.data.d4rl.parts`.

    Raises:
        DatasetError: it is missing or damaged, or none of the formats.
    """
    kind = format_of(path)
    if kind == "d4rl":
        yield from d4rl.parts(path, info=info, drop_ends=drop_ends)
    elif kind == "minari":
        yield from minari_io.parts(path, info=info)
    else:
        whole = hdf5.read(path, mapped=True)
        for first, last in pieces(whole.lengths, PART):
            yield whole.select(np.arange(first, last))


def pieces(lengths: np.ndarray, rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of episodes, of at least `rows` rows each but the last."""
    first, count = 0, 0
    for number, length in enumerate(lengths.tolist(), start=1):
        count += length
        if count >= rows or number == len(lengths):
            yield first, number
            first, count = number, 0


def save_parts(parts: Iterator[Dataset], path: Path) -> Path:
    """Write pieces to one new native file, which need not fit memory together.

    Raises:
        DatasetError: there are none, or a piece has other sizes or types than the first.
        ValueError: see `mbrl.data.datasets.save_dataset`.
    """
    hdf5.check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        like, counts = _spool(parts, folder)

        def fill(file: Any) -> None:
            for name in ARRAYS:
                array = getattr(like, name)
                shape = (counts[name], *array.shape[1:])
                file.create_dataset(name, data=np.memmap(folder / name, dtype=array.dtype, mode="r", shape=shape))

        return hdf5.write_sealed(path, like.info, fill)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _spool(parts: Iterator[Dataset], folder: Path) -> tuple[Dataset, dict[str, int]]:
    """The arrays of all pieces, one raw file each; the first piece, and how long each array became."""
    like: Dataset | None = None
    counts = dict.fromkeys(ARRAYS, 0)
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in ARRAYS}
        for part in parts:
            like = part if like is None else like
            for name in ARRAYS:
                array, first = getattr(part, name), getattr(like, name)
                if array.dtype != first.dtype or array.shape[1:] != first.shape[1:]:
                    raise DatasetError(
                        f"{name}: expected {first.dtype} {list(first.shape[1:])} throughout, got {array.dtype} "
                        f"{list(array.shape[1:])}"
                    )
                files[name].write(array.data)
                counts[name] += len(array)
    if like is None:
        raise DatasetError("parts: expected at least one episode, got none")
    return like, counts
