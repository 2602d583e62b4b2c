"""Datasets from one format to another."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mbrl.data import d4rl, minari_io
from mbrl.data.dataset_checks import check_dataset
from mbrl.data.dataset_info import Doubt, plain_id
from mbrl.data.datasets import Dataset, DatasetInfo, load_dataset
from mbrl.data.formats import parts_of, save_parts
from mbrl.envs.make import make_env
from mbrl.experiments.dataset_verify import check_fits


def import_dataset(
    source: Path, out: Path, *, env_id: str | None = None, drop_ends: bool = False, allow: Collection[Doubt] = ()
) -> Dataset:
    """Write a dataset of any format to a new native file, and return it, mapped to that file.

    Args:
        source: file or folder; only read.
        out: the new file; it is removed again where something is wrong with the data.
        env_id: the environment; None: what the source says.
        drop_ends: see `mbrl.data.d4rl.parts`.
        allow: see `check_dataset`.

    Raises:
        DatasetError: the source is damaged, observations or actions are not those of `env_id`, or see `check_dataset`.
        ValueError: `out` is there already, or there is no environment `env_id`.
    """
    info = None
    if env_id is not None:
        env = make_env(env_id, discrete=True, as_registered=True)
        info = DatasetInfo.of(env, made_by=env_id)
        env.close()
    parts = parts_of(source, drop_ends=drop_ends)
    if info is not None:
        known = {name: getattr(info, name) for name in ("env_id", "env_kwargs", "action_low", "action_high", "actions")}
        parts = (replace(part, info=_known(part.info, known)) for part in parts)
    if allow:
        parts = (replace(part, info=_allowing(part.info, allow)) for part in parts)
    save_parts(parts, out)
    try:
        data = load_dataset(out, mapped=True)
        check_dataset(data, allow=allow)
        if env_id is not None:
            check_fits(data, env_id, data.info.env_kwargs)
    except BaseException:
        out.unlink()
        raise
    return data


def _known(info: DatasetInfo, known: dict[str, Any]) -> DatasetInfo:
    """What is known of an environment, with the source's own options where it names the same one."""
    same = info.env_id is not None and plain_id(info.env_id) == plain_id(known["env_id"])
    options = info.env_kwargs if same else known["env_kwargs"]
    return replace(info, **{**known, "env_kwargs": options})


def _allowing(info: DatasetInfo, allow: Collection[Doubt]) -> DatasetInfo:
    """Training lets through what was let through here."""
    return replace(info, origin={**info.origin, "allowed": sorted(allow)})


def export_dataset(file: Path, out: Path, to: Literal["minari", "d4rl"]) -> Path:
    """Write a dataset of any format in the layout of Minari or D4RL.

    Raises:
        DatasetError: the file is damaged.
        ValueError: `out` is there already, or see `mbrl.data.minari_io.write`.
    """
    if to == "minari":
        return minari_io.write(parts_of(file), out)
    return d4rl.write(load_dataset(file), out)
