"""Attention with the arguments of Flax: by blocks, and with an array of weights, which gives the
same.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop.functional.attention import _flax
from tests.catalogue import KEY, RATE
from tests.compilation import quick

attend = jaxdrop.linen.dot_product_attention
each = pytest.mark.parametrize("framework", [jaxdrop.linen, jaxdrop.nnx])


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


Q, K, V = normal(0, 2, 3, 5, 4, 8), normal(1, 2, 3, 7, 2, 8), normal(2, 2, 3, 7, 2, 6)
BIAS, MASK = normal(3, 2, 1, 4, 5, 7), np.asarray(normal(4, 1, 3, 1, 5, 7)) > -1
OFFSETS = jnp.asarray([[0, 1, 2], [2, 1, 0]])
SEGMENTS = jnp.asarray(np.random.default_rng(5).integers(0, 2, (2, 3, 7)), jnp.int32)


def sown(*arguments: Any, **options: Any) -> tuple[jax.Array, tuple[Any, ...]]:
    """The output, and what a module is told."""
    told: list[tuple[Any, ...]] = []
    module: Any = types.SimpleNamespace(sow=lambda *given: told.append(given))
    y = attend(*arguments, **options, module=module)
    (given,) = told
    return y, given


@pytest.mark.parametrize(
    "options",
    [
        {"bias": BIAS, "mask": MASK, "local_window_size": (3, 1), "query_offset": OFFSETS},
        {"mask": MASK, "is_causal": True, "broadcast_dropout": True, "query_offset": 2},
        {
            "query_seq_lengths": jnp.asarray([[5, 3, 0], [1, 2, 5]]),
            "key_value_seq_lengths": jnp.asarray([[7, 3, 2], [0, 1, 7]]),
            "segment_ids": (SEGMENTS[..., :5], SEGMENTS),
        },
    ],
    ids=["bias, mask, window, offsets", "causal, a shared mask, an offset", "padding, segments"],
)
def test_an_array_of_weights_gives_what_blocks_give(options: dict[str, Any]) -> None:
    """Two batch axes, and heads in groups."""
    given = {"broadcast_dropout": False, "dropout_rng": KEY, "dropout_rate": RATE, **options}

    @quick
    def all_of_them(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        y, (*names, weights) = sown(q, k, v, **given)
        assert names == ["intermediates", "attention_weights"]
        products = {"qk_attn_weights_einsum": jnp.einsum, "attn_weights_value_einsum": jnp.einsum}
        repeated = jnp.repeat(v, 2, axis=-2)
        evaluated = attend(q, k, v, **{**given, "deterministic": True})
        weighed = jnp.einsum("...hqk,...khd->...qhd", weights, repeated)
        return (
            attend(q, k, v, **given),
            [
                attend(q, k, v, **given, einsum_dot_general=lax.dot_general),
                attend(q, k, v, **given, **products),
                y,
            ],
            (evaluated, weighed),
        )

    expected, found, (evaluated, weighed) = all_of_them(Q, K, V)
    for y in found:
        np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(weighed, evaluated, rtol=0, atol=2e-6)
    assert np.abs(np.asarray(expected - evaluated)).max() > 0.1


def test_a_part_of_the_weights_inside_shard_map() -> None:
    """With `spec`, where batch, queries and heads are divided."""
    mesh = jax.make_mesh((2, 2, 2), ("a", "b", "c"), axis_types=(AxisType.Auto,) * 3)
    q, k, v = normal(0, 2, 6, 4, 8), normal(1, 2, 6, 2, 8), normal(2, 2, 6, 2, 6)
    spec, keys = P("a", "b", "c"), P("a", None, "c")
    own: Any = functools.partial(
        attend, broadcast_dropout=False, dropout_rng=KEY, dropout_rate=RATE, is_causal=True
    )

    def local(q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        return own(q, k, v, spec=spec, einsum_dot_general=lax.dot_general)

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(spec, keys, keys), out_specs=spec)
    np.testing.assert_allclose(jax.jit(mapped)(q, k, v), own(q, k, v), rtol=0, atol=2e-6)


def test_products_are_given_precision_and_float32() -> None:
    """Those of the caller, and those of `jnp.einsum`. Sums of ones in bfloat16 come to 256."""
    told: list[dict[str, Any]] = []

    def dot_general(*operands: Any, **options: Any) -> jax.Array:
        told.append(options)
        return lax.dot_general(*operands, **options)

    q, k = jnp.zeros((1, 1, 2), jnp.bfloat16), jnp.zeros((512, 1, 2), jnp.bfloat16)
    many = {"dropout_rate": 0.0, "precision": "highest"}
    for y in (
        attend(q, k, k + 1, **many, einsum_dot_general=dot_general),
        sown(q, k, k + 1, **many)[0],
    ):
        np.testing.assert_array_equal(y, jnp.ones_like(y))
    assert told == [{"precision": "highest", "preferred_element_type": jnp.float32}] * 2
    program = jax.make_jaxpr(lambda *operands: sown(*operands, precision="highest")[0])(q, k, k)
    assert str(program).count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 2


@pytest.mark.usefixtures("relaxed")
def test_dtypes_are_those_of_flax() -> None:
    q = normal(0, 2, 5, 4, 8)
    short, whole = q.astype(jnp.bfloat16), (4 * q).astype(jnp.int32)
    wide = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    products = {"qk_attn_weights_einsum": wide, "attn_weights_value_einsum": wide}
    cases: list[tuple[Any, dict[str, Any]]] = [
        ((short, short, q), {}),
        ((short, q, short), {}),
        ((whole, whole, whole), {}),
        ((short, short, short), {"einsum_dot_general": lax.dot_general}),
        ((short, short, short), products),
        ((short, short, short), {"force_fp32_for_softmax": True}),
        ((short, short, short), {"einsum_dot_general": lax.dot_general, "dtype": jnp.float32}),
    ]
    results = quick(
        lambda each: [
            [f(*operands, **options) for f in (attend, nn.dot_product_attention)]
            for operands, (_, options) in zip(each, cases, strict=True)
        ]
    )
    for found, expected in results([operands for operands, _ in cases]):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(
            found.astype(jnp.float32), expected.astype(jnp.float32), rtol=0, atol=0.06
        )


def test_complex_numbers() -> None:
    q, bias = (
        lax.complex(normal(seed, *shape), normal(seed + 1, *shape))
        for seed, shape in ((0, (2, 5, 4, 8)), (2, (2, 4, 5, 5)))
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = nn.dot_product_attention(q, q, q, bias)
    np.testing.assert_allclose(attend(q, q, q, bias), expected, rtol=0, atol=1e-5)


@each
def test_all_arguments_reach_the_function(framework: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def recorded(*given: Any, **options: Any) -> jax.Array:
        told.append((given, options))
        return given[1]

    monkeypatch.setattr(_flax, "dot_product_attention", recorded)
    same: dict[str, Any] = {
        "is_causal": True,
        "local_window_size": 3,
        "query_offset": 1,
        "query_seq_lengths": OFFSETS,
        "key_value_seq_lengths": OFFSETS + 1,
        "segment_ids": (SEGMENTS[..., :5], SEGMENTS),
        "deterministic": True,
        "precision": "highest",
        "spec": P("a"),
    }
    options = {**same, "broadcast_dropout": True, "dropout_rng": KEY, "dropout_rate": RATE}
    framework.dot_product_attention(Q, K, V, BIAS, MASK, **options)
    (((key, *_, rate), found),) = told
    assert key is KEY
    assert rate == RATE
    assert found.pop("bias") is BIAS
    np.testing.assert_array_equal(found.pop("mask"), MASK)
    assert found == {**same, "broadcast_dims": (0, 1, 2)}


@each
@pytest.mark.parametrize("sows", [False, True])
def test_bad_input(framework: Any, sows: bool) -> None:
    """By blocks or with weights: messages have Flax's names."""
    module = types.SimpleNamespace(sow=lambda *given: None) if sows else None
    q = normal(0, 2, 5, 4, 8)

    def call(*operands: Any, **options: Any) -> Any:
        given = {"dropout_rng": KEY, "dropout_rate": RATE, "module": module, **options}
        return framework.dot_product_attention(*(operands or (q, q, q)), **given)

    calls: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: call(dropout_rate=1.5), ValueError, "dropout_rate must lie"),
        (lambda: call(dropout_rate=jnp.full(5, 0.1)), ValueError, "one rate"),
        (lambda: call(dropout_rng=None), ValueError, "key is None"),
        (lambda: call(query_offset=1), ValueError, "the 5 queries, at most 0"),
        (lambda: call(segment_ids=jnp.ones((2, 4), int)), ValueError, "an id for each query"),
        (lambda: call(key_value_seq_lengths=3), ValueError, "one length for each example"),
        (lambda: call(q, q[:1], q[:1]), ValueError, "query and key must have the same batch"),
        (lambda: call(broadcast_dropout=1), TypeError, "broadcast_dropout must be True or False"),
        (lambda: call(deterministic=1), TypeError, "deterministic must be True or False"),
        (lambda: call(spec=P(None, None, None, "a")), ValueError, "divides the depth"),
        (lambda: call(bias=jnp.ones((5, 5), int)), TypeError, "bias must be .* int32"),
        (lambda: call(mask=jnp.ones((5, 4))), ValueError, "mask of shape"),
    ]
    for bad, error, message in calls:
        with pytest.raises(error, match=message):
            bad()
    # Nothing is drawn, and a place behind the keys' is none of a weight.
    call(dropout_rng=None, deterministic=True, query_offset=1)
    call(dropout_rng=None, dropout_rate=0.0, query_offset=1)


def test_products_exclude_what_only_others_use() -> None:
    q = normal(0, 2, 5, 4, 8)
    products = {"qk_attn_weights_einsum": jnp.einsum, "attn_weights_value_einsum": jnp.einsum}
    for name in products:
        with pytest.raises(ValueError, match="together"):
            attend(q, q, q, **{name: jnp.einsum})
    for more in ({"precision": "highest"}, {"einsum_dot_general": lax.dot_general}):
        with pytest.raises(ValueError, match="mutually exclusive"):
            attend(q, q, q, **products, **more)
