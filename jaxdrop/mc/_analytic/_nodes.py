"""Elementwise operations at the nodes of one random variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxdrop.mc._analytic import _activations, _gaussian, _operations
from jaxdrop.mc._analytic._context import Context
from jaxdrop.mc._analytic._values import Coin, Points, Tag, real


def at_nodes(context: Context, eqn: Any, values: Sequence[Any]) -> Points:
    """The operation at each node of the one variable on which all random operands depend."""
    name = eqn.primitive.name
    points = [value for value in values if isinstance(value, Points)]
    random = [isinstance(value, Points) for value in values]
    arrays = [value.values if isinstance(value, Points) else value for value in values]
    first = 1 if name == "select_n" else 0
    if any(_operations.is_number(jnp.result_type(x)) for x in arrays[first:]):
        # Moments, of float32 at least, may meet integers, and arrays of fewer bits.
        dtype = jnp.result_type(*(real(x) for x in arrays[first:]))
        arrays[first:] = [jnp.asarray(x).astype(dtype) for x in arrays[first:]]
    number = len(points[0].values)
    shape = (number, *jnp.broadcast_shapes(*(point.shape for point in points)))
    arrays = [
        x if own else jnp.broadcast_to(x, shape) for x, own in zip(arrays, random, strict=True)
    ]
    (found,) = _operations.bind(eqn, arrays)
    functions = _activations.chained(context.name, eqn, values)
    tag = Tag("exp", points[0]) if name == "exp" else None
    result = Points(points[0].base, found, tag=tag, functions=functions)
    x = _activations.gelu_of(context.name, functions) if name == "mul" else None
    if x is not None:
        result.moments = context.made(_gaussian.gelu(x.mean, x.variance), of=x)
    return result


def is_coin(x: Any) -> bool:
    """Whether a value is a function of a coin, whose moments are those of its two values."""
    return isinstance(x, Points) and isinstance(x.base, Coin)


def as_event(context: Context, x: Any) -> Any:
    """A boolean that depends on a number, as one that does not; any other value as it is."""
    if isinstance(x, Points) and x.dtype == jnp.bool_ and not is_coin(x):
        return context.event(context.moments(x).mean)
    return x


def repeated(context: Context, x: Any, shape: tuple[int, ...]) -> Any:
    """A random operand, repeated along axes of length 1."""
    if x.shape == shape:
        return x
    if is_coin(x):
        both = x.values.reshape(2, *(1,) * (len(shape) - len(x.shape)), *x.shape)
        return Points(x.base, jnp.broadcast_to(both, (2, *shape)), tag=x.tag)
    moments = context.moments(x)
    mean, variance = (jnp.broadcast_to(part, shape) for part in (moments.mean, moments.variance))
    return context.linear(mean, variance, moments.tag)
