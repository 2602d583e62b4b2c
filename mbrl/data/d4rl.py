"""D4RL's layout (Fu et al., 2020): flat HDF5 arrays of steps, episodes one after the other.

`observations`, `actions`, `rewards` and `terminals` have one entry a step, `timeouts` marks where a time limit cut an
episode, `next_observations` says where each step led. Three traps are in it:

- A time-out is no terminal: values go on behind it.
- Without `next_observations`, a step's next observation is the next row's, which at an episode's end is the next
  episode's first. So files without them have no last steps (`drop_ends`).
- Without `timeouts`, episodes run into each other. Where `next_observations` are there, they tell the seams.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbrl.data.dataset_checks import says_something
from mbrl.data.dataset_info import info_from
from mbrl.data.datasets import Dataset, DatasetError, DatasetInfo
from mbrl.data.hdf5 import h5, opened, write_sealed

PART = 250_000
"""Rows that are read at once."""
LOG_PROBS = "infos/action_log_probs"
NEAR = 1e-5
"""How far a step's next observation and the next step's observation may differ by rounding, of the larger."""


class _File(NamedTuple):
    """A file's arrays, none of them in memory yet."""

    path: Path
    rows: int
    arrays: dict[str, Any]


def parts(path: Path, *, info: DatasetInfo | None = None, drop_ends: bool = False) -> Iterator[Dataset]:
    """The episodes of a file, about `PART` rows of them at a time.

    Args:
        path: the file.
        info: what is known of it; None: what the file says.
        drop_ends: where the file has no `next_observations`, leave out the last step of each episode, whose next
            observation is not known; what is left of an episode counts as cut.

    Raises:
        DatasetError: the file is damaged, or its arrays don't fit together; the message names the episode and row.
    """
    with opened(path) as raw:
        file = _arrays(raw, path)
        told = info or _info(raw, path)
        if "next_observations" not in file.arrays:
            _check_ends(file, drop_ends)
        episode = 0
        ends = _ends(file)
        first = 0
        for group in _groups(ends):
            part = _read(file, first, group, episode, told, drop_ends)
            if part is not None:
                yield part
            first, episode = int(group[-1]) + 1, episode + len(group)


def write(dataset: Dataset, path: Path) -> Path:
    """A new file in D4RL's layout, with a checksum and `info` beside the arrays, so that all comes back.

    Raises:
        ValueError: the file is there already, or h5py is not installed.
        OSError: the disk is full.
    """
    inner = np.delete(np.arange(len(dataset.observations)), dataset.ends + np.arange(dataset.episodes) + 1)
    arrays = {
        "observations": dataset.observations[inner],
        "next_observations": dataset.observations[inner + 1],
        "actions": dataset.actions,
        "rewards": dataset.rewards,
        "terminals": dataset.terminated,
        "timeouts": dataset.truncated,
    }
    if says_something(dataset.log_probs):
        arrays[LOG_PROBS] = dataset.log_probs

    def fill(file: Any) -> None:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)

    return write_sealed(path, dataset.info, fill, kind="d4rl")


def _arrays(raw: Any, path: Path) -> _File:
    module = h5()
    arrays = {}
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations", LOG_PROBS)
    for name in names:
        if name in raw:
            if not isinstance(raw[name], module.Dataset) or not raw[name].shape:
                raise DatasetError(f"{path}: expected an array {name!r}, got {raw[name]}")
            arrays[name] = raw[name]
    if missing := [name for name in names[:4] if name not in arrays]:
        raise DatasetError(f"{path}: expected arrays {', '.join(names[:4])}, there is no {', '.join(missing)}")
    rows = len(arrays["rewards"])
    for name, array in arrays.items():
        if len(array) != rows:
            raise DatasetError(
                f"{path}: expected {rows} {name}, as many as rewards, got {len(array)}: the arrays are misaligned"
            )
    if rows == 0:
        raise DatasetError(f"{path}: expected at least one row, got none")
    if "timeouts" not in arrays and "next_observations" not in arrays:
        raise DatasetError(
            f"{path}: expected timeouts or next_observations, without which episodes can't be told apart, got neither"
        )
    return _File(path, rows, arrays)


def _info(raw: Any, path: Path) -> DatasetInfo:
    """What a file says of itself: all of it where this library wrote it."""
    text = raw.attrs.get("info")
    if text is not None:
        return info_from(text, path)
    return DatasetInfo(description=f"imported from {path.name}", origin={"format": "D4RL", "file": path.name})


def _ends(file: _File) -> np.ndarray:
    """The last row of each episode."""
    over = _flags(file, "terminals")
    over = over | (_flags(file, "timeouts") if "timeouts" in file.arrays else _seams(file))
    over[-1] = True
    return np.flatnonzero(over)


def _flags(file: _File, name: str, rows: slice = slice(None)) -> np.ndarray:
    values = _column(file, name, rows)
    bad = ~np.isin(values, (0, 1))
    if bad.any():
        row = int(bad.argmax()) + (rows.start or 0)
        raise DatasetError(f"{file.path}: {name}: expected 0 or 1, got {values[bad][0]} in row {row}")
    return values.astype(bool)


