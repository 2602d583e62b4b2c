"""The README's snippets are the files in examples/, and those run as they stand, as the tutorial does."""

import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mbrl.pipelines.mbpo_config import mbpo_preset

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
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


def test_the_snippet_of_mbpo_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "mbpo.md").read_text(), re.DOTALL)
    preset = mbpo_preset("InvertedPendulum-v5")
    short = {"total_timesteps": 25, "initial_steps": 20, "model_max_steps": 2, "rollout_starts": 50, "eval_every": 0}
    found = preset._replace(config=replace(preset.config, **short))
    monkeypatch.setattr("mbrl.pipelines.mbpo_config.mbpo_preset", lambda env_id: found)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/mbpo.md", "exec"), names)
    assert names["result"].steps == 25
