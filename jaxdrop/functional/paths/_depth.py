"""Rates that grow with the depth of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax

from jaxdrop import _checks, masks

DepthRule = Literal["timm", "torchvision", "efficientnet", "paper"]
# The fraction of the last rate that layer i of n has, i = 0, ..., n - 1.
_DEPTH_RULES: dict[str, Callable[[int, int], float]] = {
    "timm": lambda i, n: i / max(n - 1, 1),
    "torchvision": lambda i, n: i / max(n - 1, 1),
    "efficientnet": lambda i, n: i / n,
    "paper": lambda i, n: (i + 1) / n,
}


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
    `paper`         `(i + 1) / n`          stochastic depth, ShakeDrop and NASNet's
                                           ScheduledDropPath; the first gets more than 0
    ==============  =====================  =========================================================

    Args:
      rate: in [0, 1]: a number, or a traced scalar, such as the value of a schedule. A layer whose
        factor is 0 gets the number 0, at which nothing is drawn.
      num_layers: the n of the table, at least 1; with one layer, `timm` gives it 0.
      rule: a name of the table.

    Raises:
      TypeError, ValueError: `rate` is not in [0, 1], `num_layers` is not a positive integer, or
        `rule` is unknown.

    References:
      Huang, Sun, Liu, Sedra & Weinberger, "Deep networks with stochastic depth", 2016,
      arXiv:1603.09382.
    """
    _checks.check_one_of(rule, "rule", DepthRule)
    num_layers = _checks.check_count(num_layers, "num_layers")
    rate = _checks.check_rate(rate)
    _checks.check_one_rate(rate, "depth_rates takes one rate, that of the last layer")
    fractions = (_DEPTH_RULES[rule](i, num_layers) for i in range(num_layers))
    return tuple(rate * fraction if fraction else 0.0 for fraction in fractions)
