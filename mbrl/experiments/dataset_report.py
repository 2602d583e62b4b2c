"""What is in a dataset, as text and one picture: sizes, ends, alignment, saturated actions, coverage, duplicates."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbrl.data.datasets import Dataset

SAMPLE = 100_000
"""Rows that alignment, coverage and duplicates are looked for in, evenly spread over the episodes."""
NEAR_BOUND = 0.01
"""An action is saturated where it is as near to a bound, in the range from one to the other."""
ENOUGH = 10
"""Rows for every number that a linear fit of changes has, below which it says nothing of shifts."""
CLEARLY, STILL = 1.3, 1.1
"""Of changes, how many times as much a row's own action leaves unexplained as a neighbour's does, where actions are
shifted; and as that does of a neighbour's which its observation does not tell."""
NOTHING = 1e-6
"""Unexplained shares below this are rounding."""
BINS, BAR = 10, 40


@dataclass(frozen=True)
class Inspection:
    """Findings; shares are of rows."""

    rows: int
    episodes: int
    lengths: tuple[int, float, int]
    """Shortest, median, longest."""
    terminated: int
    truncated: int
    """Episodes; one may be both."""
    terminated_at_limit: int
    """Episodes that terminated at the greatest length of all, if that is more than one and none was cut there: a time
    limit that was stored as an end looks like that."""
    fit: tuple[float, float]
    """Share of the variance of changes that is linear in (obs, action): with each row's action, and with that of the
    row before or behind it, whichever is more. NaN where there are too few rows."""
    misaligned: tuple[int, ...]
    """Dimensions of observations of whose changes neighbouring rows' actions explain clearly more than rows' own do;
    empty where there are few rows, too."""
    saturated: np.ndarray
    """[act] share of actions at a bound; empty where bounds are not known."""
    directions: float
    """How many directions observations vary in, effectively: the participation ratio of their correlation."""
    constant: tuple[int, ...]
    """Dimensions of observations that never change."""
    duplicates: float
    """Share of the looked-at rows that are an earlier one again."""
    repeated_episodes: int
    """Episodes that are an earlier one again."""
    known_log_probs: float
    returns: np.ndarray
    """[episodes]."""
    warnings: tuple[str, ...]


def inspect_dataset(data: Dataset) -> Inspection:
    """Look at a dataset; large ones are sampled by `SAMPLE`, whole episodes at a time."""
    some = _sample(data)
    ends = data.ends
    terminated = data.terminated[ends]
    truncated = data.truncated[ends] & ~terminated
    longest = int(data.lengths.max())
    at_limit = (data.lengths == longest) & terminated
    limit = int(at_limit.sum()) if at_limit.sum() > 1 and not truncated[data.lengths == longest].any() else 0
    low, high = data.observations.min(0), data.observations.max(0)
    fit, misaligned = _alignment(some)
    result = Inspection(
        rows=len(data),
        episodes=data.episodes,
        lengths=(int(data.lengths.min()), float(np.median(data.lengths)), longest),
        terminated=int(terminated.sum()),
        truncated=int(truncated.sum()),
        terminated_at_limit=limit if longest > 1 else 0,
        fit=fit,
        misaligned=misaligned,
        saturated=_saturated(data),
        directions=_directions(some),
        constant=tuple(np.flatnonzero(low == high).tolist()),
        duplicates=_duplicates(some),
        repeated_episodes=_repeated(data),
        known_log_probs=float((~np.isnan(data.log_probs)).mean()),
        returns=data.returns(),
        warnings=(),
    )
    return Inspection(**{**vars(result), "warnings": _warnings(result)})


