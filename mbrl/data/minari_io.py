"""Minari's layout: a folder `data` with metadata.json and main_data.hdf5, a group an episode, T + 1 observations each.

Reading takes h5py alone. Writing is left to the package `minari`, so that what it reads is what it wrote.
"""

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from mbrl.data.dataset_checks import says_something
from mbrl.data.dataset_info import info_from, info_text, plain_id
from mbrl.data.datasets import Dataset, DatasetError, DatasetInfo
from mbrl.data.hdf5 import check_free, digest, h5, opened
from mbrl.data.probe import probe

METADATA, MAIN = "metadata.json", "main_data.hdf5"
PART = 250_000
"""Rows that are read at once."""
LOG_PROBS = "action_log_prob"
"""Among `infos`, which have T + 1 entries as observations do: the first belongs to the reset, and is NaN."""
OURS = "mbrl_info", "mbrl_sha256"


def folder_of(path: Path) -> Path | None:
    """The folder with the files of a Minari dataset, at `path` or in its `data`; None: there is none."""
    return next((folder for folder in (path, path / "data") if (folder / METADATA).is_file()), None)


def parts(path: Path, *, info: DatasetInfo | None = None) -> Iterator[Dataset]:
    """The episodes of a Minari dataset, about `PART` rows of them at a time.

    Args:
        path: its folder.
        info: what is known of it; None: what its metadata say.

    Raises:
        DatasetError: a file is missing or damaged, observations are not flat, or arrays don't fit together.
    """
    folder = folder_of(path)
    if folder is None:
        raise DatasetError(f"{path}: expected a folder with {METADATA}, as Minari makes it, got none")
    metadata = _metadata(folder)
    if metadata.get("data_format", "hdf5") != "hdf5":
        raise DatasetError(
            f"{folder}: expected the data format hdf5, got {metadata['data_format']!r}; convert it with minari"
        )
    main = folder / MAIN
    if not main.is_file():
        raise DatasetError(f"{folder}: expected {MAIN}, there is none")
    if OURS[1] not in metadata:
        probe(main)
    elif metadata[OURS[1]] != _checksum(metadata, main):
        raise DatasetError(f"{main}: the content does not match its checksum; restore it from a copy")
    told = info or _info(metadata, folder)
    with opened(main) as file:
        names = _episodes(file, metadata, main)
        group: list[dict[str, np.ndarray]] = []
        rows = 0
        for name in names:
            group.append(_episode(file[name], f"{main}: {name}"))
            rows += len(group[-1]["rewards"])
            if rows >= PART or name == names[-1]:
                yield _joined(group, told, main)
                group, rows = [], 0


def write(parts: Iterator[Dataset], path: Path, *, dataset_id: str | None = None) -> Path:
    """A new folder that `minari.load_dataset` finds where it lies in $MINARI_DATASETS_PATH.

    Args:
        parts: the episodes, in pieces of any size.
        path: the folder; its name ends in a version, such as hopper-medium-v0.
        dataset_id: of the dataset; None: the folder's name, or its place in $MINARI_DATASETS_PATH.

    Raises:
        ValueError: there is something at `path`, its name has no version, or minari is not installed.
    """
    try:
        from minari.dataset.minari_storage import MinariStorage
    except ImportError:
        raise ValueError('Minari export needs minari: pip install ".[datasets]"') from None
    h5()
    check_free(path)
    name = dataset_id or _dataset_id(path)
    staged = path.resolve().parent / f".{path.name}.{os.getpid()}"  # minari joins relative paths twice
    try:
        (staged / "data").mkdir(parents=True)
        storage = None
        for part in parts:
            if storage is None:
                storage = MinariStorage.new(
                    staged / "data", *_spaces(part), env_spec=_spec(part.info), data_format="hdf5"
                )
                _describe(storage, part.info, name)
            storage.update_episodes(_buffers(part))
        if storage is None:
            raise DatasetError("parts: expected at least one, got none")
        storage.update_metadata({OURS[1]: _checksum(_metadata(staged / "data"), staged / "data" / MAIN)})
        staged.rename(path)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return path


def _checksum(metadata: dict[str, Any], main: Path) -> str:
    """Of the data, and of what is said of them."""
    return sha256(f"{metadata.get(OURS[0])}{digest(main)}".encode()).hexdigest()


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        metadata = json.loads((folder / METADATA).read_bytes())
    except ValueError as error:
        raise DatasetError(f"{folder / METADATA}: not readable as JSON, or damaged: {error}") from None
    if not isinstance(metadata, dict):
        raise DatasetError(f"{folder / METADATA}: expected a JSON object, got {type(metadata).__name__}")
    return metadata


def _info(metadata: dict[str, Any], folder: Path) -> DatasetInfo:
    """All that was known where this library wrote the dataset; else what Minari keeps."""
    if OURS[0] in metadata:
        return info_from(metadata[OURS[0]], folder)
    try:
        spec = json.loads(metadata.get("env_spec") or "null") or {}
        space = json.loads(metadata.get("action_space") or "null") or {}
        bounds: dict[str, Any] = {}
        if space.get("type") == "Box" and len(space["shape"]) == 1:
            bounds = {"action_low": tuple(space["low"]), "action_high": tuple(space["high"])}
        elif space.get("type") == "Discrete":
            if int(space.get("start", 0)) != 0:
                raise DatasetError(
                    f"{folder / METADATA}: action_space: expected discrete actions from 0, got some from "
                    f"{space['start']}; subtract it from the actions"
                )
            bounds = {"actions": int(space["n"])}
        kwargs = {k: v for k, v in (spec.get("kwargs") or {}).items() if k != "render_mode"}
        told: dict[str, Any] = {k: metadata[k] for k in ("dataset_id", "algorithm_name", "author") if k in metadata}
        return DatasetInfo(
            env_id=spec.get("id"),
            env_kwargs=kwargs,
            versions={"minari": str(metadata.get("minari_version", "?"))},
            description=str(metadata.get("description", "")),
            origin={"format": "Minari", **told},
            **bounds,
        )
    except DatasetError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"{folder / METADATA}: its spaces or its environment can't be read: {error}") from None


