"""Checks of the settings that learners have in common."""

from typing import Any


def check_network(config: Any) -> None:
    """Raise ValueError where hidden or lr is out of range."""
    if len(config.hidden) < 1 or min(config.hidden) < 1:
        raise ValueError(f"hidden: expected one or more positive widths, got {config.hidden}")
    if not config.lr > 0:
        raise ValueError(f"lr: expected a positive step size, got {config.lr}")


def check_settings(config: Any, *counts: str) -> None:
    """Raise ValueError where hidden, lr, tau or a fixed temperature is out of range, or one of `counts` is below 1."""
    check_network(config)
    if not 0 < config.tau <= 1:
        raise ValueError(f"tau: expected a share in (0, 1], got {config.tau}")
    temperature = getattr(config, "temperature", None)
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature: expected a positive number, or None to learn it, got {temperature}")
    for name in counts:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(config, name)}")
