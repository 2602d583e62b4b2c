"""What can be wrong with a dataset."""

from typing import TYPE_CHECKING

import numpy as np

from mbrl.data.dataset_info import DatasetError

if TYPE_CHECKING:
    from mbrl.data.datasets import Dataset

ROWS = ("actions", "rewards", "terminated", "truncated", "log_probs")
"""The arrays with one entry a row."""


def check_structure(data: "Dataset") -> None:
    rows, episodes = len(data.rewards), len(data.lengths)
    _check_types(data)
    if rows == 0 or episodes == 0:
        raise DatasetError("dataset: expected at least one episode with one row, got none")
    if data.lengths.min() < 1:
        bad = int(data.lengths.argmin())
        raise DatasetError(f"lengths: expected at least 1 row an episode, got {data.lengths[bad]} in episode {bad}")
    if int(data.lengths.sum()) != rows:
        raise DatasetError(f"lengths: expected a sum of {rows}, the number of rewards, got {data.lengths.sum()}")
    for name in ("observations", *ROWS):
        array = getattr(data, name)
        expected = rows + episodes if name == "observations" else rows
        if len(array) != expected:
            raise DatasetError(
                f"{name}: expected {expected} for {rows} rewards in {episodes} episodes (observations: one more an "
                f"episode), got {len(array)}: the arrays are misaligned"
            )
    last = np.zeros(rows, dtype=bool)
    last[data.ends] = True
    for name in ("terminated", "truncated"):
        inside = getattr(data, name) & ~last
        if inside.any():
            row = int(inside.argmax())
            raise DatasetError(f"{name}: expected True only in an episode's last row, got it in {data.place(row)}")
    open_ends = ~(data.terminated | data.truncated)[data.ends]
    if open_ends.any():
        row = int(data.ends[open_ends.argmax()])
        raise DatasetError(
            f"truncated: expected every episode to end or be cut in its last row, not so {data.place(row)}"
        )


def _check_types(data: "Dataset") -> None:
    expected = {"observations": (2, "f"), "rewards": (1, "f"), "log_probs": (1, "f")}
    expected |= {"terminated": (1, "b"), "truncated": (1, "b"), "lengths": (1, "i")}
    expected["actions"] = (1, "i") if data.actions.ndim == 1 else (2, "f")
    names = {"f": "floating-point numbers", "b": "bool", "i": "int64"}
    for name, (axes, kind) in expected.items():
        array = getattr(data, name)
        if array.ndim != axes or array.dtype.kind != kind or (kind == "i" and array.dtype.itemsize != 8):
            raise DatasetError(
                f"{name}: expected {names[kind]} with {axes} axes, got {array.dtype} of shape {list(array.shape)}"
            )
        if 0 in array.shape[1:]:
            raise DatasetError(f"{name}: expected at least one number a row, got shape {list(array.shape)}")
