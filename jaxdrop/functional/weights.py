"""Dropping weights.

LoRA dropout (Hu et al., "LoRA: low-rank adaptation of large language models", 2021,
arXiv:2106.09685) needs no function of its own. It drops the input of the adapter, and of the
adapter only, so it can be neither merged into the weights nor moved behind them:

    >>> import jax.numpy as jnp, jaxdrop
    >>> def adapted(key, x, w, a, b, *, alpha=16.0, rate=0.05, deterministic=False):
    ...     path = jaxdrop.dropout(key, x, rate, deterministic=deterministic)
    ...     return x @ w + (alpha / a.shape[1]) * (path @ a @ b)
    >>> x, w, a, b = jnp.ones((2, 6)), jnp.ones((6, 4)), jnp.ones((6, 3)), jnp.zeros((3, 4))
    >>> bool((adapted(jaxdrop.key(0), x, w, a, b) == x @ w).all())  # b starts at 0
    True
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path, tree_unflatten

from jaxdrop import _checks, _numerics, masks
from jaxdrop.functional._dense import gaussian, operands
from jaxdrop.functional._kernel import kernel
from jaxdrop.functional.elements import dropout

KeyPath: TypeAlias = tuple[Any, ...]
Match: TypeAlias = str | Callable[[KeyPath], bool]


@_checks.hinted
def drop_connect(
    key: jax.Array | None,
    x: jax.Array,
    w: jax.Array,
    rate: masks.Rate,
    *,
    per_example: bool = False,
    inverted: bool = True,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """DropConnect: `y = x (m * w) / (1 - rate)` with `m ~ Bernoulli(1 - rate)` for each weight, so
    that `E[y] = x w`.

    Not the "drop connect" of EfficientNet, which drops whole paths. The paper draws a mask for each
    example and does not divide: `per_example=True, inverted=False`. What it does in evaluation is
    `drop_connect_gaussian`; in practice the mean weights are used, as `deterministic=True` does. To
    drop the weights of other layers, see `weight_drop`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., in), floating or complex.
      w: shape (in, out). A dropped weight counts as 0 whatever it holds, NaN included.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the mask. It gets no gradient.
      per_example: whether each row of `x` has a mask of its own, of shape (..., in, out) over all
        rows. The products are formed and summed one by one, not as matrices: slow for large layers.
        XLA for TPU keeps the masked copies of `w` nowhere, XLA for CPU writes them to memory.
      inverted: if False, training does not divide by `1 - rate`, and evaluation multiplies by it:
        `y = x (1 - rate) w`.
      deterministic: if True, or if `rate` is the number 0, `x w` is returned (times `1 - rate` if
        not inverted).
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        mask, of shape (in, out) or (..., in, out). The product is this device's: the contracted
        axis is for the caller to sum over.

    Returns:
      Shape (..., out), of the dtype of `x @ w`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`; ValueError also if the
        shapes do not fit.

    References:
      Wan, Zeiler, Zhang, LeCun & Fergus, "Regularization of neural networks using DropConnect",
      ICML 2013.
    """
    x, w = operands("drop_connect", x, w, real=False)
    per_example, inverted = (
        _checks.check_flag(per_example, "per_example"),
        _checks.check_flag(inverted, "inverted"),
    )
    shape = (*x.shape[:-1], *w.shape) if per_example else w.shape
    rate = _checks.check_rate(rate)
    _checks.check_rate_shape(rate, shape, ())
    spec = _checks.check_spec(spec, len(shape))
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x @ (w if inverted else _expected(w, rate))
    if masks.is_number(rate, 1):
        return x @ jnp.zeros_like(w)
    threshold, scale = masks.distribution(rate, w.dtype)
    scale = scale if inverted else np.ones_like(scale, shape=())
    return _drop_connect(
        _checks.consume_key(key, "drop_connect"),
        x,
        w,
        threshold,
        scale,
        per_example=per_example,
        spec=spec,
    )


@kernel("drop_connect")
def _drop_connect(
    key: jax.Array,
    x: jax.Array,
    w: jax.Array,
    threshold: jax.Array,
    scale: jax.Array,
    *,
    per_example: bool,
    spec: PartitionSpec | None,
) -> jax.Array:
    if not per_example:
        return x @ masks.scaled(masks.keep_mask(key, w, threshold, spec=spec), w, scale)
    rows, weights = lax.expand_dims(x, [x.ndim]), _numerics.expand(w, x.ndim + 1)
    kept = masks.scaled(masks.keep_mask(key, rows * weights, threshold, spec=spec), weights, scale)
    dtype = jnp.result_type(x, w)
    wide = _numerics.compute_dtype(dtype)
    return (rows.astype(wide) * kept.astype(wide)).sum(-2).astype(dtype)


@_checks.hinted
def drop_connect_gaussian(
    key: jax.Array | None,
    x: jax.Array,
    w: jax.Array,
    rate: masks.Rate,
    *,
    inverted: bool = True,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Moment-matched DropConnect: one draw of `u ~ N(x w, rate / (1 - rate) (x * x) (w * w))`, a
    normal value for each output.

    Mean and variance are those of `drop_connect` with one mask for each example. With
    `inverted=False` they are Wan's, `N((1 - rate) x w, rate (1 - rate) (x * x) (w * w))`. His
    inference averages the activation over draws:

        keys = jaxdrop.mc.keys(key, 100)
        y = jax.vmap(lambda key: jax.nn.relu(drop_connect_gaussian(key, x, w, 0.5) +
        b))(keys).mean(0)

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., in), floating.
      w: shape (in, out).
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to `w`. It gets no gradient. At 1 the output is 0.
      inverted: which of the two laws.
      deterministic: if True, or if `rate` is the number 0, the mean is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        output.

    Returns:
      Shape (..., out), of the dtype of `x @ w`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `drop_connect`.

    References:
      Wan, Zeiler, Zhang, LeCun & Fergus, "Regularization of neural networks using DropConnect",
      ICML 2013. For training: Wang & Manning, "Fast dropout training", ICML 2013.
    """
    x, w = operands("drop_connect_gaussian", x, w, real=True)
    inverted = _checks.check_flag(inverted, "inverted")
    rate = _checks.check_rate(rate)
    _checks.check_rate_shape(rate, w.shape, ())
    spec = _checks.check_spec(spec, x.ndim)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return x @ (w if inverted else _expected(w, rate))
    if masks.is_number(rate, 1):
        return x @ jnp.zeros_like(w)
    real = _numerics.compute_dtype(w.dtype)
    scale = masks.distribution(rate, w.dtype).scale if inverted else jnp.ones((), real)
    drop = jnp.asarray(rate, real)
    return _drop_connect_gaussian(
        _checks.consume_key(key, "drop_connect_gaussian"), x, w, drop, scale, spec=spec
    )


@kernel("drop_connect_gaussian")
def _drop_connect_gaussian(
    key: jax.Array,
    x: jax.Array,
    w: jax.Array,
    rate: jax.Array,
    scale: jax.Array,
    *,
    spec: PartitionSpec | None,
) -> jax.Array:
    weights = w.astype(_numerics.compute_dtype(w.dtype))
    mean = (1 - rate) * scale
    variance = rate * mean * scale
    mean, variance = _numerics.expand(mean, w.ndim), _numerics.expand(variance, w.ndim)
    return gaussian(key, x, (mean * weights).astype(w.dtype), variance * weights * weights, spec)


@_checks.hinted
def weight_drop(
    key: jax.Array | None,
    params: Any,
    rate: masks.Rate,
    *,
    match: Match,
    drop: Callable[..., jax.Array] = dropout,
    deterministic: bool = False,
    spec: Any = None,
) -> Any:
    """Drops weights of the chosen leaves of a parameter tree: `w <- m * w / (1 - rate)`; the others
    stay as they are.

    Done once before a recurrent network runs, this is AWD-LSTM's weight drop, one mask for all time
    steps and examples:

        # The recurrent weights of Flax's LSTM cells.
        params = weight_drop(key, params, 0.5, match=r"/(h[ifgo]|dense_h)/kernel$")

    Each leaf has a mask of its own, from `fold_in(key, crc32(name))`, which does not change when
    other leaves come or go. Nothing is dropped in evaluation (in AWD-LSTM's own code the
    `variational` branch is active there too).

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      params: a pytree: Linen's dict of parameters, an `nnx.State`, or any other.
      rate: the probability of dropping, in [0, 1]: a number or a traced scalar.
      match: which leaves: a regular expression that is searched for in the leaf's name, such as
        `encoder/0/kernel`, or a function of its path of `jax.tree_util` keys.
      drop: what is done to a leaf, `drop(key, w, rate, spec=...)`: `dropout`;
        `functools.partial(dropout, broadcast_dims=(0,))` for one mask along the inputs of a kernel
        (AWD-LSTM's `variational`); `functools.partial(quant_noise, block_size=8)`.
      deterministic: if True, or if `rate` is the number 0, `params` itself is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        leaves, a tree of PartitionSpecs like `params`, or one for all that are chosen.

    Returns:
      A tree like `params`.

    Raises:
      ValueError: no leaf matches; otherwise as `drop`.
      TypeError: `match` is neither text nor a function; otherwise as `drop`.

    References:
      Merity, Keskar & Socher, "Regularizing and optimizing LSTM language models", 2017,
      arXiv:1708.02182.
    """
    rate = _checks.check_rate(rate)
    _checks.check_callable(drop, "drop", "(key, w, rate)")
    flat, tree = tree_flatten_with_path(params)
    chosen = [_matches(match, path) for path, _ in flat]
    if not any(chosen):
        names = ", ".join(_name(path) for path, _ in flat) or "none at all"
        raise ValueError(
            f"match={_checks.quoted(match)} chooses no leaf of params. The leaves are: {names}."
        )
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return params
    key = None if masks.is_number(rate, 1) else _checks.check_key(key, "weight_drop")
    leaves = []
    with jax.named_scope("jaxdrop.weight_drop"):
        for (path, leaf), is_chosen, layout in zip(
            flat, chosen, _layouts(spec, len(flat)), strict=True
        ):
            if is_chosen:
                own = (
                    None
                    if key is None
                    else jax.random.fold_in(key, zlib.crc32(_name(path).encode()))
                )
                leaf = drop(own, leaf, rate, spec=layout)
            leaves.append(leaf)
    return tree_unflatten(tree, leaves)


@_checks.hinted
def quant_noise(
    key: jax.Array | None,
    w: jax.Array,
    rate: masks.Rate,
    *,
    block_size: int = 8,
    axis: int = -2,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Quantization noise of product quantizers: whole blocks of weights are dropped, `w <- m * w /
    (1 - rate)`.

    A block is `block_size` weights in a row along `axis`, the input features of a Flax kernel. In a
    convolution kernel of more than one point it is all points of a pair of channels. Nothing is
    overwritten (fairseq's own code stores the noisy weights, so that zeros and scale pile up).

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      w: a kernel: (in, out), or (*points, in, out) of a convolution; or an embedding (words,
        features), with `axis=-1`.
      rate: the probability of dropping, in [0, 1], a number or a traced scalar. Typical are 0.05 to
        0.1.
      block_size: the number of weights in a block. It must divide the length of `axis`, or the
        number of points.
      axis: along which blocks lie, where the kernel has one point.
      deterministic: if True, or if `rate` is the number 0, `w` itself is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        `w`.

    Returns:
      An array like `w`.

    Raises:
      ValueError: `block_size` does not divide; otherwise as `jaxdrop.dropout`.
      TypeError, NotImplementedError: as `jaxdrop.dropout`; TypeError also if `block_size` or `axis`
        is not an integer.

    References:
      Fan, Stock, Graham, Grave, Gribonval, Jegou & Joulin, "Training with quantization noise for
      extreme model compression", 2020, arXiv:2004.07320.
    """
    w, rate, _, spec = _checks.check_site("quant_noise", w, rate, (), spec, "w")
    _checks.check_one_rate(rate, "quant_noise takes one rate for all blocks")
    points = math.prod(w.shape[:-2])
    axis = _checks.check_axis(axis, "axis", w.ndim, "w")
    length = points if points > 1 else w.shape[axis]
    block_size = _checks.check_count(block_size, "block_size")
    if length % block_size:
        what = f"{points} points" if points > 1 else f"length {length} of axis {axis}"
        raise ValueError(
            f"block_size must divide the {what} of w of shape {tuple(w.shape)}, got"
            f" {_checks.quoted(block_size)}"
        )
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return w
    with jax.named_scope("jaxdrop.quant_noise"):
        if points > 1:
            return dropout(key, w, rate, broadcast_dims=range(w.ndim - 2), spec=spec)
        blocks = (*w.shape[:axis], length // block_size, block_size, *w.shape[axis + 1 :])
        if spec is not None and len(spec) > axis + 1:
            spec = PartitionSpec(*spec[: axis + 1], None, *spec[axis + 1 :])
        return dropout(key, w.reshape(blocks), rate, broadcast_dims=(axis + 1,), spec=spec).reshape(
            w.shape
        )


def _expected(w: jax.Array, rate: float | jax.Array) -> jax.Array:
    """The weights times the probability of keeping them."""
    if masks.is_number(rate, 0):
        return w
    wide = _numerics.compute_dtype(w.dtype)
    return (w.astype(wide) * (1 - _numerics.expand(jnp.asarray(rate, wide), w.ndim))).astype(
        w.dtype
    )


def _name(path: KeyPath) -> str:
    """`encoder/0/kernel`. An NNX variable holds its array as an attribute, which is not part of the
    name.
    """
    if path and path[-1] == GetAttrKey("value"):
        path = path[:-1]
    return keystr(path, simple=True, separator="/")


def _matches(match: Match, path: KeyPath) -> bool:
    if isinstance(match, str):
        try:
            return re.search(match, _name(path)) is not None
        except re.error as error:
            raise ValueError(f"match={match!r} is no regular expression: {error}") from None
    if callable(match):
        return bool(match(path))
    raise TypeError(
        "match must be a regular expression or a function of a leaf's path, got"
        f" {_checks.quoted(match)}"
    )


def _layouts(spec: Any, count: int) -> list[PartitionSpec | None]:
    """One layout for each leaf."""
    if spec is None or isinstance(spec, PartitionSpec):
        return [spec] * count
    layouts = jax.tree.leaves(
        spec, is_leaf=lambda node: node is None or isinstance(node, PartitionSpec)
    )
    if len(layouts) != count or not all(
        layout is None or isinstance(layout, PartitionSpec) for layout in layouts
    ):
        raise TypeError(
            "spec must be a jax.sharding.PartitionSpec, or a tree of them like params, got"
            f" {_checks.quoted(spec)}"
        )
    return layouts