def _seams(file: _File) -> np.ndarray:
    """Rows that don't lead to where the next one starts, in a file without time-outs."""
    seams = np.zeros(file.rows, dtype=bool)
    for first in range(0, file.rows - 1, PART):
        last = min(first + PART, file.rows - 1)
        seams[first:last] = _jumps(
            file.arrays["next_observations"][first:last], file.arrays["observations"][first + 1 : last + 1]
        )
    return seams


def _jumps(led: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Where observations differ by more than rounding: bool [rows]."""
    if led.ndim != 2 or starts.shape != led.shape:
        raise DatasetError(f"observations: expected shape [rows, obs], got {list(starts.shape)} and {list(led.shape)}")
    size = np.maximum(np.maximum(np.abs(led), np.abs(starts)), NEAR)
    close: np.ndarray = (np.abs(led - starts) <= NEAR * size).all(-1)
    return ~close


def _groups(ends: np.ndarray) -> Iterator[np.ndarray]:
    """Ends of episodes, grouped to about PART rows."""
    start, before = 0, -1
    for i, end in enumerate(ends):
        if end - before >= PART or i == len(ends) - 1:
            yield ends[start : i + 1]
            start, before = i + 1, int(end)


def _check_ends(file: _File, drop_ends: bool) -> None:
    if not drop_ends:
        raise DatasetError(
            f"{file.path}: expected next_observations, got none: it is not known where the last step of each episode "
            "led, as the next row is the next episode's first. Import it with --drop-ends (drop_ends=True), which "
            "leaves those steps out, and with them every terminal; or look for a version of the data that has them"
        )


def _column(file: _File, name: str, rows: slice) -> np.ndarray:
    """One number a row; some files have [rows, 1]."""
    values: np.ndarray = file.arrays[name][rows]
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise DatasetError(f"{file.path}: {name}: expected one number a row, got {values.dtype} {list(values.shape)}")
    return values


def _read(file: _File, first: int, ends: np.ndarray, episode: int, info: DatasetInfo, drop: bool) -> Dataset | None:
    """Episodes of consecutive rows from `first` to `ends[-1]`; None: none is left."""
    rows = slice(first, int(ends[-1]) + 1)
    lasts = ends - first
    obs = _numbers(file, "observations", rows)
    terminated = _flags(file, "terminals", rows)
    inner = np.delete(np.arange(len(obs)), lasts)
    if "next_observations" in file.arrays:
        led = _numbers(file, "next_observations", rows)
        _check_steps(file, obs, led, lasts, first, episode)
        observations = np.insert(obs, lasts + 1, led[lasts], axis=0)
        kept = np.arange(len(obs))
        lengths = np.diff(lasts, prepend=-1)
    else:
        lengths = np.diff(lasts, prepend=-1) - 1
        observations = obs[np.repeat(lengths > 0, lengths + 1)]  # an episode of one step has nothing left
        kept, lengths = inner, lengths[lengths > 0]
        terminated = np.zeros_like(terminated)
        if not len(kept):
            return None
    last = np.cumsum(lengths) - 1
    truncated = np.zeros(len(kept), dtype=bool)
    if "timeouts" in file.arrays and len(kept) == len(obs):
        truncated |= _flags(file, "timeouts", rows)
    terminated = terminated[kept]
    truncated[last] |= ~terminated[last]
    logs = _column(file, LOG_PROBS, rows)[kept] if LOG_PROBS in file.arrays else np.full(len(kept), np.nan, np.float32)
    arrays = (_actions(file, rows)[kept], _native(_column(file, "rewards", rows)[kept]), terminated, truncated)
    return Dataset(observations, *arrays, _native(logs), lengths.astype(np.int64), info)


def _check_steps(file: _File, obs: np.ndarray, led: np.ndarray, lasts: np.ndarray, first: int, episode: int) -> None:
    """Raise where an episode is not one stretch of steps."""
    inner = np.delete(np.arange(len(obs)), lasts)
    led, starts = led[inner], obs[inner + 1]
    finite = np.isfinite(led).all(-1) & np.isfinite(starts).all(-1)  # others are told as what they are
    wrong = finite & _jumps(led, starts)
    if wrong.any():
        row = int(inner[wrong.argmax()])
        raise DatasetError(
            f"{file.path}: next_observations: expected each step to lead to where the next one starts, not so in "
            f"episode {episode + int(np.searchsorted(lasts, row))}, row {first + row}: arrays are misaligned, or the "
            "end of an episode is not marked there"
        )


def _numbers(file: _File, name: str, rows: slice) -> np.ndarray:
    values: np.ndarray = file.arrays[name][rows]
    if values.ndim != 2 or values.dtype.kind != "f":
        raise DatasetError(
            f"{file.path}: {name}: expected floating-point numbers [rows, obs], got {values.dtype} "
            f"{list(values.shape)}: images and dicts are not supported"
        )
    return _native(values)


def _actions(file: _File, rows: slice) -> np.ndarray:
    values: np.ndarray = file.arrays["actions"][rows]
    if values.dtype.kind in "iu":
        return _column(file, "actions", rows).astype(np.int64)
    return _native(values)


def _native(values: np.ndarray) -> np.ndarray:
    """In this machine's byte order; other numbers than float32 and float64 as float32."""
    if values.dtype.kind == "f" and values.dtype.itemsize in (4, 8):
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    return values.astype(np.float32)
