"""Dropping edges and nodes of a graph."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _layouts, masks, random
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.functional.graphs._edges import checked_edges


class Kept(NamedTuple):
    """The nodes and edges that `drop_node` keeps."""

    nodes: jax.Array
    """bool, shape (N,)."""
    edges: jax.Array
    """bool, shape (E,): True for the edges whose ends are both kept."""


@cites("rong2020dropedge")
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

    The distribution is that of PyTorch Geometric's `dropout_edge`. The paper's own code instead
    keeps exactly `int(E * (1 - rate))` of the directed edges, once an epoch, and then normalizes
    the adjacency matrix again (see `symmetric_normalization`). To drop edge weights and keep their
    expectation, use `jaxdrop.dropout` on the weights.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      senders: integers of shape (E,).
      receivers: integers of shape (E,).
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or one for each edge.
      undirected: if True, the edges `i -> j` and `j -> i`, and parallel edges, are kept or dropped
        together, wherever they stand in the list: bits are drawn at the position `(min(i, j),
        max(i, j))`. If False, bits are drawn at the edge's place in the list.
      deterministic: if True, or if `rate` is the number 0, all edges are kept.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        list of edges. With `undirected` it has no effect.

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
    senders, receivers = checked_edges("drop_edge", senders, receivers)
    undirected = _checks.check_flag(undirected, "undirected")
    rate = _checks.check_rate(rate)
    _checks.check_rate_shape(rate, senders.shape, ())
    spec = _checks.check_spec(spec, 1, "the list of edges")
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


_one_rate = _checks.one_rate("drop_node takes one rate for all nodes")


@cites("do2020graph", "feng2020graph")
@_checks.hinted
@_checks.facts(rate=_one_rate)
def drop_node(
    key: jax.Array | None,
    senders: jax.Array,
    receivers: jax.Array,
    num_nodes: int,
    rate: masks.Rate,
    *,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> Kept:
    """DropNode: which nodes are kept, `Bernoulli(1 - rate)` for each node, and which edges keep
    both of their ends.

    The distribution is that of PyTorch Geometric's `dropout_node`. In GRAND, DropNode sets rows of
    features to 0 and scales the others, and all edges stay: that is `jaxdrop.dropout(key, x, rate,
    broadcast_dims=(-1,))`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      senders: integers of shape (E,), in [0, N); node numbers of the whole graph, also under
        `spec`.
      receivers: integers of shape (E,), in [0, N).
      num_nodes: N (of this device's part under `spec`), nodes of padding included.
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
      arXiv:2008.12578. Feng et al., "Graph random neural networks for semi-supervised learning on
      graphs", 2020, arXiv:2005.11079 (GRAND).
    """
    nodes = _checks.check_count(num_nodes, "num_nodes", least=0)
    # Under `spec`, `num_nodes` counts this device's nodes, and an edge may end in a node of another
    # device.
    senders, receivers = checked_edges(
        "drop_node", senders, receivers, nodes if spec is None else None
    )
    rate = _one_rate(rate, "rate")
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
    # Each end of an edge draws the bits of its node again. A lookup in a table of all nodes would
    # have to gather the table on every device.
    sent, received = (
        masks.below(random.bits_at(key, (_node(ends),), (2**32,)), threshold)
        for ends in (senders, receivers)
    )
    return masks.keep_mask(key, jnp.zeros(num_nodes), threshold, spec=spec), sent & received


def _node(ids: jax.Array) -> jax.Array:
    return ids.astype(jnp.uint32)
