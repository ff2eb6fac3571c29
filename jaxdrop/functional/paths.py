"""Dropping residual branches and whole layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, _variates, masks
from jaxdrop.functional._kernel import kernel

Mode = Literal["row", "batch"]
Level = Literal["batch", "image", "channel", "pixel"]
DepthRule = Literal["timm", "torchvision", "efficientnet", "paper"]
Range = tuple[float, float]
T = TypeVar("T")

# The fraction of the last rate that layer i of n has, i = 0, ..., n - 1.
_DEPTH_RULES: dict[str, Callable[[int, int], float]] = {
    "timm": lambda i, n: i / max(n - 1, 1),
    "torchvision": lambda i, n: i / max(n - 1, 1),
    "efficientnet": lambda i, n: i / n,
    "paper": lambda i, n: (i + 1) / n,
}


@_checks.hinted
def drop_path(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    mode: Mode = "row",
    batch_axis: int = 0,
    scale_by_keep: bool = True,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Stochastic depth: `y = m x / (1 - rate)` with one `m ~ Bernoulli(1 - rate)` for each example
    of a batch, or for all of it.

    `x` is the output of a residual branch: `h + drop_path(key, f(h), rate)`. It is computed also
    where it is dropped; to save the work, see `layer_drop`. A dropped example is 0 whatever `x`
    holds there, and so are its gradients.

    timm calls this `drop_path`, torchvision `stochastic_depth`, and TensorFlow's EfficientNet
    `drop_connect`. The paper does not divide, and multiplies by the probability of keeping at
    evaluation instead: the same expectation.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask's shape, which is 1 but along the batch axis. At 1 the output is 0.
        For one rate a layer, see `depth_rates`.
      mode: `'row'`: each example is kept or dropped by itself. `'batch'`: all of them together.
      batch_axis: where the examples are; a negative axis counts from the end.
      scale_by_keep: if False, what is kept is not divided by `1 - rate`, and `E[y] = (1 - rate) x`,
        where evaluation returns `x`.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.
      ValueError: `mode` is unknown, or `x` has no such `batch_axis`.

    References:
      Huang, Sun, Liu, Sedra & Weinberger, "Deep networks with stochastic depth", 2016,
      arXiv:1603.09382. Larsson, Maire & Shakhnarovich, "FractalNet: ultra-deep neural networks
      without residuals", 2016, arXiv:1605.07648, for the name.
    """
    _checks.check_one_of(mode, "mode", Mode)
    scale_by_keep = _checks.check_flag(scale_by_keep, "scale_by_keep")
    x = _checks.check_inexact(x, "drop_path")
    _checks.check_integer(batch_axis, "batch_axis", "the number of an axis")
    shared = _all_but(x, batch_axis=batch_axis) if mode == "row" else _all_but(x)
    x, rate, shared, spec = _checks.check_site("drop_path", x, rate, shared, spec)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x
    if masks.is_number(rate, 1):
        return jnp.zeros_like(x)
    threshold, scale = masks.distribution(rate, x.dtype)
    if not scale_by_keep:
        scale = masks.unit_scale(rate, x.dtype)
    return _drop_path(
        _checks.consume_key(key, "drop_path"), x, threshold, scale, shared=shared, spec=spec
    )


@kernel("drop_path")
def _drop_path(
    key: jax.Array,
    x: jax.Array,
    threshold: jax.Array,
    scale: jax.Array,
    *,
    shared: tuple[int, ...],
    spec: PartitionSpec | None,
) -> jax.Array:
    return masks.scaled(
        masks.keep_mask(key, x, threshold, broadcast_dims=shared, spec=spec), x, scale
    )


