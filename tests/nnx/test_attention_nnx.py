"""The blocked attention inside Flax's NNX modules."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxdrop
import jaxdrop.nnx
from tests.catalogue import KEY

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 16)), jnp.float32)
MASKS = {
    "none": {},
    "causal": {"is_causal": True},
    "floats": {"mask": np.tri(12, dtype=np.float32)[None, None]},
    "padding": {"mask": np.broadcast_to(np.arange(12) < 9, (2, 1, 1, 12))},
}

pytestmark = pytest.mark.usefixtures("relaxed")


class Block(nnx.Module):
    """A model that knows nothing of jaxdrop."""

    def __init__(self, rngs: nnx.Rngs, **options: Any) -> None:
        self.attention = nnx.MultiHeadAttention(
            4, 16, dropout_rate=0.2, decode=False, rngs=rngs, **options
        )
        self.norm = nnx.LayerNorm(16, rngs=rngs)

    def __call__(self, x: jax.Array, **mask: Any) -> jax.Array:
        return x + self.attention(self.norm(x), **mask)


def pair(**options: Any) -> tuple[Block, Block]:
    """The stock model, and with this attention inside: the same parameters and the same keys."""
    stock = Block(nnx.Rngs(0), **options)
    return stock, Block(nnx.Rngs(0), attention_fn=jaxdrop.nnx.dot_product_attention, **options)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize(
    ("mask", "broadcast"),
    [("none", True), ("none", False), ("causal", False), ("floats", True), ("padding", False)],
)
def test_swapped_in(mask: str, broadcast: bool) -> None:
    """With a threefry key the masks are Flax's, shared over batch and heads or not; in evaluation
    so are the outputs.
    """

    def loss(model: Block) -> Any:
        y = model(X, **MASKS[mask])
        return (y**2).sum(), y

    run = nnx.jit(nnx.grad(loss, has_aux=True))
    stock, ours = pair(broadcast_dropout=broadcast, deterministic=False)
    (gradients, found), (expected_gradients, expected) = run(ours), run(stock)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        gradients,
        expected_gradients,
    )
    stock.eval()
    ours.eval()
    evaluate = nnx.jit(lambda model: loss(model)[1])
    np.testing.assert_allclose(evaluate(ours), evaluate(stock), rtol=1e-5, atol=2e-6)


def test_grouped_queries_and_decoding() -> None:
    stock, ours = pair(num_kv_heads=2, deterministic=True)
    np.testing.assert_allclose(
        ours(X, is_causal=True), stock(X, is_causal=True), rtol=1e-5, atol=2e-6
    )
    for model in (stock, ours):
        model.attention.init_cache(X.shape)
    for step in range(3):
        one = X[:, step : step + 1]
        results = [model.attention(one, decode=True) for model in (ours, stock)]
        np.testing.assert_allclose(*results, rtol=1e-5, atol=2e-6)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_weights_are_sown() -> None:
    attention = jaxdrop.nnx.MultiHeadAttention(
        4, 16, dropout_rate=0.2, decode=False, rngs=nnx.Rngs(0), deterministic=True
    )
    attention(X, sow_weights=True)
    weights = jax.tree.leaves(nnx.state(attention, nnx.Intermediate))
    assert [leaf.shape for leaf in weights] == [(2, 4, 12, 12)]


def test_multi_head_attention() -> None:
    """Flax's own, but for the function inside and a mask for each example and head."""
    ours = jaxdrop.nnx.MultiHeadAttention(
        4, 16, dropout_rate=0.2, decode=False, rngs=nnx.Rngs(0), deterministic=False
    )
    stock = nnx.MultiHeadAttention(
        4,
        16,
        dropout_rate=0.2,
        decode=False,
        rngs=nnx.Rngs(0),
        deterministic=False,
        broadcast_dropout=False,
    )
    np.testing.assert_allclose(ours(X), stock(X), rtol=1e-5, atol=2e-6)
    lowered = jax.jit(lambda x: ours(x, rngs=nnx.Rngs(KEY))).lower(X)
    assert "jaxdrop.dot_product_attention" in lowered.as_text(debug_info=True)
    shared = jaxdrop.nnx.MultiHeadAttention(
        4,
        16,
        dropout_rate=0.2,
        decode=False,
        rngs=nnx.Rngs(0),
        deterministic=False,
        broadcast_dropout=True,
    )
    assert shared.broadcast_dropout
    ours.eval()
    np.testing.assert_array_equal(ours(X), ours(X))


