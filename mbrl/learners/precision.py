"""Updates whose products between hidden layers are in bfloat16, parameters and all else in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from mbrl.learners.networks import bfloat16_products

L = TypeVar("L")


def in_bfloat16(learner: L) -> L:
    """The learner with its `..._gradients` computed by products in bfloat16, where these lie between hidden layers.

    Gradients differ from those in float32 by about a hundredth of their norm, which is little beside what batches
    differ by. The thin first and last layers, losses, targets' sums, Adam and acting stay in float32. Processors with
    AVX512-BF16 or AMX multiply so about twice as fast.

    Raises:
        ValueError: the learner has no such methods, its networks are not in float32, or they have dropout or layer
            norm, with which nothing would change.
    """
    names = [name for name in dir(type(learner)) if name.endswith("_gradients")]
    config = getattr(learner, "config", None)
    if not names or str(getattr(learner, "dtype", None)) != "torch.float32":
        raise ValueError(
            f"precision: expected 'full' for {type(learner).__name__}, whose updates have no other in "
            f"{getattr(learner, 'dtype', 'its type')}, got 'bfloat16'"
        )
    if getattr(config, "layer_norm", False) or getattr(config, "dropout", 0):
        raise ValueError("precision: expected 'full' with dropout or layer norm, got 'bfloat16'")
    rough = copy.copy(learner)
    for name in names:
        object.__setattr__(rough, name, _lowered(getattr(learner, name)))  # learners are frozen
    return rough


def _lowered(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with bfloat16_products():
            return function(*arguments)

    return call
