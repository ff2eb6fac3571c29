"""What `stochastic` says rather than leaves in silence, and names that are the model's own, in
Linen and in NNX alike.

Warnings are errors in the tests, so that a function that is called without `pytest.warns` does not
warn.
"""

from __future__ import annotations

import types
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
import jaxdrop.linen
import jaxdrop.nnx
from jaxdrop import mc
from tests.mc.test_stochastic import (
    FEATURES,
    LINEN,
    NNX,
    ONES,
    Framework,
    LinenKeys,
    NNXKeys,
    both,
    equal,
)

KEY, OTHER = jaxdrop.key(0), jaxdrop.key(1)
KEYS = mc.keys(KEY, 4)


def keys_of(flax: Framework) -> Any:
    return LinenKeys() if flax is LINEN else NNXKeys()


# -- names


NAMES = {
    "key",
    "rngs",
    "variables",
    "model",
    "method",
    "mutable",
    "args",
    "kwargs",
    "rate",
    "plan",
    "probe",
}


@both
@pytest.mark.parametrize("shared_mask", [False, True])
def test_all_names_are_the_model_s(flax: Framework, shared_mask: bool) -> None:
    def run(layers: dict[str, Any], x: jax.Array, **inputs: jax.Array) -> Any:
        assert set(inputs) == (NAMES if inputs else set())
        return layers["a"](x) * sum(inputs.values(), start=jnp.ones(()))

    fn = flax.stochastic({"a": flax.dropout()}, run, shared_mask=shared_mask)
    named = fn(KEY, ONES, **dict.fromkeys(NAMES, ONES))
    assert equal(named, (1 + len(NAMES)) * fn(KEY, ONES))


@both
def test_the_key_comes_first(flax: Framework) -> None:
    fn = flax.stochastic({"a": flax.dropout()})
    for call in (lambda: fn(), lambda: fn(None, ONES), lambda: fn(key=KEY, x=ONES)):
        with pytest.raises(
            TypeError, match=r"takes a key first, and without a name: fn\(key, \*inputs\)"
        ):
            call()


def test_classes_are_no_models() -> None:
    with pytest.raises(TypeError, match="got the class Dropout"):
        jaxdrop.nnx.stochastic(nnx.Dropout)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got the class Dropout"):
        jaxdrop.linen.stochastic(nn.Dropout, {})  # type: ignore[arg-type]


# -- keys that do not follow


def two_masks(layers: dict[str, Any], x: jax.Array, key: jax.Array | None = None) -> Any:
    """Of a layer, and of a function with a key of its own."""
    return layers["a"](x), jnp.where(
        jax.random.bernoulli(jax.random.key(3) if key is None else key, 0.5, x.shape), x, 0
    )


@both
def test_a_key_that_code_makes(flax: Framework) -> None:
    fn = flax.stochastic({"a": flax.dropout()}, two_masks)
    with pytest.warns(
        UserWarning, match=r"a key that does not follow the key(.|\n)*made or held by its code"
    ) as caught:
        samples = mc.predict(lambda key: fn(key, ONES), KEYS)
    assert [bool(part.std(0).any()) for part in samples] == [True, False]
    assert caught[0].filename == __file__  # the line that calls


@both
@pytest.mark.parametrize("own", [False, True])
def test_a_key_among_the_inputs(flax: Framework, own: bool) -> None:
    """It is seen if the function is vectorized or compiled for `key` alone; it may follow."""

    def run(layers: dict[str, Any], x: jax.Array, key: Any = OTHER) -> Any:
        return layers["a"](x), jax.lax.map(lambda row: jaxdrop.dropout(key, row, 0.5), x)

    fn = flax.stochastic({"a": flax.dropout()}, run if own else two_masks)
    for follows in (lambda key: key, lambda key: jax.random.fold_in(key, 1)):
        samples = mc.predict(lambda key, follows=follows: fn(key, ONES, follows(key)), KEYS)
        assert all(part.std(0).any() for part in samples)
    for fixed in (OTHER, jax.random.PRNGKey(0)):
        with pytest.warns(UserWarning, match=r"among the inputs \(input 2\)"):
            mc.predict(lambda key, fixed=fixed: fn(key, ONES, fixed), KEYS)
    with pytest.warns(UserWarning, match=r"among the inputs \(key\)"):
        jax.eval_shape(lambda key: mc.predict(lambda own: fn(own, ONES, key=key), KEYS), OTHER)


