"""From a rate to a keep mask.

An entry is kept if its 32 random bits, taken as one of 2**23 equally likely values, fall below a
threshold. That is the grid of `jax.random.bernoulli` in float32, so the mask of a threefry key is
the mask that `flax.linen.Dropout` draws.

    threshold, scale = distribution(rate, x.dtype)
    y = scaled(keep_mask(key, x, threshold), x, scale)
"""

from jaxdrop._checks import Rate
from jaxdrop.masks._distribution import (
    Distribution,
    distribution,
    is_number,
    nan_if_impossible,
    threshold,
    unit_scale,
)
from jaxdrop.masks._drawing import below, draw, keep_mask, last_kept, scaled
from jaxdrop.masks._parts import Part, check_part, nan_outside
from jaxdrop.masks._placement import Block, block, coordinates, positions

__all__ = [
    "Block",
    "Distribution",
    "Part",
    "Rate",
    "below",
    "block",
    "check_part",
    "coordinates",
    "distribution",
    "draw",
    "is_number",
    "keep_mask",
    "last_kept",
    "nan_if_impossible",
    "nan_outside",
    "positions",
    "scaled",
    "threshold",
    "unit_scale",
]


def __dir__() -> list[str]:
    return __all__
