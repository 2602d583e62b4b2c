"""Settings of runs: read back from JSON, and changed in a run that exists."""

import json
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mbrl.experiments.run import Run
from mbrl.pipelines.bookkeeping import Changes, describe, differences

Config = TypeVar("Config")


def dataclass_from(kind: type[Config], stored: Mapping[str, Any], path: Path) -> Config:
    """A frozen dataclass of settings from what `asdict` and JSON made of it; dataclasses may hold dataclasses.

    Raises:
        ValueError: a setting is unknown, or out of range.
    """
    if unknown := sorted(set(stored) - {field.name for field in fields(kind)}):  # type: ignore[arg-type]
        raise ValueError(f"run: {path} has settings that this version does not know: {', '.join(unknown)}")
    types = typing.get_type_hints(kind)
    return kind(**{name: _value(types[name], value, path) for name, value in stored.items()})


def _value(kind: Any, value: Any, path: Path) -> Any:
    if isinstance(value, dict) and is_dataclass(kind):
        return dataclass_from(kind, value, path)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value


def change_settings(run: Run, changed: Mapping[str, Any], *, accept: bool) -> None:
    """Give a run other settings.

    Args:
        run: whose config.json is written again with the next real step; what it was is kept beside it, under
            "changes".
        changed: dataclasses by their name in config.json.
        accept: whether to write it.

    Raises:
        ValueError: there are differences, and they are not accepted: the message shows them.
    """
    found: Changes = {}
    for name, config in changed.items():
        found |= differences(completed(run.config[name], config), asdict(config))
    if not found:
        return
    if not accept:
        raise ValueError(
            f"settings: expected those that the run began with, got others ({describe(found)}): its results would be "
            "those of neither. Start a new run, or go on all the same with --accept-changes"
        )
    run.change({**run.config, **{name: asdict(config) for name, config in changed.items()}})


def completed(stored: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Settings from JSON, with the defaults of those that were not known yet, by which older versions went.

    Args:
        stored: the settings.
        config: a dataclass of the same kind.
    """
    new = {f.name: f.default for f in fields(config) if f.name not in stored and f.default is not MISSING}
    return {**json.loads(json.dumps(asdict(replace(config, **new)))), **stored}
