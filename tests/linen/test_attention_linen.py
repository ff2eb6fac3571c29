"""The blocked attention inside Flax's Linen modules."""

from __future__ import annotations

import functools
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
    "causal": nn.make_causal_mask(jnp.ones((2, 12))),
    "padding": jnp.broadcast_to(jnp.arange(12) < 9, (2, 1, 1, 12)),
}

pytestmark = pytest.mark.usefixtures("relaxed")
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


class Block(nn.Module):
    """A model that knows nothing of jaxdrop."""

    attention: type[nn.Module]
    options: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, deterministic: bool) -> jax.Array:
        attend = self.attention(num_heads=4, dropout_rate=0.2, deterministic=deterministic, name="attention", **self.options)
        return x + attend(nn.LayerNorm()(x), mask=mask)


@each_mask
@pytest.mark.parametrize("attention", [nn.MultiHeadDotProductAttention, nn.MultiHeadAttention])
def test_swapped_in(attention: type[nn.Module], mask: jax.Array | None) -> None:
    """With a threefry key the masks are Flax's, shared over batch and heads or not; in evaluation so are the outputs."""
    variables = Block(attention, {}).init(jax.random.key(0), X, mask, True)
    for broadcast in (True, False):
        stock = Block(attention, {"broadcast_dropout": broadcast})
        ours = Block(attention, {"broadcast_dropout": broadcast, "attention_fn": jaxdrop.linen.dot_product_attention})
        for deterministic in (False, True):
            results = [model.apply(variables, X, mask, deterministic, rngs={"dropout": THREEFRY}) for model in (ours, stock)]
            np.testing.assert_allclose(*results, rtol=1e-5, atol=2e-6)


def test_weights_are_sown_by_flax() -> None:
    """There must be an array of them. With Flax's einsums too its own function is called."""
    layer = jaxdrop.linen.MultiHeadAttention(num_heads=4, dropout_rate=0.2, deterministic=False)
    variables = layer.init({"params": jax.random.key(0), "dropout": THREEFRY}, X)
    expected = layer.apply(variables, X, rngs={"dropout": THREEFRY})
    result, sown = layer.apply(variables, X, sow_weights=True, rngs={"dropout": THREEFRY}, mutable=["intermediates"])
    assert sown["intermediates"]["attention_weights"][0].shape == (2, 4, 12, 12)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-6)
    layer = layer.clone(qk_attn_weights_einsum_cls=lambda: jnp.einsum, attn_weights_value_einsum_cls=lambda: jnp.einsum)
    np.testing.assert_allclose(layer.apply(variables, X, rngs={"dropout": THREEFRY}), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["MultiHeadDotProductAttention", "MultiHeadAttention"])
def test_multi_head_attention(name: str) -> None:
    """Flax's own, but for the function inside and a mask for each example and head."""
    options: dict[str, Any] = {"num_heads": 4, "dropout_rate": 0.2, "deterministic": False}
    ours, stock = getattr(jaxdrop.linen, name)(**options), getattr(nn, name)(**options, broadcast_dropout=False)
    variables = stock.init({"params": jax.random.key(0), "dropout": THREEFRY}, X)
    results = [layer.apply(variables, X, rngs={"dropout": THREEFRY}) for layer in (ours, stock)]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=2e-6)
    lowered = jax.jit(lambda x: ours.apply(variables, x, rngs={"dropout": THREEFRY})).lower(X)
    assert "jaxdrop.dot_product_attention" in lowered.as_text(debug_info=True)


def test_a_part_of_the_batch() -> None:
    """With `spec`, each device draws its part of the masks."""
    whole, part = (
        jaxdrop.linen.MultiHeadAttention(num_heads=4, dropout_rate=0.2, deterministic=False, spec=spec)
        for spec in (None, P("data"))
    )
    assert part == part.clone()
    assert part.clone(spec=None) == whole
    variables = whole.init({"params": jax.random.key(0), "dropout": THREEFRY}, X)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def apply(layer: nn.Module, x: jax.Array) -> jax.Array:
        return layer.apply(variables, x, rngs={"dropout": THREEFRY})

    local = jax.shard_map(functools.partial(apply, part), mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    np.testing.assert_allclose(jax.jit(local)(X), apply(whole, X), rtol=1e-5, atol=2e-6)
