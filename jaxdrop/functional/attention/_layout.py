"""Attention on a mesh with explicit axes: each device computes its own part, from all keys and
values of its queries.

On an explicit mesh the type of an array says how it is divided, and JAX raises an error for an
operation whose result could be divided in several ways. Attention sums over keys and depth, so
these are gathered. Examples, heads and queries stay divided as those of `q` are, and the output is
divided like `q`. (On automatic axes the compiler decides, and this module does nothing.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec, reshard

from jaxdrop import _layouts
from jaxdrop._layouts import Names

T = TypeVar("T")


class Arrays(NamedTuple):
    """The operands, with the axes of the public function."""

    key: jax.Array | None
    """None if nothing is dropped."""
    threshold: Any
    """With `scale`, the distribution of the mask."""
    scale: Any
    q: jax.Array
    k: jax.Array
    v: jax.Array
    bias: jax.Array | None
    """With all axes of the weights, `(batch..., heads, queries, keys)`, of their lengths or of
    length 1.
    """
    allowed: tuple[jax.Array, ...]
    """Boolean masks that must all be true, with axes as those of a bias."""
    inside: tuple[jax.Array | None, jax.Array | None]
    """Masks of the queries and of the keys, `(batch..., length)`, False at padding; None without
    padding.
    """
    segments: tuple[jax.Array, jax.Array] | None
    """The segments of the queries and of the keys, `(batch..., length)`."""
    offset: jax.Array | None
    """The position of the first query, of shape () or `(batch...)`."""


class Layout(NamedTuple):
    """The mesh axes that divide each axis of `q`; none divides the depth."""

    batch: tuple[Names, ...]
    queries: Names
    heads: Names

    @property
    def names(self) -> Names:
        """All mesh axes that divide `q`."""
        return sum((*self.batch, self.queries, self.heads), ())

    @property
    def like_q(self) -> PartitionSpec:
        """The layout of `(batch..., queries, heads, depth)`."""
        return _layouts.spec(*self.batch, self.queries, self.heads, ())

    @property
    def like_weights(self) -> PartitionSpec:
        """The layout of `(batch..., heads, queries, keys)`."""
        return _layouts.spec(*self.batch, self.heads, self.queries, ())

    def within(self, spec: PartitionSpec | None) -> PartitionSpec | None:
        """The layout of the whole `q` inside a `shard_map` whose layout of `q` is `spec`: an axis
        is divided by the outer mesh axes first, then by these.
        """
        outer = [*(spec or ()), *[None] * len(self.like_q)]
        return _layouts.spec(
            *(
                _layouts.names(entry) + _layouts.names(own)
                for entry, own in zip(outer, self.like_q, strict=False)
            )
        )

    def of(self, arrays: Arrays) -> Any:
        """The layout of each operand."""
        weights = [*self.batch, self.heads, self.queries, ()]

        def broadcasting(x: jax.Array) -> PartitionSpec:
            return _layouts.spec(
                *(
                    () if length == 1 else names
                    for length, names in zip(x.shape, weights, strict=True)
                )
            )

        keys = _layouts.spec(*self.batch, (), self.heads, ())
        lengths = _layouts.spec(*self.batch, self.queries), _layouts.spec(*self.batch, ())
        specs: dict[str, Any] = {
            "key": PartitionSpec(),
            "threshold": PartitionSpec(),
            "scale": PartitionSpec(),
            "q": self.like_q,
            "k": keys,
            "v": keys,
            "bias": None if arrays.bias is None else broadcasting(arrays.bias),
            "allowed": tuple(map(broadcasting, arrays.allowed)),
            "inside": lengths,
            "segments": lengths,
            "offset": (
                None if arrays.offset is None else _layouts.spec(*self.batch[: arrays.offset.ndim])
            ),
        }
        whole = Arrays(**specs)
        return jax.tree.map(
            lambda x, spec: None if x is None else spec, arrays, whole, is_leaf=lambda x: x is None
        )


def by_device(
    compute: Callable[[Arrays, PartitionSpec | None], T],
    arrays: Arrays,
    spec: PartitionSpec | None,
    outputs: Callable[[Layout], Any],
) -> T:
    """`compute(arrays, spec)`, with `spec` the layout of the whole `q`, on each device's part of
    the operands.

    Args:
      compute: returns arrays that are laid out as `outputs` says.
      arrays: the operands, divided in any way.
      spec: the layout inside a `shard_map` or `pmap` that is around all of this.
      outputs: the layout of what `compute` returns for that of `q`.
    """
    mesh = _layouts.mesh_of(*jax.tree.leaves(arrays))
    if mesh is None:
        return compute(arrays, spec)
    layout = _layout(arrays)

    # Under `jit`, since eager operations neither move an array of one device to the mesh nor know
    # a mesh on which only some axes are manual.
    @jax.jit
    def divided(arrays: Arrays) -> T:
        parts = math.prod(mesh.shape[name] for name in layout.heads)
        k, v = (_shared(mesh, layout, x, parts) for x in (arrays.k, arrays.v))
        arrays = arrays._replace(k=k, v=v)
        specs = layout.of(arrays)
        arrays = jax.tree.map(lambda x, spec: reshard(x, NamedSharding(mesh, spec)), arrays, specs)
        if not layout.names:
            return compute(arrays, spec)
        local = jax.shard_map(
            lambda arrays: compute(arrays, layout.within(spec)),
            mesh=mesh,
            in_specs=(specs,),
            out_specs=outputs(layout),
            axis_names=set(layout.names),
        )
        return local(arrays)

    return divided(arrays)


def _layout(arrays: Arrays) -> Layout:
    """The layout of `q`. Examples and heads that are not divided in `q` get the layout of `k` or
    `v`.
    """
    own, *others = map(_layouts.axes, (arrays.q, arrays.k, arrays.v))
    for other in others:
        other[-3] = other[-1] = ()
    *batch, queries, heads, _ = _layouts.joined([*own[:-1], ()], *others)
    return Layout(tuple(batch), queries, heads)


def _shared(mesh: AbstractMesh, layout: Layout, x: jax.Array, parts: int) -> jax.Array:
    """Keys or values whose number of groups `parts` divides, so that the groups can be divided over
    as many devices: with too few groups each is repeated.
    """
    groups = x.shape[-2]
    times = math.lcm(groups, parts) // groups
    if times == 1:
        return x
    return jnp.repeat(_layouts.placed(x, mesh, [*layout.batch, (), (), ()]), times, axis=-2)
