"""Operations that move entries, add them up, or take the largest of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop.mc._analytic import _gaussian, _nodes, _operations
from jaxdrop.mc._analytic._context import Context, unknown
from jaxdrop.mc._analytic._gaussian import Result
from jaxdrop.mc._analytic._values import Coin, Moments, Nodes, Points, Tag, Uniform, is_random, real

# Of more entries than these the largest is taken to be the one with the largest mean.
_MOST_MAXIMA = 16
# Columns of a derivative that is formed as a matrix.
_MOST_COLUMNS = 4096
_SCATTERS = {
    "scatter": lax.scatter,
    "scatter-add": lax.scatter_add,
    "scatter_add": lax.scatter_add,
}


def moved(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The results of an operation that moves entries."""
    first, *others = values
    if eqn.primitive.name == "gather" and _nodes.is_coin(others[0]) and not is_random(first):
        return [_looked_up(context, eqn, first, others[0])]
    name, joins = eqn.primitive.name, eqn.primitive.name in _operations.JOINS
    varied = any(is_random(other) for other in others)
    if varied and not (joins or name in ("pad", "dynamic_update_slice")):
        raise unknown(f"an index or a position ({name})", context.where)
    alone = not varied and not joins
    if _nodes.is_coin(first) and alone:
        return _moved_coins(context, eqn, first, others)
    means, variances = _operands(context, eqn.primitive.name, values)
    # A number in place of entries outside of an array does not vary.
    fixed = {"fill_value": 0} if "fill_value" in eqn.params else {}
    tag = _moved_tag(eqn, first)
    return [
        context.linear(mean, variance, tag)
        for mean, variance in zip(
            _operations.bind(eqn, means), _operations.bind(eqn, variances, **fixed), strict=True
        )
    ]


