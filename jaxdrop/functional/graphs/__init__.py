"""Dropping edges and nodes of a graph. Shapes are static: what is returned are masks over the edges
and nodes that are given.

A graph is a list of edges, `senders` and `receivers`, integers of shape (E,). Padding edges are
edges like others: mask them too. For many graphs of one shape use `jax.vmap`, with a key each.
"""

from jaxdrop.functional.graphs._dropping import Kept, drop_edge, drop_node
from jaxdrop.functional.graphs._normalization import Normalized, symmetric_normalization

__all__ = [
    "Kept",
    "Normalized",
    "drop_edge",
    "drop_node",
    "symmetric_normalization",
]