@pytest.mark.parametrize("rate", [None, 0.4])
def test_a_part_of_the_batch(rate: float | None) -> None:
    """With `spec`, each device draws its part of the masks. The layer may come from outside of the
    transformation.
    """
    whole, part = (
        jaxdrop.nnx.MultiHeadAttention(
            4,
            16,
            dropout_rate=0.2,
            decode=False,
            rngs=nnx.Rngs(0),
            deterministic=False,
            keep_rngs=False,
            spec=spec,
        )
        for spec in (None, P("data"))
    )
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    local = jax.shard_map(
        lambda x: part(x, rate=rate, rngs=nnx.Rngs(KEY)),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    np.testing.assert_allclose(
        jax.jit(local)(X), whole(X, rate=rate, rngs=nnx.Rngs(KEY)), rtol=1e-5, atol=2e-6
    )


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_rate_in_the_call() -> None:
    """Traced or not, and whatever the layer's own rate is; keys, caches and sown weights are those
    of the layer.
    """

    def layer(rate: float) -> nnx.MultiHeadAttention:
        return jaxdrop.nnx.MultiHeadAttention(
            4, 16, dropout_rate=rate, decode=False, rngs=nnx.Rngs(0), deterministic=False
        )

    expected = layer(0.2)(X)
    rngs = [nnx.Rngs(dropout=KEY) for _ in range(2)]  # a layer without dropout keeps none
    np.testing.assert_array_equal(
        layer(0.0)(X, rate=0.2, rngs=rngs[0]), layer(0.2)(X, rngs=rngs[1])
    )
    traced = nnx.jit(lambda layer, rate: layer(X, rate=rate))
    np.testing.assert_allclose(traced(layer(0.7), 0.2), expected, rtol=1e-5, atol=2e-6)
    attention = layer(0.2)
    np.testing.assert_array_equal(attention(X, rate=0.0), layer(0.0)(X))
    attention(X, rate=0.5, sow_weights=True)
    assert [leaf.shape for leaf in jax.tree.leaves(nnx.state(attention, nnx.Intermediate))] == [
        (2, 4, 12, 12)
    ]
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], got 1.5"):
        attention(X, rate=1.5)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_keys_and_traced_rates() -> None:
    """A bare key, as in all layers; a rate that is traced from the start; sown weights of rows that
    see no key.
    """

    def layer(rate: Any) -> nnx.MultiHeadAttention:
        return jaxdrop.nnx.MultiHeadAttention(
            4, 16, dropout_rate=rate, decode=False, rngs=nnx.Rngs(0), deterministic=False
        )

    mask = jnp.ones((2, 1, 12, 12), bool).at[:, :, 3].set(False)
    attention = layer(0.4)
    expected = attention(X, mask=mask, rngs=KEY)
    for found in (
        attention(X, mask=mask, rngs=KEY, sow_weights=True),
        layer(jnp.float32(0.4))(X, mask=mask, rngs=KEY),
        jax.jit(lambda rate: layer(rate)(X, mask=mask, rngs=KEY))(0.4),
        nnx.jit(lambda layer, rate: layer(X, mask=mask, rngs=KEY, rate=rate))(layer(0.0), 0.4),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_options_are_those_of_flax() -> None:
    theirs, ours = (
        inspect.signature(module.dot_product_attention).parameters for module in (nnx, jaxdrop.nnx)
    )
    assert [*ours][: len(theirs)] == [*theirs]
    q = X.reshape(2, 12, 4, 4)
    halved = jaxdrop.nnx.dot_product_attention(
        q,
        q,
        q,
        dtype=jnp.bfloat16,
        promote_dtype=lambda arrays, dtype: [x.astype(dtype) for x in arrays],
    )
    assert halved.dtype == jnp.bfloat16


def test_a_layer_takes_padding_and_packed_sequences_in_its_call() -> None:
    """As if a mask said what they say. What is padding may be NaN, and its output is 0."""
    layer = jaxdrop.nnx.MultiHeadAttention(
        4,
        16,
        dropout_rate=0.4,
        decode=False,
        deterministic=False,
        keep_rngs=False,
        rngs=nnx.Rngs(0),
    )
    lengths = jnp.asarray([9, 4])
    ids = jnp.asarray(np.arange(12) // 5 % 2)[None].repeat(2, 0)
    inside = np.arange(12) < np.asarray(lengths)[:, None]
    same = np.asarray(ids)[:, None, :, None] == np.asarray(ids)[:, None, None, :]
    mask = same & inside[:, None, :, None] & inside[:, None, None, :]

    def call(x: jax.Array, layer: Any = layer, **options: Any) -> jax.Array:
        return layer(x, rngs=KEY, **options)

    options = {"query_seq_lengths": lengths, "key_value_seq_lengths": lengths, "segment_ids": ids}
    expected = call(X, mask=mask)
    padded = jnp.where(inside[..., None], X, jnp.nan)
    np.testing.assert_allclose(call(padded, **options), expected, rtol=1e-5, atol=2e-6)
    other = jaxdrop.nnx.MultiHeadAttention(
        4, 16, decode=False, attention_fn=nnx.dot_product_attention, rngs=nnx.Rngs(0)
    )
    with pytest.raises(ValueError, match="attention_fn of MultiHeadAttention takes no segment_ids"):
        call(X, layer=other, segment_ids=ids)


def test_decoding_is_causal_by_itself() -> None:
    layers = [
        jaxdrop.nnx.MultiHeadAttention(4, 16, decode=True, rngs=nnx.Rngs(0)) for _ in range(2)
    ]
    for layer in layers:
        layer.init_cache(X.shape)
    for step in range(2):
        one = X[:, step : step + 1]
        np.testing.assert_array_equal(layers[0](one, is_causal=True), layers[1](one))


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_a_decoder_draws_the_masks_of_the_whole() -> None:
    """A prompt, and then token by token, with grouped queries, with a window and without; by
    blocks, and with weights to sow. More tokens than the cache has room for are NaN, or an error.
    """
    for window, sow in (((4, 0), False), (None, True)):
        layer = jaxdrop.nnx.MultiHeadAttention(
            4,
            16,
            num_kv_heads=2,
            dropout_rate=0.4,
            broadcast_dropout=sow,
            decode=False,
            deterministic=False,
            keep_rngs=False,
            attention_fn=functools.partial(
                jaxdrop.nnx.dot_product_attention, local_window_size=window
            ),
            rngs=nnx.Rngs(0),
        )
        expected = layer(X, is_causal=True, rngs=KEY)
        step = nnx.jit(lambda layer, x, sow=sow: layer(x, decode=True, rngs=KEY, sow_weights=sow))
        with pytest.raises(ValueError, match="init_cache"):
            step(layer, X)
        layer.init_cache(X.shape)
        found = [step(layer, X[:, :9]), *(step(layer, X[:, t : t + 1]) for t in range(9, 12))]
        np.testing.assert_allclose(jnp.concatenate(found, 1), expected, rtol=1e-5, atol=2e-6)
        assert layer.cache_index[...] == 12
    assert jnp.isnan(step(layer, X[:, :1])).all()
    for tokens, words in ((X[:, :1], "room for 12 tokens"), (X[:1, :1], r"\(2, 12, 2, 4\)")):
        with pytest.raises(ValueError, match=words):
            layer(tokens, decode=True, rngs=KEY)


@pytest.mark.parametrize(
    ("given", "called", "error", "message"),
    [
        ({"dropout_rate": jnp.full(3, 0.1)}, None, ValueError, "MultiHeadAttention takes one drop"),
        ({"dropout_rate": 1.5}, None, ValueError, "dropout_rate must lie"),
        ({"deterministic": 1}, None, TypeError, "deterministic must be True or False"),
        ({"decode": 1}, None, TypeError, "decode must be True or False"),
        ({"broadcast_dropout": 1}, None, TypeError, "broadcast_dropout must be True or False"),
        ({"rngs": KEY}, None, TypeError, "rngs must be an nnx.Rngs, for parameters"),
        ({"heads": 4}, None, TypeError, "MultiHeadAttention.*heads"),
        ({"dropout_rate": 0.2}, {"deterministic": 1}, TypeError, "deterministic must be True or F"),
        ({"dropout_rate": 0.2}, {"rngs": 3, "deterministic": False}, TypeError, "rngs must .* key"),
        (
            {"dropout_rate": 0.2},
            {"rngs": jax.random.split(KEY, 2), "deterministic": False},
            ValueError,
            r"rngs.* \(2,\)",
        ),
    ],
)
def test_bad_input(given: Any, called: Any, error: type[Exception], message: str) -> None:
    def call() -> None:
        layer = jaxdrop.nnx.MultiHeadAttention(4, 16, **{"rngs": nnx.Rngs(0), **given})
        if called is not None:
            layer(X, decode=False, **called)

    with pytest.raises(error, match=message):
        call()


def test_defaults() -> None:
    """Flax's, but for one: nothing is dropped, and masks are not shared."""
    theirs, ours = (
        inspect.signature(module.dot_product_attention).parameters for module in (nnx, jaxdrop.nnx)
    )
    for name, parameter in theirs.items():
        if name not in ("promote_dtype", "module"):
            assert ours[name].default == parameter.default
    layer = jaxdrop.nnx.MultiHeadAttention(4, 16, decode=False, rngs=nnx.Rngs(0))
    assert layer.dropout_rate == 0
    assert not layer.broadcast_dropout
    assert layer.attention_fn is jaxdrop.nnx.dot_product_attention
    flag = jax.jit(lambda off: layer(X, deterministic=off))  # compared with nothing at rate 0
    np.testing.assert_allclose(flag(True), layer(X), rtol=0, atol=2e-6)


def test_help_shows_the_arguments_of_a_subclass() -> None:
    class Same(jaxdrop.nnx.MultiHeadAttention):
        pass

    class Own(jaxdrop.nnx.MultiHeadAttention):
        def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
            super().__init__(4, width, decode=False, rngs=rngs)

    assert [*inspect.signature(Own).parameters] == ["width", "rngs"]
    shown = inspect.signature(jaxdrop.nnx.MultiHeadAttention)
    assert inspect.signature(Same) == shown
    assert "num_heads" in shown.parameters
    np.testing.assert_array_equal(Own(16, rngs=nnx.Rngs(0))(X).shape, X.shape)
