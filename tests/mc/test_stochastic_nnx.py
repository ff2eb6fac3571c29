"""What is special about `stochastic` in NNX: streams, layers without one, and transformations that
take models apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jaxdrop
import jaxdrop.nnx
from examples.models import transformer
from jaxdrop.nnx import stochastic
from tests.test_models import SHAPE, TOKENS, VOCABULARY, marked

KEY, OTHER = jaxdrop.key(0), jaxdrop.key(1)
ONES = jnp.ones((2, 64))


def equal(a: jax.Array, b: jax.Array) -> bool:
    return bool((a == b).all())


class Model(nnx.Module):
    """Layers and what is done with them."""

    def __init__(self, run: Callable[..., Any], **layers: Any) -> None:
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


class Classifier(nnx.Module):
    """As many are written."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(64, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.drop(nnx.relu(self.norm(self.dense(x))))


def snapshot(model: nnx.Module) -> Any:
    graph, state = nnx.split(model)
    return graph, [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(state)
    ]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_model_is_neither_changed_nor_read_again(mode: str) -> None:
    model = Classifier(nnx.Rngs(0))
    getattr(model, mode)()
    before = snapshot(model)
    fn = stochastic(model)
    first = fn(KEY, ONES)
    graph, leaves = snapshot(model)
    assert graph == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(leaves, before[1], strict=True))
    model.rngs.dropout()
    model.train()
    model(ONES)
    assert equal(fn(KEY, ONES), first)
    assert not equal(stochastic(model)(KEY, ONES), first)  # its statistics have moved on


def test_normalization_uses_the_model_s_statistics() -> None:
    model = Classifier(nnx.Rngs(0))
    model.norm.mean[...] = jnp.linspace(-1, 1, 8)
    model.norm.var[...] = jnp.linspace(0.5, 2, 8)
    sampled = stochastic(model)(KEY, ONES)
    model.eval()
    evaluated = model(ONES)
    assert equal(sampled, jnp.where(sampled == 0, jnp.zeros_like(sampled), 2 * evaluated))
    assert (sampled != 0).any()


def test_a_layer_that_updates_its_statistics_by_itself_is_an_error() -> None:
    class Norm(nnx.Module):
        def __init__(self) -> None:
            self.mean = nnx.BatchStat(jnp.zeros(64))

        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            if train:
                self.mean[...] = x.mean(0)
            return x - self.mean[...][None]

    model = Model(
        lambda self, x, train=True: self.drop(self.norm(x, train)),
        norm=Norm(),
        drop=jaxdrop.nnx.Dropout(0.5),
    )
    with pytest.raises(ValueError, match="batch statistics of Model change in the call"):
        stochastic(model)(KEY, ONES)
    assert (stochastic(model)(KEY, ONES, train=False) == 0).any()


def test_the_model_may_be_an_argument_of_the_compiled_function() -> None:
    model = Classifier(nnx.Rngs(0))
    run = nnx.jit(lambda model, key: stochastic(model)(key, ONES))
    np.testing.assert_allclose(run(model, KEY), stochastic(model)(KEY, ONES), atol=1e-5)


def test_layers_keep_their_type_and_attributes() -> None:
    def run(self: Any, x: jax.Array) -> jax.Array:
        assert isinstance(self.drop, jaxdrop.nnx.ConcreteDropout)
        return self.drop(x) * self.drop.learned_rate() * self.drop.temperature

    assert stochastic(Model(run, drop=jaxdrop.nnx.ConcreteDropout()))(KEY, ONES).shape == ONES.shape


# -- where keys come from


@pytest.mark.parametrize(
    "run",
    [
        lambda self, x: self.drop(x),
        lambda self, x: self.drop(x, rngs=self.rngs),
        lambda self, x: self.drop(x, rngs=self.rngs.dropout),
        lambda self, x: self.drop(x, rngs=self.rngs.dropout()),
    ],
    ids=["none", "rngs", "stream", "key"],
)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", [nnx.Dropout, jaxdrop.nnx.Dropout])
def test_a_layer_has_a_key(run: Callable[..., Any], own: bool, kind: type) -> None:
    model = Model(run, drop=kind(0.5, rngs=nnx.Rngs(1) if own else None), rngs=nnx.Rngs(0))
    fn = stochastic(model)
    assert equal(fn(KEY, ONES), fn(KEY, ONES))
    assert not equal(fn(KEY, ONES), fn(OTHER, ONES))


def test_a_call_that_takes_rngs_gets_them() -> None:
    class WithRngs(Model):
        def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
            assert rngs is not None
            return jaxdrop.dropout(rngs.dropout(), x, 0.5)

    fn = stochastic(WithRngs(lambda: None))
    assert not equal(fn(KEY, ONES), fn(OTHER, ONES))
    rngs = nnx.Rngs(0)
    assert not equal(fn(KEY, ONES, rngs), fn(OTHER, ONES, rngs))
    assert equal(fn(KEY, ONES, rngs=rngs), fn(KEY, ONES, rngs=nnx.Rngs(7)))
    assert rngs.default.count[...] == 0


def test_the_first_state_of_an_rnn_is_not_dropout() -> None:
    class Cell(nnx.SimpleCell):
        def initialize_carry(
            self, input_shape: Any, rngs: Any = None, carry_init: Any = None
        ) -> jax.Array:
            return jax.random.normal(rngs(), (*input_shape[:-1], 4))

    rnn = nnx.RNN(Cell(4, 4, rngs=nnx.Rngs(0)))
    fn = stochastic(
        Model(lambda self, x: (self.rnn(x), self.drop(x)), rnn=rnn, drop=jaxdrop.nnx.Dropout(0.5))
    )
    x = jnp.ones((2, 3, 4))
    (state, dropped), (same, other) = (fn(key, x) for key in (KEY, OTHER))
    assert equal(state, same)
    assert not equal(dropped, other)


