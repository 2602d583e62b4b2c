"""The report of a comparison: one HTML file to send, and beside it numbers as CSV and figures as PNG and SVG."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbrl.experiments.figures import write_figures
from mbrl.experiments.findings import Summary
from mbrl.experiments.oracle_gap import OracleGap
from mbrl.experiments.report_csv import write_csv
from mbrl.experiments.report_html import page

REPORT = "report.html"


def write_report(
    summary: Summary,
    out: str | Path,
    *,
    study: Mapping[str, Any] | None = None,
    oracle: Sequence[OracleGap] | None = None,
) -> Path:
    """Write `report.html`, `csv/` and `figures/` into the folder `out`, in place of those that are there.

    The same input gives the same bytes.

    Args:
        summary: what was found, see `mbrl.experiments.statistics`.
        out: a folder; it is made.
        study: what study.json has; its "name" and "command" are shown. None: the report is of single runs.
        oracle: of runs of PETS, see `mbrl.experiments.oracle_gap`.

    Returns:
        The HTML file. It is written last, and is either the whole new one or the old one.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    gaps = tuple(oracle or ())
    write_csv(summary, gaps, out / "csv")
    write_figures(summary, gaps, out / "figures")
    staged = out / f".{REPORT}"
    staged.write_text(page(summary, study=study, oracle=gaps), encoding="utf-8")
    os.replace(staged, out / REPORT)
    return out / REPORT
