"""The blocked attention inside Flax's Linen modules."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxdrop
import jaxdrop.linen

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 16)), jnp.float32)
THREEFRY = jax.random.key(5)
MASKS = {
    "none": None,
    "causal": np.tri(12, dtype=np.float32)[None, None],
    "padding": np.broadcast_to(np.arange(12) < 9, (2, 1, 1, 12)),
}

pytestmark = pytest.mark.usefixtures("relaxed")
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


class Block(nn.Module):
    """A model that knows nothing of jaxdrop."""

    attention: type[nn.Module]
    options: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, deterministic: bool) -> jax.Array:
        attend = self.attention(
            num_heads=4,
            dropout_rate=0.2,
            deterministic=deterministic,
            name="attention",
            **self.options,
        )
        return x + attend(nn.LayerNorm()(x), mask=mask)


@pytest.mark.sweep(keep=2)
@each_mask
@pytest.mark.parametrize("attention", [nn.MultiHeadDotProductAttention, nn.MultiHeadAttention])
def test_swapped_in(attention: type[nn.Module], mask: jax.Array | None) -> None:
    """With a threefry key the masks are Flax's, shared over batch and heads or not; in evaluation
    so are the outputs.
    """
    variables = Block(attention, {}).init(jax.random.key(0), X, mask, True)
    for broadcast in (True, False):
        stock = Block(attention, {"broadcast_dropout": broadcast})
        ours = Block(
            attention,
            {"broadcast_dropout": broadcast, "attention_fn": jaxdrop.linen.dot_product_attention},
        )
        for deterministic in (False, True):
            results = [
                model.apply(variables, X, mask, deterministic, rngs={"dropout": THREEFRY})
                for model in (ours, stock)
            ]
            np.testing.assert_allclose(*results, rtol=1e-5, atol=2e-6)


def test_weights_are_sown_by_flax() -> None:
    """There must be an array of them. With Flax's einsums too its own function is called."""
    layer = jaxdrop.linen.MultiHeadAttention(num_heads=4, dropout_rate=0.2, deterministic=False)
    variables = layer.init({"params": jax.random.key(0), "dropout": THREEFRY}, X)
    expected = layer.apply(variables, X, rngs={"dropout": THREEFRY})
    result, sown = layer.apply(
        variables, X, sow_weights=True, rngs={"dropout": THREEFRY}, mutable=["intermediates"]
    )
    assert sown["intermediates"]["attention_weights"][0].shape == (2, 4, 12, 12)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-6)
    layer = layer.clone(
        qk_attn_weights_einsum_cls=lambda: jnp.einsum,
        attn_weights_value_einsum_cls=lambda: jnp.einsum,
    )
    np.testing.assert_allclose(
        layer.apply(variables, X, rngs={"dropout": THREEFRY}), expected, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize(
    "mask",
    [None, jnp.ones((2, 1, 12, 12), bool).at[:, :, 3].set(False)],
    ids=["none", "a blind row"],
)
def test_sown_weights_change_nothing(mask: jax.Array | None) -> None:
    """Not the rows that see no key either; and the module's own output is captured once."""
    layer = jaxdrop.linen.MultiHeadAttention(num_heads=4, dropout_rate=0.2, deterministic=False)
    rngs = {"params": jax.random.key(0), "dropout": THREEFRY}
    variables = layer.init(rngs, X)
    expected = layer.apply(variables, X, mask=mask, rngs=rngs)
    result, sown = layer.apply(
        variables,
        X,
        mask=mask,
        sow_weights=True,
        rngs=rngs,
        mutable=["intermediates"],
        capture_intermediates=True,
    )
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)
    assert len(sown["intermediates"]["__call__"]) == 1


def test_rate_in_the_call_and_traced() -> None:
    layer = jaxdrop.linen.MultiHeadAttention(num_heads=4, dropout_rate=0.2, deterministic=False)
    rngs = {"params": jax.random.key(0), "dropout": THREEFRY}
    variables = layer.init(rngs, X)
    expected = layer.apply(variables, X, rngs=rngs)
    other = layer.clone(dropout_rate=0.7)
    traced = jax.jit(
        lambda rate: (
            other.apply(variables, X, rngs=rngs, rate=rate),
            layer.clone(dropout_rate=rate).apply(variables, X, rngs=rngs),
        )
    )
    for result in (*traced(0.2), other.apply(variables, X, rngs=rngs, rate=jnp.float32(0.2))):
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(
        layer.apply(variables, X, rate=0), layer.clone(deterministic=True).apply(variables, X)
    )
    with pytest.raises(TypeError, match=r"rate=0.3 .* takes no dropout_rate"):
        layer.clone(attention_fn=lambda query, key, value: value).apply(
            variables, X, rngs=rngs, rate=0.3
        )


