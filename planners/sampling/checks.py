"""Checks of hyperparameters that sampling planners share."""


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for the first of the named sizes that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}")
