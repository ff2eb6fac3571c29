"""Edges and nodes of a graph."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks.variants._contest import Contest, compare


def graphs(quick: bool) -> Iterator[Table | Bar]:
    """Drop edge, directed and undirected, and drop node. What comes out are masks: there is no
    gradient.
    """
    nodes = 2**10 if quick else 2**16
    ends = jax.random.randint(jax.random.key(2), (2, 4 * nodes), 0, nodes)
    # Each edge, and after all of those each edge in the other direction.
    senders, receivers = jnp.concatenate([ends, ends[::-1]], axis=1)
    node = functools.partial(_kept_edges, num_nodes=nodes)
    contests = [
        Contest("drop_edge", _edges, edges_by_hand, given=[senders, receivers]),
        Contest(
            "drop_edge, undirected",
            functools.partial(_edges, undirected=True),
            pairs_by_hand,
            given=[senders, receivers],
        ),
        Contest(
            "drop_node",
            node,
            functools.partial(nodes_by_hand, num_nodes=nodes),
            given=[senders, receivers],
        ),
    ]
    yield from compare("graphs", contests, quick)


def _edges(
    key: jax.Array, senders: jax.Array, receivers: jax.Array, *, undirected: bool = False
) -> jax.Array:
    return jaxdrop.drop_edge(key, senders, receivers, RATE, undirected=undirected)


def edges_by_hand(key: jax.Array, senders: jax.Array, receivers: jax.Array) -> jax.Array:
    """A coin for each edge."""
    return jax.random.bernoulli(key, 1 - RATE, senders.shape)


def pairs_by_hand(key: jax.Array, senders: jax.Array, receivers: jax.Array) -> jax.Array:
    """A coin for each pair, which has to know where in the list the other direction stands."""
    half = jax.random.bernoulli(key, 1 - RATE, (senders.size // 2,))
    return jnp.concatenate([half, half])


def _kept_edges(
    key: jax.Array, senders: jax.Array, receivers: jax.Array, *, num_nodes: int
) -> jaxdrop.functional.graphs.Kept:
    return jaxdrop.drop_node(key, senders, receivers, num_nodes, RATE)


def nodes_by_hand(
    key: jax.Array, senders: jax.Array, receivers: jax.Array, *, num_nodes: int
) -> tuple[jax.Array, jax.Array]:
    """A coin for each node, looked up at both ends of each edge."""
    keep = jax.random.bernoulli(key, 1 - RATE, (num_nodes,))
    return keep, keep[senders] & keep[receivers]