def test_options_are_those_of_flax() -> None:
    """By name, place and default; products of the caller's own, the dtype of the result, complex
    numbers.
    """
    theirs, ours = (
        inspect.signature(module.dot_product_attention).parameters for module in (nn, jaxdrop.linen)
    )
    assert [*ours][: len(theirs)] == [*theirs]
    assert all(ours[name].default == parameter.default for name, parameter in theirs.items())
    q = X.reshape(2, 12, 4, 4)
    called = []

    def dot_general(*args: Any, **kwargs: Any) -> jax.Array:
        called.append(args)
        return jax.lax.dot_general(*args, **kwargs)

    for options in (
        {"einsum_dot_general": dot_general},
        {"force_fp32_for_softmax": True, "dtype": jnp.bfloat16},
        {"dtype": jnp.complex64},
    ):
        result, expected = (
            module.dot_product_attention(q, q, q, **options) for module in (jaxdrop.linen, nn)
        )
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(
            result, expected, rtol=0, atol=2e-2 if "force_fp32_for_softmax" in options else 1e-6
        )
    assert len(called) == 4
    with pytest.raises(TypeError, match="query is complex"):
        jaxdrop.linen.dot_product_attention(q.astype(jnp.complex64), q, q, dtype=jnp.float32)
    with pytest.raises(ValueError, match="together"):
        jaxdrop.linen.dot_product_attention(q, q, q, qk_attn_weights_einsum=jnp.einsum)


@pytest.mark.parametrize("name", ["MultiHeadDotProductAttention", "MultiHeadAttention"])
def test_multi_head_attention(name: str) -> None:
    """Flax's own, but for the function inside and a mask for each example and head."""
    options: dict[str, Any] = {"num_heads": 4, "dropout_rate": 0.2, "deterministic": False}
    ours, stock = (
        getattr(jaxdrop.linen, name)(**options),
        getattr(nn, name)(**options, broadcast_dropout=False),
    )
    variables = stock.init({"params": jax.random.key(0), "dropout": THREEFRY}, X)
    results = [layer.apply(variables, X, rngs={"dropout": THREEFRY}) for layer in (ours, stock)]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=2e-6)
    lowered = jax.jit(lambda x: ours.apply(variables, x, rngs={"dropout": THREEFRY})).lower(X)
    assert "jaxdrop.dot_product_attention" in lowered.as_text(debug_info=True)


