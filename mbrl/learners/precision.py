"""Updates whose products between hidden layers are in bfloat16, parameters and all else in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from mbrl.learners.relu_network import bfloat16_products

L = TypeVar("L")


def in_bfloat16(learner: L) -> L:
    """The learner with its `..._gradients` computed by products in bfloat16, where these lie between hidden layers.

    Gradients differ from those in float32 by about a hundredth of their norm, which is little beside what batches
    differ by. The thin first and last layers, losses, targets' sums, Adam and acting stay in float32. Processors with
    AVX512-BF16 or AMX multiply so about twice as fast.

    Raises:
        ValueError: the learner has no such methods, its networks are not in float32, its critics have dropout or layer
            norm, or there is one hidden layer, with no product beside it that is not thin.
    """
    config = getattr(learner, "config", None)
    names = [name for name in dir(type(learner)) if name.endswith("_gradients")]
    why = None
    if not names:
        why = f"for {type(learner).__name__}, which has no methods called ..._gradients"
    elif (dtype := getattr(learner, "dtype", None)) is not torch.float32:
        why = f"in {dtype}"
    elif getattr(config, "layer_norm", False) or getattr(config, "dropout", 0):
        why = "with critics that have dropout or layer norm"
    elif len(getattr(config, "hidden", ())) < 2:
        why = "with fewer than two hidden layers, between which there are no products"
    if why:
        raise ValueError(f"precision: expected 'full' {why}, got 'bfloat16'")
    rough = copy.copy(learner)
    for name in names:
        object.__setattr__(rough, name, _lowered(getattr(learner, name)))  # learners are frozen
    return rough


def _lowered(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with bfloat16_products():
            return function(*arguments)

    return call
