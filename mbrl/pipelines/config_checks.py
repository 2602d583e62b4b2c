"""Checks that settings of several pipelines share."""

from typing import Any, Literal, get_args, get_origin, get_type_hints

from mbrl.learners.settings import check_numbers


def check_options(config: Any) -> None:
    """Check that every field of a dataclass that is one of several words is one of them.

    A word that no branch knows would run the last branch, which is another algorithm.

    Raises:
        ValueError: it is another.
    """
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            expected = ", ".join(get_args(kind))
            raise ValueError(f"{name}: expected one of {expected}, got {getattr(config, name)!r}")


def check_at_least_1(config: Any, *names: str) -> None:
    """Raises ValueError where one of these fields is below 1, or any is of another type than it has to be."""
    check_numbers(config)
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(config, name)}")


def check_horizons(config: Any) -> None:
    """Raises ValueError where a step ahead at which the model is scored, `diagnostic_horizons`, is below 1."""
    if any(steps < 1 for steps in config.diagnostic_horizons):
        raise ValueError(
            f"diagnostic_horizons: expected numbers of steps from 1, or none, got {config.diagnostic_horizons}"
        )


def check_initial_steps(config: Any) -> None:
    """Raises ValueError where the random first steps, `initial_steps`, are all that there are."""
    if config.initial_steps >= config.total_timesteps:
        raise ValueError(
            f"initial_steps: expected fewer than total_timesteps ({config.total_timesteps}), got "
            f"{config.initial_steps}: nothing would be learned"
        )