def test_a_part_of_the_batch() -> None:
    """With `spec`, each device draws its part of the masks."""
    whole, part = (
        jaxdrop.linen.MultiHeadAttention(
            num_heads=4, dropout_rate=0.2, deterministic=False, spec=spec
        )
        for spec in (None, P("data"))
    )
    assert part == part.clone()
    assert part.clone(spec=None) == whole
    variables = whole.init({"params": jax.random.key(0), "dropout": THREEFRY}, X)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def apply(layer: nn.Module, x: jax.Array) -> jax.Array:
        return layer.apply(variables, x, rngs={"dropout": THREEFRY})

    local = jax.shard_map(
        functools.partial(apply, part), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    np.testing.assert_allclose(jax.jit(local)(X), apply(whole, X), rtol=1e-5, atol=2e-6)


def test_a_layer_takes_padding_and_packed_sequences_in_its_call() -> None:
    """As if a mask said what they say. What is padding may be NaN, and its output is 0."""
    layer = jaxdrop.linen.MultiHeadAttention(4, dropout_rate=0.4, deterministic=False)
    lengths = jnp.asarray([9, 4])
    ids = jnp.asarray(np.arange(12) // 5 % 2)[None].repeat(2, 0)
    inside = np.arange(12) < np.asarray(lengths)[:, None]
    same = np.asarray(ids)[:, None, :, None] == np.asarray(ids)[:, None, None, :]
    mask = same & inside[:, None, :, None] & inside[:, None, None, :]
    variables = layer.init({"params": THREEFRY, "dropout": THREEFRY}, X)

    def call(x: jax.Array, layer: nn.Module = layer, **options: Any) -> jax.Array:
        return layer.apply(variables, x, rngs={"dropout": THREEFRY}, **options)

    options = {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths, "segment_ids": ids}
    expected = call(X, mask=mask)
    padded = jnp.where(inside[..., None], X, jnp.nan)
    np.testing.assert_allclose(call(padded, **options), expected, rtol=1e-5, atol=2e-6)
    other = layer.clone(attention_fn=nn.dot_product_attention, spec=None)
    with pytest.raises(ValueError, match="attention_fn of MultiHeadAttention takes no segment_ids"):
        call(X, layer=other, segment_ids=ids)


def test_a_decoder_draws_the_masks_of_the_whole() -> None:
    """A prompt, and then token by token. The cache is that of Flax's layer."""
    window = functools.partial(jaxdrop.linen.dot_product_attention, local_window_size=(4, 0))
    options: dict[str, Any] = {"num_heads": 4, "dropout_rate": 0.4, "deterministic": False}
    layer = jaxdrop.linen.MultiHeadAttention(**options, attention_fn=window, decode=True)
    rngs = {"params": THREEFRY, "dropout": THREEFRY}
    variables = layer.init(rngs, X)
    stock = nn.MultiHeadAttention(**options, decode=True).init(rngs, X)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, stock)
    params, cache = variables["params"], variables["cache"]
    expected = layer.clone(
        attention_fn=functools.partial(window, is_causal=True), decode=False
    ).apply({"params": params}, X, rngs=rngs)

    @jax.jit
    def step(cache: Any, x: jax.Array) -> Any:
        return layer.apply({"params": params, "cache": cache}, x, rngs=rngs, mutable=["cache"])

    found = []
    for start, end in ((0, 9), (9, 10), (10, 11), (11, 12)):
        y, changed = step(cache, X[:, start:end])
        found.append(y)
        cache = changed["cache"]
    np.testing.assert_allclose(jnp.concatenate(found, 1), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("given", "called", "error", "message"),
    [
        ({"dropout_rate": jnp.full(3, 0.1)}, {}, ValueError, "Multi.*ention takes one dropout_ra"),
        ({"dropout_rate": 1.5}, {}, ValueError, "dropout_rate must lie"),
        ({}, {"rate": 1.5}, ValueError, "rate must lie"),
        ({"broadcast_dropout": 1}, {}, TypeError, "broadcast_dropout must be True or False"),
        ({"deterministic": 1}, {}, TypeError, "deterministic must be True or False"),
        ({"deterministic": None}, {"deterministic": 1}, TypeError, "deterministic must be True or"),
        ({"attention_fn": lambda query, key, value: value, "spec": P("a")}, {}, ValueError, "spec"),
    ],
)
def test_bad_input(given: Any, called: Any, error: type[Exception], message: str) -> None:
    options: dict[str, Any] = {"num_heads": 4, "dropout_rate": 0.2, "deterministic": False, **given}
    rngs = {"params": jax.random.key(0), "dropout": THREEFRY}
    with pytest.raises(error, match=message):
        jaxdrop.linen.MultiHeadAttention(**options).init(rngs, X, **called)


def test_defaults() -> None:
    """A flag is compared with nothing at rate 0; a function without a rate keeps its own."""
    layer = jaxdrop.linen.MultiHeadAttention(num_heads=4)
    assert not layer.broadcast_dropout
    assert layer.attention_fn is jaxdrop.linen.dot_product_attention
    variables = layer.init(jax.random.key(0), X, deterministic=True)
    apply = jax.jit(lambda off: layer.apply(variables, X, deterministic=off))
    expected = layer.apply(variables, X, deterministic=True)
    np.testing.assert_allclose(apply(True), expected, rtol=0, atol=2e-6)
    plain = layer.clone(attention_fn=lambda query, key, value: value, dropout_rate=0.3)
    rngs = {"dropout": THREEFRY}
    assert plain.apply(variables, X, deterministic=False, rngs=rngs).shape == X.shape
