"""Drawing a keep mask, and applying it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _compiler, _lengths, _numerics, random
from jaxdrop.masks._parts import Part
from jaxdrop.masks._placement import block, coordinates

# Where more results than these share an entry of a mask, storing the mask is faster than computing
# it again for each of them.
_FEW = 7


def keep_mask(
    key: jax.Array,
    like: jax.Array | jax.ShapeDtypeStruct,
    threshold: jax.Array,
    *,
    broadcast_dims: tuple[int, ...] = (),
    spec: PartitionSpec | None = None,
    part: Part | None = None,
) -> jax.Array:
    """The keep mask of an array.

    Args:
      key: a single key.
      like: an array of the shape and the layout of the one that is dropped from. Its values do not
        count.
      threshold: from `distribution`; of a shape that broadcasts to that of the mask.
      broadcast_dims: axes, from 0 on, along which all entries share their mask.
      spec: inside `shard_map` or `pmap`, the layout of the whole array, a part of which is `like`.
      part: from `check_part`: the place of `like`, or with `spec` of the whole array, in a
        longer one, of whose mask it gets its part.

    Returns:
      A bool array of the shape of `like`, with length 1 along the axes in `broadcast_dims`.

    Raises:
      NotImplementedError: `spec` divides the array, or `part` is given, and the key's generator
        can only draw whole arrays.
      ValueError: `spec` names an axis that is not a mapped axis.
    """
    bits = draw(key, like, broadcast_dims=broadcast_dims, spec=spec, part=part)
    mask = below(bits, threshold)
    few = _lengths.at_most(math.prod(like.shape[axis] for axis in broadcast_dims), _FEW)
    return mask if few else _compiler.materialize(mask)


def below(bits: jax.Array, threshold: jax.Array) -> jax.Array:
    """Which words are kept: those whose upper 23 bits are a number below the threshold.

    Args:
      bits: 32-bit words of any shape.
      threshold: from `distribution`; of a shape that broadcasts to that of `bits`.

    Returns:
      A bool array of the shape of `bits`.
    """
    return (bits >> np.uint32(9)) < _numerics.expand(threshold, bits.ndim)


def last_kept(threshold: jax.Array | np.ndarray) -> jax.Array:
    """The largest 32-bit word that `below` keeps: `bits <= last_kept(threshold)` takes one
    operation where `below` takes two. At rate 1, which keeps no word, it is word 511.

    Args:
      threshold: from `distribution`.

    Returns:
      A uint32 array of the shape of `threshold`.
    """
    return (jnp.maximum(jnp.asarray(threshold), np.uint32(1)) << np.uint32(9)) - np.uint32(1)


def draw(
    key: jax.Array,
    like: jax.Array | jax.ShapeDtypeStruct,
    *,
    broadcast_dims: tuple[int, ...] = (),
    spec: PartitionSpec | None = None,
    part: Part | None = None,
) -> jax.Array:
    """The 32 random bits of each entry of a mask.

    Args:
      key: a single key.
      like: as in `keep_mask`.
      broadcast_dims: as in `keep_mask`.
      spec: as in `keep_mask`.
      part: as in `keep_mask`.

    Returns:
      A uint32 array of the shape of the mask.

    Raises:
      NotImplementedError, ValueError: as `keep_mask`.
    """
    if part is not None:
        found, whole = coordinates(like, broadcast_dims=broadcast_dims, spec=spec, part=part)
        bits = random.bits_at(key, found, whole)
        # Axes of length 1 in the whole have no coordinates.
        return bits if bits.ndim else jnp.broadcast_to(bits, (1,) * len(like.shape))
    return random.bits(key, **block(like, broadcast_dims=broadcast_dims, spec=spec)._asdict())


def scaled(mask: jax.Array, x: jax.Array, scale: jax.Array) -> jax.Array:
    """`x * scale` where the mask is true, and 0 elsewhere, even where `x` is infinite or NaN.

    Args:
      mask: a bool array of a shape that broadcasts to that of `x`.
      x: an array of floating or complex numbers.
      scale: from `distribution`; of a shape that broadcasts to that of `x`.

    Returns:
      An array of the shape and the dtype of `x`. The product is formed in float32 at least.

    The product is rounded to the dtype of `x` before the mask chooses, and so the backward pass
    masks the narrow cotangent before it widens it. In the other order XLA for GPUs, which cancels
    the narrowing of one operation against the widening of the next, computes the cotangent anew for
    the mask: a layer norm behind dropout had its backward pass twice, and the mask was stored.
    """
    dtype = _numerics.compute_dtype(x.dtype)
    product = x.astype(dtype) * _numerics.expand(scale, x.ndim).astype(dtype)
    return jnp.where(mask, product.astype(x.dtype), jnp.zeros((), x.dtype))
