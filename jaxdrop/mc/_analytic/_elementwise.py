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
from jaxdrop.mc._analytic._context import Context
from jaxdrop.mc._analytic._gaussian import Result
from jaxdrop.mc._analytic._values import Moments, Points, Uniform, is_random


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
    if name == "convert_element_type" and isinstance(random[0], Moments):
        return random[0]
    if name in ("max", "min") and (same := _unbounded(name, values)) is not None:
        return same
    boolean = any(
        isinstance(x, Moments) and var.aval.dtype == jnp.bool_
        for x, var in zip(values, eqn.invars, strict=True)
    )
    if boolean and name == "select_n":
        return chosen(context, values[0], values[1:])
    if boolean and name in ("and", "or", "xor"):
        return _logical(context, eqn, [*map(context.moments, values)])
    if name == "div" and is_random(values[1]):
        return _quotient(context, eqn, values)
    if len({id(x) for x in random}) == 1 and isinstance(random[0], Moments):
        found = _closed_forms.of_one(context, eqn, values, random[0])
        if found is not None:
            return found
    if len(random) == 1 and isinstance(random[0], Points) and random[0].moments is not None:
        found = _nodes.at_nodes(context, eqn, values)
        operands = [random[0].moments if value is random[0] else value for value in values]
        found.moments = _closed_forms.linear(context, name, operands, random[0].moments)
        return found
    if len({id(x) for x in random}) == 1 or context.same_base(random) is not None:
        return _nodes.at_nodes(
            context, eqn, [context.expanded(x) if is_random(x) else x for x in values]
        )
    moments = [context.moments(value) for value in values]
    if name in _OF_SEVERAL:
        return _OF_SEVERAL[name](context, eqn, moments)
    if name in _operations.COMPARISONS:
        return _compared(context, eqn, moments)
    if name == "select_n":
        return chosen(context, values[0], values[1:])
    return _by_derivative(context, eqn, moments)


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
    if total is not None and total.source is above and total.axes:
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
    sign = jnp.sign(lax.stop_gradient(x.mean))
    found = _gaussian.power(sign * x.mean, x.variance, -1)
    inverse = context.made(found._replace(mean=sign * found.mean))
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


def _logical(context: Context, eqn: Any, values: Sequence[Moments]) -> Moments:
    name = eqn.primitive.name
    if eqn.outvars[0].aval.dtype != jnp.bool_:
        return _by_derivative(context, eqn, values)
    a, b = values
    if name == "and":
        return _product(context, eqn, values)
    # By the complement: `a or b` is `not (not a and not b)`; `a xor b` is linear in each.
    if name == "or":
        mean = a.mean + b.mean - a.mean * b.mean
        linear = (1 - b.mean) ** 2 * a.variance + (1 - a.mean) ** 2 * b.variance
    else:
        mean = a.mean + b.mean - 2 * a.mean * b.mean
        linear = (1 - 2 * b.mean) ** 2 * a.variance + (1 - 2 * a.mean) ** 2 * b.variance
    return context.made(Result(mean, mean * (1 - mean), linear))


_OF_SEVERAL = {
    "add": _sum,
    "add_any": _sum,
    "sub": _sum,
    "mul": _product,
    "max": _extreme,
    "min": _extreme,
    "and": _logical,
    "or": _logical,
    "xor": _logical,
}


def _compared(context: Context, eqn: Any, values: Sequence[Moments]) -> Moments:
    """Which of two independent normal variables is larger, as a boolean."""
    a, b = values
    name = eqn.primitive.name
    if name in ("eq", "ne"):
        mean = jnp.full_like(a.mean + b.mean, float(name == "ne"))
        return context.linear(mean, jnp.zeros_like(mean))
    gap = a.mean - b.mean if name in ("gt", "ge") else b.mean - a.mean
    variance = a.variance + b.variance
    spread = jnp.sqrt(jnp.where(variance > 0, variance, 1))
    at = jnp.where(variance > 0, gap / spread, jnp.sign(gap) * 30)
    above, density = _gaussian.cdf_and_pdf(at)
    return context.made(Result(above, above * (1 - above), density**2))


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
    means = [value.mean for value in values]

    def run(*operands: Any) -> Any:
        return _operations.bind(eqn, operands)[0]

    mean, variance = run(*means), 0.0
    for place, value in enumerate(values):
        tangents = [jnp.full_like(x, float(i == place)) for i, x in enumerate(means)]
        _, slope = jax.jvp(run, tuple(means), tuple(tangents))
        variance = variance + slope**2 * value.variance
    return context.linear(mean, jnp.asarray(variance))