def test_keys_that_the_model_holds() -> None:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.drop, self.held = nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Variable(OTHER)

        def __call__(self, x: jax.Array) -> jax.Array:
            return jaxdrop.dropout(self.held[...], self.drop(x), 0.5)

    with pytest.warns(UserWarning, match=r"held by the model \(held\)"):
        jaxdrop.nnx.stochastic(Model())(KEY, ONES)

    class LinenModel(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            key = self.variable("keys", "own", lambda: OTHER).value
            return jaxdrop.dropout(key, nn.Dropout(0.5, deterministic=True)(x), 0.5)

    with pytest.warns(UserWarning, match=r"held by the model \(keys/own\)"):
        jaxdrop.linen.stochastic(LinenModel(), {"keys": {"own": OTHER}})(KEY, ONES)


@both
def test_nothing_follows(flax: Framework) -> None:
    layers = {"a": flax.dropout(0.0), "keys": keys_of(flax)}
    message = (
        r"nothing is random in \w+: .*It draws from a key that does not follow, made or held by its"
        r" code"
    )
    with pytest.raises(ValueError, match=message):
        flax.stochastic(layers, lambda layers, x: two_masks(layers, x))(KEY, ONES)


# -- code that is off


def told_train(self: Any, x: jax.Array, train: bool = False) -> Any:
    return self.run(self.layers, x, train)


def told_training(self: Any, x: jax.Array, training: bool = False) -> Any:
    return self.run(self.layers, x, training)


def told_is_training(self: Any, x: jax.Array, is_training: bool = False) -> Any:
    return self.run(self.layers, x, is_training)


def told_deterministic(self: Any, x: jax.Array, deterministic: bool = True) -> Any:
    return self.run(self.layers, x, not deterministic)


@both
@pytest.mark.parametrize("told", [told_train, told_training, told_is_training, told_deterministic])
def test_functions_that_are_off_beside_layers_that_are_on(flax: Framework, told: Any) -> None:
    def run(layers: dict[str, Any], x: jax.Array, on: bool) -> jax.Array:
        return jaxdrop.dropout(layers["keys"](), layers["a"](x), 0.5, deterministic=not on)

    flag = told.__name__.removeprefix("told_")
    drops = flag != "deterministic"
    call = types.FunctionType(told.__code__, told.__globals__, "__call__", told.__defaults__)
    model = type("Told", (flax.model,), {"__call__": call})(
        {"a": flax.dropout(), "keys": keys_of(flax)}, run
    )
    fn = jaxdrop.nnx.stochastic(model) if flax is NNX else jaxdrop.linen.stochastic(model, {})
    for options in ({}, {flag: not drops}):
        with pytest.warns(
            UserWarning,
            match=rf"is random in part(.|\n)* draws if it is told {flag}={drops}, is off",
        ) as caught:
            fn(KEY, ONES, **options)
        assert caught[0].filename == __file__
    assert 0.7 < float((fn(KEY, ONES, **{flag: drops}) == 0).mean()) < 0.8


@both
def test_a_method_that_is_told(flax: Framework) -> None:
    def run(model: Any, x: jax.Array, train: bool = False) -> jax.Array:
        return jaxdrop.dropout(
            model.layers["keys"](), model.layers["a"](x), 0.5, deterministic=not train
        )

    fn = flax.stochastic(
        {"a": flax.dropout(), "keys": keys_of(flax)}, lambda layers, x: x, method=run
    )
    with pytest.warns(UserWarning, match=r"draws if it is told train=True, is off"):
        fn(KEY, ONES)
    assert 0.7 < float((fn(KEY, ONES, True) == 0).mean()) < 0.8


class OwnDropPath(nnx.Module):
    """A layer of a user's, which follows `model.train()` and `model.eval()`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.rngs, self.deterministic = rngs, False

    def __call__(self, x: jax.Array) -> jax.Array:
        return (
            x
            if self.deterministic
            else jnp.where(jax.random.bernoulli(self.rngs.dropout(), 0.5, (len(x), 1)), x, 0)
        )


class OwnLinenDropPath(nn.Module):
    """The same, whose constructor is told."""

    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return (
            x
            if self.deterministic
            else jnp.where(jax.random.bernoulli(self.make_rng("dropout"), 0.5, (len(x), 1)), x, 0)
        )


def test_layers_of_others_that_are_off() -> None:
    model = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), OwnDropPath(nnx.Rngs(1)))
    jaxdrop.nnx.stochastic(model)(KEY, ONES)
    model.eval()
    with pytest.warns(UserWarning, match="draws if it is told deterministic=False, is off"):
        jaxdrop.nnx.stochastic(model)(KEY, ONES)
    for off in (False, True):
        linen = nn.Sequential([nn.Dropout(0.5, deterministic=True), OwnLinenDropPath(off)])
        if off:
            with pytest.warns(UserWarning, match="draws if it is told deterministic=False, is off"):
                jaxdrop.linen.stochastic(linen, {})(KEY, ONES)
        else:
            jaxdrop.linen.stochastic(linen, {})(KEY, ONES)


def test_layers_that_run_in_training_only() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
            x = nn.Dropout(0.5)(x, deterministic=not train)
            return nn.Dropout(0.5, deterministic=False)(x) if train else x

    fn = jaxdrop.linen.stochastic(Model(), {})
    with pytest.warns(UserWarning, match="draws if it is told train=True, is off"):
        fn(KEY, ONES)
    assert (fn(KEY, ONES, train=True) == 0).mean() > 0.7


# -- what a call changes


def test_the_cache_of_an_nnx_decoder() -> None:
    """Decoded one by one, with the same mask for every step, tokens get what they get at once."""

    class Decoder(nnx.Module):
        def __init__(self, decode: bool) -> None:
            self.attention = nnx.MultiHeadAttention(2, 8, decode=decode, rngs=nnx.Rngs(0))
            self.drop = jaxdrop.nnx.LockedDropout(0.5, time_axis=1, rngs=nnx.Rngs(1))

        def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
            return self.drop(self.attention(x, mask=mask))

    model = Decoder(decode=True)
    model.attention.init_cache(FEATURES.shape)
    with pytest.raises(
        ValueError, match=r"changes its own variables in the call(.|\n)*nnx.update\(model, cache\)"
    ):
        jaxdrop.nnx.stochastic(model)(KEY, FEATURES[:, :1])

    def step(model: Decoder, cache: Any, x: jax.Array) -> Any:
        nnx.update(model, cache)
        return model(x), nnx.state(model, nnx.Cache)

    fn = jaxdrop.nnx.stochastic(model, method=step)
    decode = jax.jit(lambda cache, x: fn(KEY, cache, x))
    cache, outputs = nnx.state(model, nnx.Cache), []
    for token in range(6):
        y, cache = decode(cache, FEATURES[:, token : token + 1])
        outputs.append(y)
    whole = jaxdrop.nnx.stochastic(Decoder(decode=False))(
        KEY, FEATURES, nn.make_causal_mask(FEATURES[..., 0])
    )
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), whole, rtol=1e-4, atol=1e-5)


def test_the_cache_of_a_linen_decoder() -> None:
    class Decoder(nn.Module):
        decode: bool

        @nn.compact
        def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
            x = nn.MultiHeadDotProductAttention(2, decode=self.decode)(x, mask=mask)
            return jaxdrop.linen.LockedDropout(0.5, time_axis=1, deterministic=True)(x)

    model = Decoder(decode=True)
    variables = jax.jit(model.init)(jax.random.key(0), FEATURES)
    with pytest.raises(flax.errors.ModifyScopeVariableError) as error:
        jaxdrop.linen.stochastic(model, variables)(KEY, FEATURES[:, :1])
    assert "mutable=['cache']" in error.value.__notes__[0]

    @jax.jit
    def decode(cache: Any, x: jax.Array) -> Any:
        fn = jaxdrop.linen.stochastic(model, {**variables, "cache": cache}, mutable=["cache"])
        return fn(KEY, x)

    cache, outputs = variables["cache"], []
    for token in range(6):
        y, changed = decode(cache, FEATURES[:, token : token + 1])
        cache = changed["cache"]
        outputs.append(y)
    mask = nn.make_causal_mask(FEATURES[..., 0])
    whole = jaxdrop.linen.stochastic(Decoder(decode=False), {"params": variables["params"]})(
        KEY, FEATURES, mask
    )
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), whole, rtol=1e-4, atol=1e-5)


# -- several models


@pytest.mark.parametrize(
    "kind",
    [list, tuple, lambda models: dict(zip("ab", models, strict=True))],
    ids=["list", "tuple", "dict"],
)
def test_several_models(kind: Any) -> None:
    models = kind([nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0))) for _ in range(2)])

    def run(models: Any, x: jax.Array) -> Any:
        return [model(x) for model in (models.values() if isinstance(models, dict) else models)]

    one, other = jaxdrop.nnx.stochastic(models, method=run)(KEY, ONES)
    assert not equal(one, other)
    with pytest.raises(TypeError, match=r"method must say what to do with them"):
        jaxdrop.nnx.stochastic(models)


def test_no_model_among_several() -> None:
    with pytest.raises(TypeError, match="model must be an NNX module, got list"):
        jaxdrop.nnx.stochastic([1, 2], method=lambda models: None)  # type: ignore[arg-type]
