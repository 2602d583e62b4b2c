"""The doctor: it knows what is there, and has a command for what is not."""

from importlib import metadata

import pytest
import torch

from mbrl.experiments import doctor, video
from mbrl.experiments.doctor import Problem, Report, _Requirement, diagnose
from planners import cores


@pytest.fixture(autouse=True)
def renders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where egl works, whatever this one has."""
    _back_ends(monkeypatch, "egl")


def _back_ends(monkeypatch: pytest.MonkeyPatch, *working: str, given: str = "egl") -> None:
    monkeypatch.setattr(video, "trial", lambda backend: None if backend in working else "no library")
    monkeypatch.setattr(video, "_has_screen", lambda: False)
    monkeypatch.setenv("MUJOCO_GL", given)


def _missing(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    real = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: versions.get(name, real(name)) if name in versions else real(name)
    )


def test_a_complete_machine_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "effective_cores", lambda: 64)
    report = diagnose()
    facts = dict(report.facts)
    assert report.ok, str(report)
    assert facts["torch"] == torch.__version__
    assert facts["mujoco"] == metadata.version("mujoco")
    assert facts["devices"].startswith("cpu")
    assert facts["torch threads"].startswith(str(torch.get_num_threads()))
    assert facts["rendering"] == "egl works"
    assert facts["cores"].startswith("64 usable")
    assert "extra tensorboard" in facts
    assert "extra dev" not in facts
    assert str(report).endswith("All is well.")


def test_a_missing_library_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    _missing(monkeypatch, tyro=None, mujoco="3.2.1")
    report = diagnose()
    mends = {problem.mend for problem in report.problems}
    assert {'pip install "tyro>=1.0"', 'pip install "mujoco>=3.17"'} <= mends
    assert "expected mujoco>=3.17, but version 3.2.1 is installed" in str(report)
    assert not report.ok


def test_a_missing_extra_is_no_problem_but_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "effective_cores", lambda: 64)
    _missing(monkeypatch, tensorboard=None)
    report = diagnose()
    assert report.ok
    assert 'pip install ".[tensorboard]"' in dict(report.facts)["extra tensorboard"]


def test_another_package_of_our_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"mbrl": ["mbrl_planners", "mbrl"], "planners": ["mbrl-planners"]}
    monkeypatch.setattr(doctor.metadata, "packages_distributions", lambda: owners)
    (problem,) = (p for p in diagnose().problems if "import name" in p.what)
    assert "'mbrl' also installs the import name 'mbrl'" in problem.what
    assert problem.mend.startswith("pip uninstall mbrl && pip install")


@pytest.mark.parametrize(
    ("working", "given", "rendering", "mend"),
    [
        ((), "egl", "none works", "apt-get install libegl1 libgl1"),
        (("egl",), "nonsense", "egl works", "export MUJOCO_GL=egl"),
        (("osmesa",), "egl", "osmesa works", "export MUJOCO_GL=osmesa"),
    ],
)
def test_rendering_that_does_not_work_is_mended(
    monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], given: str, rendering: str, mend: str
) -> None:
    _back_ends(monkeypatch, *working, given=given)
    report = diagnose()
    assert dict(report.facts)["rendering"].startswith(rendering)
    assert any(problem.mend.startswith(mend) for problem in report.problems)


def test_more_threads_than_cores_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    monkeypatch.setattr(cores, "effective_cores", lambda: 2)
    assert "export OMP_NUM_THREADS=2" in str(diagnose())


def test_the_report_reads_as_a_list() -> None:
    report = Report((("a", "1"), ("longer", "2")), (Problem("it is broken", "mend --it"),))
    assert str(report).splitlines() == [
        "a       1",
        "longer  2",
        "",
        "Found 1 to mend:",
        "- it is broken",
        "    mend --it",
    ]


@pytest.mark.parametrize(
    ("versions", "installed", "met"),
    [
        (">=2", "2.0.0", True),
        (">=2,<3", "2.9", True),
        (">=1.2,<2", "2.0.0", False),
        (">=1.2,<2", "1.10", True),
        (">=3.17", "3.9", False),
        (">=2.11", "2.13.0+cpu", True),
        ("", "0.1", True),
        (">=1", None, False),
    ],
)
def test_versions_are_compared_as_numbers(versions: str, installed: str | None, met: bool) -> None:
    assert _Requirement("x", versions, None).met_by(installed) is met
