"""Operations whose result has one entry for each entry of the operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.mc._analytic import _closed_forms, _gaussian, _nodes, _operations
from jaxdrop.mc._analytic._context import Context, unknown
from jaxdrop.mc._analytic._gaussian import Result
from jaxdrop.mc._analytic._values import Coin, Moments, Points, Uniform, is_random, real

_OF_BITS = ("and", "div", "not", "or", "rem", "xor")


def elementwise(context: Context, eqn: Any, values: Sequence[Any]) -> Any:
    """The result of an elementwise operation."""
    name = eqn.primitive.name
    values = [context.expanded(x) if isinstance(x, Uniform) else x for x in values]
    shape = tuple(eqn.outvars[0].aval.shape)
    values = [_nodes.repeated(context, x, shape) if is_random(x) else x for x in values]
    if name == "sub" and _is_largest_of(values[1], values[0]):
        # As a softmax does, whose value does not depend on the number that is subtracted.
        values[1] = subtracted(context, values[1])
    random = [value for value in values if is_random(value)]
    if name == "is_finite":
        return jnp.isfinite(context.moments(random[0]).mean)
    if name == "convert_element_type" and isinstance(random[0], Moments):
        return random[0]
    if name in ("max", "min") and (same := _unbounded(name, values)) is not None:
        return same
    if name == "select_n" and isinstance(values[0], Moments):
        return chosen(context, values[0], values[1:])
    _check_whole(context, eqn, random)
    coins = len(values) == 2 and all(map(_nodes.is_coin, values))
    if name == "div" and is_random(values[1]) and not coins:
        return _quotient(context, eqn, values)
    if len({id(x) for x in random}) == 1 and isinstance(random[0], Moments):
        found = _closed_forms.of_one(context, eqn, values, random[0])
        if found is not None:
            return found
    one = len(random) == 1 and isinstance(random[0], Points) and not _nodes.is_coin(random[0])
    if one and random[0].moments is not None:
        found = _nodes.at_nodes(context, eqn, values)
        event = _nodes.as_event(context, random[0])
        own = random[0].moments if event is random[0] else event
        operands = [own if value is random[0] else value for value in values]
        if own is event:  # every function of a boolean is linear
            found.moments = context.moments(_nodes.at_nodes(context, eqn, operands))
        else:
            found.moments = _closed_forms.linear(context, name, operands, own)
        return found
    if len({id(x) for x in random}) == 1 or context.same_base(random) is not None:
        return _nodes.at_nodes(
            context, eqn, [context.expanded(x) if is_random(x) else x for x in values]
        )
    values = [_nodes.as_event(context, value) for value in values]
    if len(values) == 2 and all(map(_nodes.is_coin, values)):
        return _of_two_coins(context, eqn, values)
    moments = [context.moments(value) for value in values]
    if name in _OF_SEVERAL:
        return _OF_SEVERAL[name](context, eqn, moments)
    if name in _operations.COMPARISONS:
        whole = not _operations.is_number(eqn.invars[0].aval.dtype)
        return context.made(_gaussian.compared(name, whole, *moments))
    if name == "select_n":
        return chosen(context, values[0], values[1:])
    return _by_derivative(context, eqn, moments)


def _check_whole(context: Context, eqn: Any, random: Sequence[Any]) -> None:
    """Whole numbers that are taken to be normal have no bits, and no remainder."""
    whole = jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.integer)
    if whole and eqn.primitive.name in _OF_BITS and not all(map(_nodes.is_coin, random)):
        raise unknown(f"whole numbers that {eqn.primitive.name} makes", context.where)


def _unbounded(name: str, values: Sequence[Any]) -> Any:
    """The random operand of a maximum with minus infinity, which begins a reduction."""
    least = -math.inf if name == "max" else math.inf
    for random, other in (values, values[::-1]):
        known = is_random(random) and not is_random(other) and np.size(other) == 1
        if known and not isinstance(other, jax.core.Tracer) and np.asarray(other).item() == least:
            return random
    return None


def subtracted(context: Context, largest: Any) -> Any:
    """The number that a softmax subtracts from its logits; 0 if all are minus infinity."""
    mean = lax.stop_gradient(context.moments(largest).mean)
    return jnp.where(jnp.isneginf(mean), 0, mean)


def _is_largest_of(x: Any, source: Any) -> bool:
    tag = getattr(x, "tag", None)
    return tag is not None and tag.kind == "max" and tag.source is source


def _quotient(context: Context, eqn: Any, values: Sequence[Any]) -> Any:
    above, below = values
    total = _closed_forms.total(below)
    if total is not None and total.source is above:
        shares = _softmax(context, above, total.axes)
        if total.instead is None:
            return shares
        where, number = total.instead
        x = context.moments(above)
        plain = context.linear(x.mean / number, x.variance / number**2)
        return chosen(context, jnp.broadcast_to(where, shares.shape), [shares, plain])
    if is_random(above) and context.same_base([above, below]) is not None:
        return _nodes.at_nodes(context, eqn, [context.expanded(x) for x in values])
    if isinstance(below, Points) and not is_random(above):
        return _nodes.at_nodes(context, eqn, values)
    x = context.moments(below)
    inverse = context.made(_gaussian.inverse_power(x.mean, x.variance, -1), of=x)
    return _product(context, eqn, [context.moments(above), inverse])


def _softmax(context: Context, numerator: Any, axes: tuple[int, ...]) -> Moments:
    context.note("softmax: variance linearized")
    tag = numerator.tag
    if tag is not None and isinstance(tag.source, Moments):
        return context.made(_gaussian.softmax(tag.source.mean, tag.source.variance, axes))
    x = context.moments(numerator)
    return context.made(_gaussian.ratio_to_sum(x.mean, x.variance, axes))


def _product(context: Context, eqn: Any, values: Sequence[Moments]) -> Moments:
    a, b = values
    linear = a.mean**2 * b.variance + b.mean**2 * a.variance
    return context.made(Result(a.mean * b.mean, linear + a.variance * b.variance, linear))


def _sum(context: Context, eqn: Any, values: Sequence[Moments]) -> Moments:
    a, b = values
    mean = a.mean - b.mean if eqn.primitive.name == "sub" else a.mean + b.mean
    return context.linear(mean, a.variance + b.variance)


def _extreme(context: Context, eqn: Any, values: Sequence[Moments]) -> Moments:
    a, b = values
    sign = 1 if eqn.primitive.name == "max" else -1
    found = _gaussian.maximum(sign * a.mean, a.variance, sign * b.mean, b.variance)
    return context.made(found._replace(mean=sign * found.mean))


def _of_two_coins(context: Context, eqn: Any, values: Sequence[Points]) -> Moments:
    """A function of two independent coins, at their four values."""
    a, b = values
    found = real(jax.vmap(lambda x: _nodes.at_nodes(context, eqn, [x, b]).values)(a.values))
    assert isinstance(a.base, Coin)
    assert isinstance(b.base, Coin)
    p, q = a.base.true, b.base.true
    mean, by_p, by_q = _expected(found, p, q)
    variance = _expected((found - lax.stop_gradient(mean)) ** 2, p, q)[0]
    return context.made(Result(mean, variance, by_p**2 * p * (1 - p) + by_q**2 * q * (1 - q)))


def _expected(found: Any, p: Any, q: Any) -> tuple[Any, Any, Any]:
    """The mean over two coins, and its derivatives in their probabilities."""
    (both_off, second), (first, both_on) = found
    by_p = (1 - q) * (first - both_off) + q * (both_on - second)
    by_q = (1 - p) * (second - both_off) + p * (both_on - first)
    mean = (1 - p) * ((1 - q) * both_off + q * second) + p * ((1 - q) * first + q * both_on)
    return mean, by_p, by_q


_OF_SEVERAL = {
    "add": _sum,
    "add_any": _sum,
    "sub": _sum,
    "mul": _product,
    "max": _extreme,
    "min": _extreme,
}


def chosen(context: Context, which: Any, cases: Sequence[Any]) -> Moments:
    """`cases[which]`, independent of each other."""
    moments = [context.moments(case) for case in cases]
    if not is_random(which):
        index = jnp.asarray(which).astype(jnp.int32)
        mean, variance = (
            lax.select_n(jnp.broadcast_to(index, parts[0].shape), *parts)
            for parts in zip(*((x.mean, x.variance) for x in moments), strict=True)
        )
        return context.linear(mean, variance)
    if len(cases) != 2:
        context.note("a choice between more than two values: that at the mean")
        index = jnp.round(lax.stop_gradient(context.moments(which).mean))
        return chosen(context, jnp.clip(index, 0, len(cases) - 1), cases)
    true, (off, on) = context.moments(which), moments
    share = true.mean
    gap = on.mean - off.mean
    between = true.variance * gap * gap
    within = (1 - share) * off.variance + share * on.variance
    explained = between + (1 - share) ** 2 * off.variance + share**2 * on.variance
    return context.made(Result(off.mean + share * gap, between + within, explained))


def _by_derivative(context: Context, eqn: Any, values: Sequence[Moments]) -> Moments:
    """An operation on several random values, by its derivative in each."""
    context.note(f"{eqn.primitive.name} linearized")
    # The ends of a `clamp` may be single numbers.
    means = [jnp.broadcast_to(value.mean, eqn.outvars[0].aval.shape) for value in values]

    def run(*operands: Any) -> Any:
        return _operations.bind(eqn, operands)[0]

    mean, variance = run(*means), 0.0
    for place, value in enumerate(values):
        tangents = [jnp.full_like(x, float(i == place)) for i, x in enumerate(means)]
        _, slope = jax.jvp(run, tuple(means), tuple(tangents))
        variance = variance + slope**2 * value.variance
    return context.linear(mean, jnp.asarray(variance))
