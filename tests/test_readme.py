"""The README's snippets are the files in examples/, and those run as they stand, as the tutorial does. Snippets and
commands of the docs need nothing that they do not say."""

import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mbrl.experiments.compare_commands import _study
from mbrl.experiments.reuse import check_configs, wanted_configs
from mbrl.experiments.study import cells
from mbrl.pipelines.mbpo_config import mbpo_preset

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [page.read_text() for page in PAGES]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def _code(path: Path) -> str:
    return path.read_text().split('"""\n\n', 1)[1]


def test_the_readme_shows_the_examples_as_they_stand() -> None:
    assert len(SNIPPETS) == 3
    assert {_code(path) for path in EXAMPLES} >= set(SNIPPETS)


@pytest.mark.parametrize(
    ("name", "pattern", "least"),
    [
        ("custom_dynamics", r"predicted return (-[\d.]+)", -13.0),
        ("learned_model", r"stayed up for (\d+) steps", 50),
        ("simulator_model", r"return ([\d.]+) in 50 steps", 20.0),
        ("own_planner", r"predicted return (-[\d.]+)", -8.0),
        ("own_mujoco_model", r"the load hangs at ([\d.]+) m", 0.9),
    ],
)
def test_an_example_does_what_it_says(
    name: str, pattern: str, least: float, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    found = re.search(pattern, capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) >= least


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own
def test_the_tutorial_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/tutorial.md", "exec"), names)
    angles = [float(angle) for angle in re.findall(r"angle (-?[\d.]+)", capsys.readouterr().out)]
    assert len(angles) == 3
    assert max(map(abs, angles)) < 0.5


def blocks_of(page: Path) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks_of(p)], ids=lambda page: page.stem)
def test_snippets_import_and_define_what_they_use(page: Path, tmp_path: Path) -> None:
    """Pasted from the top of a page on: no name is missing, and every import is there."""
    code = tmp_path / "page.py"
    code.write_text(blocks_of(page))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(code)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    for line in re.findall(r"^(?:from|import) .*(?:\((?:.|\n)*?\))?", code.read_text(), re.MULTILINE):
        exec(line, {})


@pytest.mark.parametrize("command", re.findall(r"^mbrl (compare --env-id [^#\n]*)", "\n".join(TEXTS), re.MULTILINE))
def test_comparisons_that_are_printed_pass_the_checks_before_the_first_run(command: str) -> None:
    options: dict[str, list[str]] = {}
    for word in shlex.split(command)[1:]:
        if word.startswith("--"):
            values = options.setdefault(word[2:], [])
        else:
            values.append(word)
    study = _study(
        None,
        tuple(options["env-id"]),
        tuple(options["algorithms"]),
        int(options["total-timesteps"][0]),
        1,
        None,
        None,
        tuple(options.get("times", ())),
        (),
    )
    check_configs(wanted_configs(cells(study)))


def test_paths_that_are_named_are_there() -> None:
    named = re.findall(r"`((?:mbrl|planners|benchmarks|tests|examples|docs)/[\w/.-]+\.\w+)`", "\n".join(TEXTS))
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_snippet_of_mbpo_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "mbpo.md").read_text(), re.DOTALL)
    preset = mbpo_preset("InvertedPendulum-v5")
    short = {"total_timesteps": 25, "initial_steps": 20, "model_max_steps": 2, "rollout_starts": 50, "eval_every": 0}
    found = preset._replace(config=replace(preset.config, **short))
    monkeypatch.setattr("mbrl.pipelines.mbpo_config.mbpo_preset", lambda env_id: found)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/mbpo.md", "exec"), names)
    assert names["result"].steps == 25