def _operands(context: Context, name: str, values: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The operands for the means, and those for the variances. A constant, as the value with which
    an array is padded, has the variance 0; indices are the same in both.
    """
    means, variances = [], []
    for place, x in enumerate(values):
        if _operations.holds_entries(name, place):
            x = context.moments(x)
            means.append(x.mean)
            variances.append(x.variance)
        else:
            means.append(x)
            variances.append(x)
    return means, variances


def _looked_up(context: Context, eqn: Any, table: Any, index: Points) -> Points:
    """Rows of a table, as words are looked up, whose indices are functions of coins."""
    coin = index.base
    assert isinstance(coin, Coin)
    rows = jax.vmap(lambda place: _operations.bind(eqn, [table, place])[0])(index.values)
    true = jnp.broadcast_to(coin.true, index.shape)[..., 0]
    for axis in sorted(eqn.params["dimension_numbers"].offset_dims):
        true = jnp.expand_dims(true, axis)
    return Points(context.moved(coin, true, str(eqn.params), table), rows)


def _moved_coins(context: Context, eqn: Any, x: Points, others: Sequence[Any]) -> list[Any]:
    coin = x.base
    assert isinstance(coin, Coin)

    def move(array: Any) -> list[Any]:
        if eqn.primitive.name == "pad":
            return _operations.bind(eqn, [array, jnp.asarray(others[0]).astype(array.dtype)])
        return _operations.bind(eqn, [array, *others])

    parts = (eqn.primitive.name, str(eqn.params), *others)
    return [
        Points(context.moved(coin, true, number, *parts), value, tag=_moved_tag(eqn, x))
        for number, (true, value) in enumerate(
            zip(move(jnp.broadcast_to(coin.true, x.shape)), jax.vmap(move)(x.values), strict=True)
        )
    ]


def _moved_tag(eqn: Any, x: Any) -> Tag | None:
    """The tag of a sum or maximum that is repeated along the axes over which it was taken."""
    tag = getattr(x, "tag", None)
    if tag is None or tag.kind not in ("sum", "max"):
        return None
    if tag.instead is not None and len(eqn.outvars[0].aval.shape) != len(x.shape):
        return None
    if tag.kind == "max" or eqn.primitive.name in ("broadcast_in_dim", "reshape"):
        return tag
    return None


def summed(context: Context, eqn: Any, values: Sequence[Any]) -> Moments:
    """A sum of entries."""
    if eqn.primitive.name.startswith("scatter") and is_random(values[1]):
        raise unknown("an index (scatter)", context.where)
    means, variances = _operands(context, eqn.primitive.name, values)
    tag = None
    if eqn.primitive.name == "reduce_sum":
        tag = Tag("sum", values[0], tuple(eqn.params["axes"]))
    mean, variance = _sum(eqn, means), _sum(eqn, variances)
    if eqn.primitive.name == "reduce_sum" and isinstance(values[0], Points):
        variance = _of_fixed(values[0], tuple(eqn.params["axes"]), variance)
    return context.linear(mean, variance, tag)


def _sum(eqn: Any, operands: Sequence[Any]) -> Any:
    if (scatter := _SCATTERS.get(eqn.primitive.name)) is None:
        return _operations.bind(eqn, operands)[0]
    # The equation holds a program that adds numbers of its own dtype.
    names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
    return scatter(*operands, **{name: eqn.params[name] for name in names})


def _of_fixed(x: Points, axes: tuple[int, ...], variance: Any) -> Any:
    """The variance of a sum along the axis along which a fixed number of coins are true: by the
    correlation `-1 / (n - 1)`, it is that of what the entries differ by from their mean.
    """
    coin = x.base
    if not isinstance(coin, Coin) or axes != (coin.fixed,):
        return variance
    low, high = real(x.values)
    return (coin.true * (1 - coin.true) * coin.apart(high - low) ** 2).sum(axes)


def bilinear(context: Context, eqn: Any, values: Sequence[Any]) -> Moments:
    """A product of matrices, or a convolution."""
    a, b = values

    def product(x: Any, y: Any) -> Any:
        return _operations.bind(eqn, [x, y], preferred_element_type=None)[0]

    if is_random(a) and is_random(b):
        x, y = context.moments(a), context.moments(b)
        mean = product(x.mean, y.mean)
        own = product(x.mean**2, y.variance)
        both = product(x.variance, y.mean**2 + y.variance)
        rest = product(x.variance, y.variance) if context.unrolled else 0
        return context.made(Result(mean, own + both, own + both - rest))
    if is_random(a):
        x, y = context.moments(a), real(b)
        return context.linear(product(x.mean, y), product(x.variance, y * y))
    x, y = real(a), context.moments(b)
    return context.linear(product(x, y.mean), product(x * x, y.variance))


def largest(context: Context, eqn: Any, values: Sequence[Any]) -> Moments:
    """The largest, or the smallest, of some axes."""
    sign = 1 if eqn.primitive.name == "reduce_max" else -1
    x = context.moments(values[0])
    axes = tuple(eqn.params["axes"])
    tag = Tag("max", values[0])
    mean, variance = (_along_first(part, axes) for part in (x.mean, x.variance))
    if len(mean) <= _MOST_MAXIMA:
        lowest = below_all(mean.dtype)
        finite = jnp.where(jnp.isfinite(mean), sign * mean, lowest)
        found = fold([Result(m, v, v) for m, v in zip(finite, variance, strict=True)])
        infinite = (sign * mean).max(0)
        found = found._replace(mean=jnp.where(jnp.isfinite(infinite), found.mean, infinite))
        return context.made(Result(sign * found.mean, found.variance, found.explained), tag)
    context.note(f"{eqn.primitive.name} linearized")
    place = jnp.argmax(sign * mean, 0)[None]
    mean, variance = (jnp.take_along_axis(part, place, 0)[0] for part in (mean, variance))
    return context.linear(mean, variance, tag)


def _along_first(x: Any, axes: tuple[int, ...]) -> Any:
    """An array with all entries of some axes along its first one."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    return jnp.transpose(x, (*axes, *kept)).reshape(-1, *(x.shape[axis] for axis in kept))


def all_or_any(context: Context, eqn: Any, values: Sequence[Any]) -> Moments:
    """Whether all of some booleans are true, or any is."""
    axes = tuple(eqn.params["axes"])
    x = context.moments(values[0])
    mean, variance = (_along_first(part, axes) for part in (x.mean, x.variance))
    return context.made(combined(mean, variance, every=eqn.primitive.name == "reduce_and"))


def combined(mean: Any, variance: Any, every: bool) -> Result:
    """Whether all of the booleans along the first axis are true, or any is."""
    true = mean if every else 1 - mean
    product = jnp.prod(true, 0)
    slope = product / jnp.where(true > 0, true, 1)
    found = product if every else 1 - product
    return Result(found, product * (1 - product), (slope**2 * variance).sum(0))


def below_all(dtype: Any) -> float:
    """Far below every number, and its square is finite."""
    return -(float(jnp.finfo(dtype).max) ** 0.4)


def fold(parts: Sequence[Result]) -> Result:
    """The largest of independent normal variables, two by two."""
    found = list(parts)
    while len(found) > 1:
        pairs = [_pair(found[i], found[i + 1]) for i in range(0, len(found) - 1, 2)]
        found = pairs + ([found[-1]] if len(found) % 2 else [])
    return found[0]


def _pair(a: Result, b: Result) -> Result:
    found = _gaussian.maximum(a.mean, a.variance, b.mean, b.variance)
    total = a.variance + b.variance
    share = (a.explained + b.explained) / jnp.where(total > 0, total, 1)
    return Result(found.mean, found.variance, found.explained * share)


def by_jacobian(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Any other operation, by its derivative."""
    random = [i for i, value in enumerate(values) if is_random(value)]
    moments = [context.moments(values[i]) for i in random]
    means = tuple(x.mean for x in moments)

    def run(*operands: Any) -> Any:
        arrays = list(values)
        for i, operand, var in zip(random, operands, (eqn.invars[i] for i in random), strict=True):
            arrays[i] = operand.astype(var.aval.dtype)
        return tuple(_operations.bind(eqn, arrays))

    number = sum(math.prod(x.shape) for x in moments)
    if number > _MOST_COLUMNS:
        raise unknown(
            f"{eqn.primitive.name}, whose derivative in {number} random entries is too large a"
            " matrix",
            context.where,
        )
    found = run(*means)
    if not all(_operations.is_number(x.dtype) for x in found):
        raise unknown(f"whole numbers that {eqn.primitive.name} makes", context.where)
    if any(jnp.iscomplexobj(x) for x in (*means, *found)):
        raise unknown(f"complex numbers ({eqn.primitive.name})", context.where)
    context.note(f"{eqn.primitive.name} linearized")
    variances = [jnp.zeros(x.shape, jnp.float32) for x in found]
    for place, x in enumerate(moments):
        for i, column in enumerate(jax.jacfwd(run, argnums=place)(*means)):
            rows = column.reshape(*found[i].shape, -1)
            variances[i] = variances[i] + (rows**2 * x.variance.ravel()).sum(-1)
    return [context.linear(real(x), v) for x, v in zip(found, variances, strict=True)]


def largest_index(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Where the largest entry is: that of the means."""
    x = values[0]
    drawn = isinstance(x, Points) and isinstance(x.base, Nodes) and x.base.origin is None
    if drawn or isinstance(x, Uniform):
        raise unknown(
            f"the place of the largest random number ({eqn.primitive.name})", context.where
        )
    context.note(f"{eqn.primitive.name} of the means")
    return _operations.bind(eqn, [context.moments(values[0]).mean])