@_checks.hinted
def layer_drop(
    key: jax.Array | None,
    x: T,
    rate: masks.Rate,
    layer: Callable[[T], T],
    *,
    deterministic: bool = False,
) -> T:
    """LayerDrop: `layer(x)` with probability `1 - rate`, otherwise `x`, and then the layer's work
    is not done.

    One coin decides for the whole of `x`, on all devices that hold the same key. Under `jit` and
    `lax.scan` the layer stands in one branch of a `lax.cond`, forward and backward; outside of them
    the coin is looked at, and a Python `if` decides. Under `vmap` over keys a `cond` becomes a
    `select`, which computes both branches: the values are the same, the saving is gone (and JAX
    refuses it where `x` is divided over explicit mesh axes). `jax.lax.map` over keys keeps it.

    What the backward pass needs leaves the `cond` as an output of it, and that makes copies, of
    parameters too. `jax.checkpoint` around the whole call stores the key and `x` instead, and
    computes the layer again if it has run.

    Nothing is rescaled, and evaluation runs every layer, so `layer` should be a residual block:
    `lambda x: x + f(x)`. A pass may happen to skip all layers.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: an array, or a pytree of arrays.
      rate: the probability of skipping the layer, in [0, 1]: a number or a traced scalar. At 1 the
        layer is not traced.
      layer: returns what is like its argument, in structure, shapes and dtypes. It may close over
        traced values, parameters for example, which then get gradients.
      deterministic: if True, or if `rate` is the number 0, this is `layer(x)`, with no other
        operation.

    Returns:
      What is like `x`.

    Raises:
      TypeError: `layer` returns what is not like `x`; `rate`, `key` or `deterministic` is of a
        wrong type.
      ValueError: `rate` is outside [0, 1] or has axes; `key` is missing or an array of keys.

    References:
      Fan, Grave & Joulin, "Reducing transformer depth on demand with structured dropout", 2019,
      arXiv:1909.11556, with rate 0.2.
    """
    _checks.check_callable(layer, "layer", "x")
    runs = layer_runs(key, rate, deterministic=deterministic)
    return either(lax.cond, runs, lambda x: like(layer(x), x, rate), lambda x: x, x)


def layer_runs(key: jax.Array | None, rate: masks.Rate, *, deterministic: bool) -> bool | jax.Array:
    """The coin of `layer_drop`: a bool where it is known now, otherwise a traced one."""
    checked = _checks.check_rate(rate)
    _checks.check_one_rate(checked, "layer_drop throws one coin and takes one rate")
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(checked, 0):
        return True
    if masks.is_number(checked, 1):
        return False
    runs = _runs(_checks.consume_key(key, "layer_drop"), masks.distribution(checked).threshold)
    return runs if isinstance(runs, jax.core.Tracer) else bool(runs)


@kernel("layer_drop")
def _runs(key: jax.Array, threshold: jax.Array) -> jax.Array:
    return masks.keep_mask(key, threshold, threshold)


def either(
    cond: Callable[..., T],
    runs: bool | jax.Array,
    run: Callable[..., T],
    skip: Callable[..., T],
    *operands: Any,
) -> T:
    """`run(*operands)` or `skip(*operands)`: by Python where the coin is known, otherwise by
    `cond`, Flax's or that of JAX.
    """
    if isinstance(runs, bool):
        return run(*operands) if runs else skip(*operands)
    return cond(runs, run, skip, *operands)


