"""Dropped attention weights, keys and heads against closed forms, Flax and each other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop.functional import heads
from jaxdrop.functional.heads import Normalize
from tests import statistics
from tests.catalogue import KEY, RATE

P = PartitionSpec
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8, 16)), jnp.float32)
HEADS = jnp.asarray(np.random.default_rng(1).normal(size=(64, 5, 6, 4)), jnp.float32)
NORMALIZATIONS: list[Normalize] = ["example", "expected", "fixed"]


# -- attention dropout


def test_attention_dropout_is_dropout() -> None:
    weights = jax.nn.softmax(LOGITS)
    for options in ({}, {"broadcast_dims": (0, 1)}):
        expected = jaxdrop.dropout(KEY, weights, RATE, **options)
        np.testing.assert_array_equal(
            jaxdrop.attention_dropout(KEY, weights, RATE, **options), expected
        )


# -- DropKey


def test_drop_key_shares_the_weight_of_the_dropped_keys_out() -> None:
    """By the formula: the softmax over the kept keys, which is that of all, dropped and normalized
    again.
    """
    logits = jaxdrop.drop_key(KEY, LOGITS, RATE)
    kept = logits == LOGITS
    assert 0 < kept.mean() < 1
    np.testing.assert_array_equal(jnp.isneginf(logits), ~kept)
    weights = jnp.where(kept, jax.nn.softmax(LOGITS), 0)
    np.testing.assert_allclose(
        jax.nn.softmax(logits), weights / weights.sum(-1, keepdims=True), rtol=1e-5, atol=1e-7
    )


def test_drop_key_really_drops() -> None:
    """Copies of the paper's code add -1e-12, which changes nothing: here a dropped key gets no
    weight at all.
    """
    assert float(jax.nn.softmax(jaxdrop.drop_key(KEY, LOGITS, 0.5)).min()) == 0
    assert jnp.isneginf(jaxdrop.drop_key(KEY, LOGITS.astype(jnp.float16), 0.5)).any()


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("rate", [0.99, 1.0])
@pytest.mark.parametrize("known", [True, False], ids=["static", "traced"])
def test_a_query_keeps_one_key(rate: float, known: bool) -> None:
    """So that the softmax and its gradient are finite: one that it could see, the last that would
    have gone.
    """
    visible = jnp.broadcast_to(jnp.arange(16)[None] >= jnp.arange(2, 10)[:, None], LOGITS.shape)
    logits = jnp.where(visible, LOGITS, -jnp.inf)
    drop = jaxdrop.drop_key if known else jax.jit(jaxdrop.drop_key)
    dropped = drop(KEY, logits, rate)
    left = ~jnp.isneginf(dropped)
    assert (left.sum(-1) >= 1).all()
    assert not (left & ~visible).any()
    if rate == 1:
        assert (left.sum(-1) == 1).all()
        softer = ~jnp.isneginf(jaxdrop.drop_key(KEY, logits, 0.5))
        assert (softer >= left).all()
    gradient = jax.grad(lambda x: (jax.nn.softmax(jaxdrop.drop_key(KEY, x, rate)) ** 2).sum())(
        logits
    )
    assert jnp.isfinite(gradient).all()


def test_a_query_without_keys_stays_so() -> None:
    logits = jnp.full((2, 4), -jnp.inf)
    np.testing.assert_array_equal(jaxdrop.drop_key(KEY, logits, RATE), logits)


@pytest.mark.sweep
def test_drop_key_is_fair_when_one_key_stays() -> None:
    """At rate 1 each of 16 keys stays equally often; ideal bits fail with a probability of 1e-6."""
    left = ~jnp.isneginf(jaxdrop.drop_key(KEY, jnp.zeros((2**14, 16)), 1.0))
    assert statistics.chi_square(np.asarray(left.sum(0)), 2**14 / 16) > 1e-6


def test_drop_key_under_a_mesh() -> None:
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    expected = jaxdrop.drop_key(KEY, LOGITS, 0.9)
    for spec in (P("a", None, "b"), P("a", None, None, "b")):
        placed = jax.device_put(LOGITS, NamedSharding(mesh, spec))
        np.testing.assert_array_equal(jaxdrop.drop_key(KEY, placed, 0.9), expected)
    spec = P("a", None, "b")
    local = jax.shard_map(
        lambda x: jaxdrop.drop_key(KEY, x, 0.9, spec=spec), mesh=mesh, in_specs=spec, out_specs=spec
    )
    np.testing.assert_array_equal(jax.jit(local)(LOGITS), expected)


# -- DropHead


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_drop_head(normalize: Normalize) -> None:
    """Whole heads, scaled as the name says."""
    y = np.asarray(jaxdrop.drop_head(KEY, HEADS, 0.5, normalize=normalize))
    kept = np.any(y != 0, axis=(1, 3))
    np.testing.assert_array_equal(np.all(y != 0, axis=(1, 3)), kept)
    count = kept.sum(1)
    factor = {
        "example": 6 / np.maximum(count, 1),
        "expected": np.full(64, 2.0),
        "fixed": np.full(64, 2.0),
    }[normalize]
    expected = np.where(kept[:, None, :, None], HEADS * factor[:, None, None, None], 0)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert np.all(count == 3) if normalize == "fixed" else len(set(count)) > 3


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_drop_head_of_channels_in_front(normalize: Normalize) -> None:
    """The same heads stay where they stand in another place."""
    y = jaxdrop.drop_head(KEY, HEADS, RATE, normalize=normalize)
    swapped = jaxdrop.drop_head(KEY, HEADS.swapaxes(1, 2), RATE, normalize=normalize, head_axis=-3)
    np.testing.assert_array_equal(swapped.swapaxes(1, 2), y)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("normalize", "rate"), [("expected", RATE), ("fixed", 1 / 3), ("fixed", 0.5)]
)
def test_drop_head_has_the_right_mean(normalize: Normalize, rate: float) -> None:
    """`E[y] = x`; ideal means fail with a probability of 6e-7 (5 sigma, in one of 6 heads)."""
    samples = 2**14
    keys = jax.random.split(KEY, samples)
    ones = jnp.ones((1, 6, 1))
    y = jax.vmap(lambda key: jaxdrop.drop_head(key, ones, rate, normalize=normalize))(keys)
    z = (y.mean(0) - 1) * np.sqrt(samples * (1 - rate) / rate)
    assert np.all(np.abs(z) < 5)


def test_drop_head_without_heads_is_finite() -> None:
    """Where the Bernoulli mask of an example drops all its heads, the paper's formula is 0 / 0."""
    y = jaxdrop.drop_head(KEY, jnp.ones((256, 1, 2, 1)), 0.7)
    assert jnp.isfinite(y).all()
    assert (y.sum((1, 2, 3)) == 0).any()
    np.testing.assert_array_equal(y.sum((1, 2, 3))[y.sum((1, 2, 3)) > 0], 2)


