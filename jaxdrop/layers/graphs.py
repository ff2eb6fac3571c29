"""Layers that drop edges and nodes of a graph. See `jaxdrop.functional.graphs`."""

from jaxdrop.functional import graphs
from jaxdrop.layers._variant import Variant

__all__ = ["DropEdge", "DropNode"]


class DropEdge(Variant, function=graphs.drop_edge):
    """`jaxdrop.drop_edge` as a layer: its call returns which edges are kept.

    Args:
      undirected: whether the two directions of an edge are dropped together.
      deterministic: if True, all edges are kept.
      spec: as in `Dropout`, of the whole list of edges.
    """

    call = "Which edges are kept, bool of shape (E,)."
    rate: float
    undirected: bool = False


class DropNode(Variant, function=graphs.drop_node):
    """`jaxdrop.drop_node` as a layer: its call returns which nodes and edges are kept.

    Args:
      deterministic: if True, all nodes are kept.
      spec: as in `Dropout`, of the whole list of nodes.
    """

    call = "Which nodes and edges are kept."
    rate: float
