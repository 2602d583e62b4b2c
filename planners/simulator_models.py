"""Models for the simulator: from a file, a string or memory, and randomised copies of one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

Randomize = Callable[[Any, np.random.Generator], None]


def load_model(source: Any) -> Any:
    """Compile a MuJoCo model.

    Args:
        source: a path to a file (.xml or .mjb), XML or URDF as a string, or an `MjModel`, which is returned as it is.

    Raises:
        ValueError: there is no such file, or it does not compile; MuJoCo's message is part of it.
    """
    if isinstance(source, mujoco.MjModel):
        return source
    if isinstance(source, str) and source.lstrip().startswith("<"):
        name, compile_it = "the XML given", lambda: mujoco.MjModel.from_xml_string(source)
    elif isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"model: expected a MuJoCo model file, XML as a string or an MjModel, got {str(path)!r}")
        read = mujoco.MjModel.from_binary_path if path.suffix == ".mjb" else mujoco.MjModel.from_xml_path
        name, compile_it = str(path), lambda: read(str(path))
    else:
        raise ValueError(
            f"model: expected a MuJoCo model file, XML as a string or an MjModel, got {type(source).__name__}"
        )
    try:
        return compile_it()
    except ValueError as error:
        raise ValueError(f"model: expected a model that MuJoCo compiles, {name} does not: {error}") from error


def randomize_models(model: Any, randomize: Randomize, count: int, *, seed: int = 0) -> list[Any]:
    """Copies of a model with fields changed: the worlds of `Simulator(..., worlds=)`.

    Args:
        model: what is copied (see `load_model`).
        randomize: `randomize(copy, rng)` changes numbers of the copy in place: `copy.geom_friction[:, 0] *=
            rng.uniform(0.5, 1.5)`. Constants that follow from masses and inertias are computed anew afterwards.
        count: how many. World j depends on (seed, j) only.
        seed: of the random numbers.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1 world, got {count}")
    model, worlds = load_model(model), []
    for j in range(count):
        world = copy.deepcopy(model)
        randomize(world, np.random.default_rng([seed, j]))
        mujoco.mj_setConst(world, mujoco.MjData(world))
        worlds.append(world)
    return worlds


def sensor(model: Any, name: str) -> slice:
    """Where a sensor's numbers stand in the field "sensordata".

    Raises:
        ValueError: the model has no such sensor; the message names those it has.
    """
    names = [model.sensor(i).name for i in range(model.nsensor)]
    if name not in names:
        raise ValueError(f"name: expected one of the model's sensors {names}, got {name!r}")
    start = int(model.sensor(name).adr[0])
    return slice(start, start + int(model.sensor(name).dim[0]))