def like(y: T, x: T, rate: masks.Rate) -> T:
    """`y`, the result of a layer that runs, if it is like `x`, so that the layer may be skipped at
    this rate.
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


@_checks.hinted
def shake_drop(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    alpha: Range = (-1.0, 1.0),
    beta: Range = (0.0, 1.0),
    level: Level = "image",
    batch_axis: int = 0,
    channel_axis: int = -1,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """ShakeDrop: `y = (b + a - b a) x` forward, and `dx = (b + c - b c) dy` backward.

    `b ~ Bernoulli(1 - rate)` is one coin for the whole batch: at 1 the branch is left alone; at 0
    it is multiplied by `a ~ U(alpha)`, and its gradient by another number, `c ~ U(beta)`. At
    evaluation `y = (1 - rate + rate E[a]) x`, with `E[a]` the middle of `alpha`: the expectation of
    the coefficient. (The usual code takes `1 - rate`, right only where that middle is 0.)

    `x` is the output of a residual branch, which should end in a normalization layer: `h +
    shake_drop(key, f(h), rate)`. Nothing is stored but the key, at any level: the paper chooses
    `'image'` over `'pixel'` for the memory that the latter takes. Forward-mode derivatives are the
    transpose of the backward pass: they multiply a tangent by the coefficient with `c`. Where a
    coefficient is 0, as with `alpha=(0, 0)`, the result is 0 whatever `x` holds.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: any shape, any floating or complex dtype.
      rate: the probability that the branch is shaken, in [0, 1]: a number or a traced scalar. The
        paper has 0.5 at the last layer and less before: `depth_rates(0.5, num_layers,
        rule="paper")`.
      alpha: least and greatest forward coefficient.
      beta: least and greatest backward coefficient.
      level: who gets coefficients of their own: the whole `'batch'` one pair; each `'image'`; each
        `'channel'` of each image; each entry (`'pixel'`).
      batch_axis: where the images are.
      channel_axis: where the channels are.
      deterministic: if True, `x` times the expected coefficient is returned. If `rate` is the
        number 0, `x` itself.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `x`, of its shape and dtype.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`.
      ValueError: `level` is unknown, `alpha` or `beta` is not a range, or `x` has no such axis.

    References:
      Yamada, Iwamura, Akiba & Kise, "ShakeDrop regularization for deep residual learning", 2018,
      arXiv:1802.02375.
    """
    _checks.check_one_of(level, "level", Level)
    x = _checks.check_inexact(x, "shake_drop")
    axes = {"batch_axis": batch_axis, "channel_axis": channel_axis}
    for name, axis in axes.items():
        _checks.check_integer(axis, name, "the number of an axis")
    own = {"batch": (), "image": ("batch_axis",), "channel": ("batch_axis", "channel_axis")}
    shared = () if level == "pixel" else _all_but(x, **{name: axes[name] for name in own[level]})
    alpha, beta = check_range("alpha", alpha), check_range("beta", beta)
    x, rate, _, spec = _checks.check_site("shake_drop", x, rate, _all_but(x), spec)
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
    alone = masks.keep_mask(coin, x, threshold, broadcast_dims=_all_but(x), spec=spec)

    def coefficient(key: jax.Array, bounds: Range) -> jax.Array:
        low, high = np.float32(bounds[0]), np.float32(bounds[1])
        drawn = _variates.uniform(masks.draw(key, x, broadcast_dims=shared, spec=spec))
        return jnp.where(alone, np.float32(1), low + (high - low) * drawn)

    return _two_way(x, coefficient(forward, alpha), coefficient(backward, beta))


@jax.custom_jvp
def _two_way(x: jax.Array, forward: jax.Array, backward: jax.Array) -> jax.Array:
    """`x` times one coefficient, with the derivative another."""
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


@_checks.hinted
def depth_rates(
    rate: masks.Rate, num_layers: int, rule: DepthRule = "timm"
) -> tuple[float | jax.Array, ...]:
    """The rate of each layer, first to last, where a network drops its deep layers more often:
    `rate` times

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


def _all_but(x: jax.Array, **own: int) -> tuple[int, ...]:
    """The axes of `x` other than those given by name: those that share a mask."""
    return tuple(
        sorted(
            set(range(x.ndim))
            - {_checks.check_axis(axis, name, x.ndim) for name, axis in own.items()}
        )
    )


def check_range(name: str, bounds: Range) -> Range:
    """Checks that the argument `name` is a pair of finite numbers, the least and the greatest."""
    what = "two finite numbers, the least and the greatest"
    low, high = _checks.check_numbers(bounds, name, 2, what)
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"{name} must be {what}, got {_checks.quoted(bounds)}")
    return float(low), float(high)
