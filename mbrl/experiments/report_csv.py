"""The numbers of a report as CSV files, one for each kind.

What lies directly in `csv/` is the same whenever the same seeds run on the same machine; what depends on the clock, or
on where runs lie, is in `csv/timings/`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbrl.experiments.findings import AtBudget, Estimate, RunRow, Summary
from mbrl.experiments.oracle_gap import ARMS, GAPS, OracleGap, groups, pool
from mbrl.experiments.report_style import TIMED
from mbrl.experiments.results import COSTS

TIMINGS = "timings"
Rows = list[dict[str, Any]]


def write_csv(summary: Summary, oracle: Sequence[OracleGap], folder: Path) -> list[Path]:
    """Write all tables into `folder`; returns the files. A table without rows has none, an older one of it goes."""
    tables: dict[str, Rows] = {
        "at_budget": [_at_budget(row) for row in summary.at_budget],
        "scores": [
            {"algorithm": a.label, "tasks": a.tasks, **_estimate(a.iqm), "mean": a.mean.value}
            for a in summary.aggregates
        ],
        "tasks": [vars(row) for row in summary.tasks],
        "profiles": _points(summary.profiles, ("label",), ("score", "share", "low", "high")),
        "improvement": [_pair(row, row.probability) for row in summary.improvements],
        "paired": [{**_pair(row, row.difference), "correlation": row.correlation} for row in summary.paired],
        "differences": [{**_pair(row, row.difference), "p": row.p} for row in summary.differences],
        "detectable": [vars(row) for row in summary.detectable],
        "final": [_final(row) for row in summary.finals],
        "settings": [{"env_id": s.env_id, "name": s.name, **dict(s.values)} for s in summary.settings],
        "runs": [_run(row) for row in summary.runs],
        "oracle_gap": _oracle(oracle),
    }
    names = {"low": "smallest", "high": "largest"}  # of the runs: no interval
    placed = [{names.get(name, name): value for name, value in vars(row).items()} for row in summary.costs]
    reached = [
        {**vars(t), "share": t.share.value, "share_low": t.share.low, "share_high": t.share.high}
        for t in summary.thresholds
    ]
    curves = _points(summary.curves, ("env_id", "label", "axis", "statistic", "n"), ("x", "value", "low", "high"))
    for name, rows in (("curves", curves), ("costs", placed), ("thresholds", reached)):
        tables[name] = [row for row in rows if row["axis"] not in TIMED]
        tables[f"{TIMINGS}/{name}"] = [row for row in rows if row["axis"] in TIMED]
    evaluations = [row for run in summary.runs for row in _evaluations(run)]
    tables["evaluations"] = [{k: v for k, v in row.items() if k not in TIMED} for row in evaluations]
    tables[f"{TIMINGS}/evaluations"] = [
        {k: row[k] for k in ("env_id", "algorithm", "seed", "steps", *sorted(TIMED))} for row in evaluations
    ]
    tables[f"{TIMINGS}/runs"] = [
        {"env_id": r.env_id, "algorithm": r.label, "seed": r.seed, "path": r.path, "commit": r.commit}
        for r in summary.runs
    ]
    tables[f"{TIMINGS}/failures"] = [vars(row) for row in summary.failures]
    tables[f"{TIMINGS}/warnings"] = [{"warning": text} for text in summary.warnings]
    tables[f"{TIMINGS}/answers"] = [vars(row) for row in summary.answers]
    return [path for name, rows in tables.items() if (path := _write(folder / f"{name}.csv", rows))]


def _write(path: Path, rows: Rows) -> Path | None:
    if not rows:
        path.unlink(missing_ok=True)
        return None
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("algorithm" if name == "label" else name for name in columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def _cell(value: Any) -> Any:
    """As a spreadsheet may read it: words that begin like a formula are no formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _points(rows: Iterable[Any], names: Sequence[str], columns: Sequence[str]) -> Rows:
    """One row for each point of rows whose `columns` are tuples."""
    made: Rows = []
    for row in rows:
        fixed = {name: getattr(row, name) for name in names}
        values = {name: getattr(row, name) for name in columns}
        for i in range(len(values[columns[0]])):
            made.append({**fixed, **{name: None if value is None else value[i] for name, value in values.items()}})
    return made


def _estimate(found: Estimate | None, name: str = "iqm") -> dict[str, Any]:
    if found is None:
        return {name: None, "low": None, "high": None, "n": 0}
    low, high = found.coverage or (None, None)
    ends = {"low": found.low, "high": found.high, "n": found.n}
    return {name: found.value, **ends, "true_coverage_low": low, "true_coverage_high": high}


def _at_budget(row: AtBudget) -> dict[str, Any]:
    made = {"env_id": row.env_id, "algorithm": row.label, **_estimate(row.iqm)}
    for name, found in (("mean", row.mean), ("score", row.score)):
        made |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return {**made, "seeds": " ".join(map(str, row.seeds))}


def _pair(row: Any, found: Estimate) -> dict[str, Any]:
    return {"env_id": row.env_id or "all", "first": row.first, "second": row.second, **_estimate(found, "value")}


def _final(row: Any) -> dict[str, Any]:
    kinds: Mapping[str, Estimate | None] = {"deterministic": row.deterministic, "stochastic": row.stochastic}
    made = {"env_id": row.env_id, "algorithm": row.label}
    for kind, found in kinds.items():
        made |= {
            kind: found and found.value,
            f"{kind}_low": found and found.low,
            f"{kind}_high": found and found.high,
            f"{kind}_n": found.n if found else 0,
        }
    counts = {"runs": row.runs, "missing": row.missing, "diverged": row.diverged}
    return {**made, **counts, "episodes": " ".join(map(str, row.episodes))}


def _run(row: RunRow) -> dict[str, Any]:
    names = ("env_id", "label", "algo", "seed", "complete", "at_budget", "deterministic", "stochastic")
    return {name: getattr(row, name) for name in names}


def _evaluations(run: RunRow) -> Rows:
    return [
        {
            "env_id": run.env_id,
            "algorithm": run.label,
            "seed": run.seed,
            "steps": run.steps[i],
            "return": run.returns[i],
            **{axis: run.costs[axis][i] for axis in COSTS if axis != "steps" and axis in run.costs},
        }
        for i in range(len(run.steps))
    ]


def _oracle(gaps: Sequence[OracleGap]) -> Rows:
    """Mean returns and gaps of each run, then of each task; with labels, where there are several."""
    made: Rows = []
    several = len({gap.label for gap in gaps}) > 1
    for gap in gaps:
        row: dict[str, Any] = {
            "env_id": gap.env_id,
            **({"algorithm": gap.label} if several else {}),
            "seed": gap.seed,
            "steps": gap.steps,
            "episodes": gap.episodes,
        }
        row |= {arm: sum(gap.returns[arm]) / len(gap.returns[arm]) if arm in gap.returns else None for arm in ARMS}
        row |= {f"{name}_gap": found.value if (found := gap.gap(name)) else None for name in GAPS}
        made.append(row)
    for pooled in map(pool, groups(gaps)):
        row = {"env_id": pooled.env_id, **({"algorithm": pooled.label} if several else {}), "seed": "all"}
        row |= {arm: found.value for arm, found in pooled.returns.items()}
        for name, found in pooled.gaps.items():
            row |= {f"{name}_gap": found.value, f"{name}_gap_low": found.low, f"{name}_gap_high": found.high}
        made.append(row)
    return made
