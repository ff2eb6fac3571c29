"""Attention by blocks against the dense formula in float64 with the mask of `dropout`, JAX's own
attention, and Flax's.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdrop
from jaxdrop import masks, random
from jaxdrop.functional.attention import _block_sizes, dot_product_attention
from tests import statistics
from tests.catalogue import KEY, KEYS, RATE
from tests.compilation import quick

P = PartitionSpec
Tree = Any


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def some(*shape: int) -> jax.Array:
    """A boolean mask."""
    return jax.device_put(np.random.default_rng(3).random(shape) < 0.6)


def cast(arrays: Tree, dtype: Any) -> Tree:
    """By NumPy, for which nothing is compiled."""
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x).astype(dtype)), arrays)


@dataclasses.dataclass(frozen=True)
class Case:
    """Operands, and the options that go with them. Most lengths are no multiples of the blocks'."""

    batch: tuple[int, ...] = (2,)
    queries: int = 17
    keys: int = 23
    heads: int = 4
    groups: int = 2
    depth: int = 8
    value_depth: int = 6
    block_sizes: tuple[int, int] | None = (8, 8)
    parts: tuple[int, ...] | None = None
    bias: jax.Array | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def weights(self) -> tuple[int, ...]:
        return *self.batch, self.heads, self.queries, self.keys

    def operands(self, dtype: Any = jnp.float32) -> tuple[jax.Array | None, ...]:
        """q, k, v and the bias."""
        q = normal(0, *self.batch, self.queries, self.heads, self.depth)
        k = normal(1, *self.batch, self.keys, self.groups, self.depth)
        v = normal(2, *self.batch, self.keys, self.groups, self.value_depth)
        return cast((q, k, v, self.bias), dtype)

    def at(self, key: jax.Array | None, rate: Any = RATE, **more: Any) -> Callable[..., jax.Array]:
        """The function of the operands alone."""
        options = {"block_sizes": self.block_sizes, **self.options, **more}
        return lambda q, k, v, bias=None: dot_product_attention(
            key, q, k, v, rate, bias=bias, **options
        )

    def sight(self) -> np.ndarray:
        """Which query sees which key, of the shape of the weights."""
        index, column = np.arange(self.queries)[:, None], np.arange(self.keys)
        seen = np.ones(self.weights, bool)
        row = index + self.offset()
        if "mask" in self.options:
            seen &= np.asarray(self.options["mask"])
        if self.options.get("is_causal"):
            seen &= column <= row
        if "local_window_size" in self.options:
            before, after = np.broadcast_to(self.options["local_window_size"], 2)
            seen &= (row - before <= column) & (column <= row + after)
        for name, place in (("query_seq_lengths", index), ("key_value_seq_lengths", column)):
            if name in self.options:
                seen &= place < np.reshape(np.asarray(self.options[name]), (*self.batch, 1, 1, 1))
        if "segment_ids" in self.options:
            given = self.options["segment_ids"]
            queries, keys = map(np.asarray, given if isinstance(given, tuple) else (given, given))
            seen &= (queries[..., :, None] == keys[..., None, :])[..., None, :, :]
        return seen

    def offset(self) -> np.ndarray:
        """The position of the first query, with the axes of the weights."""
        return np.reshape(
            np.asarray(self.options.get("query_offset", 0)), (-1, 1, 1, 1) if self.batch else ()
        )

    def drawn(self, key: jax.Array, rate: float = RATE) -> np.ndarray:
        """What dropout makes of weights of 1."""
        shared, queries = self.options.get("broadcast_dims", ()), np.arange(self.queries)[:, None]
        whole = self.weights
        if "query_offset" in self.options:  # of as many queries as keys
            whole, queries = (*whole[:-2], self.keys, self.keys), queries + self.offset()
        kept = np.asarray(jaxdrop.dropout(key, jnp.ones(whole), rate, broadcast_dims=shared)) > 0
        kept = np.take_along_axis(kept, np.broadcast_to(queries, (*self.weights[:-1], 1)), -2)
        return kept / max(1 - rate, 1e-9)


# -- the dense formula


