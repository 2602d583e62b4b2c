"""PETS in a comparison: its run ends with its oracle gap, which counts where it is of that run as it stands."""

import json
import shutil
from pathlib import Path

import pytest

from mbrl.experiments import compare as module
from mbrl.experiments import oracle_gap as gaps
from mbrl.experiments.cell_status import FILE
from mbrl.experiments.compare import Comparison, report_study, run_study
from mbrl.experiments.final_evaluation import final_evaluation, read_final
from mbrl.experiments.run import Run
from mbrl.experiments.study import Entry, Study, Task
from mbrl.pipelines import pets_config
from mbrl.pipelines.pets_config import PETSConfig
from tests.mbrl.compare_cases import Inline

SETTINGS = PETSConfig(
    initial_steps=30,
    fit_every=30,
    hidden=(8,),
    batch_size=32,
    fit_steps=5,
    max_epochs=1,
    horizon=2,
    population=4,
    elites=2,
    iterations=1,
    particles=5,
    checkpoint_every=30,
    diagnostic_horizons=(1,),
)
TASK = Task("InvertedPendulum-v5", budget=60, eval_every=60, eval_episodes=2)
STUDY = Study("", (TASK,), (Entry("p", "pets"),), (0,))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(pets_config, "preset", lambda env_id: SETTINGS)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pets_config, "preset", lambda env_id: SETTINGS)
        run_study(prepared(folder, 2), Inline(oracle_episodes=2))
    return folder


@pytest.fixture
def folder(done, tmp_path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(done, tmp_path / "copy"))


def prepared(folder: Path, episodes: int) -> Comparison:
    return Comparison.prepare(STUDY, root=folder / "runs", out=folder / "out", oracle_episodes=episodes)


def state(folder: Path, episodes: int) -> str:
    return prepared(folder, episodes).statuses[0].state


def run_of(folder: Path) -> Path:
    (path,) = (folder / "runs").glob("*__pets__*")
    return path


def test_a_run_ends_with_its_gap_and_the_report_shows_it_where_it_is_asked_for(folder, monkeypatch):
    final, gap = read_final(run_of(folder)), gaps.load(run_of(folder))
    assert final is not None
    assert len(final.deterministic.returns) == 2
    assert final.stochastic is None
    assert gap is not None
    assert (gap.steps, gap.episodes) == (60, 2)
    comparison = prepared(folder, 2)
    assert comparison.statuses[0].reused
    shown = []
    monkeypatch.setattr(module, "write_report", lambda *_, oracle, **__: shown.append(oracle))
    report_study(comparison)
    report_study(prepared(folder, 0))
    assert shown == [[gap], []]


def test_a_gap_of_other_episodes_or_an_older_checkpoint_is_measured_anew(folder):
    assert [state(folder, episodes) for episodes in (2, 3, 0)] == ["done", "waiting", "done"]
    (newest, _) = sorted((run_of(folder) / "checkpoints").iterdir(), reverse=True)
    newest.rename(newest.with_name("000009-step70"))
    final_evaluation(Run.open(run_of(folder)))
    assert [state(folder, episodes) for episodes in (2, 0)] == ["waiting", "done"]


def test_a_damaged_gap_is_measured_anew_and_one_without_checkpoints_is_not(folder):
    before = gaps.load(run_of(folder))
    (run_of(folder) / gaps.FILE).write_text("{}")
    comparison = prepared(folder, 2)
    assert comparison.statuses[0].state == "waiting"
    run_study(comparison, Inline(oracle_episodes=2))
    assert gaps.load(run_of(folder)) == before
    shutil.rmtree(run_of(folder) / "checkpoints")
    assert state(folder, 3) == "done"


def test_what_was_evaluated_is_what_is_named(folder):
    newest, older = sorted((run_of(folder) / "checkpoints").iterdir(), reverse=True)
    (newest / "tensors.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="passing over a damaged checkpoint"):
        assert final_evaluation(Run.open(run_of(folder))).checkpoint == older.name
    assert state(folder, 0) == "waiting"  # its last steps are missing


def test_a_gap_that_fails_is_a_warning_and_no_failure(folder, monkeypatch):
    (run_of(folder) / gaps.FILE).unlink()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a planted one")

    monkeypatch.setattr(gaps, "oracle_gap", broken)
    comparison = prepared(folder, 2)
    run_study(comparison, Inline(oracle_episodes=2))
    note = "p on InvertedPendulum-v5, seed 0: no oracle gap: RuntimeError: a planted one"
    assert comparison.statuses[0].state == "done"
    assert json.loads((folder / "out" / FILE).read_text())["notes"] == [note]
