"""Imports point one way: planners <- types <- envs, data <- models <- learners <- pipelines <- experiments <- cli."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import from lower ranks, and from its own package.
RANK = {
    "planners": 0,
    "mbrl.types": 1,
    "mbrl.divergence": 1,
    "mbrl.seeding": 1,
    "mbrl.processors": 1,
    "mbrl.envs": 2,
    "mbrl.data": 2,
    "mbrl.models": 3,
    "mbrl.rollout": 4,
    "mbrl.learners": 5,
    "mbrl.pipelines": 6,
    "mbrl.experiments": 7,
    "mbrl.cli": 8,
    "mbrl.__main__": 9,
    "mbrl": 10,  # the package's own face
}
# The parts of an experiment that pipelines receive as arguments know nothing of pipelines.
KNOW_NO_PIPELINES = ("mbrl.experiments.run", "mbrl.experiments.metrics", "mbrl.experiments.checkpoint")
TOUCH_SIMULATORS = ("planners.simulator", "planners.env_copies")
COMPILE = ("planners.mcts.kernels", "planners.mcts.kernels_native", "planners.mcts.kernels_results")
"""What needs numba, which is optional."""
ALLOWED_IN_PLANNERS = {"planners", "torch", "numpy", "scipy", "jaxtyping"}


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, name: str) -> Iterator[str]:
    """The modules that a file imports, at its top, inside functions and for type checkers alike."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            else:
                base = node.module or ""
            # `from mbrl import envs` imports mbrl.envs: the names count as far as they are parts.
            parts = [f"{base}.{alias.name}" for alias in node.names]
            yield from ([part if part in RANK else base for part in parts])


def part(name: str) -> str | None:
    """The entry of RANK that a module belongs to."""
    return max((key for key in RANK if name == key or name.startswith(f"{key}.")), key=len, default=None)


def violations(root: Path) -> list[str]:
    wrong = []
    for path in sorted([*root.glob("planners/**/*.py"), *root.glob("mbrl/**/*.py")]):
        name = module_name(path, root)
        own = part(name)
        assert own is not None
        for target in imports(path, name):
            to, top = part(target), target.split(".")[0]
            if own != "mbrl" and to == "mbrl":
                wrong.append(f"{name} imports {target}, which has no place in the order")
            elif to is not None and to != own and RANK[to] >= RANK[own]:
                wrong.append(f"{name} imports {target}, against the order")
            if name in KNOW_NO_PIPELINES and to in ("mbrl.pipelines", "mbrl.learners", "mbrl.models"):
                wrong.append(f"{name} imports {target}, of which it must know nothing")
            if target.startswith("planners.testing") and not name.startswith("planners.testing"):
                wrong.append(f"{name} imports {target}, which is for tests")
            if own == "planners" and not _allowed_in_planners(name, top):
                wrong.append(f"{name} imports {target}, which planners do without")
    return wrong


def _allowed_in_planners(name: str, top: str) -> bool:
    if top == "mbrl":
        return True  # told already, as an arrow against the order
    if top in ("mujoco", "gymnasium"):
        return name.startswith(TOUCH_SIMULATORS)
    if top == "numba":
        return name in COMPILE
    return top in ALLOWED_IN_PLANNERS or top in sys.stdlib_module_names


def test_every_import_points_the_right_way():
    assert violations(ROOT) == []


def test_every_package_has_a_rank():
    names = {module_name(path, ROOT) for path in ROOT.glob("mbrl/**/*.py")} - {"mbrl"}
    assert {name for name in names if part(name) == "mbrl"} == set()


@pytest.mark.parametrize(
    ("path", "line", "message"),
    [
        ("planners/cem.py", "from mbrl.seeding import derive", "planners.cem imports mbrl.seeding, against the order"),
        ("planners/cem.py", "import mbrl", "planners.cem imports mbrl, which has no place in the order"),
        ("planners/cem.py", "import mujoco", "planners.cem imports mujoco, which planners do without"),
        (
            "planners/box.py",
            "from gymnasium import spaces",
            "planners.box imports gymnasium, which planners do without",
        ),
        ("planners/mpc.py", "import tqdm", "planners.mpc imports tqdm, which planners do without"),
        (
            "planners/mpc.py",
            "from planners.testing import riccati",
            "planners.mpc imports planners.testing, which is for",
        ),
        ("mbrl/types.py", "from mbrl.data.buffer import ReplayBuffer", "mbrl.types imports mbrl.data.buffer, against"),
        (
            "mbrl/data/buffer.py",
            "import mbrl.models.fit",
            "mbrl.data.buffer imports mbrl.models.fit, against the order",
        ),
        ("mbrl/envs/tasks.py", "from mbrl.data import collect", "mbrl.envs.tasks imports mbrl.data, against the order"),
        (
            "mbrl/models/fit.py",
            "def f():\n    from mbrl import learners",
            "mbrl.models.fit imports mbrl.learners, against",
        ),
        ("mbrl/models/fit.py", "from ..pipelines import pets", "mbrl.models.fit imports mbrl.pipelines, against"),
        ("mbrl/models/fit.py", "from .. import cli", "mbrl.models.fit imports mbrl.cli, against the order"),
        (
            "mbrl/pipelines/pets.py",
            "from mbrl.experiments.run import Run",
            "mbrl.pipelines.pets imports mbrl.experiments",
        ),
        (
            "mbrl/experiments/run.py",
            "import mbrl.pipelines.pets",
            "mbrl.experiments.run imports mbrl.pipelines.pets, of",
        ),
    ],
)
def test_a_planted_wrong_arrow_is_found(tmp_path, path, line, message):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n")
    found = violations(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(message)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("planners/simulator.py", "import mujoco"),
        ("planners/sampling/cem.py", "from planners.box import Box\nimport math\nimport torch"),
        ("planners/testing/planner.py", "from planners.testing.laws import require"),
        (
            "mbrl/models/fit.py",
            "from mbrl.data.buffer import ReplayBuffer\nfrom .network import MLP\nimport safetensors",
        ),
        ("mbrl/experiments/demo.py", "from mbrl.pipelines import pets"),
    ],
)
def test_a_right_arrow_passes(tmp_path, path, line):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n")
    assert violations(tmp_path) == []
