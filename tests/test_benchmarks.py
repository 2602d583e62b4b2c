"""Every module of the benchmarks can be imported: they follow the library, and nothing else runs them in tests."""

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    import_module(f"benchmarks.{name}")


def test_there_are_benchmarks_to_import() -> None:
    assert "learning" in MODULES
