"""Subsets of several axes of one array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop import _checks, _layouts
from jaxdrop.subsets._subset import Subset


def gather_axes(kept: Mapping[int, Subset], x: jax.Array) -> jax.Array:
    """The entries of `x` that are kept along each of some axes: `gather` along one after the other.

    `gather` along one axis copies rows, of which the next `gather` takes some entries only. Here
    the entries are taken in one pass: along two axes, in half of the time on a CPU. Subsets with
    several groups or slices go one axis after the other, so that a device gathers among its own
    members; and so do derivatives, whose transposes are gathers then.

    Args:
      kept: for the number of an axis, the subset of its entries. Negative numbers count from the
        last axis.
      x: an array.

    Returns:
      An array with as many axes as `x`, those of `kept` shorter. Nothing is scaled.

    Raises:
      ValueError: as `Subset.gather`, or two numbers are the same axis.
    """
    x, given = jnp.asarray(x), kept
    kept = {_checks.check_axis(number, "axis", x.ndim): one for number, one in given.items()}
    if len(kept) < len(given):
        raise ValueError(
            f"kept has more than one subset for an axis: {[*given]} are axes of an array of shape"
            f" {x.shape}"
        )
    # A device that holds whole groups gathers among its own members only one axis after the other.
    many = any(one.indices.shape[:-1] != (1,) or one.starts is not None for one in kept.values())
    if len(kept) < 2 or many or _layouts.mesh_of(x) is not None:
        return _one_by_one(kept, x)

    @jax.custom_jvp
    def taken(x: jax.Array) -> jax.Array:
        return _at_once(kept, x)

    @taken.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return taken(*primals), _one_by_one(kept, *tangents)

    return taken(x) if jnp.issubdtype(x.dtype, jnp.inexact) else _at_once(kept, x)


def _at_once(kept: Mapping[int, Subset], x: jax.Array) -> jax.Array:
    numbers = sorted(kept)
    places = jnp.ix_(*(kept[number].places(x, number) for number in numbers))
    at: list[Any] = [slice(None)] * x.ndim
    for number, place in zip(numbers, places, strict=True):
        at[number] = place
    y = x.at[(*at,)].get(mode="promise_in_bounds")
    # If a whole axis stands between two of them, indexing puts theirs in front.
    apart = numbers[-1] - numbers[0] >= len(numbers)
    return jnp.moveaxis(y, [*range(len(numbers))], numbers) if apart else y


def _one_by_one(kept: Mapping[int, Subset], x: jax.Array) -> jax.Array:
    for number, one in kept.items():
        # Taking rows is a copy of each. Columns are taken entry by entry, and again for every tile
        # of a product that the gather is fused into. Of an array that all samples share, the
        # transpose is computed once.
        x = jnp.moveaxis(one.gather(jnp.moveaxis(x, number, 0)), 0, number)
    return x
