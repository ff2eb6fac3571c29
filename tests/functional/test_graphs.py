"""Dropped edges and nodes: which fall together, and what a dense computation makes of the rest."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop.functional import graphs
from tests import statistics
from tests.catalogue import KEY, KEYS, RATE

P = PartitionSpec
NODES = 12
HALF = np.array([(i, j) for i in range(NODES) for j in range(i)])
ORDER = np.random.default_rng(0).permutation(2 * len(HALF))
SENDERS, RECEIVERS = (
    jnp.asarray(a) for a in np.concatenate([HALF, HALF[:, ::-1]])[ORDER].T.astype(np.int32)
)
"""Every pair of nodes, in both directions, in a random order."""

each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())


def dense(
    values: Any, senders: jax.Array = SENDERS, receivers: jax.Array = RECEIVERS
) -> np.ndarray:
    matrix = np.zeros((NODES, NODES), np.asarray(values).dtype)
    np.add.at(matrix, (np.asarray(senders), np.asarray(receivers)), np.asarray(values))
    return matrix


# -- edges


@each_key
def test_both_directions_fall_together(key: jax.Array) -> None:
    kept = dense(graphs.drop_edge(key, SENDERS, RECEIVERS, 0.5, undirected=True))
    np.testing.assert_array_equal(kept, kept.T)
    single = dense(graphs.drop_edge(key, SENDERS, RECEIVERS, 0.5))
    assert (single != single.T).any()


@each_key
def test_undirected_edges_are_independent_of_each_other(key: jax.Array) -> None:
    """One coin for each of the 66 pairs. Right code fails with a probability of 2e-6."""
    samples = 2**12
    senders, receivers = (jnp.asarray(a, jnp.int32) for a in HALF.T)
    drop = jax.vmap(lambda key: graphs.drop_edge(key, senders, receivers, RATE, undirected=True))
    dropped = ~np.asarray(drop(jax.random.split(key, samples)))
    z = (dropped - RATE) / np.sqrt(RATE * (1 - RATE))
    assert statistics.normal(z.sum(0) / np.sqrt(samples)) > 1e-6
    assert statistics.normal((z.T @ z)[np.triu_indices(len(HALF), 1)] / np.sqrt(samples)) > 1e-6


def test_undirected_edges_keep_their_fate_in_any_order() -> None:
    kept = graphs.drop_edge(KEY, SENDERS, RECEIVERS, 0.5, undirected=True)
    order = np.random.default_rng(1).permutation(len(SENDERS))[:50]
    np.testing.assert_array_equal(
        graphs.drop_edge(KEY, RECEIVERS[order], SENDERS[order], 0.5, undirected=True), kept[order]
    )


def test_node_numbers_need_all_their_bits() -> None:
    """Pairs that agree in their low or in their high halves have coins of their own."""
    ids = jnp.arange(256, dtype=jnp.int32)
    far = jnp.full_like(ids, 2**31 - 1)
    masks = [
        graphs.drop_edge(KEY, a, b, 0.5, undirected=True)
        for a, b in [(ids, far), (ids, far - 1), (ids * 2**22, far), (ids, ids)]
    ]
    for i, one in enumerate(masks):
        for two in masks[:i]:
            assert statistics.normal((np.sum(np.asarray(one == two)) - 128) / 8) > 1e-6


def test_rates_of_single_edges() -> None:
    rate = jnp.where(SENDERS > RECEIVERS, 1.0, 0.0)
    np.testing.assert_array_equal(graphs.drop_edge(KEY, SENDERS, RECEIVERS, rate), rate == 0)


def test_evaluation_keeps_everything() -> None:
    for options in ({"deterministic": True}, {"rate": 0}):
        assert graphs.drop_edge(None, SENDERS, RECEIVERS, **{"rate": RATE, **options}).all()
        assert all(
            mask.all()
            for mask in graphs.drop_node(
                None, SENDERS, RECEIVERS, NODES, **{"rate": RATE, **options}
            )
        )
    for rate in (0, 1):
        masks = [
            graphs.drop_edge(None, SENDERS, RECEIVERS, rate),
            *graphs.drop_node(None, SENDERS, RECEIVERS, NODES, rate),
        ]
        for mask in masks:
            assert mask.dtype == bool
            assert (mask == (rate == 0)).all()


def test_masks_that_keep_everything_compile_to_nothing() -> None:
    """They remain in the jaxpr, but not in the program."""
    x, nodes = jnp.ones((len(SENDERS), 8)), jnp.ones((NODES, 8))

    def chosen(x: jax.Array, nodes: jax.Array) -> tuple[jax.Array, ...]:
        edges = graphs.drop_edge(None, SENDERS, RECEIVERS, 0)
        kept = graphs.drop_node(None, SENDERS, RECEIVERS, NODES, 0)
        return jnp.where((edges & kept.edges)[:, None], x, 0 * x), jnp.where(
            kept.nodes[:, None], nodes, 0 * nodes
        )

    def program(f: Callable[..., Any]) -> list[str]:
        """The operations of the compiled program."""
        return re.findall(
            r" ([a-z-]+)\(", jax.jit(f).lower(x, nodes).compile().as_text().partition("ENTRY")[2]
        )

    assert program(chosen) == program(lambda x, nodes: (x, nodes))


# -- nodes


@each_key
def test_an_edge_stays_while_both_its_nodes_do(key: jax.Array) -> None:
    kept = graphs.drop_node(key, SENDERS, RECEIVERS, NODES, 0.5)
    np.testing.assert_array_equal(kept.edges, kept.nodes[SENDERS] & kept.nodes[RECEIVERS])
    assert 0 < kept.nodes.sum() < NODES


def test_graphs_under_shard_map() -> None:
    """Edges and nodes divided over devices; node numbers are those of the whole graph."""
    mesh = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Auto,))

    def local(senders: jax.Array, receivers: jax.Array) -> tuple[jax.Array, ...]:
        edges = graphs.drop_edge(KEY, senders, receivers, RATE, spec=P("a"))
        pairs = graphs.drop_edge(KEY, senders, receivers, RATE, undirected=True, spec=P("a"))
        return (
            edges,
            pairs,
            *graphs.drop_node(KEY, senders, receivers, NODES // 4, RATE, spec=P("a")),
        )

    divided = jax.shard_map(local, mesh=mesh, in_specs=P("a"), out_specs=P("a"))
    results = jax.jit(divided)(SENDERS, RECEIVERS)
    expected = (
        graphs.drop_edge(KEY, SENDERS, RECEIVERS, RATE),
        graphs.drop_edge(KEY, SENDERS, RECEIVERS, RATE, undirected=True),
        *graphs.drop_node(KEY, SENDERS, RECEIVERS, NODES, RATE),
    )
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, value)


# -- normalization


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_normalization_is_that_of_the_dense_matrix(weighted: bool, self_loops: bool) -> None:
    weights = jnp.linspace(0.5, 2, len(SENDERS)) if weighted else None
    keep = graphs.drop_edge(KEY, SENDERS, RECEIVERS, 0.8)
    found = graphs.symmetric_normalization(
        SENDERS, RECEIVERS, NODES, keep=keep, weights=weights, self_loops=self_loops
    )
    adjacency = dense(np.where(keep, np.ones(len(SENDERS)) if weights is None else weights, 0))
    adjacency += self_loops * np.eye(NODES)
    with np.errstate(divide="ignore"):
        scale = 1 / np.sqrt(adjacency.sum(0))
    expected = (
        adjacency
        * np.where(np.isinf(scale), 0, scale)
        * np.where(np.isinf(scale), 0, scale)[:, None]
    )
    np.testing.assert_allclose(dense(found.edges) + np.diag(found.loops), expected, rtol=1e-6)


def test_normalization_has_finite_gradients_at_lonely_nodes() -> None:
    def total(weights: jax.Array) -> jax.Array:
        none = jnp.zeros_like(SENDERS, bool)
        return graphs.symmetric_normalization(
            SENDERS, RECEIVERS, NODES, keep=none, weights=weights, self_loops=False
        ).edges.sum()

    assert not jax.grad(total)(jnp.ones(len(SENDERS))).any()


# -- modules and errors


@pytest.mark.parametrize("undirected", [False, True])
def test_edge_modules_make_the_same_call(undirected: bool) -> None:
    expected = graphs.drop_edge(KEY, SENDERS, RECEIVERS, RATE, undirected=undirected)
    layer = jaxdrop.nnx.DropEdge(RATE, undirected=undirected, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer(SENDERS, RECEIVERS, rngs=KEY), expected)
    assert not np.array_equal(layer(SENDERS, RECEIVERS), layer(SENDERS, RECEIVERS))
    module = jaxdrop.linen.DropEdge(RATE, undirected=undirected, deterministic=False)
    np.testing.assert_array_equal(module.apply({}, SENDERS, RECEIVERS, rng=KEY), expected)


def test_node_modules_make_the_same_call() -> None:
    expected = graphs.drop_node(KEY, SENDERS, RECEIVERS, NODES, RATE)
    layer = jaxdrop.nnx.DropNode(RATE)
    module = jaxdrop.linen.DropNode(RATE, deterministic=False)
    for kept in (
        layer(SENDERS, RECEIVERS, NODES, rngs=KEY),
        module.apply({}, SENDERS, RECEIVERS, NODES, rng=KEY),
    ):
        for result, value in zip(kept, expected, strict=True):
            np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize(
    "call",
    [graphs.drop_edge, lambda key, a, b, rate: graphs.drop_node(key, a, b, NODES, rate)],
    ids=["drop_edge", "drop_node"],
)
def test_graphs_reject(call: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"one shape \(E,\), got \(132,\) and \(2,\)"):
        call(KEY, SENDERS, RECEIVERS[:2], RATE)
    with pytest.raises(TypeError, match="float32"):
        call(KEY, SENDERS.astype(jnp.float32), RECEIVERS, RATE)
    with pytest.raises(ValueError, match=r"does not broadcast|one rate"):
        call(KEY, SENDERS, RECEIVERS, jnp.full(3, 0.5))
    with pytest.raises(ValueError, match="key is None"):
        call(None, SENDERS, RECEIVERS, RATE)


def test_normalization_rejects() -> None:
    normalize = functools.partial(graphs.symmetric_normalization, SENDERS, RECEIVERS)
    for name, values in (("keep", jnp.ones(3, bool)), ("weights", jnp.ones((132, 1)))):
        with pytest.raises(
            ValueError, match=rf"{name} must have one entry for each edge, shape \(132,\), got \("
        ):
            normalize(NODES, **{name: values})
    with pytest.raises(TypeError, match="int32"):
        normalize(NODES, weights=jnp.ones(132, jnp.int32))
    with pytest.raises(TypeError, match=r"num_nodes must be an integer, got 12\.0"):
        normalize(12.0)
    with pytest.raises(TypeError, match="num_nodes must be an integer, got '12'"):
        graphs.drop_node(KEY, SENDERS, RECEIVERS, "12", RATE)


def test_numbers_of_nodes_have_32_bits() -> None:
    """Where their count is not known."""
    last = np.array([2**32 - 1], np.uint32)
    assert graphs.drop_edge(KEY, last, last, 0.5, undirected=True).shape == (1,)
    for wrong in (2**32, -1):
        ends = np.array([wrong])
        for edges in ((ends, last), (last, ends)):
            with pytest.raises(ValueError, match=rf"nodes, in \[0, 2\*\*32\), got {wrong}\.$"):
                graphs.drop_edge(KEY, *edges, 0.5)
    one = np.array([1])
    with pytest.raises(
        ValueError, match=r"in \[0, num_nodes\) = \[0, 1\), got 1\. num_nodes counts"
    ):
        graphs.drop_node(KEY, one, one, 1, 0.5)
    with pytest.raises(ValueError, match=r"in \[0, num_nodes\) = \[0, 0\), got 1\.$"):
        graphs.drop_node(KEY, one, one, 0, 0.5)


def test_generators_without_random_access_cannot_drop_pairs() -> None:
    with pytest.raises(NotImplementedError, match=r"jaxdrop\.random\.fast"):
        graphs.drop_edge(jax.random.key(0, impl="rbg"), SENDERS, RECEIVERS, RATE, undirected=True)
