"""What is special about `stochastic` in Linen: lifted transformations, collections, and flags in
two places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxdrop
import jaxdrop.linen
from examples.models import transformer_linen
from jaxdrop.linen import stochastic
from tests.mc.test_stochastic import filled
from tests.test_models import SHAPE, TOKENS, VOCABULARY, marked

KEY, OTHER = jaxdrop.key(0), jaxdrop.key(1)
ONES = jnp.ones((2, 64))


def equal(a: jax.Array, b: jax.Array) -> bool:
    return bool((a == b).all())


class Classifier(nn.Module):
    """As many are written."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(jaxdrop.linen.Dropout(0.5)(x, deterministic=not train))


def trained() -> dict[str, Any]:
    """Variables with statistics that are not those of any batch."""
    variables = jax.jit(lambda: Classifier().init(jax.random.key(0), ONES, train=False))()
    stats = {"mean": jnp.linspace(-1, 1, 8), "var": jnp.linspace(0.5, 2, 8)}
    return {"params": variables["params"], "batch_stats": {"BatchNorm_0": stats}}


def test_it_is_apply_with_its_dropout_on_and_its_normalization_in_evaluation() -> None:
    class Split(Classifier):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dense(8)(x)
            x = nn.BatchNorm(use_running_average=True)(x)
            x = nn.Dropout(0.5, deterministic=False)(nn.relu(x))
            return nn.Dense(3)(jaxdrop.linen.Dropout(0.5)(x, deterministic=False))

    variables = trained()
    expected = Split().apply(variables, ONES, rngs={"dropout": KEY})
    fn = stochastic(Classifier(), variables)
    assert equal(fn(KEY, ONES, train=False), expected)
    assert equal(fn(KEY, ONES, train=True), expected)
    # Nothing that was settled stays behind.
    off = Classifier().apply(variables, ONES, train=False, rngs={"dropout": KEY})
    assert not equal(expected, off)
    assert equal(Classifier().apply(variables, ONES, train=False), off)


def test_variables_may_be_arguments_of_the_compiled_function() -> None:
    variables = trained()
    run = jax.jit(
        lambda variables, key: stochastic(Classifier(), variables)(key, ONES, train=False)
    )
    np.testing.assert_allclose(
        run(variables, KEY), stochastic(Classifier(), variables)(KEY, ONES, train=False), atol=1e-5
    )


def test_a_layer_that_updates_its_statistics_by_itself_is_an_error() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            mean = self.variable("batch_stats", "mean", jnp.zeros, 64)
            mean.value = x.mean(0)
            return jaxdrop.linen.Dropout(0.5)(
                x - jnp.expand_dims(mean.value, 0), deterministic=True
            )

    with pytest.raises(flax.errors.ModifyScopeVariableError, match="batch_stats"):
        stochastic(Model(), Model().init(KEY, ONES))(KEY, ONES)


# -- lifted transformations


