"""Modules that drop edges and nodes of a graph. See `jaxdrop.functional.graphs`."""

from __future__ import annotations

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import graphs
from jaxdrop.nnx._base import RngSource, Stochastic


class DropEdge(Stochastic):
    """`jaxdrop.drop_edge` as an NNX module.

    Args:
      rate: the probability of dropping an edge, a number in [0, 1].
      undirected: whether the two directions of an edge are dropped together.
      deterministic: if True, all edges are kept. `model.eval()` and `model.train()` set it.
      rng_collection: the name of the stream to take keys from.
      rngs: an `nnx.Rngs` or `nnx.RngStream`, of which a fork is kept; or None, if keys come with
        the calls.
      spec: inside `shard_map` and `pmap`, the layout of the whole list of edges.
    """

    def __init__(
        self,
        rate: float,
        *,
        undirected: bool = False,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        self.undirected = undirected

    def __call__(
        self,
        senders: jax.Array,
        receivers: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> jax.Array:
        """Which edges are kept, bool of shape (E,). Further arguments as in
        `jaxdrop.nnx.Dropout`.
        """
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return graphs.drop_edge(
            key, senders, receivers, rate, undirected=self.undirected, deterministic=off, spec=spec
        )


class DropNode(Stochastic):
    """`jaxdrop.drop_node` as an NNX module.

    Args:
      rate: the probability of dropping a node, a number in [0, 1].
      deterministic: if True, all nodes are kept. `model.eval()` and `model.train()` set it.
      rng_collection: the name of the stream to take keys from.
      rngs: an `nnx.Rngs` or `nnx.RngStream`, of which a fork is kept; or None, if keys come with
        the calls.
      spec: inside `shard_map` and `pmap`, the layout of the whole list of nodes.
    """

    def __init__(
        self,
        rate: float,
        *,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            rate, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )

    def __call__(
        self,
        senders: jax.Array,
        receivers: jax.Array,
        num_nodes: int,
        *,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rate: masks.Rate | None = None,
        spec: PartitionSpec | None = None,
    ) -> graphs.Kept:
        """Which nodes and edges are kept. Further arguments as in `jaxdrop.nnx.Dropout`."""
        off, key, rate, spec = self._settle(deterministic, rngs, rate, spec)
        return graphs.drop_node(
            key, senders, receivers, num_nodes, rate, deterministic=off, spec=spec
        )
