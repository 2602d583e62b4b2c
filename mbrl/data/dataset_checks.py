"""What can be wrong with a dataset."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, get_args

import numpy as np

from mbrl.data.dataset_info import DatasetError, DatasetInfo, Doubt

if TYPE_CHECKING:
    from mbrl.data.datasets import Dataset

ROWS = ("actions", "rewards", "terminated", "truncated", "log_probs")
"""The arrays with one entry a row."""

LARGEST = float(np.finfo(np.float32).max)
"""Beyond it, a number is infinite where it is learned from, which is in float32."""

_SPAN = 1_000_000
"""Rows that are looked at together."""


def check_dataset(data: "Dataset", *, allow: Collection[Doubt] = ()) -> None:
    """Look for everything that makes data useless or misleading for learning.

    Numbers that are not finite (log-probabilities may be NaN: unknown) or would not be in float32, in which is learned,
    and actions outside the bounds, are always wrong. What `allow` names is let through:

    - "constant": a dimension of observations never changes.
    - "single": there is one episode only, so that none can be held out.
    - "jump": an episode's last observation is the next one's first, as where next observations were made by shifting;
      of episodes that were cut only if that is a larger step than any other within episodes.

    Raises:
        DatasetError: every kind of defect, with its first episode and row.
        ValueError: `allow` names something else.
    """
    if unknown := sorted(set(allow) - set(get_args(Doubt))):
        raise ValueError(f"allow: expected {', '.join(get_args(Doubt))}, got {', '.join(unknown)}")
    found = [*_not_finite(data), *_out_of_bounds(data), *_doubts(data, allow)]
    if found:
        where = f" ({data.info.origin['file']})" if "file" in data.info.origin else ""
        raise DatasetError("\n  ".join([f"the dataset can't be used as it is{where}:", *found]))


def allowed_at_import(info: DatasetInfo) -> list[Doubt]:
    """What was let through when a file was imported."""
    return [doubt for doubt in get_args(Doubt) if doubt in (info.origin.get("allowed") or ())]


def says_something(log_probs: np.ndarray) -> bool:
    """Whether log-probabilities are to be kept: float32 NaN throughout is what readers put where there are none."""
    return log_probs.dtype != np.float32 or not np.isnan(log_probs).all()


def _not_finite(data: "Dataset") -> Iterator[str]:
    for name in ("observations", "actions", "rewards"):
        array = getattr(data, name)
        if array.dtype.kind != "f":
            continue
        found = [i + start for start, x in _spans(array) for i in np.flatnonzero(~_all(np.abs(x) <= LARGEST))]
        bad = np.asarray(found, dtype=np.int64)
        finite = _all(np.isfinite(array[bad]))
        for what, rows in (("NaN or infinity", bad[~finite]), (f"numbers beyond {LARGEST:.2g}", bad[finite])):
            if len(rows):
                first = int(rows[0])
                place = data.place(first if name != "observations" else _row_of(data, first))
                yield f"{name}: {len(rows)} with {what}, the first in {place}: {array[first].tolist()}"
    wrong = np.flatnonzero(np.abs(data.log_probs) > LARGEST)
    if len(wrong):
        yield f"log_probs: {len(wrong)} infinite, the first in {data.place(int(wrong[0]))}; NaN stands for unknown"


def _out_of_bounds(data: "Dataset") -> Iterator[str]:
    info = data.info
    if data.action_dim is None:
        bad = np.flatnonzero((data.actions < 0) | (data.actions >= (info.actions or np.inf)))
        bounds = f"0 to {info.actions - 1}" if info.actions else "numbers from 0"
    elif info.action_low is None or info.action_high is None:
        return
    else:
        low, high = np.asarray(info.action_low), np.asarray(info.action_high)
        if len(low) != data.action_dim or len(high) != data.action_dim:
            yield f"actions: {data.action_dim} numbers each, but bounds for {len(low)}"
            return
        slack = 1e-5 * (high - low)  # rounding
        found = [
            i + start
            for start, x in _spans(data.actions)
            for i in np.flatnonzero(((x < low - slack) | (x > high + slack)).any(-1))
        ]
        bad = np.asarray(found, dtype=np.int64)
        bounds = f"{low.tolist()} to {high.tolist()}"
    if len(bad):
        row = int(bad[0])
        yield f"actions: {len(bad)} outside {bounds}, the first in {data.place(row)}: {data.actions[row].tolist()}"


def _doubts(data: "Dataset", allow: Collection[Doubt]) -> Iterator[str]:
    if "single" not in allow and data.episodes == 1:
        yield f"only one episode, of {len(data)} rows, so none can be held out; --allow single takes it all the same"
    if "constant" not in allow:
        low, high = data.observations.min(0), data.observations.max(0)
        same = np.flatnonzero(low == high)
        if len(same):
            yield (
                f"observations: dimension {', '.join(map(str, same))} never changes ({low[same[0]]:g} from "
                f"{data.place(0)} on), so that nothing can be learned of it; leave it out, or --allow constant"
            )
    if "jump" not in allow and (bad := _jumps(data)) is not None:
        yield (
            f"observations: {data.place(int(data.ends[bad]))} ends in the next episode's first observation; next "
            "observations were made by shifting, or episodes are divided wrongly. mbrl dataset import --allow jump "
            "makes a file that can be learned from all the same"
        )


def _jumps(data: "Dataset") -> int | None:
    """The first episode that leads into the next one by a jump; None: there is none."""
    last = data.ends + np.arange(data.episodes) + 1
    obs = data.observations
    joined = np.flatnonzero((obs[last[:-1]] == obs[last[:-1] + 1]).all(-1))
    if not len(joined):
        return None
    largest, inner = np.zeros(data.obs_dim), 0
    for start in range(0, len(obs) - 1, _SPAN):
        steps = np.abs(np.diff(obs[start : start + _SPAN + 1].astype(np.float64), axis=0))
        seams = np.concatenate([last, last[joined] - 1]) - start  # between episodes, and what is in question
        known = np.delete(steps, seams[(seams >= 0) & (seams < len(steps))], axis=0)
        largest, inner = np.maximum(largest, known.max(0, initial=0)), inner + len(known)
    into = np.abs(obs[last[joined]].astype(np.float64) - obs[last[joined] - 1])
    wrong = data.terminated[data.ends[joined]] | ((into > largest).any(-1) & (inner > 0))
    return int(joined[wrong.argmax()]) if wrong.any() else None


def _row_of(data: "Dataset", observation: int) -> int:
    """The row that an observation begins, or where it is an episode's last the one that led to it."""
    last = data.ends + np.arange(data.episodes) + 1
    episode = int(np.searchsorted(last, observation))
    return min(observation - episode, int(data.ends[episode]))


def _spans(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(array), _SPAN):
        yield start, array[start : start + _SPAN]


def _all(fine: np.ndarray) -> np.ndarray:
    return np.asarray(fine.all(axis=tuple(range(1, fine.ndim))))


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