def _episodes(file: Any, metadata: dict[str, Any], main: Path) -> list[str]:
    """Names of the groups, in the order of their numbers."""
    names = [name for name in file if re.fullmatch(r"episode_\d+", name)]
    names.sort(key=lambda name: int(name.removeprefix("episode_")))
    expected = metadata.get("total_episodes", len(names))
    if not names or len(names) != expected:
        raise DatasetError(f"{main}: expected {expected} episodes, as its metadata say, got {len(names)}")
    return names


def _episode(group: Any, where: str) -> dict[str, np.ndarray]:
    arrays = {}
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        if name not in group or not isinstance(group[name], h5().Dataset):
            raise DatasetError(f"{where}: expected an array {name!r}, got none: dicts and tuples are not supported")
        arrays[name] = group[name][()]
    steps = len(arrays["rewards"])
    infos = group.get("infos")
    if infos is not None and LOG_PROBS in infos:
        arrays[LOG_PROBS] = infos[LOG_PROBS][()][1:]
    else:
        arrays[LOG_PROBS] = np.full(steps, np.nan, np.float32)
    for name, array in arrays.items():
        expected = steps + (name == "observations")
        if array.ndim == 0 or len(array) != expected:
            raise DatasetError(
                f"{where}: expected {expected} {name} for {steps} rewards (observations: one more), got "
                f"{list(array.shape)}: the arrays are misaligned"
            )
    return {**arrays, **_checked(arrays, where)}


def _checked(arrays: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Arrays of the types that a dataset has."""
    obs, actions = arrays["observations"], arrays["actions"]
    if obs.ndim != 2 or obs.dtype.kind != "f":
        raise DatasetError(
            f"{where}: observations: expected floating-point numbers [rows, obs], got {obs.dtype} "
            f"{list(obs.shape)}: images and dicts are not supported"
        )
    if actions.dtype.kind in "iu" and actions.ndim == 2 and actions.shape[1] == 1:
        actions = actions[:, 0]
    if actions.dtype.kind in "iu" and actions.ndim == 1:
        actions = actions.astype(np.int64)
    flags = {name: arrays[name].astype(bool) for name in ("terminations", "truncations")}
    for name, flag in flags.items():
        if (flag != arrays[name]).any():
            raise DatasetError(f"{where}: {name}: expected 0 or 1, got {arrays[name][flag != arrays[name]][0]}")
        if flag[:-1].any():
            raise DatasetError(f"{where}, row {int(flag.argmax())}: {name}: expected True in the last row only")
    if len(flags["truncations"]):
        flags["truncations"][-1] |= not flags["terminations"][-1]
    rewards = arrays["rewards"]
    if rewards.dtype.kind in "iub":
        rewards = rewards.astype(np.float32)
    return {"actions": actions, "rewards": rewards, **flags}


def _joined(group: list[dict[str, np.ndarray]], info: DatasetInfo, main: Path) -> Dataset:
    names = ("observations", "actions", "rewards", "terminations", "truncations", LOG_PROBS)
    shapes = {tuple((one[name].dtype, one[name].shape[1:]) for name in names) for one in group}
    if len(shapes) > 1:
        raise DatasetError(
            f"{main}: expected the same sizes and types in every episode, got {sorted(map(str, shapes))}"
        )
    obs, actions, rewards, terminated, truncated, logs = (np.concatenate([one[n] for one in group]) for n in names)
    lengths = np.array([len(one["rewards"]) for one in group], dtype=np.int64)
    return Dataset(obs, actions, rewards, terminated, truncated, logs, lengths, info)


def _dataset_id(path: Path) -> str:
    root = os.environ.get("MINARI_DATASETS_PATH")
    inside = root is not None and path.resolve().is_relative_to(Path(root).resolve())
    name = str(path.resolve().relative_to(Path(root).resolve())) if inside and root else path.name
    if not re.fullmatch(r"(?:[\w-]+/)*[\w-]+?-v\d+", name):
        raise ValueError(f"path: expected a folder whose name ends in a version, such as hopper-medium-v0, got {name}")
    return name


def _spaces(part: Dataset) -> tuple[gym.Space, gym.Space]:
    return part.spaces()


def _spec(info: DatasetInfo) -> Any:
    """The environment's specification, where Gymnasium knows it."""
    if info.env_id is None:
        return None
    try:
        spec = copy.deepcopy(gym.spec(plain_id(info.env_id)))
    except gym.error.Error:
        return None
    spec.kwargs.update(info.env_kwargs)
    return spec


def _describe(storage: Any, info: DatasetInfo, name: str) -> None:
    from minari import __version__

    algorithm = str(info.origin.get("policy", info.origin.get("algo", "unknown")))
    said = {"dataset_id": name, "minari_version": __version__, "algorithm_name": algorithm}
    storage.update_metadata({**said, "description": info.description, OURS[0]: info_text(info)})


def _buffers(part: Dataset) -> Iterator[Any]:
    from minari.data_collector import EpisodeBuffer

    known = says_something(part.log_probs)
    for number in range(part.episodes):
        one = part.select([number])
        infos = {LOG_PROBS: np.concatenate([one.log_probs[:1] * np.nan, one.log_probs])} if known else None
        yield EpisodeBuffer(
            observations=one.observations,
            actions=one.actions,
            rewards=one.rewards,
            terminations=one.terminated,
            truncations=one.truncated,
            infos=infos,
        )
