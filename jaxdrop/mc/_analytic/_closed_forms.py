"""Functions of one random value whose moments have a closed form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdrop.mc._analytic import _activations, _gaussian, _nodes, _operations
from jaxdrop.mc._analytic._context import Context
from jaxdrop.mc._analytic._gaussian import Result
from jaxdrop.mc._analytic._values import Moments, Points, Tag, real

_POWERS = {"sqrt": 0.5, "rsqrt": -0.5}


def of_one(context: Context, eqn: Any, values: Sequence[Any], x: Moments) -> Any:
    """A function of one value known by its moments, in closed form; None if there is none."""
    name = eqn.primitive.name
    place = next(i for i, value in enumerate(values) if value is x)
    others = [real(value) for i, value in enumerate(values) if value is not x]
    twice = len(others) + 1 != len(values)
    if (
        name == "square"
        or (name, eqn.params.get("y")) == ("integer_pow", 2)
        or (twice and name == "mul")
    ):
        return _with_moments(context, eqn, values, x, _gaussian.square(x.mean, x.variance))
    if twice:
        return None
    straight = linear(context, name, values, x)
    if name == "shift_right_logical":
        return straight
    if straight is not None:
        operands = [context.expanded(y) if y is x else y for y in values]
        straight.points = _nodes.at_nodes(context, eqn, operands)
        straight.points.functions += (_activations.itself(context.name, straight),)
        return straight
    if name in _operations.COMPARISONS:
        operands = [x if value is x else context.moments(value) for value in values]
        whole = not _operations.is_number(eqn.invars[0].aval.dtype)
        found = _gaussian.compared(name, whole, *operands)
        slope = found.slope if place == 0 else -found.slope
        return _with_moments(context, eqn, values, x, found._replace(slope=slope))
    if name in ("max", "min"):
        sign = 1 if name == "max" else -1
        (bound,) = others
        finite = jnp.isfinite(bound)
        safe = jnp.where(finite, bound, 0)
        found = _gaussian.at_least(sign * x.mean, x.variance, sign * safe)
        exact = (x.mean, x.variance, x.variance, 1.0)
        own = found._replace(mean=sign * found.mean)
        found = Result(*(jnp.where(finite, a, b) for a, b in zip(own, exact, strict=True)))
        return _with_moments(context, eqn, values, x, found)
    if name in _POWERS:
        return context.made(_gaussian.power(x.mean, x.variance, _POWERS[name]), of=x)
    if name == "integer_pow" and eqn.params["y"] < 0:
        return context.made(_gaussian.inverse_power(x.mean, x.variance, eqn.params["y"]), of=x)
    if name == "pow" and place == 0:
        return context.made(_gaussian.power(x.mean, x.variance, others[0]), of=x)
    if name in ("log", "log1p"):
        if (of := total(x)) is not None and name == "log":
            return _log_of_sum(context, of, x)
        mean = x.mean + 1 if name == "log1p" else x.mean
        return context.made(_gaussian.logarithm(mean, x.variance), of=x)
    if name == "exp":
        mean = jnp.exp(x.mean + x.variance / 2)
        variance = mean**2 * jnp.expm1(x.variance)
        found = Result(mean, variance, mean**2 * x.variance)
        return _with_moments(context, eqn, values, x, found)
    return None


def linear(context: Context, name: str, values: Sequence[Any], x: Moments) -> Moments | None:
    """A linear function of one value and of arrays; None if it is not linear."""
    place = next(i for i, value in enumerate(values) if value is x)
    others = [real(value) for value in values if value is not x]
    if name == "convert_element_type":
        return x
    if name == "neg":
        return context.linear(-x.mean, x.variance)
    if name in ("add", "add_any", "sub"):
        first, second = (x.mean if i == place else real(value) for i, value in enumerate(values))
        return context.linear(first - second if name == "sub" else first + second, x.variance)
    if name in ("mul", "div"):
        (factor,) = others if name == "mul" else (1 / others[0],)
        return context.linear(x.mean * factor, x.variance * factor * factor)
    if name == "select_n" and place > 0:
        return _where(context, values, x)
    return None


def _where(context: Context, values: Sequence[Any], x: Moments) -> Moments:
    """Entries of a random value where a known choice takes them, and those of arrays elsewhere."""
    which, *cases = values
    index = jnp.broadcast_to(jnp.asarray(which).astype(jnp.int32), x.shape)
    means = [jnp.broadcast_to(x.mean if case is x else real(case), x.shape) for case in cases]
    dtype = jnp.result_type(*means)
    mean = lax.select_n(index, *(each.astype(dtype) for each in means))
    variances = [x.variance if case is x else jnp.zeros_like(x.variance) for case in cases]
    tag = x.tag
    if tag is not None and tag.kind == "max":  # as a `logsumexp` puts 0 in place of an infinity
        return context.linear(mean, lax.select_n(index, *variances), tag)
    tag = total(x)
    if tag is not None and (len(cases) != 2 or cases[0] is not x or tag.instead is not None):
        tag = None
    elif tag is not None:  # another number, as 1 for a sum of no terms
        tag = dataclasses.replace(tag, instead=(index == 1, means[1]))
    return context.linear(mean, lax.select_n(index, *variances), tag)


def _with_moments(
    context: Context, eqn: Any, values: Sequence[Any], x: Moments, found: Result
) -> Points:
    """A function of one value at the nodes of its variable, with moments in closed form."""
    points = _nodes.at_nodes(context, eqn, [context.expanded(y) if y is x else y for y in values])
    points.moments = context.made(found, of=x if found.slope is not None else None)
    points.tag = Tag("exp", x) if eqn.primitive.name == "exp" else None
    points.moments.tag = points.tag
    return points


def total(x: Any) -> Tag | None:
    """What a value is the sum of, if it is one."""
    return x.tag if getattr(x, "tag", None) is not None and x.tag.kind == "sum" else None


def _log_of_sum(context: Context, total: Tag, x: Moments) -> Moments:
    """The logarithm of a sum of exponentials."""
    exponent = total.source.tag.source if total.source.tag is not None else None
    if not isinstance(exponent, Moments):
        return context.made(_gaussian.logarithm(x.mean, x.variance), of=x)
    context.note("logsumexp linearized")
    mean = jax.nn.logsumexp(exponent.mean, axis=total.axes)
    share = jax.nn.softmax(exponent.mean, axis=total.axes)
    variance = (share**2 * exponent.variance).sum(total.axes)
    return context.linear(mean.reshape(x.shape), variance.reshape(x.shape))
