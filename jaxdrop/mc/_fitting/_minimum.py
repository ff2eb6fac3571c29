"""The minimum of a function of one number, under `jit` and `vmap`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

_POINTS = 24


def minimum(fn: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array) -> jax.Array:
    """The minimizer of a smooth `fn` in [low, high]: the best point of a grid, then bisection on
    the sign of the slope around it.

    The sign of the slope gives all digits of the minimizer, and comparing values of `fn` only half
    of them. The grid finds the lowest of several minima, if they are wider than a step of the grid.
    """
    grid = jnp.linspace(low, high, _POINTS)
    best = lax.map(fn, grid).argmin()
    slope = jax.grad(fn)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        middle = (bounds[0] + bounds[1]) / 2
        rising = slope(middle) >= 0  # if the slope is 0, the left half
        return jnp.where(rising, bounds[0], middle), jnp.where(rising, middle, bounds[1])

    around = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, _POINTS - 1)]
    left, right = lax.fori_loop(0, jnp.finfo(grid.dtype).nmant, halve, around)
    return (left + right) / 2