# -- bad input


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: jaxdrop.drop_key(KEY, LOGITS.astype(jnp.complex64), RATE),
            TypeError,
            ["complex64"],
        ),
        (
            lambda: jaxdrop.drop_key(KEY, LOGITS.astype(jnp.float8_e4m3fn), RATE),
            TypeError,
            ["float8_e4m3fn", "infinity"],
        ),
        (
            lambda: jaxdrop.drop_key(KEY, LOGITS, RATE, broadcast_dims=(-1,)),
            ValueError,
            ["broadcast_dims", "last"],
        ),
        (
            lambda: jaxdrop.drop_key(KEY, LOGITS, jnp.full(16, RATE)),
            ValueError,
            ["(16,)", "one rate"],
        ),
        (lambda: jaxdrop.drop_key(None, LOGITS, RATE), ValueError, ["drop_key", "key is None"]),
        (
            lambda: jaxdrop.drop_head(KEY, HEADS, RATE, normalize="count"),
            ValueError,
            ["normalize", "'count'", "'example'"],
        ),
        (
            lambda: jaxdrop.drop_head(KEY, HEADS, RATE, head_axis=0),
            ValueError,
            ["head_axis=0", "(64, 5, 6, 4)"],
        ),
        (lambda: jaxdrop.drop_head(KEY, HEADS[0, 0], RATE), ValueError, ["(6, 4)"]),
        (
            lambda: jaxdrop.drop_head(KEY, HEADS, jnp.full(6, RATE)),
            ValueError,
            ["(6,)", "one rate"],
        ),
        (lambda: jaxdrop.drop_head(KEY, HEADS, 1.5), ValueError, ["1.5"]),
        (lambda: jaxdrop.nnx.DropHead(RATE, normalize="mean"), ValueError, ["'mean'"]),
        (
            lambda: jaxdrop.attention_dropout(KEY, jnp.ones((2, 2), int), RATE),
            TypeError,
            ["weights", "int32"],
        ),
        (
            lambda: jaxdrop.drop_key(KEY, jnp.ones((2, 2), int), RATE),
            TypeError,
            ["logits", "int32"],
        ),
        (lambda: jaxdrop.drop_key(KEY, jnp.float32(1), RATE), ValueError, ["last axis"]),
        (
            lambda: jaxdrop.drop_key(KEY, LOGITS, RATE, part=jaxdrop.masks.Part(0, 32, 3)),
            ValueError,
            ["part", "axis 3", "must stay"],
        ),
        (lambda: jaxdrop.drop_head(None, HEADS, RATE), ValueError, ["drop_head", "key is None"]),
    ],
)
def test_bad_input(call: Any, kind: type[Exception], words: list[str]) -> None:
    with pytest.raises(kind) as error:
        call()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("normalize", ["example", "fixed"])