def report(data: Dataset, found: Inspection) -> str:
    """The findings as text."""
    info, returns = data.info, found.returns
    actions = f"{data.action_dim} continuous" if data.action_dim is not None else f"discrete ({info.actions or '?'})"
    lines = [
        f"environment: {info.env_id or 'unknown'}" + (f" {dict(info.env_kwargs)}" if info.env_kwargs else ""),
        f"description: {info.description or 'none'}",
        f"rows: {found.rows} in {found.episodes} episodes; observations: {data.obs_dim}, actions: {actions}",
        f"episode lengths: {found.lengths[0]} to {found.lengths[2]}, median {found.lengths[1]:g}",
        f"ends: {found.terminated} episodes terminated, {found.truncated} were cut (time limit, or collection stopped)",
        f"alignment: {found.fit[0]:.2f} of the changes are linear in (obs, action), {found.fit[1]:.2f} with the action "
        "of a neighbouring row",
        f"coverage: observations vary in {found.directions:.1f} of {data.obs_dim} directions",
        f"duplicates: {100 * found.duplicates:.1f} % of rows, {found.repeated_episodes} whole episodes",
        f"log-probabilities: known of {100 * found.known_log_probs:.0f} % of actions",
    ]
    if len(found.saturated):
        shares = ", ".join(f"{100 * share:.0f} %" for share in found.saturated)
        lines.append(f"actions at a bound, by dimension: {shares}")
    lines += [f"returns: {returns.mean():.2f} +- {returns.std():.2f}, from {returns.min():.2f} to {returns.max():.2f}"]
    counts, edges = np.histogram(returns, bins=BINS)
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
        lines.append(f"  {start:10.2f} to {end:10.2f} {'#' * round(BAR * count / counts.max())} {count}")
    return "\n".join([*lines, *(f"warning: {text}" for text in found.warnings)])


def picture(data: Dataset, found: Inspection, out: Path) -> Path:
    """Returns, lengths, actions and where observations lie, in one PNG file."""
    figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    (returns, lengths), (actions, space) = figure.subplots(2, 2)
    returns.hist(found.returns, bins=30, color="#0072B2")
    returns.set(xlabel="return of an episode", ylabel="episodes")
    ended = data.terminated[data.ends]
    lengths.hist(
        [data.lengths[ended], data.lengths[~ended]],
        bins=30,
        stacked=True,
        color=["#D55E00", "#0072B2"],
        label=["terminated", "cut"],
    )
    lengths.set(xlabel="steps of an episode", ylabel="episodes")
    lengths.legend(frameon=False)
    some = _sample(data)
    columns = some.actions[:, None] if some.action_dim is None else some.actions
    for number, column in enumerate(columns.T[:8]):
        actions.hist(column, bins=50, histtype="step", density=True, label=f"{number}")
    actions.set(xlabel="action" + (" (the first 8 dimensions)" if columns.shape[1] > 8 else ""), ylabel="density")
    actions.legend(frameon=False, fontsize="small", title="dimension" if data.action_dim is not None else None)
    scores = _standard(some.observations)
    _, _, axes = np.linalg.svd(scores[:20_000], full_matrices=False)
    flat = scores @ axes[:2].T if len(axes) > 1 else np.hstack([scores, np.zeros_like(scores)])
    of_row = np.repeat(some.returns(), some.lengths + 1)
    points = space.scatter(flat[:, 0], flat[:, 1], c=of_row, s=2, cmap="viridis", rasterized=True)
    figure.colorbar(points, ax=space, label="return of the episode")
    space.set(xlabel="observations, first principal direction", ylabel="second")
    figure.suptitle(f"{data.info.env_id or 'unknown environment'}: {found.rows} rows, {found.episodes} episodes")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out


def _sample(data: Dataset) -> Dataset:
    if len(data) <= SAMPLE:
        return data
    count = max(1, int(data.episodes * SAMPLE / len(data)))
    some = data.select(np.linspace(0, data.episodes - 1, count).astype(np.int64))
    return some if len(some) <= 2 * SAMPLE else some.head(2 * SAMPLE)