def test_attention_without_a_stream() -> None:
    layer = nnx.MultiHeadAttention(
        2, 8, dropout_rate=0.5, decode=False, keep_rngs=False, rngs=nnx.Rngs(0)
    )
    fn = stochastic(Model(lambda self, x: self.layer(x, deterministic=True), layer=layer))
    x = jnp.linspace(-1, 1, 48).reshape(2, 3, 8)
    assert not equal(fn(KEY, x), fn(OTHER, x))


# -- transformations


class Block(nnx.Module):
    """Two layers, each of which is seen."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.flax = nnx.Dropout(0.5, rngs=rngs, deterministic=True)
        self.own = jaxdrop.nnx.Dropout(0.5, rngs=rngs, deterministic=True)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.flax(x), self.own(x, deterministic=True)


@pytest.mark.parametrize("transform", [nnx.jit, nnx.remat], ids=["jit", "remat"])
def test_nothing_that_was_traced_before_is_taken_for_it(transform: Callable[..., Any]) -> None:
    transformed = transform(lambda block, x: block(x))
    model = Model(lambda self, x: transformed(self.block, x), block=Block(nnx.Rngs(0)))
    functions = {
        layers: stochastic(model, layers=layers) for layers in ("all", "*flax", "*own", "last")
    }
    for key in (KEY, OTHER):
        outputs = {layers: fn(key, ONES) for layers, fn in functions.items()}
        dropped = {
            layers: [not equal(y, ONES) for y in output] for layers, output in outputs.items()
        }
        assert dropped == {
            "all": [True, True],
            "*flax": [True, False],
            "*own": [False, True],
            "last": [False, True],
        }
    assert not equal(functions["all"](KEY, ONES)[0], functions["all"](OTHER, ONES)[0])


@pytest.mark.parametrize("distinct", [True, False])
def test_stacked_layers_have_masks_of_their_own(distinct: bool) -> None:
    """Also where they have the same without `stochastic`."""

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=(nnx.Carry, 0))
    def run(block: Block, x: jax.Array) -> Any:
        return x, block(x)

    keys = jax.random.split(OTHER, 3)
    blocks = nnx.vmap(lambda key: Block(nnx.Rngs(key)))(
        keys if distinct else keys[jnp.zeros(3, int)]
    )
    for masks in stochastic(Model(lambda self, x: run(self.blocks, x)[1], blocks=blocks))(
        KEY, ONES
    ):
        assert masks.shape == (3, *ONES.shape)
        assert len(np.unique(masks.reshape(3, -1), axis=0)) == 3


@pytest.mark.usefixtures("relaxed")
def test_a_transformer_under_scan() -> None:
    """A sum of two masks, times 1 and 2, has all four values in 64 places but for a probability of
    4 * 0.75**64 = 4e-8.
    """
    model = transformer.Transformer(VOCABULARY, **SHAPE, rngs=nnx.Rngs(0))
    state = nnx.state(model)
    nnx.replace_by_pure_dict(state, marked())
    nnx.update(model, state)
    logits = jax.jit(stochastic(model, layers="blocks/*"))(KEY, TOKENS)
    assert len(np.unique(logits[0, 0].round(3))) == 4


def test_no_stream_is_shared_by_the_steps_of_a_scan() -> None:
    def run(self: Any, x: jax.Array) -> jax.Array:
        graph, state = nnx.split(self.drop)
        return lax.scan(lambda x, _: (nnx.merge(graph, state)(x), None), x, None, length=3)[0]

    with pytest.raises(ValueError, match="has no key"):
        stochastic(Model(run, drop=jaxdrop.nnx.Dropout(0.5)))(KEY, ONES)


def test_layers_in_layers() -> None:
    rngs = nnx.Rngs(0)
    model = Model(
        lambda self, x: (self.rnn(x), self.layer_drop(x, self.block)),
        rnn=jaxdrop.nnx.StackedRNN(nnx.SimpleCell, 4, 4, num_layers=2, dropout=0.5, rngs=rngs),
        layer_drop=jaxdrop.nnx.LayerDrop(1e-6, rngs=rngs),
        block=nnx.Sequential(jaxdrop.nnx.Dropout(0.5, rngs=rngs)),
    )
    model.eval()
    x = jnp.ones((2, 3, 4))
    one, other = (stochastic(model)(key, x) for key in (KEY, OTHER))
    assert [equal(a, b) for a, b in zip(one, other, strict=True)] == [False, False]
    with pytest.raises(
        ValueError,
        match=(
            r"are:\n  block/layers/0: .*\n  layer_drop: .*\n  rnn: StackedRNN\(dropout=0.5\)\n Pat"
        ),
    ):
        stochastic(model, layers="nothing")


# -- errors and methods


def test_errors_come_with_the_construction() -> None:
    with pytest.raises(ValueError, match="It has no dropout layer"):
        stochastic(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="chooses no dropout layer of Classifier"):
        stochastic(Classifier(nnx.Rngs(0)), layers="head/*")


@pytest.mark.parametrize(
    "method", ["encode", lambda model, x: model.encode(x)], ids=["name", "function"]
)
def test_methods(method: Any) -> None:
    class Encoder(Model):
        def encode(self, x: jax.Array) -> jax.Array:
            return self.drop(x)

    model = Encoder(lambda: None, drop=jaxdrop.nnx.Dropout(0.5))
    assert (stochastic(model, method=method)(KEY, ONES) == 0).any()
