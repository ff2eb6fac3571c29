"""The weights of a graph convolution over the edges that are kept."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdrop import _checks, _layouts
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional.graphs._edges import checked_edges


class Normalized(NamedTuple):
    """The entries of a symmetrically normalized adjacency matrix."""

    edges: jax.Array
    """Shape (E,): the entry of each edge, 0 if it is dropped."""
    loops: jax.Array
    """Shape (N,): the diagonal, the entry of each node's self-loop."""


@cites("kipf2017semi")
@_checks.hinted
def symmetric_normalization(
    senders: jax.Array,
    receivers: jax.Array,
    num_nodes: int,
    *,
    keep: jax.Array | None = None,
    weights: jax.Array | None = None,
    self_loops: bool = True,
) -> Normalized:
    """The weights of a graph convolution, `w_ij / sqrt(d_i d_j)`, with the degrees `d` of the edges
    that are kept.

    `d_i` is the sum of the kept weights of the edges that node `i` receives, and 1 more with
    self-loops, as in PyTorch Geometric's `gcn_norm`. A node without edges gets weights of 0.
    DropEdge drops edges and then normalizes those that are kept:

        keep = drop_edge(key, senders, receivers, 0.3)
        weights, loops = symmetric_normalization(senders, receivers, num_nodes, keep=keep)
        h = jax.ops.segment_sum(weights[:, None] * h[senders], receivers, num_nodes) + loops[:,
        None] * h

    Args:
      senders: integers of shape (E,), in [0, N).
      receivers: integers of shape (E,), in [0, N).
      num_nodes: N, nodes of padding included.
      keep: bool, shape (E,), from `drop_edge` or `drop_node`; all edges by default.
      weights: shape (E,), not negative; 1 for each edge by default.
      self_loops: whether to add an edge of weight 1 from each node to itself.

    Returns:
      `Normalized(edges, loops)`, of the dtype of `weights`; without self-loops `loops` is 0.

    Raises:
      TypeError: senders, receivers or `num_nodes` are not integers, or `weights` are.
      ValueError: senders, receivers, `keep` and `weights` are not lists of one length.

    References:
      Kipf & Welling, "Semi-supervised classification with graph convolutional networks", 2016,
      arXiv:1609.02907.
    """
    caller = "symmetric_normalization"
    nodes, loops = (
        _checks.check_count(num_nodes, "num_nodes", least=0),
        int(_checks.check_flag(self_loops, "self_loops")),
    )
    senders, receivers = checked_edges(caller, senders, receivers, nodes)
    one_each = "one entry for each edge, shape"
    kept = jnp.ones_like(senders, jnp.float32)
    if weights is not None:
        kept = jnp.asarray(
            _checks.check_shape(
                _checks.check_real(weights, caller, "weights"), "weights", senders.shape, one_each
            )
        )
        if _checks.known(kept) and not (np.asarray(kept) >= 0).all():
            raise ValueError(
                "weights must not be negative, nor NaN: the square roots of their sums, the"
                " degrees, are taken"
            )
    if keep is not None:
        keep = _checks.check_shape(
            _checks.check_array(keep, "keep", "booleans"), "keep", senders.shape, one_each
        )
        if keep.dtype != bool:
            raise TypeError(
                f"keep must hold booleans, got {keep.dtype}. Compare first, as in keep == 1."
            )
    return Normalized(*_normalized(senders, receivers, keep, kept, nodes=nodes, loops=loops))


@kernel("symmetric_normalization", checkpoint=False)
def _normalized(
    senders: jax.Array,
    receivers: jax.Array,
    keep: jax.Array | None,
    weights: jax.Array,
    *,
    nodes: int,
    loops: int,
) -> tuple[jax.Array, jax.Array]:
    if keep is not None:
        keep, weights = _layouts.alike(jnp.asarray(keep), weights)
        weights = jnp.where(keep, weights, jnp.zeros_like(weights))
    senders, receivers, weights = _layouts.alike(senders, receivers, weights)
    # The edges may be divided over the devices. The nodes are not: every device gets all degrees.
    mesh = _layouts.mesh_of(weights)
    whole = like_edges = None
    if mesh is not None:
        whole, like_edges = (
            NamedSharding(mesh, PartitionSpec(None)),
            NamedSharding(mesh, jax.typeof(weights).sharding.spec),
        )
    degrees = jnp.zeros(nodes, weights.dtype, out_sharding=whole)
    degrees = (
        degrees.at[receivers].add(weights, wrap_negative_indices=False, out_sharding=whole) + loops
    )
    some = degrees > 0
    inverse = jnp.where(
        some, lax.rsqrt(jnp.where(some, degrees, jnp.ones_like(degrees))), jnp.zeros_like(degrees)
    )
    sent, received = (
        inverse.at[ends].get(out_sharding=like_edges) for ends in (senders, receivers)
    )
    return weights * sent * received, inverse * inverse * loops
