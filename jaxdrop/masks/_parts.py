"""Arrays that are a part of a longer one, such as one token of a text."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _lengths, _mapped_axes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Part:
    """The place of an array in a longer one: it holds the entries from `offset` on, along `axis`,
    of a whole array that has `length` entries there.

    A function that is given a part draws that part of the whole array's mask, bit for bit:

        dropout(key, whole, rate)[:, 5:8]
        dropout(key, whole[:, 5:8], rate, part=Part(5, length=whole.shape[1], axis=1))

    are equal. So a language model that decodes token by token, with a cache, draws for the token
    at position t the mask that one pass over the whole text draws there. The whole is as long as
    the cache, in both.

    Attributes:
      offset: where the part begins: an integer, or an integer array, traced or not. Its shape is
        (), or that of the array up to some axis before `axis`: one offset for each example.
      length: the length of the whole array along `axis`, a Python integer.
      axis: the axis of time, the last but one by default, as in `(batch, time, features)`.
    """

    offset: int | jax.Array
    length: int = dataclasses.field(metadata={"static": True})
    axis: int = dataclasses.field(default=-2, metadata={"static": True})


def check_part(part: Any, x: jax.Array, spec: PartitionSpec | None, name: str = "x") -> Part | None:
    """The argument `part` of a function of `x`, with an int32 offset and an axis from 0 on.

    A traced offset cannot raise, but under `checkify`: where the part is not inside the whole, it
    becomes negative, of which `nan_outside` makes NaN.

    Args:
      part: a `Part`, or None.
      x: the array, or this device's part of it.
      spec: the layout of the whole array, if devices divide it.
      name: the argument that `x` is, for messages.
    """
    if part is None:
        return None
    if not isinstance(part, Part):
        raise TypeError(
            f"part must be a jaxdrop.Part(offset, length, axis), got {_checks.quoted(part)}"
        )
    axis = _checks.check_axis(part.axis, "the axis of part", x.ndim, name)
    length: Any = part.length
    if not export.is_symbolic_dim(length):
        length = _checks.check_count(length, "the length of part", most=_checks.LONGEST)
    here = x.shape[axis] * _mapped_axes.names_and_size(spec, [axis])[1]
    if _lengths.is_known(here) and _lengths.is_known(length) and here > length:
        raise ValueError(
            f"{_checks.shown(name)} has {here} entries along axis {axis}, more than the length of"
            f" the whole: {_checks.quoted(part)}"
        )
    last = length - here
    offset = _checks.check_offset(
        part.offset,
        "the offset of part",
        [x.shape[:ndim] for ndim in range(axis + 1)],
        last,
        f" and, with {here} entries of a whole of {length}, at most {last}",
    )
    if isinstance(offset, jax.core.Tracer):
        offset = jnp.where(offset <= last, offset, jnp.int32(-1))
    return Part(offset, length, axis)


def nan_outside(x: Any, part: Part | None) -> Any:
    """`x`, with NaN in place of its values if the traced offset of a part is one at which the part
    is not inside the whole: its mask would have entries that the whole mask does not have.

    Args:
      x: a floating or complex array, such as the scale of `distribution`; or a threshold, which
        becomes 0.
      part: from `check_part`.

    Returns:
      An array like `x`; `x` itself if the offset is known.
    """
    if part is None or not isinstance(part.offset, jax.core.Tracer):
        return x
    # As a constant of this dtype: converting NaN would be an operation that returns NaN, at which
    # `jax_debug_nans` stops.
    nothing = np.asarray(np.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x.dtype)
    return jnp.where(jnp.any(part.offset < 0), nothing, x)
