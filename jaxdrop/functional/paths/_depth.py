"""Rates that grow with the depth of a layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, get_args

import jax
import numpy as np

from jaxdrop import _checks, _shapes, masks
from jaxdrop._references import cites

DepthRule = Literal["timm", "torchvision", "efficientnet", "paper", "uniform", _shapes.Shape]


def _shaped(shape: _shapes.Shape, i: int, n: int) -> float:
    """Torchtune's scale, which is 1 for a single layer."""
    return 1.0 if n == 1 else float(_shapes.risen(shape, i / (n - 1), n - 1, np))


# The fraction of the last rate that layer i of n has, i = 0, ..., n - 1.
_DEPTH_RULES: dict[str, Callable[[int, int], float]] = {
    "timm": lambda i, n: i / max(n - 1, 1),
    "torchvision": lambda i, n: i / max(n - 1, 1),
    "efficientnet": lambda i, n: i / n,
    "paper": lambda i, n: (i + 1) / n,
    "uniform": lambda i, n: 1.0,
    **{shape: functools.partial(_shaped, shape) for shape in get_args(_shapes.Shape)},
}


@cites("huang2016deep", "elhoushi2024layerskip", "zhang2020accelerating")
@_checks.hinted
def depth_rates(
    rate: masks.Rate, num_layers: int, rule: DepthRule = "timm"
) -> tuple[float | jax.Array, ...]:
    """A rate for each layer, first to last, that grows with the depth: `rate` times

    ==============  =====================  =========================================================
    rule            layer i = 0 ... n - 1  as in
    ==============  =====================  =========================================================
    `timm`          `i / (n - 1)`          timm; the first layer gets 0, the last `rate`
    `torchvision`   `i / (n - 1)`          torchvision's ConvNeXt and Swin: the same
    `efficientnet`  `i / n`                the EfficientNets of torchvision and TensorFlow; the last
                                           layer gets less than `rate`
    `paper`         `(i + 1) / n`          stochastic depth, ShakeDrop, NASNet's ScheduledDropPath
                                           and progressive layer dropping; the first gets more than
                                           0
    `uniform`       1                      LayerDrop; and torchtune's layer dropout, as all below,
                                           with `f = i / (n - 1)`
    `linear`        `f`                    the first layer gets 0, as in the next ones
    `exp`           `2**f - 1`             LayerSkip
    `log`           `ln(i + 1) / ln n`
    `sin`           `sin(pi f / 2)`
    `sigmoid`       `sigmoid(10 f - 5)`    from 0.0067 to 0.9933
    `step`          1 if `f = 1`, else 0   only the last layer
    ==============  =====================  =========================================================

    Rates that grow with time as well are those of a schedule, `depth_rates(schedule(count), n,
    rule)`: `jaxdrop.schedules.layer_skip` has the same shapes.

    Args:
      rate: in [0, 1]: a number, or a traced scalar, such as the value of a schedule. A layer whose
        factor is 0 gets the number 0, at which nothing is drawn.
      num_layers: the n of the table, at least 1. A single layer gets 0 by `timm`, `torchvision`
        and `efficientnet`, and `rate` by the other rules.
      rule: a name of the table.

    Raises:
      TypeError, ValueError: `rate` is not in [0, 1], `num_layers` is not a positive integer, or
        `rule` is unknown.

    References:
      Huang, Sun, Liu, Sedra & Weinberger, "Deep networks with stochastic depth", 2016,
      arXiv:1603.09382. Elhoushi et al., "LayerSkip: enabling early exit inference and
      self-speculative decoding", 2024, arXiv:2404.16710. Zhang & He, "Accelerating training of
      transformer-based language models with progressive layer dropping", 2020, arXiv:2010.13369.
    """
    _checks.check_one_of(rule, "rule", DepthRule)
    num_layers = _checks.check_count(num_layers, "num_layers")
    rate = _checks.check_rate(rate)
    _checks.check_one_rate(rate, "depth_rates takes one rate, that of the last layer")
    fractions = (_DEPTH_RULES[rule](i, num_layers) for i in range(num_layers))
    return tuple(rate * fraction if fraction else 0.0 for fraction in fractions)
