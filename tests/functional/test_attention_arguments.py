"""The arguments of attention: what a caller is told, and the sizes of the blocks that they make."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import (
    AbstractDevice,
    AbstractMesh,
    AxisType,
    PartitionSpec,
    use_abstract_mesh,
)

from jaxdrop.functional.attention import _block_sizes, _target, dot_product_attention
from tests.catalogue import KEY, RATE
from tests.functional import lowered

P = PartitionSpec


def some(*shape: int) -> jax.Array:
    """A boolean mask."""
    return jax.device_put(np.random.default_rng(3).random(shape) < 0.6)


# -- bad input

X = jnp.ones((2, 5, 4, 8))


def call(**changes: Any) -> Callable[[], jax.Array]:
    arguments = {"key": KEY, "q": X, "k": X, "v": X, "rate": RATE, **changes}
    return lambda: dot_product_attention(**arguments)


def traced(name: str, value: Any) -> Callable[[], Any]:
    return lambda: jax.jit(lambda value: call(**{name: value})())(value)


@pytest.mark.sweep(keep=12)
@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (call(q=X.astype(jnp.int32)), TypeError, ["q", "int32", "floating"]),
        (call(k=[1.0]), TypeError, ["k", "floating", "[1.0]"]),
        (call(key=X, q=KEY), TypeError, ["q", "key<", "key comes first"]),
        (call(key=X[0, 0]), TypeError, ["key", "float32[4, 8]", "Keys come first"]),
        (call(v=X.astype(jnp.bfloat16)), TypeError, ["one dtype", "float32", "bfloat16", "astype"]),
        (call(v=X[:, :3]), ValueError, ["k and v", "(2, 5, 4, 8)", "(2, 3, 4, 8)"]),
        (call(q=X[:1]), ValueError, ["batch", "(1, 5, 4, 8)", "(2, 5, 4, 8)"]),
        (
            call(q=X[0]),
            ValueError,
            ["(batch..., length, heads, depth)", "(5, 4, 8)", "(2, 5, 4, 8)"],
        ),
        (
            call(q=X[..., 0, 0], k=X[..., 0, 0], v=X[..., 0, 0]),
            ValueError,
            ["(batch..., length, heads, depth)", "(2, 5)"],
        ),
        (call(q=X[..., :3]), ValueError, ["depth", "(2, 5, 4, 3)", "(2, 5, 4, 8)"]),
        (call(q=X[:, :, :3]), ValueError, ["3", "multiple", "4", "(2, 5, 3, 8)"]),
        (call(mask=jnp.ones((5, 5))), TypeError, ["mask", "boolean", "float32", "bias"]),
        (
            call(mask=some(2, 5, 5)),
            ValueError,
            ["mask", "(2, 5, 5)", "(2, 4, 5, 5)", "mask[:, None]"],
        ),
        (call(mask=some(4, 5, 5)), ValueError, ["mask", "(4, 5, 5)", "heads", "mask[None]"]),
        (call(bias=jnp.ones((4, 5, 5))), ValueError, ["bias", "(4, 5, 5)", "heads", "bias[None]"]),
        (call(mask=some(2, 5)), ValueError, ["mask", "(2, 5)", "mask[:, None, None, :]"]),
        (call(q=X.astype(jnp.complex64)), TypeError, ["q", "complex64", "floating", "no order"]),
        (call(segment_ids=jnp.ones((2, 5))), TypeError, ["segment_ids", "integers", "float32"]),
        (call(segment_ids=jnp.ones(5, jnp.int32)), ValueError, ["segment_ids", "(2, 5)", "(5,)"]),
        (
            call(segment_ids=(jnp.ones((2, 5), jnp.int32),) * 3),
            ValueError,
            ["segment_ids", "tuple of 3"],
        ),
        (call(segment_ids=[[0] * 5] * 2), TypeError, ["segment_ids", "integers", "[[0, 0"]),
        (
            call(segment_ids=(jnp.ones((2, 5), jnp.int32), jnp.ones((2, 4), jnp.int32))),
            ValueError,
            ["segment_ids", "(2, 5)", "(2, 4)"],
        ),
        (call(query_offset=-1), ValueError, ["query_offset", "at least 0", "-1"]),
        (
            call(query_offset=1),
            ValueError,
            ["query_offset", "5 queries", "at most 0", "got 1", "of its own"],
        ),
        (call(query_offset=2**31, rate=0), ValueError, ["query_offset", "2147483648"]),
        (call(query_offset=jnp.zeros(3, jnp.int32)), ValueError, ["query_offset", "(2,)", "(3,)"]),
        (call(query_offset=0.5), TypeError, ["query_offset", "0.5", "integer"]),
        (call(scale=float("nan")), ValueError, ["scale", "finite", "nan"]),
        (call(scale=jnp.ones(3)), TypeError, ["scale", "number"]),
        (call(mask=some(1, 2, 4, 5, 5)), ValueError, ["mask", "(1, 2, 4, 5, 5)", "(2, 4, 5, 5)"]),
        (call(bias=jnp.ones((5, 5), jnp.int32)), TypeError, ["bias", "int32", "mask"]),
        (call(bias=jnp.ones((5, 4))), ValueError, ["bias", "(5, 4)", "(2, 4, 5, 5)"]),
        (
            call(query_seq_lengths=jnp.ones(2)),
            TypeError,
            ["query_seq_lengths", "integers", "float32"],
        ),
        (
            call(key_value_seq_lengths=jnp.asarray([3])),
            ValueError,
            ["key_value_seq_lengths", "(1,)", "(2,)"],
        ),
        (
            call(query_seq_lengths="34"),
            TypeError,
            ["query_seq_lengths", "array of integers", "'34'"],
        ),
        (call(rate=1.5), ValueError, ["rate", "1.5", "[0, 1]"]),
        (call(rate=True), TypeError, ["rate", "True", "real number"]),
        (call(rate=jnp.full(5, 0.1)), ValueError, ["one rate", "(5,)"]),
        (traced("rate", jnp.full(5, 0.1)), ValueError, ["one rate", "(5,)"]),
        (
            call(key=None),
            ValueError,
            ["dot_product_attention", "key is None", "deterministic=True"],
        ),
        (call(key=jax.random.split(KEY, 3)), ValueError, ["single key", "(3,)", "jax.vmap"]),
        (
            call(key=jax.random.key(0, impl="rbg")),
            NotImplementedError,
            ["rbg", "whole arrays only", "fast(key)"],
        ),
        (call(block_sizes=8), TypeError, ["block_sizes", "(queries, keys)", "8"]),
        (call(block_sizes=(8, 8, 8)), TypeError, ["block_sizes", "(queries, keys)", "(8, 8, 8)"]),
        (call(block_sizes=(8, 0)), ValueError, ["block_sizes", "positive", "(8, 0)"]),
        (call(block_sizes=(0, 8)), ValueError, ["block_sizes", "positive", "(0, 8)"]),
        (call(block_sizes=(8, 2.5)), TypeError, ["block_sizes", "(queries, keys)", "2.5"]),
        (call(local_window_size=-1), ValueError, ["local_window_size", "negative", "-1"]),
        (call(local_window_size=(1, -2)), ValueError, ["local_window_size", "negative", "-2"]),
        (call(local_window_size=(-2, 1)), ValueError, ["local_window_size", "negative", "-2"]),
        (
            call(local_window_size=(1, 2, 3)),
            ValueError,
            ["local_window_size", "(1, 2, 3)", "(before, after)"],
        ),
        (call(local_window_size=1.5), TypeError, ["local_window_size", "one number or", "1.5"]),
        (call(is_causal=1), TypeError, ["is_causal", "True or False", "1"]),
        (
            traced("scale", 0.5),
            TypeError,
            ["scale", "known when the function is traced", "multiply q"],
        ),
        (traced("deterministic", True), TypeError, ["deterministic", "static_argnames"]),
        (call(broadcast_dims=(4,)), ValueError, ["broadcast_dims", "4 axes"]),
        (call(spec=P(None, None, None, "i")), ValueError, ["spec", "depth", "'i'"]),
        (call(spec=P(*[None] * 5)), ValueError, ["spec", "5 axes", "4"]),
        (call(spec=P("i")), ValueError, ["spec names", "'i'", "not a mapped axis"]),
    ],
)
def test_bad_input(bad: Callable[[], Any], error: type[Exception], says: list[str]) -> None:
    with pytest.raises(error) as caught:
        bad()
    for words in says:
        assert words in str(caught.value)


# -- arguments at their limits


def test_a_window_beyond_all_keys_hides_none() -> None:
    """However large: as a 32-bit position it would overflow."""
    q, k = (jax.random.normal(jax.random.key(seed), (70, 1, 4)) for seed in range(2))
    expected, found = (
        dot_product_attention(None, q, k, k, local_window_size=window) for window in (None, 2**40)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_products_have_the_precision_that_is_given_and_are_summed_in_float32() -> None:
    """Those of gradients too."""
    lowered.check_products(KEY, None)


def test_a_negative_scale_turns_the_order_of_the_keys() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 8))
    found, expected = (
        dot_product_attention(None, q, x, x, scale=scale) for q, scale in ((x, -0.5), (-x, 0.5))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_segments_of_64_bits_differ_in_any_of_them() -> None:
    with jax.enable_x64(True):
        ids = jnp.arange(3) * 2**32
        v = jax.random.normal(jax.random.key(0), (3, 1, 4), jnp.float32)
        np.testing.assert_array_equal(dot_product_attention(None, v, v, v, segment_ids=ids), v)
        narrow = ids // 2**32
        pair = narrow.astype(jnp.int8), narrow
        np.testing.assert_array_equal(dot_product_attention(None, v, v, v, segment_ids=pair), v)


# -- blocks


def test_blocks_are_chosen_for_what_a_part_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def parts(*of: Any) -> tuple[int, ...]:
        asked.append(of)
        return 2, 1

    def block_sizes(given: Any, lengths: Any, together: Any, heads: int) -> tuple[int, int]:
        asked.append((given, lengths, tuple(together), heads))
        return 8, 8

    monkeypatch.setattr(_block_sizes, "parts", parts)
    monkeypatch.setattr(_block_sizes, "block_sizes", block_sizes)
    q, k = (jax.ShapeDtypeStruct((2, *shape, 8), jnp.float32) for shape in ((17, 6), (23, 3)))
    jax.eval_shape(lambda q, k: dot_product_attention(KEY, q, k, k, RATE), q, k)
    assert asked == [((17, 23), (2, 3), 2), (None, (17, 23), (1, 3), 2)]


def test_given_blocks_are_no_longer_than_the_arrays() -> None:
    (length,) = jax.export.symbolic_shape("length")
    for lengths, expected in (((5, 100), (5, 8)), ((1, 0), (1, 1)), ((length, 3), (8, 3))):
        assert _block_sizes.block_sizes((8, 8), lengths, (2, 2), 1) == expected


def on_one(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)


def check_sizes(
    groups: tuple[int, ...], heads: int, lengths: tuple[int, int], most: tuple[int, int]
) -> None:
    """A block has at most so many queries and keys, and more than half as many."""
    sizes = _block_sizes.block_sizes(None, lengths, groups, heads)
    for size, limit, length in zip(sizes, most, lengths, strict=True):
        assert limit / 2 < size <= limit
        assert size == limit or length % limit


def test_a_loop_over_parts_needs_known_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    on_one(monkeypatch, "cpu")
    (batch,) = jax.export.symbolic_shape("batch")
    assert _block_sizes.parts((8192, 8192), (8, 32), 1) != (1, 1)
    assert _block_sizes.parts((8192, 8192), (batch, 32), 1) == (1, 1)


@pytest.mark.parametrize(
    ("groups", "heads", "lengths", "most"),
    [
        ((1, 1), 1, (4 * 1025, 8 * 513), (1024, 512)),
        ((64, 64), 4, (8 * 65, 4 * 129), (64, 128)),  # no smaller
        ((64, 64), 4, (256, 4 * 129), (256, 128)),  # short: one block
        ((64, 64), 4, (257, 4 * 129), (64, 128)),
        ((4, 4), 1, (1, 4096), (1, 512)),  # few queries leave room for more keys
        ((8, 1), 1, (8192, 8192), (512, 256)),  # of queries twice as many
        ((8, 1), 4, (8192, 8192), (128, 256)),
    ],
)
def test_the_sizes_of_blocks_on_a_cpu(
    groups: tuple[int, ...],
    heads: int,
    lengths: tuple[int, int],
    most: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_one(monkeypatch, "cpu")
    check_sizes(groups, heads, lengths, most)


@pytest.mark.parametrize(
    ("groups", "heads", "lengths", "most"),
    [
        ((1, 1), 1, (4 * 2049, 8 * 1025), (2048, 1024)),
        ((4, 8), 2, (8192, 8192), (512, 1024)),  # of 128 MiB
        ((16, 12), 4, (2 * 257, 8192), (256, 1024)),  # no smaller
        ((0, 1), 1, (8, 8), (8, 8)),
    ],
)
def test_elsewhere_a_block_is_work_for_all_of_the_device(
    groups: tuple[int, ...],
    heads: int,
    lengths: tuple[int, int],
    most: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_one(monkeypatch, "gpu")
    assert _block_sizes.parts(lengths, groups, heads) == (1, 1)
    check_sizes(groups, heads, lengths, most)


@pytest.mark.parametrize(
    ("batch", "length", "groups", "heads", "parts"),
    [
        (1, 8192, 1, 1, (1, 1)),
        (1, 8192, 8, 1, (1, 1)),
        (2, 8192, 32, 1, (2, 4)),
        (2, 8192, 8, 4, (2, 1)),
        (16, 197, 12, 1, (8, 1)),
        (64, 64, 8, 1, (1, 1)),  # few scores
        (0, 64, 8, 1, (1, 1)),
        (8, 0, 8, 1, (1, 1)),
    ],
)
def test_the_scores_of_a_block_fit_into_a_cache(
    batch: int,
    length: int,
    groups: int,
    heads: int,
    parts: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They take 4 MiB, or 16 MiB where that is all of them."""
    lengths = length, length
    assert _block_sizes.parts(lengths, (batch, groups), heads) == (1, 1)  # on eight devices
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert _block_sizes.parts(lengths, (batch, groups), heads) == parts
    together = batch // parts[0], groups // parts[1]
    queries, keys = _block_sizes.block_sizes(None, lengths, together, heads)
    scores = math.prod(together) * heads * queries * keys
    assert 4 * scores <= (2**22 if parts != (1, 1) or length > 256 else 2**24)
    assert length < 8192 or 4 * scores >= 2**21


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("keys", [77, 513, 1030, 4096, 5000])
def test_blocks_fill_the_keys_with_little_left_over(keys: int) -> None:
    _, size = _block_sizes.block_sizes(None, (64, keys), (16, 12), 1)
    assert size <= 512
    assert -keys % size < 8 * -(-keys // size)


@pytest.mark.parametrize(
    ("batch", "length", "mesh", "blocks"),
    [
        (16, 1024, (1,), (256, 256)),
        (8, 2048, (1,), (256, 512)),
        (4, 4096, (1,), (512, 512)),
        (2, 1024, (1,), (512, 1024)),
        (1, 8192, (1,), (1024, 1024)),
        (128, 2048, (1,), (256, 256)),  # no smaller
        (64, 32768, (64, 4), (2048, 1024)),  # no larger
        (8, 2048, (2, 2), (512, 1024)),  # of each device: 2 x 16 heads
        (8, 197, (1,), (197, 197)),
    ],
)
def test_blocks_are_those_of_the_devices_of_the_mesh(
    batch: int, length: int, mesh: tuple[int, ...], blocks: tuple[int, int]
) -> None:
    """A program that is compiled ahead of time, on a CPU for TPUs, has the blocks of a TPU: 64 MiB
    of scores on each device.
    """
    device = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    names = ("data", "tensor")[: len(mesh)]
    with use_abstract_mesh(AbstractMesh(mesh, names, abstract_device=device)):
        assert _block_sizes.block_sizes(None, (length, length), (batch, 8), 2) == blocks


def test_along_an_axis_of_shard_map_each_device_has_its_own_heads() -> None:
    found = []

    def local(x: jax.Array) -> jax.Array:
        found.append(_target.devices())
        return x

    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    assert _target.devices() == 1
    with jax.set_mesh(mesh):
        found.append(_target.devices())
        divided = jax.shard_map(local, in_specs=P("a"), out_specs=P("a"), axis_names={"a"})
        jax.eval_shape(divided, jnp.ones(4))
    assert found == [8, 2]
