"""Dropping edges and nodes of a graph. Shapes are static, so the results are masks over the given
edges and nodes, not shorter lists.

A graph is a list of edges, `senders` and `receivers`, integers of shape (E,). Edges that pad the
list are drawn like the others: mask them too. For many graphs of one shape use `jax.vmap`, with a
key for each.
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
