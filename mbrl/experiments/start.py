"""New runs of every algorithm."""

from pathlib import Path
from typing import Any

from mbrl.experiments.agent_runs import ALGORITHMS, create_agent_run
from mbrl.experiments.offline_runs import OFFLINE, create_offline_run, open_dataset
from mbrl.experiments.pets_runs import create_pets_run
from mbrl.experiments.run import Run
from mbrl.experiments.runs import PETS
from mbrl.experiments.sb3_presets import SB3, sb3_preset
from mbrl.experiments.sb3_runs import create_sb3_run


def start_run(
    algorithm: str,
    *,
    root: Path,
    env_id: str | None,
    dataset: Path | None,
    config: Any,
    learner: Any,
    preset: str | None,
    seed: int,
    distill: bool,
    tensorboard: bool,
) -> Run:
    """A new run directory; the arguments are those of `mbrl train`.

    Raises:
        ValueError: an option is missing or does not fit the algorithm, or see the `create_..._run` of its kind.
    """
    if distill and algorithm != PETS:
        raise ValueError(f"distill: expected it with pets only, got it with {algorithm}")
    if algorithm in OFFLINE:
        if dataset is None:
            raise ValueError(f"dataset: expected --dataset FILE, which {algorithm} learns from, got none")
        return create_offline_run(
            root, dataset, algorithm, config, learner, seed=seed, env_id=env_id, tensorboard=tensorboard
        )
    if dataset is not None:
        raise ValueError(f"dataset: expected none, for {algorithm} learns by acting in --env-id, got {str(dataset)!r}")
    if env_id is None:
        raise ValueError(f"env_id: expected --env-id ID, where {algorithm} acts, got none")
    if algorithm in (PETS, *SB3) and preset is not None:
        raise ValueError(f"preset: expected none, for {algorithm} has one an environment, got {preset!r}")
    if algorithm in SB3:
        return create_sb3_run(root, env_id, algorithm, config, seed=seed, tensorboard=tensorboard)
    if algorithm == PETS:
        return create_pets_run(root, env_id, config, seed=seed, distill=distill, tensorboard=tensorboard)
    kwargs = ALGORITHMS[algorithm].preset(env_id, preset).env_kwargs
    return create_agent_run(
        root, env_id, algorithm, config, learner, seed=seed, env_kwargs=kwargs, tensorboard=tensorboard
    )


def find_preset(algorithm: str, env_id: str, dataset: str, name: str | None) -> Any:
    """The settings (`config`, `learner`) that `mbrl train` offers as defaults for an environment or a dataset.

    Args:
        algorithm: one with a learner.
        env_id: "": none was given, so it is the dataset's.
        dataset: its file; "": none was given.
        name: of the preset.

    Raises:
        ValueError: there is no such preset, environment or dataset.
    """
    if algorithm in SB3:
        return sb3_preset(algorithm, env_id)
    if algorithm not in OFFLINE:
        return ALGORITHMS[algorithm].preset(env_id, name)
    own = open_dataset(dataset).info.env_id if dataset and not env_id else None
    return OFFLINE[algorithm].preset(env_id or own, name)
