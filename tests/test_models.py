"""The transformer of the examples, in NNX and in Linen."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdrop
from examples import _generation
from examples.models import transformer, transformer_linen

pytestmark = pytest.mark.usefixtures("relaxed")

Apply = Callable[..., jax.Array]
VOCABULARY = 64
SHAPE = {"length": 6, "width": 64, "heads": 2, "layers": 2, "rate": 0.5, "path_rate": 0.0}
TOKENS = np.arange(12).reshape(2, 6)


def in_nnx(**changes: Any) -> Apply:
    """The model as a function of parameters in a dictionary. Without a key it is deterministic."""
    model = transformer.Transformer(VOCABULARY, **SHAPE | changes, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)

    def apply(params: Any, tokens: Any, key: Any = None, strength: Any = 1.0) -> jax.Array:
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, params)
        model = nnx.view(nnx.merge(graph, filled), deterministic=key is None)
        return model(tokens, None if key is None else nnx.Rngs(key), strength=strength)

    return apply


def in_linen(**changes: Any) -> Apply:
    model = transformer_linen.Transformer(VOCABULARY, **SHAPE | changes)

    def apply(params: Any, tokens: Any, key: Any = None, strength: Any = 1.0) -> jax.Array:
        rngs = {} if key is None else {"dropout": key}
        return model.apply(
            {"params": params}, tokens, deterministic=key is None, strength=strength, rngs=rngs
        )

    return apply


def parameters(**changes: Any) -> Any:
    model = transformer.Transformer(VOCABULARY, **SHAPE | changes, rngs=nnx.Rngs(0))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def marked() -> Any:
    """Parameters with which a block adds nothing but the dropped bias of its MLP, 1 in the first
    block and 2 in the second.
    """
    params = jax.tree.map(jnp.zeros_like, parameters())
    params["blocks"]["down"]["bias"] = jnp.array([[1.0], [2.0]]) + jnp.zeros((2, 64))
    params["norm"]["scale"] = jnp.ones(64)
    params["head"]["kernel"] = jnp.eye(64)
    return params


both = pytest.mark.parametrize("build", [in_nnx, in_linen])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_both_are_the_same_model(norm: str) -> None:
    params = parameters(norm=norm)
    linen = transformer_linen.Transformer(VOCABULARY, **SHAPE, norm=norm)
    own = jax.eval_shape(lambda: linen.init(jax.random.key(0), TOKENS, deterministic=True))[
        "params"
    ]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own)
    logits = [build(norm=norm)(params, TOKENS) for build in (in_nnx, in_linen)]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-5)


@both
def test_nothing_sees_the_future(build: Callable[..., Apply]) -> None:
    params = parameters()
    changed = np.where(np.arange(6) < 4, TOKENS, 0)
    before, after = (build()(params, tokens) for tokens in (TOKENS, changed))
    np.testing.assert_allclose(before[:, :4], after[:, :4], rtol=0, atol=1e-6)
    assert np.abs(before - after)[:, 4:].max() > 0.1


@both
def test_strength_0_drops_nothing(build: Callable[..., Apply]) -> None:
    params, apply = parameters(), jax.jit(build(path_rate=0.5))
    off = apply(params, TOKENS)
    key = jaxdrop.key(0)
    np.testing.assert_allclose(apply(params, TOKENS, key, 0.0), off, rtol=0, atol=1e-5)
    assert np.abs(apply(params, TOKENS, key, 1.0) - off).max() > 0.1


@both
def test_layers_have_masks_of_their_own(build: Callable[..., Apply]) -> None:
    """A sum of two masks, times 1 and 2, has all four values in 64 places but for a probability of
    4 * 0.75**64 = 4e-8.
    """
    logits = build()(marked(), TOKENS, jaxdrop.key(0))
    assert len(np.unique(logits[0, 0].round(3))) == 4


@both
def test_deep_layers_are_dropped_more_often(build: Callable[..., Apply]) -> None:
    """Drop path of rate 1 takes the second block away from every example, and leaves the first
    one.
    """
    logits = build(path_rate=1.0)(marked(), TOKENS, jaxdrop.key(0))
    assert [len(np.unique(row.round(3))) for row in logits[:, 0]] == [2, 2]


def nnx_decoder(**changes: Any) -> tuple[Apply, Any, Apply]:
    """Logits of a whole text, an empty cache, and logits of the tokens that continue a text."""
    model = transformer.Transformer(VOCABULARY, **SHAPE | changes, rngs=nnx.Rngs(0))
    model.init_cache(2)
    graph, cache, others = nnx.split(model, nnx.Cache, ...)

    def step(cache: Any, tokens: Any, key: Any) -> Any:
        model = nnx.merge(graph, *jax.tree.map(lambda leaf: leaf, (cache, others)))
        logits = model(tokens, nnx.Rngs(key), decode=True)
        return logits, nnx.state(model, nnx.Cache)

    return lambda tokens, key: model(tokens, nnx.Rngs(key)), cache, step


def linen_decoder(**changes: Any) -> tuple[Apply, Any, Apply]:
    model = transformer_linen.Transformer(VOCABULARY, **SHAPE | changes)
    decoder = model.clone(decode=True)
    variables = decoder.init(jax.random.key(0), TOKENS, deterministic=True)
    params = {"params": variables["params"]}

    def step(cache: Any, tokens: Any, key: Any) -> Any:
        logits, changed = decoder.apply(
            params | {"cache": cache}, tokens, rngs={"dropout": key}, mutable=["cache"]
        )
        return logits, changed["cache"]

    def whole(tokens: Any, key: Any) -> jax.Array:
        return model.apply(params, tokens, rngs={"dropout": key})

    return whole, variables["cache"], step


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (nnx_decoder, {"path_rate": 0.5, "groups": 1, "window": 2}),
        (linen_decoder, {"path_rate": 0.5, "window": 2}),
    ],
    ids=["nnx", "linen"],
)
def test_decoding_with_a_cache_is_the_whole_pass(build: Any, options: dict[str, Any]) -> None:
    """Every token's logits, with the masks of its place in all five kinds of dropout; and these
    depend on the key.
    """
    whole, cache, step = build(**options)
    whole, step, key = jax.jit(whole), jax.jit(step), jaxdrop.key(1)
    found = []
    for tokens in (TOKENS[:, :4], TOKENS[:, 4:5], TOKENS[:, 5:]):
        logits, cache = step(cache, tokens, key)
        found.append(logits)
    expected = whole(TOKENS, key)
    np.testing.assert_allclose(jnp.concatenate(found, 1), expected, rtol=1e-5, atol=5e-6)
    assert np.abs(expected - whole(TOKENS, jaxdrop.key(2))).max() > 0.1


def test_texts_of_samples_share_what_no_dropout_precedes() -> None:
    """A sample's text is as probable as one pass of its network over it says. The block without
    dropout reads the prompt once for all samples: only the other's products have their axis.
    """
    model = transformer.Transformer(VOCABULARY, **SHAPE, rngs=nnx.Rngs(0))
    keys = jaxdrop.mc.keys(jaxdrop.key(3), 3)
    cache, decode = _generation.decoder(model, first=1)

    @jax.jit
    def both(keys: jax.Array) -> Any:
        options = {"count": 2}
        many = _generation.write_many(decode, cache, TOKENS[0, :4], keys, **options)
        text = jnp.append(TOKENS[0, :4], many.tokens[1])
        logits = model(text[None], nnx.Rngs(jax.random.split(keys[1])[0]), first=1)[0, 3:5]
        return many, jnp.take_along_axis(jax.nn.log_softmax(logits), text[4:, None], 1)[:, 0]

    many, log_probs = both(keys)
    np.testing.assert_allclose(many.log_probs[1], log_probs, rtol=1e-5)
    assert len(np.unique(many.log_probs[:, 0])) == 3

    prompt = jax.jit(jax.vmap(lambda key: decode(cache, TOKENS[0, :4], key)[0])).lower(keys)
    width = SHAPE["width"]
    products = [line for line in prompt.as_text().splitlines() if "dot_general" in line]
    up = [line for line in products if f"{width}x{4 * width}xf32>)" in line]
    assert [line.count("tensor<3x") > 0 for line in up] == [False, True]


@pytest.mark.sweep
def test_uncertainty_of_a_text() -> None:
    model = transformer.Transformer(VOCABULARY, **SHAPE, rngs=nnx.Rngs(0))
    cache, decode = _generation.decoder(model, first=1)
    sure = _generation.uncertainty(
        decode, cache, TOKENS[0, :3], TOKENS[0, 3:], jaxdrop.key(4), tolerance=0.1, batch_size=4
    )
    assert sure.tokens.mutual_information.shape == (3,)
    assert sure.num_samples >= 16
    assert np.isfinite(sure.score)
    assert sure.spread > 0


@both
def test_no_array_grows_with_the_square_of_the_length(build: Callable[..., Apply]) -> None:
    """Neither in the forward nor in the backward pass: no array of attention weights is formed."""
    length = 8192
    shape = {"length": length, "width": 8, "heads": 1}
    apply, params = build(**shape), jax.eval_shape(lambda: parameters(**shape))

    def loss(params: Any, tokens: Any, key: jax.Array, strength: jax.Array) -> jax.Array:
        return apply(params, tokens, key, strength).sum()

    program = jax.make_jaxpr(jax.grad(loss))(
        params,
        jax.ShapeDtypeStruct((1, length), jnp.int32),
        jax.eval_shape(lambda: jaxdrop.key(0)),
        jax.ShapeDtypeStruct((), jnp.float32),
    )
    shapes = re.findall(r"[a-z]\d+\[([\d,]+)\]", str(program))
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) < length**2 / 8
