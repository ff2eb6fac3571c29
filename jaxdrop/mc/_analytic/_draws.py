"""Keys, random words, and the masks that are made of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _numerics
from jaxdrop.mc._analytic import _operations
from jaxdrop.mc._analytic._context import Context, unknown
from jaxdrop.mc._analytic._values import UNKNOWN, Hidden, Uniform, is_random, real

_ORDERS = ("ge", "gt", "le", "lt")
_BIT_DRAWS = ("random_bits", "rng_bit_generator")
# From so many values on, words are floats that are uniform in an interval.
_DENSE = 2**8
# From so many values on, equal words, which a sort leaves as they stood, are too rare to count.
_RARELY_EQUAL = 2.0**16
# How many values a constant leaves of a word, or, by a shift, of how many it makes one.
_CUTS = {
    "and": lambda mask: 0.0 if (mask + 1) & mask else mask + 1.0,
    "mul_hi": float,
    "rem": float,
    "shift_right_logical": lambda places: 2.0**places,
}
# What makes a word that takes all values, each equally often, of such a word and any other.
_SUMS = ("add", "sub", "xor")


def hidden(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The results of an operation on keys or random words."""
    name = eqn.primitive.name
    if name == "convert_element_type" and eqn.outvars[0].aval.dtype == jnp.bool_:
        name, values = "ne", [*values, 0]
    if name in _operations.COMPARISONS:
        first = isinstance(values[0], Hidden)
        words, limit = values if first else reversed(values)
        if not is_random(limit):
            true = _share_below(name, first, words.count, limit)
            if true is None:
                raise unknown(f"a comparison of random words ({name})", context.where)
            (value,) = context.drawn_by(eqn, values[: len(eqn.invars)])
            fixed = words.order if context.is_one_number(limit) else None
            parts = name, first, words, limit
            return [context.coin(words.shape, true, value, *parts, fixed=fixed)]
    made: list[Any] = []
    drawn = context.drawn_by(eqn, values)
    for number, var in enumerate(eqn.outvars):
        aval = var.aval
        own = context.name(name, number, str(eqn.params), aval.shape, str(aval.dtype), *values)
        if _operations.is_number(aval.dtype):
            made.append(_floats(context, eqn, values, own, drawn[number]))
            continue
        count, bits = _count(eqn, values, aval.dtype), _set_bits(name, values)
        if count == 1:  # of no bits: positions have it added, so that XLA computes them again
            made.append(jnp.zeros(aval.shape, aval.dtype))
        else:
            value = drawn[number]
            words = Hidden(tuple(aval.shape), aval.dtype, own, count, bits, value)
            if name in ("convert_element_type", *_operations.SAME):
                words.order = values[0].order
            made.append(words)
    return made


def sorted_by_words(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any]:
    """The results of a sort of random words: the numbers 0, 1, 2... that are sorted by them come in
    random order, as `argsort` and a permutation have them.
    """
    axis, drawn = eqn.params["dimension"], context.drawn_by(eqn, values)
    first = values[0]
    alike = eqn.params["num_keys"] == 1 and (
        isinstance(first, Uniform) or first.order == axis or first.count >= _RARELY_EQUAL
    )
    found = []
    for number, (var, value) in enumerate(zip(eqn.outvars, values, strict=True)):
        aval = var.aval
        if not (isinstance(value, Hidden | Uniform) or not is_random(value)):
            raise unknown("what is sorted by random words", context.where)
        name = context.name("sort", number, str(eqn.params), *values)
        words = Hidden(tuple(aval.shape), aval.dtype, name, UNKNOWN, value=drawn[number])
        counted = getattr(value, "order", None) == axis or context.is_counted(value, axis)
        if alike and number and counted:
            words.order, words.count = axis, float(aval.shape[axis])
        found.append(words)
    return found


