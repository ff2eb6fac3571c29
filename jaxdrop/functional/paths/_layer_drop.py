"""Skipping whole layers, and their work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop import _checks, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites

T = TypeVar("T")


_one_rate = _checks.one_rate("layer_drop throws one coin and takes one rate")


@cites("fan2020reducing")
@_checks.hinted
@_checks.facts(rate=_one_rate)
def layer_drop(
    key: jax.Array | None,
    x: T,
    rate: masks.Rate,
    layer: Callable[[T], T],
    *,
    deterministic: bool = False,
) -> T:
    """LayerDrop: `layer(x)` with probability `1 - rate`, otherwise `x`, and then the layer is not
    computed.

    One coin decides for the whole of `x`, on all devices that hold the same key. Under `jit` and
    `lax.scan` the layer stands in one branch of a `lax.cond`, forward and backward. Outside of them
    the coin is known, and a Python `if` decides. Under `vmap` over keys a `cond` becomes a
    `select`, which computes both branches: the values are the same, but no work is saved (and JAX
    raises an error if `x` is divided over explicit mesh axes). Under `jax.lax.map` over keys it
    stays a `cond`.

    The residuals of the backward pass are outputs of the `cond`, which copies them, parameters
    included. `jax.checkpoint` around the whole call stores the key and `x` instead, and computes
    the layer again if it has run.

    Nothing is rescaled, and evaluation runs every layer, so `layer` should be a residual block:
    `lambda x: x + f(x)`. A pass may happen to skip all layers.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: an array, or a pytree of arrays.
      rate: the probability of skipping the layer, in [0, 1]: a number or a traced scalar. At 1 the
        layer is not traced.
      layer: a function whose result has the structure, shapes and dtypes of its argument. It may
        close over traced values, such as parameters, which then get gradients.
      deterministic: if True, or if `rate` is the number 0, this is `layer(x)`, with no other
        operation.

    Returns:
      The structure, shapes and dtypes of `x`.

    Raises:
      TypeError: the result of `layer` has not the structure, shapes and dtypes of `x`; `rate`,
        `key` or `deterministic` is of a wrong type.
      ValueError: `rate` is outside [0, 1] or has axes; `key` is missing or an array of keys.

    References:
      Fan, Grave & Joulin, "Reducing transformer depth on demand with structured dropout", 2019,
      arXiv:1909.11556, with rate 0.2.
    """
    _checks.check_callable(layer, "layer", "x")
    runs = layer_runs(key, rate, deterministic=deterministic)
    return cond(lax.cond, runs, lambda x: like(layer(x), x, rate), lambda x: x, x)


def layer_runs(key: jax.Array | None, rate: masks.Rate, *, deterministic: bool) -> bool | jax.Array:
    """Whether the layer runs: the coin of `layer_drop`, a Python bool if its value is known."""
    checked = _one_rate(rate, "rate")
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(checked, 0):
        return True
    if masks.is_number(checked, 1):
        return False
    runs = _runs(_checks.consume_key(key, "layer_drop"), masks.distribution(checked).threshold)
    return runs if isinstance(runs, jax.core.Tracer) else bool(runs)


@kernel("layer_drop")
def _runs(key: jax.Array, threshold: jax.Array) -> jax.Array:
    return masks.keep_mask(key, threshold, threshold)


def cond(
    traced: Callable[..., T],
    runs: bool | jax.Array,
    run: Callable[..., T],
    skip: Callable[..., T],
    *operands: Any,
) -> T:
    """`run(*operands)` if `runs` is true, otherwise `skip(*operands)`.

    Python decides on a Python bool, and only one branch is traced. `traced` decides on a traced
    bool: `jax.lax.cond`, or the `cond` of a framework whose modules the branches call.
    """
    if isinstance(runs, bool):
        return run(*operands) if runs else skip(*operands)
    return traced(runs, run, skip, *operands)


def like(y: T, x: T, rate: masks.Rate) -> T:
    """Checks that `y`, the result of a layer, has the structure, shapes and dtypes of its argument
    `x`, so that the layer may be skipped. Returns `y`, or NaN if `rate` is impossible.
    """

    def described(tree: Any) -> tuple[Any, list[jax.ShapeDtypeStruct], Any]:
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree
        )
        leaves, structure = jax.tree.flatten(shapes)
        return structure, leaves, shapes

    *given, argument = described(x)
    *returned, result = described(y)
    if given != returned:
        raise TypeError(
            "a layer that may be skipped must return what is like its argument, which takes the"
            f" place of its result: it was given {argument} and returned {result}."
        )
    return masks.nan_if_impossible(y, _checks.check_rate(rate))
