"""Shaking residual branches: one random coefficient in the forward pass, another in the backward
pass.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, _variates, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional._axes import all_but

Per = Literal["batch", "image", "channel", "pixel"]
Range = tuple[float, float]


def check_range(bounds: Any, name: str) -> Range:
    """Checks that the argument `name` is a pair of finite numbers, the least and the greatest."""
    what = "two finite numbers, the least and the greatest"
    low, high = _checks.check_numbers(bounds, name, 2, what)
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"{name} must be {what}, got {_checks.quoted(bounds)}")
    return float(low), float(high)


@cites("yamada2019shakedrop")
@_checks.hinted
@_checks.facts(draws_nothing_at=(0,), alpha=check_range, beta=check_range)
def shake_drop(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    alpha: Range = (-1.0, 1.0),
    beta: Range = (0.0, 1.0),
    per: Per = "image",
    batch_axis: int = 0,
    channel_axis: int = -1,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """ShakeDrop: `y = (b + a - b a) x` forward, and `dx = (b + c - b c) dy` backward.

    `b ~ Bernoulli(1 - rate)` is one coin for the whole batch. If it is 1, the branch is left alone;
    if it is 0, the branch is multiplied by `a ~ U(alpha)`, and its gradient by another number, `c ~
    U(beta)`. Evaluation multiplies by the expected coefficient, `y = (1 - rate + rate E[a]) x`,
    with `E[a]` the middle of `alpha`. (The usual code takes `1 - rate`, which is right if that
    middle is 0.)

    `x` is the output of a residual branch, which should end in a normalization layer: `h +
    shake_drop(key, f(h), rate)`. Nothing is stored but the key, whatever `per` is: the paper
    chooses `'image'` over `'pixel'` for the memory that the latter takes. Forward-mode derivatives
    are the transpose of the backward pass: they multiply a tangent by the coefficient with `c`.
    Where a coefficient is 0, as with `alpha=(0, 0)`, the result is 0 whatever `x` holds.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype.
      rate: the probability that the branch is shaken, in [0, 1]: a number or a traced scalar. The
        paper has 0.5 at the last layer and less before: `depth_rates(0.5, num_layers,
        rule="paper")`.
      alpha: least and greatest forward coefficient.
      beta: least and greatest backward coefficient.
      per: what draws its own coefficients `a` and `c`: the whole `'batch'` one pair, each
        `'image'`, each `'channel'` of each image, or each entry (`'pixel'`).
      batch_axis: the axis of the images.
      channel_axis: the axis of the channels.
      deterministic: if True, `x` times the expected coefficient is returned. If `rate` is the
        number 0, `x` itself.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.
      ValueError: `per` is unknown, `alpha` or `beta` is not a range, or `x` has no such axis.

    References:
      Yamada, Iwamura, Akiba & Kise, "ShakeDrop regularization for deep residual learning", 2018,
      arXiv:1802.02375.
    """
    _checks.check_one_of(per, "per", Per)
    x = _checks.check_inexact(x, "shake_drop")
    axes = {"batch_axis": batch_axis, "channel_axis": channel_axis}
    for name, axis in axes.items():
        _checks.axis(axis, name)
    own = {"batch": (), "image": ("batch_axis",), "channel": ("batch_axis", "channel_axis")}
    shared = () if per == "pixel" else all_but(x, **{name: axes[name] for name in own[per]})
    alpha, beta = check_range(alpha, "alpha"), check_range(beta, "beta")
    x, rate, _, spec = _checks.check_site("shake_drop", x, rate, all_but(x), spec)
    if masks.is_number(rate, 0):
        return x
    if _checks.check_flag(deterministic, "deterministic"):
        middle = (alpha[0] + alpha[1]) / 2
        return x if middle == 1 else _expected(x, rate, middle=middle)
    key, (threshold, _) = _checks.consume_key(key, "shake_drop"), masks.distribution(rate)
    return _shake_drop(
        key,
        masks.nan_if_impossible(x, rate),
        threshold,
        alpha=alpha,
        beta=beta,
        shared=shared,
        spec=spec,
    )


@kernel("shake_drop")
def _shake_drop(
    key: jax.Array,
    x: jax.Array,
    threshold: jax.Array,
    *,
    alpha: Range,
    beta: Range,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    coin, forward, backward = jax.random.split(key, 3)
    alone = masks.keep_mask(coin, x, threshold, broadcast_dims=all_but(x), spec=spec)

    def coefficient(key: jax.Array, bounds: Range) -> jax.Array:
        low, high = np.float32(bounds[0]), np.float32(bounds[1])
        drawn = _variates.uniform(masks.draw(key, x, broadcast_dims=shared, spec=spec))
        return jnp.where(alone, np.float32(1), low + (high - low) * drawn)

    return _two_way(x, coefficient(forward, alpha), coefficient(backward, beta))


@jax.custom_jvp
def _two_way(x: jax.Array, forward: jax.Array, backward: jax.Array) -> jax.Array:
    """`forward x`, with the derivative `backward` in place of `forward`."""
    return masks.scaled(forward != 0, x, forward)


@_two_way.defjvp
def _two_way_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    x, forward, backward = primals
    return _two_way(x, forward, backward), masks.scaled(backward != 0, tangents[0], backward)


@kernel("shake_drop")
def _expected(x: jax.Array, rate: jax.Array, *, middle: float) -> jax.Array:
    real = jnp.finfo(_numerics.compute_dtype(x.dtype)).dtype
    factor = 1 - _numerics.expand(jnp.asarray(rate), x.ndim).astype(real) * (1 - middle)
    return masks.scaled(factor != 0, x, factor)