def uniform(context: Context, eqn: Any, values: Sequence[Any]) -> list[Any] | None:
    """The results of an operation on uniform random numbers; None if they must be written out."""
    name = eqn.primitive.name
    place = next(i for i, value in enumerate(values) if isinstance(value, Uniform))
    random = values[place]
    others = [value for i, value in enumerate(values) if i != place]
    shape = tuple(eqn.outvars[0].aval.shape)
    own = context.name(name, str(eqn.params), shape, *values)
    if name in _ORDERS and all(isinstance(value, Uniform) for value in values):
        first, second = values
        share = _share(name, first, context.expanded(second).values, True).mean(0)
        return [context.coin(shape, share, _drawn(context, eqn, values), name, *values)]
    if any(is_random(value) for value in others):
        return None
    if name in ("convert_element_type", *_operations.SAME):
        return [dataclasses.replace(random, value=_drawn(context, eqn, values))]
    if name in _operations.MOVES and place == 0 and name != "pad":
        if context.unrolled and np.prod(shape) > np.prod(random.shape):
            raise unknown("a random number for several entries", context.where)
        ends = (
            [end] * len(eqn.outvars)
            if jnp.ndim(end) == 0
            else _operations.bind(eqn, [jnp.broadcast_to(end, random.shape), *others])
            for end in (random.low, random.high)
        )
        entries = zip(eqn.outvars, *ends, context.drawn_by(eqn, values), strict=True)
        return [
            Uniform(tuple(var.aval.shape), context.name("part", own, number), low, high, value)
            for number, (var, low, high, value) in enumerate(entries)
        ]
    if name == "erf_inv":
        if not _is_symmetric(random):
            return None
        mean = jnp.zeros(shape, _numerics.compute_dtype(eqn.outvars[0].aval.dtype))
        return [context.drawn(mean, mean + 0.5)]
    if name in ("add", "mul", "sub", "div", "neg") and not (name == "div" and place == 1):
        low, high = (_put(eqn, values, place, end) for end in (random.low, random.high))
        return [Uniform(shape, random.name, low, high, _drawn(context, eqn, values))]
    if name in ("max", "min") and not _cuts_off(name, random, *others):
        return [dataclasses.replace(random, value=_drawn(context, eqn, values))]
    if name in _ORDERS:
        true = _share(name, random, others[0], place == 0)
        parts = name, place, random, others[0]
        return [context.coin(shape, true, _drawn(context, eqn, values), *parts)]
    return None


def _share(name: str, random: Uniform, limit: Any, first: bool) -> Any:
    """How often a uniform number is below, or above, a limit."""
    width, gap = random.high - random.low, real(limit) - random.low
    share = jnp.where(gap == 0, 0, gap / width)  # of an interval of one number, 0 or infinity
    below = jnp.where(width < 0, 1 - jnp.clip(share, 0, 1), jnp.clip(share, 0, 1))
    # `1 - below` for a limit that rounds like 1 - rate is the rate that was asked for.
    return below if (name in ("lt", "le")) == first else 1 - below


def _cuts_off(name: str, random: Uniform, bound: Any) -> bool:
    """Whether a maximum or minimum does more than what rounding asks for."""
    ends = (random.low, random.high, bound)
    if any(isinstance(end, jax.core.Tracer) for end in ends):
        return False
    low, high = np.minimum(*ends[:2]), np.maximum(*ends[:2])
    gap = np.asarray(bound, np.float64) - low if name == "max" else high - bound
    return bool(np.any(gap > 1e-3 * (high - low)))


def _drawn(context: Context, eqn: Any, values: Sequence[Any]) -> Any:
    return context.drawn_by(eqn, values)[0]


def _put(eqn: Any, values: Sequence[Any], place: int, end: Any) -> Any:
    """The operation at one end of the interval."""
    operands = [end if i == place else value for i, value in enumerate(values)]
    traced = any(isinstance(operand, jax.core.Tracer) for operand in operands)
    with contextlib.nullcontext() if traced else jax.ensure_compile_time_eval():
        shape = jnp.broadcast_shapes(*(np.shape(operand) for operand in operands))
        return _operations.bind(eqn, [jnp.broadcast_to(real(x), shape) for x in operands])[0]


def _is_symmetric(random: Uniform) -> bool:
    """Whether the interval is that from -1 to 1, up to what is left out for the sake of floats."""
    ends = (random.low, random.high)
    if any(isinstance(end, jax.core.Tracer) for end in ends):
        return False
    return all(np.allclose(end, own, atol=1e-3) for end, own in zip(ends, (-1, 1), strict=True))