def dense(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    seen: Any,
    drawn: Any,
    scale: Any,
) -> jax.Array:
    k, v = (jnp.repeat(x, q.shape[-2] // k.shape[-2], axis=-2) for x in (k, v))
    s = jnp.einsum("...qhd,...khd->...hqk", q, k) * scale
    if bias is not None:
        s += jnp.broadcast_to(bias, s.shape)
    s = jnp.where(seen, s, -jnp.inf)
    sees = jnp.isfinite(s).any(-1, keepdims=True)
    p = jnp.where(sees, jax.nn.softmax(jnp.where(sees, s, 0)), 0)
    return jnp.einsum("...hqk,...khd->...qhd", p * drawn, v)


def derivatives(f: Callable[..., jax.Array], operands: Tree) -> dict[str, Tree]:
    """The value, the operands' cotangents for its cosine, and its tangent along their sines (finite
    where a bias is not).
    """
    value, pull = jax.vjp(f, *operands)
    tangents = jax.tree.map(lambda x: jnp.sin(jnp.maximum(x, -9)), operands)
    return {
        "value": value,
        "cotangents": pull(jnp.cos(value)),
        "tangent": jax.jvp(f, operands, tangents)[1],
    }


@quick
def dense_derivatives(operands: Tree, constants: Tree) -> dict[str, Tree]:
    return derivatives(lambda *operands: dense(*operands, *constants), operands)


def expected(case: Case, operands: Tree, drawn: np.ndarray) -> dict[str, Tree]:
    """In float64, of operands of any dtype."""
    with jax.enable_x64(True):
        operands = cast(operands, np.float64)
        scale = case.options.get("scale", case.depth**-0.5)
        return jax.tree.map(np.asarray, dense_derivatives(operands, (case.sight(), drawn, scale)))


def assert_rounding(found: Tree, expected: Tree, epsilon: float) -> None:
    """Errors are within `epsilon` times the largest number of an array, or 1."""
    jax.tree.map(
        lambda mine, value: np.testing.assert_allclose(
            np.asarray(mine, np.float64), value, rtol=0, atol=epsilon * max(1, np.abs(value).max())
        ),
        found,
        expected,
    )


MINUS_INFINITY = jnp.where(some(1, 1, 1, 23), normal(4, 1, 1, 1, 23), -jnp.inf)
CASES = {
    "no options": Case(),
    "causal": Case(
        queries=23, groups=4, value_depth=8, block_sizes=(5, 7), options={"is_causal": True}
    ),
    "causal, more queries": Case(
        queries=23,
        keys=13,
        groups=1,
        parts=(2, 1),
        bias=normal(4, 1, 4, 23, 13),
        options={"is_causal": True, "broadcast_dims": (0,)},
    ),
    "causal, more keys": Case(batch=(), heads=2, options={"is_causal": True, "scale": 0.5}),
    "window": Case(parts=(2, 2), options={"local_window_size": 4, "mask": some(2, 1, 1, 23)}),
    "window before and after": Case(
        parts=(1, 2),
        bias=MINUS_INFINITY,
        options={"local_window_size": (6, 3), "broadcast_dims": (-1,)},
    ),
    "causal window, two batch axes": Case(
        batch=(2, 3),
        heads=2,
        groups=1,
        queries=32,
        keys=13,
        parts=(1, 3, 1),
        bias=normal(4, 1, 3, 1, 1, 13),
        options={
            "is_causal": True,
            "local_window_size": (9, 5),
            "broadcast_dims": (0, 1),
            "query_seq_lengths": jnp.asarray([[32, 20, 1], [0, 32, 9]]),
            "key_value_seq_lengths": jnp.asarray([[13, 9, 2], [5, 0, 13]]),
        },
    ),
    "mask of all": Case(
        block_sizes=(16, 4),
        parts=(2, 2),
        bias=normal(4, 1, 4, 1, 23),
        options={"mask": some(2, 4, 17, 23).at[:, 1:3, 5].set(False)},
    ),
    "lengths": Case(
        parts=(2, 1),
        options={
            "is_causal": True,
            "query_seq_lengths": jnp.asarray([11, 17]),
            "key_value_seq_lengths": jnp.asarray([0, 9]),
        },
    ),
    "packed": Case(
        queries=23,
        block_sizes=(5, 7),
        parts=(2, 2),
        options={"is_causal": True, "segment_ids": jnp.asarray([[0] * 11 + [1] * 12, [3] * 23])},
    ),
    "segments that jump": Case(
        block_sizes=(4, 6),
        options={
            "segment_ids": (
                jnp.asarray([[7, 7, 2] * 5 + [9, 9], [0] * 17]),
                jnp.asarray([[2] * 9 + [7] * 13 + [1], [0] * 23], jnp.int16),
            )
        },
    ),
    "an offset": Case(
        queries=5,
        block_sizes=(2, 4),
        options={"is_causal": True, "local_window_size": (6, 0), "query_offset": 14},
    ),
    "offsets": Case(
        queries=6,
        bias=normal(4, 1, 4, 1, 23),
        block_sizes=(4, 4),
        parts=(2, 1),
        options={
            "local_window_size": (5, 1),
            "query_offset": jnp.asarray([0, 17]),
            "broadcast_dims": (1,),
        },
    ),
    "one query": Case(queries=1, bias=normal(4, 1, 1, 1, 23), options={"mask": some(23)}),
    "one block": Case(
        block_sizes=None,
        parts=(2, 2),
        bias=normal(4, 1, 4, 1, 23),
        options={"mask": some(1, 1, 17, 23), "local_window_size": (10, 8)},
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.mark.sweep(keep=5)
@each_case
def test_values_and_derivatives_are_those_of_the_dense_formula(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.parts:
        monkeypatch.setattr(_block_sizes, "parts", lambda *_: case.parts)
    operands = case.operands()
    found = quick(functools.partial(derivatives, case.at(KEY)))(operands)
    assert_rounding(found, expected(case, operands, case.drawn(KEY)), 2e-6)
    blind = ~(case.sight() & (case.bias is None or np.isfinite(case.bias))).any(-1).swapaxes(-1, -2)
    assert not np.asarray(found["value"])[blind].any()
    assert not np.asarray(found["cotangents"][0])[blind].any()


# -- the mask


def uniform(case: Case) -> tuple[jax.Array, ...]:
    """Operands for which each query sees all keys alike, and its output is its row of the mask,
    scaled.
    """
    v = jnp.broadcast_to(
        jnp.eye(case.keys)[:, None, :], (*case.batch, case.keys, case.groups, case.keys)
    )
    q, k, _, _ = case.operands()
    return 0 * q, k, v


def dropped(output: jax.Array) -> np.ndarray:
    """Of what `uniform` gives: which weights are dropped, of the shape of the weights."""
    return np.asarray(output).swapaxes(-3, -2) == 0


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("block_sizes", [(8, 8), (5, 7), None], ids=str)
def test_weights_are_dropped_as_by_dropout(
    block_sizes: tuple[int, int] | None, key: jax.Array
) -> None:
    case = Case(block_sizes=block_sizes)
    found = dropped(case.at(key)(*uniform(case)))
    np.testing.assert_array_equal(found, case.drawn(key) == 0)
    assert 0 < found.mean() < 1


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("dims", [(1,), (2,), (0, 1, 2, 3)], ids=str)
def test_shared_masks_are_those_of_dropout(dims: tuple[int, ...]) -> None:
    case = Case(options={"broadcast_dims": dims})
    np.testing.assert_array_equal(dropped(case.at(KEY)(*uniform(case))), case.drawn(KEY) == 0)


def test_masks_of_more_than_2_32_weights_do_not_repeat() -> None:
    """Each of 70,000 queries sees itself alone, so that the output is the mask's diagonal."""
    length = 70_000
    case = Case((), length, length, 1, 1, 1, 1, (512, 512), options={"local_window_size": 0})
    q = jnp.ones((length, 1, 1))
    place = jnp.arange(length)
    bits = random.bits_at(KEY, (jnp.zeros(1, jnp.uint32), place, place), case.weights)
    expected = masks.below(bits, masks.distribution(0.5).threshold)
    np.testing.assert_array_equal(
        case.at(KEY, 0.5)(q, q, q)[:, 0, 0], 2 * np.asarray(expected, np.float32)
    )


@pytest.mark.sweep
def test_law() -> None:
    """Weights have the softmax as their mean, and no two, of one head or of two, fall together more
    often than others.

    Ideal masks fail with a probability of 2e-6.
    """
    samples = 2**13
    case = Case(batch=(), queries=4, keys=8, heads=2, groups=2, block_sizes=(4, 4))
    q, k, v = uniform(case)
    q = case.operands()[0]
    keys = jax.random.split(KEY, samples)
    together = jax.jit(jax.vmap(lambda key: case.at(key)(q, k, v)))(keys)
    weights = np.asarray(dot_product_attention(None, q, k, v), np.float64)
    spread = weights * np.sqrt(RATE / (1 - RATE))
    z = ((np.asarray(together) - weights) / spread).reshape(samples, -1)
    assert statistics.normal(z.sum(0) / np.sqrt(samples)) > 1e-6
    pairs = (z.T @ z)[np.triu_indices(z.shape[1], 1)] / np.sqrt(samples)
    assert statistics.normal(pairs) > 1e-6


# -- dtypes


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    ("dtype", "epsilon"),
    [
        ("bfloat16", 2.0**-8),
        ("float16", 2.0**-11),
        ("float64", 1e-15),
    ],
)
def test_dtypes_are_kept_and_right_to_a_few_of_their_units(dtype: str, epsilon: float) -> None:
    """Against float64 with the same rounded operands."""
    case = Case(bias=normal(4, 1, 23))
    with jax.enable_x64(dtype == "float64"):
        operands = case.operands(dtype)
        found = quick(functools.partial(derivatives, case.at(KEY)))(operands)
        chex.assert_trees_all_equal_dtypes(found["cotangents"], operands)
        assert found["value"].dtype == dtype
    assert_rounding(found, expected(case, operands, case.drawn(KEY)), 4 * epsilon)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_are_summed_in_float32(dtype: str) -> None:
    """A sum of ones in bfloat16 comes to 256, in float16 to 2048."""
    case = Case((), 1, 4096, 1, 1, 1, 1, (1, 256))
    q, k = jnp.zeros((1, 1, 1), dtype), jnp.zeros((4096, 1, 1), dtype)
    y = case.at(KEY)(q, k, jnp.ones_like(k))
    np.testing.assert_array_equal(y.squeeze(), jnp.asarray(case.drawn(KEY).mean(), dtype))


# -- rates


def test_evaluation_is_that_of_jax() -> None:
    case = Case(
        queries=23,
        value_depth=8,
        bias=normal(4, 1, 4, 1, 23),
        options={
            "is_causal": True,
            "local_window_size": (9, 4),
            "mask": some(2, 1, 23, 23) | jnp.eye(23, dtype=bool)[None, None],
            "scale": 0.7,
        },
    )
    *operands, bias = case.operands()
    with jax.numpy_rank_promotion("allow"):
        oracle = jax.jit(functools.partial(jax.nn.dot_product_attention, **case.options))(
            *operands, bias=bias
        )
    for f in (case.at(None, 0), case.at(None, deterministic=True)):
        np.testing.assert_allclose(f(*operands, bias), oracle, rtol=0, atol=2e-6)


@pytest.mark.sweep
def test_rows_of_the_lowest_bias_weigh_all_keys_alike() -> None:
    """As padding is often masked. The gradients are those of JAX too."""
    case = Case(
        groups=4,
        value_depth=8,
        bias=jnp.zeros((1, 1, 17, 23)).at[:, :, 3].set(jnp.finfo(jnp.float32).min),
    )
    operands = case.operands()
    with jax.numpy_rank_promotion("allow"):
        oracle = quick(functools.partial(derivatives, jax.nn.dot_product_attention))(operands)
    found = quick(functools.partial(derivatives, case.at(None, 0)))(operands)
    assert_rounding(found, jax.tree.map(np.asarray, oracle), 4e-6)


def test_evaluation_draws_nothing() -> None:
    case = Case()
    operands = case.operands()
    program = str(jax.make_jaxpr(case.at(None, 0))(*operands))
    assert program == str(jax.make_jaxpr(case.at(KEY, deterministic=True))(*operands))
    assert "shift_right" in str(jax.make_jaxpr(case.at(KEY))(*operands))
    assert "shift_right" not in program


def test_traced_rates_trace_once_and_draw_the_mask_of_known_ones() -> None:
    """With rate 1 among them: zeros, and finite zero gradients. The rate itself gets no
    gradient.
    """
    case = Case()
    *operands, _ = case.operands()

    @quick
    @chex.assert_max_traces(n=1)
    def traced(operands: Tree) -> dict[str, Tree]:
        return derivatives(lambda rate, q, k, v: case.at(KEY, rate)(q, k, v), operands)

    chex.clear_trace_counter()
    for rate in (0.0, RATE, 1.0):
        found = traced((jnp.float32(rate), *operands))
        known = expected(case, (*operands, None), case.drawn(KEY, rate))
        (moved, *cotangents), known["cotangents"] = found["cotangents"], known["cotangents"][:3]
        assert moved == 0
        if rate == 1:
            assert not any(
                jnp.any(x) for x in jax.tree.leaves((found["value"], cotangents, found["tangent"]))
            )
        assert_rounding({**found, "cotangents": tuple(cotangents)}, known, 2e-6)


def test_known_rate_one_gives_zeros_without_a_key() -> None:
    case = Case()
    operands = case.operands()
    found = quick(functools.partial(derivatives, case.at(None, 1)))(operands)
    assert not any(np.any(x) for x in jax.tree.leaves(found))
    chex.assert_trees_all_equal_shapes_and_dtypes(found["cotangents"], operands)


def test_vmap_over_rates() -> None:
    case = Case()
    operands, rates = uniform(case), jnp.asarray([0, 0.1, 0.6])
    together = jax.vmap(lambda rate: case.at(KEY, rate)(*operands))(rates)
    for rate, y in zip(rates.tolist(), together, strict=True):
        np.testing.assert_allclose(y.swapaxes(-3, -2), case.drawn(KEY, rate) / case.keys, rtol=2e-6)


# -- packed sequences, decoding, padding


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize(
    ("options", "looking"),
    [
        ({"segment_ids": np.arange(64) // 4}, [4]),  # of 64 bits
        ({"is_causal": True}, [4, 5, 6, 7]),
        ({"local_window_size": (4, 4)}, [3, 4, 5]),
        ({"is_causal": True, "local_window_size": (12, 0)}, [4, 5, 6]),
    ],
    ids=["segments", "causal", "window", "causal window"],
)
@pytest.mark.parametrize("what", ["value", "tangent", "cotangent"])
def test_blocks_out_of_sight_are_skipped(
    options: dict[str, Any], looking: list[int], what: str
) -> None:
    """Eight blocks of eight queries and keys; block 4 of the values is NaN. Who looks at it gets
    NaN, since 0 times NaN is NaN: some query of a block suffices.
    """
    x = jnp.ones((64, 1, 1))
    poisoned = x.at[32:40].set(jnp.nan)
    f = jax.jit(Case((), 64, 64, 1, 1, 1, 1, (8, 8), options=options).at(None, 0))
    if what == "value":
        found = f(x, x, poisoned)
    elif what == "tangent":
        found = jax.jvp(f, (x, x, x), (x, x, poisoned))[1]
    else:
        found = jax.vjp(lambda q: f(q, x, poisoned), x)[1](x)[0]
    sick = np.isnan(found).reshape(8, 8).any(-1)
    np.testing.assert_array_equal(np.flatnonzero(sick), looking)


def test_decoding_with_a_cache_drops_what_one_pass_does() -> None:
    """One query at a time, each example at a place of its own, from a cache that holds NaN beyond
    it.
    """
    whole = Case(queries=23, options={"is_causal": True})
    q, k, v, _ = whole.operands()
    expected = whole.at(KEY)(q, k, v)

    @jax.jit
    def step(place: jax.Array) -> jax.Array:
        seen = jnp.arange(23)[None, :, None, None] <= place[:, None, None, None]
        cache = (jnp.where(seen, x, jnp.nan) for x in (k, v))
        one = jnp.take_along_axis(q, place[:, None, None, None], 1)
        return dot_product_attention(
            KEY,
            one,
            *cache,
            RATE,
            is_causal=True,
            query_offset=place,
            key_value_seq_lengths=place + 1,
        )

    for place in (jnp.asarray([0, 22]), jnp.asarray([7, 3])):
        found = step(place)[:, 0]
        np.testing.assert_allclose(found, expected[jnp.arange(2), place], rtol=0, atol=2e-6)


def test_padding_has_no_influence_even_if_it_is_nan() -> None:
    case = Case(
        options={
            "query_seq_lengths": jnp.asarray([11, 17]),
            "key_value_seq_lengths": jnp.asarray([0, 9]),
        }
    )
    q, k, v, _ = case.operands()
    poisoned = q.at[0, 11:].set(jnp.nan), k.at[1, 9:].set(jnp.inf), v.at[0].set(jnp.nan)
    both = quick(functools.partial(derivatives, case.at(KEY)))
    found, clean = both(poisoned), both((q, k, v))
    for name in ("value", "cotangents"):
        jax.tree.map(np.testing.assert_array_equal, found[name], clean[name])


def test_symbolic_dimensions_export_by_blocks() -> None:
    b, t = jax.export.symbolic_shape("b, t")
    fn = jax.jit(
        jax.grad(lambda q: (dot_product_attention(None, q, q, q, is_causal=True) ** 2).sum())
    )
    for shape in ((b, 600, 1, 4), (b, t, 1, 4)):
        out = jax.export.export(fn)(jax.ShapeDtypeStruct(shape, jnp.float32))
        assert "600x600x" not in out.mlir_module()
        assert "x?x?x" not in out.mlir_module().replace("x1x", "x")
        q = normal(0, 2, 600, 1, 4)
        np.testing.assert_allclose(out.call(q), fn(q), rtol=0, atol=2e-5)


# -- Flax


@pytest.mark.usefixtures("relaxed")
@pytest.mark.parametrize("shared", [False, True])
def test_values_are_those_of_flax_from_the_same_key(shared: bool) -> None:
    case = Case(groups=4, options={"broadcast_dims": range(2) if shared else ()})
    *operands, _ = case.operands()
    key, bias, mask = KEYS["threefry"], normal(4, 1, 4, 17, 23), some(2, 1, 17, 23)

    def flax(*operands: jax.Array) -> jax.Array:
        return nn.dot_product_attention(
            *operands,
            bias,
            mask,
            broadcast_dropout=shared,
            dropout_rng=key,
            dropout_rate=RATE,
            deterministic=False,
        )

    np.testing.assert_allclose(
        case.at(key, mask=mask)(*operands, bias), jax.jit(flax)(*operands), rtol=0, atol=2e-6
    )


# -- transformations


def test_jit_equals_eager() -> None:
    case = Case()
    operands = case.operands()[:3]
    np.testing.assert_array_equal(
        jax.jit(case.at(KEY))(*operands), case.at(KEY)(*map(np.asarray, operands))
    )


def test_vmap_over_keys_draws_the_masks_of_a_loop() -> None:
    case = Case()
    operands, keys = uniform(case), jax.random.split(KEY, 5)
    together = jax.vmap(lambda key: case.at(key)(*operands))(keys)
    for key, y in zip(keys, together, strict=True):
        np.testing.assert_array_equal(dropped(y), case.drawn(key) == 0)


def test_scan_and_remat_equal_a_loop() -> None:
    case = Case(queries=23, groups=4, value_depth=8, options={"is_causal": True})
    x, keys = 0.3 * case.operands()[0], jax.random.split(KEY, 3)

    def scan(x: jax.Array) -> jax.Array:
        layer = jax.checkpoint(lambda x, key: x + case.at(key)(x, x, x))
        return lax.scan(lambda carry, key: (layer(carry, key), None), x, keys)[0]

    def loop(x: jax.Array, seen: jax.Array, drawn: jax.Array) -> jax.Array:
        for mask in drawn:
            x += dense(x, x, x, None, seen, mask, case.depth**-0.5)
        return x

    found = quick(functools.partial(derivatives, scan))((x,))
    with jax.enable_x64(True):
        constants = case.sight(), np.stack([case.drawn(key) for key in keys])
        known = quick(lambda x: derivatives(lambda x: loop(x, *constants), (x,)))(
            x.astype(jnp.float64)
        )
    assert_rounding(found, jax.tree.map(np.asarray, known), 4e-6)


def test_second_derivatives() -> None:
    """Of a product of a Hessian and a vector, forward over reverse."""
    case = Case(batch=(), queries=9, keys=13, heads=2, groups=1, options={"is_causal": True})
    operands = case.operands()[:3]

    def product(f: Callable[..., jax.Array], *operands: jax.Array) -> Tree:
        gradient = jax.grad(lambda operands: jnp.sin(f(*operands)).sum())
        return jax.jvp(gradient, (operands,), (tuple(map(jnp.cos, operands)),))[1]

    found = quick(functools.partial(product, case.at(KEY)))(*operands)
    with jax.enable_x64(True):
        constants = None, case.sight(), case.drawn(KEY), case.depth**-0.5
        wide = [x.astype(jnp.float64) for x in operands]
        known = quick(functools.partial(product, lambda *operands: dense(*operands, *constants)))(
            *wide
        )
    assert_rounding(found, jax.tree.map(np.asarray, known), 4e-6)


@pytest.mark.sweep
@pytest.mark.usefixtures("frozen_heap")
def test_no_tracer_leaks_and_profiles_show_its_name() -> None:
    case = Case(options={"is_causal": True})
    operands = case.operands()[:3]
    gradient = jax.grad(lambda q, key, rate: case.at(key, rate)(q, *operands[1:]).sum())
    with jax.checking_leaks():
        lowered = jax.jit(jax.vmap(gradient, in_axes=(None, 0, None))).lower(
            operands[0], jax.random.split(KEY, 3), RATE
        )
    assert "jaxdrop.dot_product_attention" in lowered.as_text(debug_info=True)


# -- what it costs

NAMED = jax.checkpoint_policies.save_only_these_names("jaxdrop.dot_product_attention")


@pytest.mark.parametrize("length", [32, 64])
@pytest.mark.parametrize("named", [False, True])
def test_what_is_stored_grows_with_the_length(length: int, named: bool) -> None:
    """q, k, v, the output, two numbers a query, and single ones: the key among them. A checkpoint
    that keeps what has the name of attention stores the same.
    """
    case = Case(queries=length, keys=length, options={"is_causal": True})
    operands = case.operands()[:3]

    def run(key: jax.Array, *operands: jax.Array) -> Any:
        f = case.at(key)
        return jax.vjp(jax.checkpoint(f, policy=NAMED) if named else f, *operands)[1]

    pull = jax.eval_shape(run, KEY, *operands)
    sizes = collections.Counter(leaf.size for leaf in jax.tree.leaves(pull) if leaf.size > 1)
    queries = 2 * length * 4
    assert sizes == collections.Counter(
        [*(x.size for x in operands), queries * 6, queries, queries]
    )


def test_a_checkpoint_that_keeps_the_results_does_not_compute_them_again() -> None:
    def products(wrap: Callable[..., Any]) -> int:
        f = wrap(Case(block_sizes=(32, 32)).at(KEY))
        gradient = jax.grad(lambda *operands: f(*operands).sum(), argnums=(0, 1, 2))
        return str(jax.make_jaxpr(gradient)(*Case().operands()[:3])).count("dot_general[")

    keeping = functools.partial(jax.checkpoint, policy=NAMED)
    alone, kept, again = (products(wrap) for wrap in (lambda f: f, keeping, jax.checkpoint))
    assert (kept, again) == (alone, alone + 2)


def test_conditions_return_no_weights() -> None:
    """The gradient computes a block again under the condition that it is seen. If it took results
    of one `cond` into another one, blocks that nobody sees would cost zeros for all of them.
    """
    case = Case(block_sizes=(5, 7), options={"is_causal": True})
    gradient = jax.grad(lambda *operands: case.at(KEY)(*operands).sum(), argnums=(0, 1, 2))
    program = str(jax.make_jaxpr(gradient)(*case.operands()[:3]))
    results = re.findall(r"([^\n=]*) = cond\[", program)
    assert len(results) == 2  # forward and backward
    assert not [found for found in results if "5,7]" in found]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_of_many_blocks_are_as_exact_as_of_one(dtype: Any) -> None:
    """Sums over blocks are of float32, whatever the dtype of the operands. In the operands' dtype,
    this many blocks would have two to three times the error of one.
    """
    one = Case(queries=128, keys=128, block_sizes=(128, 128), bias=normal(3, 1, 4, 1, 128))
    operands = one.operands(dtype)
    cotangent = quick(one.at(KEY))(*operands)

    def gradient(operands: Tree, case: Case) -> Tree:
        pull = jax.vjp(case.at(KEY), *operands)[1]
        return quick(lambda c: pull(c.astype(operands[2].dtype)))(cotangent)

    exact = gradient(cast(operands, jnp.float32), one)
    many = gradient(operands, dataclasses.replace(one, block_sizes=(4, 8)))
    for found, of_one, x in zip(many, gradient(operands, one), exact, strict=True):
        error, of_one = (np.linalg.norm(np.asarray(y, np.float32) - x) for y in (found, of_one))
        assert error < 1.3 * of_one


def test_a_negative_scale_is_a_scale_of_turned_queries() -> None:
    """Also where exponentials overflow unless the maximum is that of the scaled scores."""
    q, k, v, _ = Case().operands()
    negative, positive = (Case(options={"scale": scale}).at(KEY) for scale in (-60.0, 60.0))
    found, expected = quick(negative)(q, k, v), quick(positive)(-q, k, v)
    np.testing.assert_array_equal(found, expected)


def test_matrices_are_multiplied_in_the_precision_of_the_operands() -> None:
    """In the backward pass, too: a product of float32 takes a GPU several times as long."""
    case = Case(block_sizes=(16, 16), options={"is_causal": True})
    gradient = jax.grad(lambda *operands: case.at(KEY)(*operands).sum(), argnums=(0, 1, 2))
    program = jax.jit(gradient).lower(*case.operands(jnp.bfloat16)[:3]).as_text()
    dtypes = r"dot_general .*: \(tensor<\S*x(\w+)>, tensor<\S*x(\w+)>\) -> tensor<\S*x(\w+)>"
    found = re.findall(dtypes, program)
    assert len(found) >= 7
    assert set(found) == {("bf16", "bf16", "f32")}


def test_only_what_moves_is_differentiated() -> None:
    """Each of the queries and the keys has a product in the derivative, and the values have."""
    q, k, v, _ = Case(block_sizes=(32, 32)).operands()

    def products(at: int) -> int:
        def of_one(x: jax.Array) -> jax.Array:
            operands = [q, k, v]
            operands[at] = x
            return Case(block_sizes=(32, 32)).at(KEY)(*operands)

        def moved(x: jax.Array) -> Any:
            return jax.jvp(of_one, (x,), (x,))

        return str(jax.make_jaxpr(moved)((q, k, v)[at])).count("dot_general[")

    def moved(*operands: jax.Array) -> Any:
        return jax.jvp(Case(block_sizes=(32, 32)).at(KEY), operands, operands)

    together = str(jax.make_jaxpr(moved)(q, k, v)).count("dot_general[")
    assert [together - products(at) for at in range(3)] == [2, 2, 2]


def temporaries(case: Case) -> int:
    """Of value and gradient, in bytes."""
    x = jax.ShapeDtypeStruct((case.keys, 1, 8), jnp.float32)
    gradient = jax.value_and_grad(
        lambda *operands: (case.at(KEY)(*operands) ** 2).sum(), argnums=(0, 1, 2)
    )
    return quick(gradient).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes


def test_temporaries_grow_no_faster_than_the_length() -> None:
    small, large = (
        Case((), length, length, 1, 1, 8, 8, (64, 64), options={"is_causal": True})
        for length in (256, 1024)
    )
    assert temporaries(large) <= 4 * temporaries(small)


def test_temporaries_of_default_blocks_are_few() -> None:
    """The weights alone would take 4 * length**2."""
    length = 8192
    assert temporaries(Case((), length, length, 1, 1, 8, 8, None)) <= length**2 / 4


def test_only_a_cpu_loops_over_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(groups=4, block_sizes=None, options={"scale": 0.25})
    monkeypatch.setattr(_block_sizes, "parts", lambda *_: (2, 4))
    operands = case.operands()[:3]
    for platform, loops in (("cpu", 2), ("tpu", 0)):
        exported = jax.export.export(jax.jit(case.at(KEY)), platforms=[platform])(*operands)
        assert exported.mlir_module().count("stablehlo.while") == loops


# -- layouts

MESHES = {
    kind.name: jax.make_mesh((2, 2, 2), ("a", "b", "c"), axis_types=(kind,) * 3)
    for kind in (AxisType.Auto, AxisType.Explicit)
}
COLLECTIVES = re.compile("all-gather|all-reduce|all-to-all|reduce-scatter|collective")
SHARDED = Case(batch=(4,), queries=16, keys=24, options={"is_causal": True})


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())
def test_devices_compute_their_own_parts_and_do_not_talk(mesh: jax.sharding.Mesh) -> None:
    """Batch and heads are divided. So are the gradients."""
    operands = SHARDED.operands()
    layout = NamedSharding(mesh, P(("a", "b"), None, "c"))
    placed = jax.device_put(operands, layout)
    with jax.set_mesh(mesh):
        compiled = quick(functools.partial(derivatives, SHARDED.at(KEY))).lower(placed).compile()
        found = compiled(placed)
    assert not COLLECTIVES.search(compiled.as_text())
    assert all(x.sharding.is_equivalent_to(layout, 4) for x in jax.tree.leaves(found))
    assert_rounding(found, expected(SHARDED, operands, SHARDED.drawn(KEY)), 2e-6)


@pytest.mark.parametrize("spec", [P("a", "b", "c"), P(None, ("c", "a"), "b")], ids=str)
def test_shard_map_with_spec_draws_the_whole_mask(spec: PartitionSpec) -> None:
    """Queries are divided too, which then know their places."""
    batch, _, heads = spec
    lengths = jnp.asarray([3, 16, 8, 11])
    case = dataclasses.replace(SHARDED, options={"is_causal": True, "query_seq_lengths": lengths})
    operands = case.operands()

    def local(lengths: jax.Array, *operands: jax.Array) -> jax.Array:
        return SHARDED.at(KEY, query_seq_lengths=lengths, spec=spec)(*operands)

    keys = P(batch, None, heads)
    mapped = jax.shard_map(
        local, mesh=MESHES["Auto"], in_specs=(P(batch), spec, keys, keys), out_specs=spec
    )
    found = quick(functools.partial(derivatives, lambda q, k, v, bias: mapped(lengths, q, k, v)))(
        operands
    )
    assert_rounding(found, expected(case, operands, case.drawn(KEY)), 2e-6)


@pytest.mark.parametrize("mapped", [jax.pmap, jax.vmap])
def test_pmap_and_vmap_with_spec_draw_the_whole_mask(mapped: Callable[..., Any]) -> None:
    case = Case(batch=(8,))
    parts = [x[:, None] for x in uniform(case)]
    whole = mapped(case.at(KEY, spec=P("i")), axis_name="i")(*parts)[:, 0]
    np.testing.assert_array_equal(dropped(whole), case.drawn(KEY) == 0)


@pytest.mark.parametrize("length", ["queries", "keys"])
def test_nothing_to_see(length: str) -> None:
    case = Case(**{length: 0})
    assert case.at(KEY)(*case.operands()).shape == (2, case.queries, 4, 6)
    assert not case.at(KEY)(*case.operands()).any()


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("available", [True, False])
def test_evaluation_on_a_gpu(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    """Half precision without dropout goes to cuDNN where JAX has it, and otherwise stays here. No
    GPU is needed to see which.
    """
    asked = []

    def attention(*operands: jax.Array, **options: Any) -> jax.Array:
        asked.append(options)
        if not available:
            raise NotImplementedError("not for these shapes")
        return operands[2]

    q, k, v = (normal(seed, 2, 8, 2, 8).astype(jnp.bfloat16) for seed in range(3))
    expected = dot_product_attention(None, q, k, v, is_causal=True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    result = dot_product_attention(
        None, q, k, v, is_causal=True, block_sizes=(8, 8 - available)
    )  # a program of its own
    assert asked[0] == {"scale": 8**-0.5, "is_causal": True, "implementation": "cudnn"}
    np.testing.assert_allclose(
        result.astype(jnp.float32), expected.astype(jnp.float32), rtol=0.02, atol=0.02
    )  # it runs on a CPU
    attend = functools.partial(dot_product_attention, None, scale=0.5 + available)
    program = jax.jit(attend).trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()
    assert ("dot_general" in program) is not available
    asked.clear()
    dot_product_attention(KEY, q, k, v, RATE)
    dot_product_attention(None, q, k, v, key_value_seq_lengths=jnp.array([3, 8]))
    dot_product_attention(None, *(x.astype(jnp.float32) for x in (q, k, v)))
    assert not asked
