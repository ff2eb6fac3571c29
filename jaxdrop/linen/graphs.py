"""Modules that drop edges and nodes of a graph. See `jaxdrop.functional.graphs`."""

from __future__ import annotations

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import graphs
from jaxdrop.linen._base import Stochastic


class DropEdge(Stochastic):
    """`jaxdrop.drop_edge` as a Linen module.

    Attributes:
      rate: the probability of dropping an edge, a number in [0, 1].
      undirected: whether the two directions of an edge are dropped together.
      deterministic: if True, all edges are kept. To be given here or in the call, not in both.
      rng_collection: the name of the collection that keys are made from.
      spec: inside `shard_map` and `pmap`, the layout of the whole list of edges.
    """

    rate: float
    undirected: bool = False
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        senders: jax.Array,
        receivers: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Which edges are kept, bool of shape (E,). Further arguments as in
        `jaxdrop.linen.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return graphs.drop_edge(
            key, senders, receivers, rate, undirected=self.undirected, deterministic=off, spec=spec
        )


class DropNode(Stochastic):
    """`jaxdrop.drop_node` as a Linen module.

    Attributes:
      rate: the probability of dropping a node, a number in [0, 1].
      deterministic: if True, all nodes are kept. To be given here or in the call, not in both.
      rng_collection: the name of the collection that keys are made from.
      spec: inside `shard_map` and `pmap`, the layout of the whole list of nodes.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    @nn.compact
    def __call__(
        self,
        senders: jax.Array,
        receivers: jax.Array,
        num_nodes: int,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        *,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> graphs.Kept:
        """Which nodes and edges are kept. Further arguments as in `jaxdrop.linen.Dropout`."""
        off, key, rate, spec = self._settle(deterministic, rng, rate, spec)
        return graphs.drop_node(
            key, senders, receivers, num_nodes, rate, deterministic=off, spec=spec
        )