def _share_below(name: str, first: bool, count: float, limit: Any) -> Any:
    """How often a comparison of words with a limit is true; None if it is not known."""
    if not np.isfinite(count):
        return None
    limit = jnp.asarray(limit).astype(jnp.float32)
    if name in ("eq", "ne"):
        share = ((limit >= 0) & (limit < count)).astype(limit.dtype) / count
        return share if name == "eq" else 1 - share
    less = (name in ("lt", "le")) == first
    strict = name in ("lt", "gt")
    below = limit / count if less == strict else (limit + 1) / count
    return jnp.clip(below if less else 1 - below, 0, 1)


def _count(eqn: Any, values: Sequence[Any], dtype: Any) -> float:
    """How many values the words of a result take, each equally often; NaN if it is not known."""
    if _operations.is_key(dtype) or dtype == jnp.bool_:
        return UNKNOWN
    name, bits = eqn.primitive.name, jnp.iinfo(dtype).bits
    full = 2.0 ** (bits if jnp.issubdtype(dtype, jnp.unsignedinteger) else bits - 1)
    if name in (*_BIT_DRAWS, "random_unwrap", "threefry2x32"):
        return full
    if name not in _operations.WORDS:
        return UNKNOWN
    if name in _operations.MOVES or name == "select_n":
        entries = [x for at, x in enumerate(values) if _operations.holds_entries(name, at)]
        # Of a constant, one value comes more often than others.
        ranges = {x.count if isinstance(x, Hidden) else UNKNOWN for x in entries}
        return ranges.pop() if len(ranges) == 1 else UNKNOWN
    given = [value for value in values if isinstance(value, Hidden)]
    words = given[0]
    constant = _constant(values[1]) if len(values) == 2 and values[0] is words else None
    if name in _CUTS:
        size = 0.0 if constant is None else _CUTS[name](constant)
        if not size or not (words.count % size == 0 or words.count >= _RARELY_EQUAL * size):
            return UNKNOWN  # or some values come more often than others
        return words.count / size if name == "shift_right_logical" else size
    if name == "or" and constant is not None:
        return words.count
    if name in _operations.SAME or name == "convert_element_type":
        return words.count if words.count <= full else UNKNOWN
    # So does an odd multiple. The conjunction of two words, say, has more zeros than ones.
    differ = len({each.name for each in given}) == len(given)
    keeps = differ if name in _SUMS else name == "mul" and constant is not None and constant % 2
    return full if keeps and any(each.count >= full for each in given) else UNKNOWN


def _set_bits(name: str, values: Sequence[Any]) -> int | None:
    """The constant that was joined to words by `or`, also by an operation before."""
    if name == "or":
        for value in values:
            if not isinstance(value, Hidden):
                return _constant(value)
    if name in _operations.MOVES | _operations.SAME and isinstance(values[0], Hidden):
        return values[0].set_bits
    return None


def _constant(value: Any) -> int | None:
    if is_random(value) or isinstance(value, jax.core.Tracer) or np.size(value) == 0:
        return None
    found = np.asarray(value)
    return int(found.ravel()[0]) if (found == found.ravel()[0]).all() else None


def _floats(context: Context, eqn: Any, values: Sequence[Any], own: int, drawn: Any) -> Any:
    """Floats that are made of random words."""
    dtype, shape = eqn.outvars[0].aval.dtype, tuple(eqn.outvars[0].aval.shape)
    words = next(value for value in values if isinstance(value, Hidden))
    wide = _numerics.compute_dtype(dtype).type
    if eqn.primitive.name == "bitcast_convert_type" and words.set_bits is not None:
        width = np.dtype(dtype).itemsize * 8
        one = int(np.asarray(1, dtype).view(f"uint{width}"))
        if words.set_bits == one and words.count == 2.0 ** jnp.finfo(dtype).nmant:
            return Uniform(shape, own, wide(1), wide(2), drawn)
    dense = words.count >= _DENSE and words.order is None
    if eqn.primitive.name == "convert_element_type" and dense:
        return Uniform(shape, own, wide(0), wide(words.count), drawn)
    raise unknown(f"floats that {eqn.primitive.name} makes of random words", context.where)