def test_counted_heads_may_not_be_divided(normalize: Normalize) -> None:
    mesh = jax.make_mesh((2,), ("a",), axis_types=(AxisType.Auto,))
    spec = P(None, None, "a")

    def local(x: jax.Array) -> jax.Array:
        return jaxdrop.drop_head(KEY, x, RATE, normalize=normalize, spec=spec)

    with pytest.raises(ValueError, match="divides the heads"):
        jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)(HEADS)


def test_keys_may_not_be_divided() -> None:
    mesh = jax.make_mesh((2,), ("a",), axis_types=(AxisType.Auto,))
    spec = P(None, None, None, "a")

    def local(x: jax.Array) -> jax.Array:
        return jaxdrop.drop_key(KEY, x, RATE, spec=spec)

    with pytest.raises(ValueError, match="divides the keys"):
        jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)(LOGITS)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_part_of_the_heads_inside_shard_map(normalize: Normalize) -> None:
    """With `spec`, the mask is a part of the whole; heads are divided where nothing counts them."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    spec = P("a", None, "b") if normalize == "expected" else P("a", "b")

    def local(x: jax.Array) -> jax.Array:
        return jaxdrop.drop_head(KEY, x, RATE, normalize=normalize, spec=spec)

    x = HEADS[:, :4]
    mapped = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)
    expected = jaxdrop.drop_head(KEY, x, RATE, normalize=normalize)
    np.testing.assert_array_equal(jax.jit(mapped)(x), expected)


def test_a_rate_for_each_query_and_shared_masks() -> None:
    rates = jnp.asarray(np.linspace(0, 1, 24, dtype=np.float32).reshape(3, 8, 1))
    dropped = jnp.isneginf(jaxdrop.drop_key(KEY, LOGITS, rates))
    assert not dropped[:, 0, 0].any()
    assert (dropped[:, -1, -1].sum(-1) == 15).all()
    shared = jnp.isneginf(jaxdrop.drop_key(KEY, LOGITS, 0.5, broadcast_dims=(1,)))
    assert (shared == shared[:, :1]).all()
    assert 0 < shared.mean() < 1
    line = jaxdrop.drop_key(KEY, LOGITS[0, 0, 0], 0.5)
    assert 0 < jnp.isneginf(line).sum() < 16


def test_evaluation_returns_the_very_array() -> None:
    for drop, x in ((jaxdrop.drop_key, LOGITS), (jaxdrop.drop_head, HEADS)):
        assert drop(None, x, 0.0) is x
        assert drop(None, x, RATE, deterministic=True) is x


def test_attention_dropout_passes_all_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(
        heads.elements, "dropout", lambda *given, **more: told.append((given, more))
    )
    options: dict[str, Any] = {
        "broadcast_dims": (1,),
        "deterministic": True,
        "spec": P("a"),
        "part": "a part",
    }
    jaxdrop.attention_dropout(KEY, LOGITS, RATE, **options)
    assert told == [((KEY, LOGITS, RATE), options)]


# -- heads that are not computed


def test_a_subset_of_the_heads_is_a_mask_of_heads() -> None:
    """With grouped queries, the subset of the keys' heads takes the queries' heads in groups."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    shapes = {"q": (6, 4, 3), "k": (6, 2, 3), "v": (6, 2, 3), "out": (4, 3, 6)}
    weights = {
        name: jax.random.normal(jax.random.key(seed), shape)
        for seed, (name, shape) in enumerate(shapes.items())
    }

    def attend(weights: dict[str, jax.Array], keep: jax.Array, scale: float) -> jax.Array:
        q, k, v = (jnp.einsum("btd,dhc->bthc", x, weights[name]) for name in "qkv")
        y = jaxdrop.dot_product_attention(None, q, k, v, 0.0, is_causal=True)
        y = jnp.where(jnp.expand_dims(keep, (0, 1, 3)), jnp.float32(scale) * y, 0)
        return jnp.einsum("bthc,hcd->btd", y, weights["out"])

    def skipped(key: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
        kept = jaxdrop.subsets.draw(key, 2, 0.5)
        axes = {"q": 1, "k": 1, "v": 1, "out": 0}
        part = {name: kept.gather(weights[name], axis) for name, axis in axes.items()}
        assert part["q"].shape == (6, 2, 3)
        return attend(part, jnp.ones(2, bool), kept.scale)

    def masked(key: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
        kept = jaxdrop.subsets.draw(key, 2, 0.5)
        return attend(weights, jnp.repeat(kept.ranks[0] < 1, 2), kept.scale)

    @jax.jit
    def both(key: jax.Array) -> Any:
        found = []
        for f in (skipped, masked):
            y, pull = jax.vjp(lambda weights, f=f: f(key, weights), weights)
            found.append((y, pull(y)[0]))
        return found

    for seed in range(3):
        for one, other in zip(*map(jax.tree.leaves, both(jaxdrop.key(seed))), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
