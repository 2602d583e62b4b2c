"""Where an environment hides a source of random numbers: attributes are searched as deep as they go.

Nothing is called or imported on the way, and what is not in attributes, containers or slots (a closure, say) is not
found.
"""

import random
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch

_STREAMS = (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random, torch.Generator)


def find_stream(layers: Sequence[Any], skip: Collection[str]) -> tuple[str, Any] | None:
    """The first random stream in the attributes of an environment and its wrappers: its name, and itself.

    Args:
        layers: the wrappers from the outermost on, and the environment.
        skip: names of their attributes that are not searched. What lies there is no finding under other names either.
    """
    known = [value for layer in layers for name, value in vars(layer).items() if name in skip]
    known += [value.bit_generator for value in known if isinstance(value, np.random.Generator)]
    seen = {id(value) for value in (*known, *layers)}
    waiting = [(name, value) for layer in layers for name, value in vars(layer).items() if name not in skip]
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _STREAMS):
            return name, value
        waiting.extend(_parts(name, value))
    return None


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, under names such as `noise.streams['push'][0]`."""
    if isinstance(value, str | bytes | int | float | type | torch.Tensor):
        return
    if isinstance(value, dict):
        yield from ((f"{name}[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{name}[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, np.ndarray) and value.dtype == object:
        yield from ((f"{name}.flat[{i}]", part) for i, part in enumerate(value.flat))
    yield from ((f"{name}.{key}", part) for key, part in _own(value).items())


def _own(value: Any) -> dict[str, Any]:
    """The attributes of an instance, in its dictionary and in its slots."""
    if type(value).__name__ == "module":
        return {}
    slots = [name for kind in type(value).__mro__ for name in _names(kind)]
    held = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
    return {**held, **getattr(value, "__dict__", {})}


def _names(kind: type) -> Sequence[str]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
