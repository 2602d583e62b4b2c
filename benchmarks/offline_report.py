"""Tables of results/offline.jsonl: `python -m benchmarks.offline_report`.

A row is a dataset and how many updates its runs had. A cell is the mean over seeds of the mean of a run's last ten
evaluations, with a bootstrap interval of 95 % over seeds; beside it the mean over seeds of the best evaluation, which
is chosen with hindsight.
"""

import json
from collections import defaultdict
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.offline import METHODS
from benchmarks.report import RESULTS
from mbrl.experiments.scores import LAST
from mbrl.pipelines.bookkeeping import differences

Record = dict[str, Any]


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the mean: percentile bootstrap over seeds; of one seed, that seed."""
    if len(set(values)) < 2:
        return values[0], values[0]
    found = stats.bootstrap((np.array(values),), np.mean, method="percentile", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def last(record: Record) -> float:
    """The mean of the last evaluations of a run."""
    return float(np.mean(record["returns"][-LAST:]))


def cell(records: list[Record]) -> str:
    """What a method comes to on a dataset."""
    values = [last(record) for record in records]
    low, high = interval(values)
    best = np.mean([max(record["returns"]) for record in records])
    text = f"{np.mean(values):.0f} [{low:.0f}, {high:.0f}], best {best:.0f}"
    return text if len(records) == 5 else f"{text} ({len(records)} seeds)"


def values(records: list[Record]) -> str:
    """What the critics say of the policy in the dataset's states: the mean over all seeds; the highest of each."""
    known = [record for record in records if "q_max" in record]
    if not known:
        return ""
    highest = ", ".join(f"{record['q_max']:.1f}" for record in known)
    return f"{np.mean([record['q_mean'] for record in known]):.1f}; {highest}"


def _updates(record: Record) -> int:
    return int(record["settings"]["loop"]["total_updates"])


def _newest() -> dict[tuple[str, int, int], Record]:
    """The newest line of every experiment, number of updates, and seed.

    Raises:
        ValueError: seeds of an experiment were run with different settings.
    """
    records = [json.loads(line) for line in (RESULTS / "offline.jsonl").read_text().splitlines()]
    newest = {(record["experiment"], _updates(record), record["seed"]): record for record in records}
    settings: dict[tuple[str, int], dict[str, Any]] = {}
    for (experiment, updates, seed), record in newest.items():
        given = record["settings"]
        now = {**given["loop"], **given["learner"], **record["dataset"]}
        now.pop("model_seed", None)
        first = settings.setdefault((experiment, updates), now)
        if differences(first, now):  # what only newer lines know had its default before
            raise ValueError(f"{experiment}: expected the same settings and data for all seeds, seed {seed} has others")
    return newest


def main() -> int:
    found: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for (experiment, updates, _), record in sorted(_newest().items()):
        method, _, data = experiment.partition("@")
        found[f"{data}, {updates:,} updates"][method].append(record)
    methods = [name for name in METHODS if any(name in cells for cells in found.values())]
    for title, show in (("Return", cell), ("Q on the data: mean; highest, by seed", values)):
        print(f"\n{title}\n\n| | {' | '.join(methods)} |\n|{' --- |' * (len(methods) + 1)}")
        for data, cells in found.items():
            print(f"| {data} | {' | '.join(show(cells[name]) if name in cells else '' for name in methods)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
