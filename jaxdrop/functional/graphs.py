"""Dropping edges and nodes of a graph. Shapes are static: what is returned are masks over the edges
and nodes that are given.

A graph is a list of edges, `senders` and `receivers`, integers of shape (E,). Padding edges are
edges like others: mask them too. For many graphs of one shape use `jax.vmap`, with a key each.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdrop import _checks, masks, random
from jaxdrop.functional import _layouts
from jaxdrop.functional._kernel import kernel


class Kept(NamedTuple):
    """What `drop_node` leaves of a graph."""

    nodes: jax.Array
    """bool, shape (N,)."""
    edges: jax.Array
    """bool, shape (E,): edges of which both ends are kept."""


class Normalized(NamedTuple):
    """The entries of a symmetric-normalized adjacency matrix."""

    edges: jax.Array
    """Shape (E,): of the edges, 0 for those that are dropped."""
    loops: jax.Array
    """Shape (N,): of the diagonal."""


@_checks.hinted
def drop_edge(
    key: jax.Array | None,
    senders: jax.Array,
    receivers: jax.Array,
    rate: masks.Rate,
    *,
    undirected: bool = False,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """DropEdge: which edges are kept, `Bernoulli(1 - rate)` for each edge. Kept edges are not
    scaled.

    This is the law of PyTorch Geometric's `dropout_edge`. The paper's own code instead keeps
    exactly `int(E * (1 - rate))` of the directed edges, once an epoch, and then normalizes the
    adjacency matrix anew (see `symmetric_normalization`). For edge weights with the same
    expectation, use `jaxdrop.dropout` on the weights.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      senders: integers of shape (E,).
      receivers: integers of shape (E,).
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or one for each edge.
      undirected: if True, the edges `i -> j` and `j -> i` are kept or dropped together, wherever
        they stand in the list: their bits are those of the position `(min(i, j), max(i, j))`. So
        are parallel edges. If False, the bits are those of the edge's place in the list.
      deterministic: if True, or if `rate` is the number 0, all edges are kept.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        list of edges. Undirected edges need none.

    Returns:
      bool, shape (E,): True for the edges that are kept.

    Raises:
      TypeError: senders or receivers are not integers; otherwise as `jaxdrop.dropout`.
      ValueError: senders and receivers are not two lists of one length; otherwise as
        `jaxdrop.dropout`.
      NotImplementedError: the key's generator can only draw whole arrays, and `undirected` or
        `spec` asks for more.

    References:
      Rong, Huang, Xu & Huang, "DropEdge: towards deep graph convolutional networks on node
      classification", 2019, arXiv:1907.10903.
    """
    senders, receivers = _edges("drop_edge", senders, receivers)
    undirected = _checks.check_flag(undirected, "undirected")
    rate = _checks.check_rate(rate)
    _checks.check_rate_shape(rate, senders.shape, ())
    spec = _checks.check_spec(spec, 1)
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return jnp.ones_like(senders, bool)
    if masks.is_number(rate, 1):
        return jnp.zeros_like(senders, bool)
    threshold = masks.threshold(rate)
    return _drop_edge(
        _checks.consume_key(key, "drop_edge"),
        senders,
        receivers,
        threshold,
        undirected=undirected,
        spec=spec,
    )


@kernel("drop_edge")
def _drop_edge(
    key: jax.Array,
    senders: jax.Array,
    receivers: jax.Array,
    threshold: jax.Array,
    *,
    undirected: bool,
    spec: PartitionSpec | None,
) -> jax.Array:
    if not undirected:
        return masks.keep_mask(key, senders, threshold, spec=spec)
    senders, receivers = _layouts.alike(senders, receivers)
    pair = _node(jnp.minimum(senders, receivers)), _node(jnp.maximum(senders, receivers))
    return masks.below(random.bits_at(key, pair, (2**32, 2**32)), threshold)


@_checks.hinted
def drop_node(
    key: jax.Array | None,
    num_nodes: int,
    senders: jax.Array,
    receivers: jax.Array,
    rate: masks.Rate,
    *,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> Kept:
    """DropNode: which nodes are kept, `Bernoulli(1 - rate)` for each node, and which edges still
    have both ends.

    This is the law of PyTorch Geometric's `dropout_node`. GRAND means another thing by the same
    name: feature rows are zeroed and the others scaled, while all edges stay. That is
    `jaxdrop.dropout(key, x, rate, broadcast_dims=(-1,))`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      num_nodes: N (of this device's part under `spec`), nodes of padding included.
      senders: integers of shape (E,), in [0, N); node numbers of the whole graph, also under
        `spec`.
      receivers: integers of shape (E,), in [0, N).
      rate: the probability of dropping, in [0, 1]: a number or a traced scalar.
      deterministic: if True, or if `rate` is the number 0, everything is kept.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        list of nodes.

    Returns:
      `Kept(nodes, edges)`, bool masks of shape (N,) and (E,).

    Raises:
      TypeError: senders or receivers are not integers; otherwise as `jaxdrop.dropout`.
      ValueError: senders and receivers are not two lists of one length, `rate` has axes; otherwise
        as `jaxdrop.dropout`.
      NotImplementedError: the key's generator can only draw whole arrays.

    References:
      Do, Nguyen, Bekoulis, Munteanu & Deligiannis, "Graph convolutional neural networks with node
      transition probability-based message passing and DropNode regularization", 2020,
      arXiv:2008.12578. Feng et al., "Graph random neural network for semi-supervised learning on
      graphs", 2020, arXiv:2005.11079 (GRAND).
    """
    nodes = _checks.check_count(num_nodes, "num_nodes", least=0)
    # Under a layout `num_nodes` are this device's, and the ends may be anybody's.
    senders, receivers = _edges("drop_node", senders, receivers, nodes if spec is None else None)
    rate = _checks.check_rate(rate)
    _checks.check_one_rate(rate, "drop_node takes one rate for all nodes")
    spec = _checks.check_spec(spec, 1, "the list of nodes")
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return Kept(jnp.ones(nodes, bool), jnp.ones_like(senders, bool))
    if masks.is_number(rate, 1):
        return Kept(jnp.zeros(nodes, bool), jnp.zeros_like(senders, bool))
    threshold = masks.threshold(rate)
    return Kept(
        *_drop_node(
            _checks.consume_key(key, "drop_node"),
            senders,
            receivers,
            threshold,
            num_nodes=nodes,
            spec=spec,
        )
    )


@kernel("drop_node")
def _drop_node(
    key: jax.Array,
    senders: jax.Array,
    receivers: jax.Array,
    threshold: jax.Array,
    *,
    num_nodes: int,
    spec: PartitionSpec | None,
) -> tuple[jax.Array, jax.Array]:
    senders, receivers = _layouts.alike(senders, receivers)
    # The ends ask for the bits of their node anew: no table of nodes to look up, and none to send
    # between devices.
    sent, received = (
        masks.below(random.bits_at(key, (_node(ends),), (2**32,)), threshold)
        for ends in (senders, receivers)
    )
    return masks.keep_mask(key, jnp.zeros(num_nodes, bool), threshold, spec=spec), sent & received


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
    Dropping edges and normalizing anew is what DropEdge does:

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
      self_loops: whether each node has an edge of weight 1 to itself besides.

    Returns:
      `Normalized(edges, loops)`, of the dtype of `weights`; without self-loops the second is 0.

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
    senders, receivers = _edges(caller, senders, receivers, nodes)
    one_each = "one entry for each edge, shape"
    kept = jnp.ones_like(senders, jnp.float32)
    if weights is not None:
        kept = jnp.asarray(
            _checks.check_shape(
                _checks.check_real(weights, caller, "weights"), "weights", senders.shape, one_each
            )
        )
        if _checks.known(kept) and not (np.asarray(kept, np.float64) >= 0).all():
            raise ValueError(
                "weights must not be negative, nor NaN: the degrees are their sums, of which roots"
                " are taken"
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
    # Edges may be divided over the devices. Nodes are not: each device gets the sums of all.
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


def _edges(
    caller: str, senders: jax.Array, receivers: jax.Array, num_nodes: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """The ends of the edges, where they are known in [0, `num_nodes`)."""
    senders, receivers = (
        _checks.check_ids(senders, caller, "senders"),
        _checks.check_ids(receivers, caller, "receivers"),
    )
    if senders.ndim != 1 or senders.shape != receivers.shape:
        raise ValueError(
            f"{caller} takes senders and receivers of one shape (E,), got {senders.shape} and"
            f" {receivers.shape}. For a batch of graphs use jax.vmap."
        )
    for name, ends in (("senders", senders), ("receivers", receivers)):
        if not _checks.known(ends) or not ends.size:
            continue
        least, most = np.asarray(ends).min(), np.asarray(ends).max()
        if least < 0 or most >= (2**32 if num_nodes is None else num_nodes):
            allowed = "[0, 2**32)" if num_nodes is None else f"[0, num_nodes) = [0, {num_nodes})"
            way = (
                " num_nodes counts all nodes, those of padding too, one of which edges of padding"
                " name."
                if num_nodes
                else ""
            )
            raise ValueError(
                f"{name} must be numbers of nodes, in {allowed}, got"
                f" {least if least < 0 else most}.{way}"
            )
    return senders, receivers


def _node(ids: jax.Array) -> jax.Array:
    return ids.astype(jnp.uint32)
