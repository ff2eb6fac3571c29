"""Shapes of a rise from 0 to 1: over the layers of a network, or over the steps of a training."""

from __future__ import annotations

import math
from typing import Any, Literal

Shape = Literal["linear", "exp", "log", "sin", "sigmoid", "step"]


def risen(shape: Shape, fraction: Any, period: int, xp: Any) -> Any:
    """The value of a shape at `fraction` of its period, in the arithmetic of `xp` (NumPy or
    `jax.numpy`). `jaxdrop.depth_rates` has the formulas.

    Args:
      shape: the name of the shape.
      fraction: of the period, in [0, 1].
      period: how many layers or steps the rise takes, at least 1.
      xp: the module of array functions.
    """
    if shape == "exp":
        return xp.exp2(fraction) - 1
    if shape == "log":
        return xp.log1p(fraction * period) / math.log1p(period)
    if shape == "sin":
        return xp.sin(0.5 * math.pi * fraction)
    if shape == "sigmoid":
        return 1 / (1 + xp.exp(-10 * (fraction - 0.5)))
    if shape == "step":
        return xp.where(fraction >= 1, 1.0, 0.0)
    return fraction