class Block(nn.Module):
    """Two layers, each of which is seen."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (
            nn.Dropout(0.5, deterministic=True, name="flax")(x),
            jaxdrop.linen.Dropout(0.5, deterministic=True, name="own")(x),
        )


@pytest.mark.parametrize(
    "lift", [nn.jit, nn.remat, lambda block: nn.jit(nn.remat(block))], ids=["jit", "remat", "both"]
)
def test_nothing_that_was_traced_before_is_taken_for_it(lift: Callable[..., Any]) -> None:
    model = lift(Block)()
    assert equal(model.apply({}, ONES, rngs={"dropout": KEY})[0], ONES)
    functions = {
        layers: stochastic(model, {}, layers=layers) for layers in ("all", "flax", "own", "last")
    }
    for _ in range(2):
        outputs = {layers: fn(KEY, ONES) for layers, fn in functions.items()}
        dropped = {
            layers: [not equal(y, ONES) for y in output] for layers, output in outputs.items()
        }
        assert dropped == {
            "all": [True, True],
            "flax": [True, False],
            "own": [False, True],
            "last": [False, True],
        }
    assert equal(model.apply({}, ONES, rngs={"dropout": KEY})[0], ONES)


@pytest.mark.parametrize(
    "lift", [lambda block: block, nn.jit, nn.remat], ids=["plain", "jit", "remat"]
)
def test_stacked_layers_have_masks_of_their_own(lift: Callable[..., Any]) -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> Any:
            def step(block: nn.Module, x: jax.Array, _: None) -> Any:
                return x, block(x)

            scan = nn.scan(step, split_rngs={"dropout": True}, length=3)
            return scan(lift(Block)(name="block"), x, None)[1]

    for masks in stochastic(Model(), {})(KEY, ONES):
        assert masks.shape == (3, *ONES.shape)
        assert len(np.unique(masks.reshape(3, -1), axis=0)) == 3


@pytest.mark.usefixtures("relaxed")
def test_a_transformer_under_scan() -> None:
    """A sum of two masks, times 1 and 2, has all four values in 64 places but for a probability of
    4 * 0.75**64 = 4e-8.
    """
    model = transformer_linen.Transformer(VOCABULARY, **SHAPE)
    fn = stochastic(model, {"params": marked()}, layers="blocks/*")
    logits = jax.jit(lambda key: fn(key, TOKENS, deterministic=True))(KEY)
    assert len(np.unique(logits[0, 0].round(3))) == 4


def test_layers_in_layers() -> None:
    class Model(nn.Module):
        def setup(self) -> None:
            self.rnn = jaxdrop.linen.StackedRNN(
                nn.SimpleCell, 4, num_layers=2, dropout=0.5, deterministic=True
            )
            self.layer_drop = jaxdrop.linen.LayerDrop(1e-6, deterministic=True)
            self.block = nn.Sequential([jaxdrop.linen.Dropout(0.5, deterministic=True)])

        def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self.rnn(x), self.layer_drop(x, self.block)

    model, x = Model(), jnp.ones((2, 3, 4))
    variables = filled(model, x)
    one, other = (stochastic(model, variables)(key, x) for key in (KEY, OTHER))
    assert [equal(a, b) for a, b in zip(one, other, strict=True)] == [False, False]
    with pytest.raises(
        ValueError,
        match=(
            r"are:\n  rnn: StackedRNN\(dropout=0.5\)\n  layer_drop: .*\n  block/layers_0: .*\n Pat"
        ),
    ):
        stochastic(model, variables, layers="nothing")(KEY, x)


# -- collections


class TwoCollections(nn.Module):
    """One layer, at one place of the model, in each of two collections; and a function with a
    third.
    """

    function: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        layers = [
            jaxdrop.linen.Dropout(0.5, deterministic=True, rng_collection=name)
            for name in ("dropout", "noise")
        ]
        outputs = [layer(x) for layer in layers]
        if self.function:
            outputs.append(jaxdrop.dropout(self.make_rng("other"), x, 0.5))
        return tuple(outputs)


def test_collections_of_layers_are_found() -> None:
    masks = stochastic(TwoCollections(), {})(KEY, ONES)
    assert not equal(*masks)
    assert all(0 < (mask == 0).mean() < 1 for mask in masks)


def test_collections_are_names() -> None:
    """One may be given alone, and a string is not taken for its letters."""
    masks = stochastic(TwoCollections(function=True), {}, rng_collections="other")(KEY, ONES)
    assert not equal(masks[2], ONES)
    for name in ("rng_collections", "mutable"):
        with pytest.raises(
            TypeError, match=rf"{name} must be names of collections, as in .*, got True"
        ):
            stochastic(TwoCollections(), {}, **{name: True})


def test_collections_of_functions_are_named() -> None:
    with pytest.raises(flax.errors.InvalidRngError, match="other"):
        stochastic(TwoCollections(function=True), {})(KEY, ONES)
    masks = stochastic(TwoCollections(function=True), {}, rng_collections=("dropout", "other"))(
        KEY, ONES
    )
    assert len({bytes(np.asarray(mask)) for mask in masks}) == 3


def test_collections_have_independent_keys() -> None:
    class Keys(nn.Module):
        def __call__(self) -> tuple[jax.Array, jax.Array]:
            return self.make_rng("dropout"), self.make_rng("noise")

    keys = stochastic(Keys(), {}, rng_collections=("dropout", "noise"))(KEY)
    assert not np.array_equal(*map(jax.random.key_data, keys))


# -- methods


@pytest.mark.parametrize(
    "method", ["encode", lambda model, x: model.encode(x)], ids=["name", "function"]
)
def test_methods(method: Any) -> None:
    class Model(nn.Module):
        def setup(self) -> None:
            self.drop = nn.Dropout(0.5, deterministic=True)

        def encode(self, x: jax.Array) -> jax.Array:
            return self.drop(x)

    assert (stochastic(Model(), {}, method=method)(KEY, ONES) == 0).any()
