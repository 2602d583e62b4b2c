"""Every module of the benchmarks can be imported: they follow the library, and nothing else runs them in tests."""

import json
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbrl.experiments.provenance import seal
from mbrl.experiments.results import read_results
from mbrl.experiments.run import Run
from mbrl.learners.iql import IQLConfig
from mbrl.pipelines.offline_config import OfflineConfig
from tests.mbrl.comparison_cases import write_run

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import_module(f"benchmarks.{name}")


def test_there_are_benchmarks_to_import() -> None:
    assert "learning" in MODULES


def test_a_finished_seed_is_known_by_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one from before a setting was known, if that has its default now."""
    monkeypatch.syspath_prepend(ROOT)
    offline = import_module("benchmarks.offline")
    monkeypatch.setattr(offline, "RESULTS", tmp_path)

    def of(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        configs = {"loop": replace(OfflineConfig(), **changes), "learner": IQLConfig()}
        settings = {name: json.loads(json.dumps(asdict(config))) for name, config in configs.items()}
        return {"experiment": "iql@x", "seed": 1, "dataset": {"hash": "a"}, "settings": settings}, configs

    what, _ = of()
    assert not offline.is_kept(*of())
    line = {**what, "settings": {**what["settings"], "loop": dict(what["settings"]["loop"])}}
    del line["settings"]["loop"]["precision"]
    (tmp_path / "offline.jsonl").write_text(json.dumps(line) + "\n")
    assert offline.is_kept(*of())
    assert not offline.is_kept(*of(precision="bfloat16"))
    assert not offline.is_kept(*of(batch_size=8))
    assert not offline.is_kept({**what, "seed": 2}, of()[1])


@pytest.mark.parametrize("algo", ["sac", "mbpo"])
def test_a_run_of_the_tracked_comparison_comes_back_from_its_line(algo, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    compare_small = import_module("benchmarks.compare_small")
    path = write_run(tmp_path / "runs", algo, 0, [-900.0, None, -300.0])
    Run.open(path).log({"time/total_timesteps": 300, "train/n_updates": 31})  # after the last evaluation: left out
    (path / "evaluation.json").write_text(seal({"deterministic": {"returns": [-1.5]}, "stochastic": None}))
    line = json.loads(json.dumps(compare_small.line_of(path)))
    (half := tmp_path / "other" / path.name).mkdir(parents=True)  # a restore was killed
    (half / "metrics.jsonl").write_text("{}\n")
    back = compare_small.restore(line, tmp_path / "other")
    assert compare_small.restore(line, tmp_path / "other") == back  # once more: nothing is added
    ((before,), (after,)) = (read_results([("it", where)]).outcomes for where in (path, back))
    assert after.path == tmp_path / "other" / path.name
    np.testing.assert_equal(vars(replace(after, path=path)), vars(before))
