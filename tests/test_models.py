"""The transformer of the examples, in NNX and in Linen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdrop
from examples.models import transformer, transformer_linen

pytestmark = [
    pytest.mark.usefixtures("relaxed"),
    pytest.mark.skipif(not hasattr(nnx, "view"), reason="this Flax has no nnx.view"),
]

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


def test_memory_grows_no_faster_than_the_length() -> None:
    def temporaries(build: Callable[..., Apply], length: int) -> int:
        shape = {"length": length, "width": 8, "heads": 1}
        apply, params = build(**shape), jax.eval_shape(lambda: parameters(**shape))

        def loss(params: Any, tokens: Any, key: jax.Array, strength: jax.Array) -> jax.Array:
            return apply(params, tokens, key, strength).sum()

        tokens, strength = (
            jax.ShapeDtypeStruct((1, length), jnp.int32),
            jax.ShapeDtypeStruct((), jnp.float32),
        )
        step = jax.jit(jax.grad(loss)).lower(
            params, tokens, jax.eval_shape(lambda: jaxdrop.key(0)), strength
        )
        return step.compile().memory_analysis().temp_size_in_bytes

    short = temporaries(in_nnx, 4096)
    assert max(temporaries(build, 8192) for build in (in_nnx, in_linen)) < 2.1 * short
