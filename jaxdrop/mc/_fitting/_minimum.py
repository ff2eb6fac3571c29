"""The minimum of a function of one number, under `jit` and `vmap`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

_POINTS = 24


def minimum(fn: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """Where a smooth `fn` is least in [low, high]: the best point of a grid, then bisection on the
    sign of the slope around it.

    The slope finds it to all digits, where values of `fn` would only give half of them; the grid,
    of which a local method knows nothing, keeps it out of lesser minima that are wider than a grid
    step.
    """
    grid = jnp.linspace(low, high, _POINTS)
    best = lax.map(fn, grid).argmin()
    slope = jax.grad(fn)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        middle = (bounds[0] + bounds[1]) / 2
        rising = slope(middle) >= 0  # where it is flat, to the left
        return jnp.where(rising, bounds[0], middle), jnp.where(rising, middle, bounds[1])

    around = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, _POINTS - 1)]
    left, right = lax.fori_loop(0, jnp.finfo(grid.dtype).nmant, halve, around)
    return (left + right) / 2
