"""The rank that is a share of a count, exact also where the count is traced."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.mc import _inputs

_PARTS = 4096


class Share(NamedTuple):
    """A share in (0, 1), or 1, as `(whole + rest) / 4096` with `rest` in [0, 1).

    The product of a count and a float32 share is off by a whole rank for counts of millions, and in
    float64 the product of 0.56 and 100 exceeds 56. With the share in two parts, most of the product
    is exact in integers.
    """

    whole: jax.Array
    """An integer scalar."""
    rest: jax.Array
    """A scalar; NaN if the share is traced and out of range."""
    slack: jax.Array
    """The rounding error of `rest`, a scalar."""

    @classmethod
    def of(cls, caller: str, name: str, value: _inputs.Number, *, whole: bool = False) -> Share:
        """The argument `name`, checked. `whole`: whether it may be 1."""
        level = _inputs.single(caller, name, value)
        given = level if isinstance(value, jax.Array) else np.asarray(value)
        _inputs.fraction(name, given, whole=whole)
        if _inputs.is_known(value):
            scaled = np.float64(value) * _PARTS
            high = np.floor(scaled)
            parts = np.int32(high), np.float32(scaled - high), np.float32(2.0**-22)
            return cls(*map(jnp.asarray, parts))
        level = _inputs.nan_unless(_inputs.is_fraction(level, whole), level) * _PARTS
        floor = jnp.floor(level)
        slack = jnp.maximum(level * jnp.finfo(level.dtype).eps / 2, 2.0**-22).astype(jnp.float32)
        return cls(floor.astype(jnp.int32), (level - floor).astype(jnp.float32), slack)

    def of_count(self, count: jax.Array) -> jax.Array:
        """The least integer that is not below the share of `count`, integers below 2^31.

        A product that exceeds an integer by less than a millionth, or by the rounding error of the
        share, counts as that integer: the share 0.56 of 100 is 56.
        """
        high, low = jnp.divmod(count, _PARTS)
        whole, rest = jnp.divmod(self.whole * low, _PARTS)
        parts = count.astype(jnp.float32) / _PARTS
        left = rest.astype(jnp.float32) / _PARTS + self.rest * parts
        slack = 2.0**-20 + parts * self.slack
        return self.whole * high + whole + jnp.ceil(left - slack).astype(jnp.int32)
