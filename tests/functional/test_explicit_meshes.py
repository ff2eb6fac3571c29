"""Operands divided in any way over a mesh with explicit axes: results and gradients are those of
whole arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop import _layouts
from tests.catalogue import KEY, RATE
from tests.compilation import quick

P = PartitionSpec
Tree = Any
MESH = jax.make_mesh((2, 2, 2), ("a", "b", "c"), axis_types=(AxisType.Explicit,) * 3)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def integers(seed: int, most: int, *shape: int) -> jax.Array:
    return jax.device_put(np.random.default_rng(seed).integers(0, most, shape, np.int32))


def place(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return jax.device_put(x, NamedSharding(MESH, spec))


def derivatives(f: Callable[..., jax.Array]) -> Callable[..., Tree]:
    """The value, and the cotangents of the operands for its cosine."""

    def both(operands: Tree, constants: Tree) -> Tree:
        value, pull = jax.vjp(lambda operands: f(operands, constants), operands)
        return value, pull(jnp.cos(value))[0]

    return both


# -- attention

BATCH, QUERIES, KEYS, HEADS = 4, 8, 16, 4
OPERANDS = {
    "q": normal(0, BATCH, QUERIES, HEADS, 4),
    "k": normal(1, BATCH, KEYS, 2, 4),
    "v": normal(2, BATCH, KEYS, 2, 6),
}
BIAS = {"bias": normal(3, 1, HEADS, QUERIES, KEYS)}
MASK = {"mask": normal(4, BATCH, 1, QUERIES, KEYS) > -0.5}
LENGTHS = {
    "query_seq_lengths": jnp.asarray([8, 0, 5, 3]),
    "key_value_seq_lengths": jnp.asarray([0, 16, 9, 2]),
}
PACKED = {
    "segment_ids": (
        jnp.sort(integers(5, 3, BATCH, QUERIES)),
        jnp.sort(integers(6, 3, BATCH, KEYS)),
    ),
    "query_offset": jnp.asarray([0, 8, 3, 5]),
}
WHOLE: dict[tuple[str, ...], Tree] = {}
"""The results with whole arrays, for each set of options."""


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("more", "constants", "specs"),
    [
        pytest.param({}, {}, {"q": P(None, ("a", "b"))}, id="queries alone"),
        pytest.param(
            {},
            {},
            {"q": P("a", None, ("c", "b")), "k": P(None, "a"), "v": P(None, None, "b")},
            id="fewer groups",
        ),
        pytest.param(
            {}, {}, {"k": P("b", ("a", "c")), "v": P(None, None, "c", "a")}, id="not the queries"
        ),
        pytest.param(
            BIAS,
            MASK | LENGTHS,
            {
                "q": P("a", "b", None, "c"),
                "bias": P(None, "a", None, "b"),
                "mask": P("b"),
                **dict.fromkeys(LENGTHS, P(("c", "a"))),
            },
            id="bias, mask, lengths",
        ),
        pytest.param(
            {},
            PACKED,
            {"q": P("b", "a"), "segment_ids": (P("a"), P("a", "b")), "query_offset": P("c")},
            id="packed",
        ),
    ],
)
def test_attention(more: dict[str, Any], constants: dict[str, Any], specs: dict[str, Any]) -> None:
    """The output is divided as the queries are, and gradients as their operands."""
    operands = {**OPERANDS, **more}

    def f(operands: Tree, constants: Tree) -> jax.Array:
        return jaxdrop.dot_product_attention(
            KEY, **operands, **constants, rate=RATE, is_causal=True, block_sizes=(4, 8)
        )

    both = quick(derivatives(f))
    options = *more, *constants
    if options not in WHOLE:
        WHOLE[options] = both(operands, constants)
    expected = WHOLE[options]
    with jax.set_mesh(MESH):
        placed = [
            {
                name: jax.tree.map(place, x, specs.get(name, jax.tree.map(lambda _: P(), x)))
                for name, x in arrays.items()
            }
            for arrays in (operands, constants)
        ]
        found = both(*placed)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=4e-6), found, expected)
    np.testing.assert_array_equal(found[0] == 0, expected[0] == 0)
    for name, x in placed[0].items():
        assert found[1][name].sharding.is_equivalent_to(x.sharding, x.ndim)
    depths_whole = NamedSharding(MESH, P(*specs["q"][:3]) if "q" in specs else P("b", None, "c"))
    assert found[0].sharding.is_equivalent_to(depths_whole, 4)


def test_attention_on_a_part_of_the_mesh() -> None:
    """Inside a `shard_map` over one axis; and of operands that no axis divides."""
    q, k, v = OPERANDS["q"], OPERANDS["k"], OPERANDS["v"]

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, **options: Any) -> jax.Array:
        return jaxdrop.dot_product_attention(KEY, q, k, v, RATE, is_causal=True, **options)

    local = jax.shard_map(
        functools.partial(attend, spec=P("a")),
        mesh=MESH,
        in_specs=P("a"),
        out_specs=P("a"),
        axis_names={"a"},
    )
    expected = quick(attend)(q, k, v)
    with jax.set_mesh(MESH):
        found = quick(local)(place(q, P("a", "b")), *(place(x, P("a")) for x in (k, v)))
        whole = quick(attend)(*(place(x, P()) for x in (q, k, v)))
    for y in (found, whole):
        np.testing.assert_allclose(y, expected, rtol=0, atol=4e-6)


def test_attention_of_samples_whose_keys_are_divided() -> None:
    keys = jax.random.split(KEY, 4)
    sample = jax.vmap(
        lambda key, q: jaxdrop.dot_product_attention(key, q, q, q, RATE), in_axes=(0, None)
    )
    expected = sample(keys, OPERANDS["q"])
    found = jax.jit(sample)(place(keys, P("a")), place(OPERANDS["q"], P(None, "b")))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert found.sharding.is_equivalent_to(NamedSharding(MESH, P("a", None, "b")), 5)


def test_attention_with_an_array_of_weights() -> None:
    """Eager, with a mask that is not on the mesh, and without `jax.set_mesh`."""
    q = OPERANDS["q"]
    mask = jnp.tril(jnp.ones((QUERIES, QUERIES), bool))

    def f(q: jax.Array, **options: Any) -> jax.Array:
        return jaxdrop.linen.dot_product_attention(q, q, q, None, mask, False, KEY, RATE, **options)

    for options in ({}, {"einsum_dot_general": jax.lax.dot_general}):
        np.testing.assert_allclose(f(place(q, P("a", "b")), **options), f(q), rtol=0, atol=2e-6)


# -- the rest

EDGES = integers(7, 8, 16), integers(8, 8, 16)
WEIGHTS = jnp.abs(normal(9, 16))
LOGITS = normal(10, 8, 4), normal(11, 8, 4)
FUNCTIONS: dict[
    str, tuple[Callable[..., Any], tuple[jax.Array, ...], list[tuple[PartitionSpec, ...]]]
] = {
    "r_drop": (
        functools.partial(jaxdrop.r_drop, alpha=0.5),
        (*LOGITS, integers(12, 4, 8)),
        [(P("a"), P("b"), P("c")), (P(), P(None, "a"), P("a"))],
    ),
    "r_drop of probabilities": (
        functools.partial(jaxdrop.r_drop, alpha=0.5),
        (*LOGITS, jax.nn.softmax(normal(13, 8, 4))),
        [(P(), P("a", "b"), P("b", "a"))],
    ),
    "drop_edge": (
        lambda *edges: jaxdrop.drop_edge(KEY, *edges, RATE, undirected=True),
        EDGES,
        [(P("a"), P("b"))],
    ),
    "drop_node": (
        lambda *edges: jaxdrop.drop_node(KEY, *edges, 8, RATE),
        EDGES,
        [(P("a"), P("b")), (P(), P("b"))],
    ),
    "symmetric_normalization": (
        lambda *edges: jaxdrop.symmetric_normalization(
            *edges[:2], 8, weights=edges[2], keep=edges[2] > 0.3
        ),
        (*EDGES, WEIGHTS),
        [(P("a"), P("b"), P()), (P(), P(), P(("b", "c")))],
    ),
    "drop_head": (
        lambda x: jaxdrop.drop_head(KEY, x, 0.5, normalize="fixed"),
        (normal(14, 2, 3, 4, 5),),
        [(P("a", None, ("b", "c")),)],
    ),
}


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize(
    ("function", "operands", "layouts"), FUNCTIONS.values(), ids=FUNCTIONS.keys()
)
def test_functions(
    function: Callable[..., Any],
    operands: tuple[jax.Array, ...],
    layouts: list[tuple[PartitionSpec, ...]],
) -> None:
    floating = [at for at, x in enumerate(operands) if jnp.issubdtype(x.dtype, jnp.floating)]

    @jax.jit
    def gradient(*operands: jax.Array) -> Tree:
        def total(*floats: jax.Array) -> jax.Array:
            given = [*operands]
            for at, x in zip(floating, floats, strict=True):
                given[at] = x
            return sum(
                jnp.sum(jnp.sin(x))
                for x in jax.tree.leaves(function(*given))
                if jnp.issubdtype(x.dtype, jnp.floating)
            )

        return (
            jax.grad(total, argnums=range(len(floating)))(*(operands[at] for at in floating))
            if floating
            else ()
        )

    expected = function(*operands), gradient(*operands)
    for layout in layouts:
        placed = list(map(place, operands, layout))
        with jax.set_mesh(MESH):
            found = function(*placed), gradient(*placed)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=2e-6), found, expected
        )


def test_joined_layouts_divide_as_much_as_any_of_them() -> None:
    """Each axis as in the first that divides it; no name of the mesh twice."""
    a, b, none = ("a",), ("b", "c"), ()
    assert _layouts.joined([a, none]) == [a, none]
    assert _layouts.joined([none, none], [a, b]) == [a, b]
    assert _layouts.joined([a, none], [b, b]) == [a, b]
    assert _layouts.joined([a, none], [none, a]) == [a, none]
    assert _layouts.joined([none, none], [("c",), none], [none, b]) == [("c",), none]
    assert _layouts.joined([none, none], [none, b], [b, none], [a, none]) == [a, b]
    assert _layouts.joined([none, none], [b]) == [b, none]
    assert [_layouts.names(each) for each in (None, "a", ("b", "c"))] == [none, a, b]
    assert _layouts.spec(a, none, b) == P(("a",), None, ("b", "c"))