def _alignment(data: Dataset) -> tuple[tuple[float, float], tuple[int, ...]]:
    """R^2 of changes on (obs, action), with the rows' own actions and with those of their better neighbours; and the
    dimensions in which neighbours explain more."""
    first = data.ends - data.lengths + 1
    rows = np.delete(np.arange(len(data)), np.concatenate([first, data.ends]))
    if len(rows) < 10:
        return (float("nan"), float("nan")), ()
    starts = np.arange(len(data)) + np.searchsorted(data.ends, np.arange(len(data)))
    at, obs, action = starts[rows], _standard(data.observations), _columns(data)
    change = _standard(data.observations[at + 1].astype(np.float64) - data.observations[at])

    def unexplained(actions: np.ndarray) -> np.ndarray:
        share: np.ndarray = (_rest(np.concatenate([obs[at], actions], 1), change) ** 2).mean(0)
        return np.where(change.var(0) > 0, share, np.nan)

    own, before, behind = (unexplained(action[rows + shift]) for shift in (0, -1, 1))
    if np.isnan(own).all():
        return (float("nan"), float("nan")), ()
    fit = 1 - float(np.nanmean(own)), 1 - float(min(np.nanmean(before), np.nanmean(behind)))
    if len(rows) < ENOUGH * (obs.shape[1] + action.shape[1] + 1):
        return fit, ()
    # A policy's next action tells where a step led, without any shift; what its observation does not tell of it can't.
    seen = obs[starts]
    unforeseen = unexplained(_rest(np.concatenate([seen, seen**2], 1), action)[rows + 1])
    late = (own > CLEARLY * (behind + NOTHING)) & (own > STILL * (unforeseen + NOTHING))
    return fit, tuple(np.flatnonzero((own > CLEARLY * (before + NOTHING)) | late).tolist())


def _columns(data: Dataset) -> np.ndarray:
    if data.action_dim is None:
        return np.eye(int(data.actions.max()) + 1)[data.actions]
    return _standard(data.actions)


def _rest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What of y is not linear in x."""
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    weights, *_ = np.linalg.lstsq(x, y, rcond=None)
    rest: np.ndarray = y - x @ weights
    return rest


def _standard(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    std = wide.std(0)
    scaled: np.ndarray = (wide - wide.mean(0)) / np.where(std > 0, std, 1)
    return scaled


def _saturated(data: Dataset) -> np.ndarray:
    if data.info.action_low is None or data.info.action_high is None or data.action_dim is None:
        return np.zeros(0)
    low, high = np.asarray(data.info.action_low), np.asarray(data.info.action_high)
    near = NEAR_BOUND * (high - low)
    share: np.ndarray = ((data.actions <= low + near) | (data.actions >= high - near)).mean(0)
    return share


def _directions(data: Dataset) -> float:
    """(sum of eigenvalues)^2 / (sum of their squares), of the correlation matrix of observations."""
    z = _standard(data.observations)
    squares = ((z.T @ z / len(z)) ** 2).sum()
    return float((z**2).mean(0).sum() ** 2 / squares) if squares else 0.0


def _duplicates(data: Dataset) -> float:
    at = np.arange(len(data)) + np.searchsorted(data.ends, np.arange(len(data)))
    actions = data.actions.reshape(len(data), -1).astype(np.float64)
    rows = np.concatenate([data.observations[at], actions, data.observations[at + 1]], 1)
    return 1 - len(np.unique(np.ascontiguousarray(rows).view(f"V{rows.itemsize * rows.shape[1]}"))) / len(rows)


def _repeated(data: Dataset) -> int:
    first = data.ends - data.lengths + 1
    seen = {
        (
            data.observations[start + number : start + number + length + 1].tobytes(),
            data.actions[start : start + length].tobytes(),
        )
        for number, (start, length) in enumerate(zip(first.tolist(), data.lengths.tolist(), strict=True))
    }
    return data.episodes - len(seen)


def _warnings(found: Inspection) -> tuple[str, ...]:
    texts = []
    if found.misaligned:
        which = ", ".join(map(str, found.misaligned))
        texts.append(
            f"the actions of neighbouring rows explain the changes of observations better in dimension {which}: are "
            "actions shifted by one?"
        )
    if found.terminated_at_limit:
        texts.append(
            f"{found.terminated_at_limit} episodes terminated at the same, greatest length {found.lengths[2]}: is a "
            "time limit stored as an end? Values would not be bootstrapped there"
        )
    if len(found.saturated) and found.saturated.max() > 0.5:
        worst = int(found.saturated.argmax())
        texts.append(f"more than half of the actions are at a bound in dimension {worst}: little is told of others")
    if found.constant:
        texts.append(f"observations never change in dimension {', '.join(map(str, found.constant))}")
    if found.duplicates > 0.01 or found.repeated_episodes:
        texts.append("there are duplicates: a holdout would not be unseen")
    if found.episodes == 1:
        texts.append("there is one episode only: none can be held out")
    return tuple(texts)
