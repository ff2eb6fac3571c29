"""Samples that are all the same are an error, unless they are meant; and no error is a false
one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

import jaxdrop
import jaxdrop.nnx
from jaxdrop import mc

X = jnp.ones((4, 6))
KEYS = mc.keys(jaxdrop.key(0), 4)
MODEL = nnx.Sequential(nnx.Linear(6, 6, rngs=nnx.Rngs(0)), jaxdrop.nnx.Dropout(0.5))
EVALUATED = nnx.clone(MODEL)
EVALUATED.eval()
LAYER = nn.Dropout(0.5)

RUNNERS: dict[str, Callable[..., Any]] = {
    "mc.predict": lambda fn, **options: mc.predict(fn, KEYS, **options),
    "mc.predict in chunks": lambda fn, **options: mc.predict(fn, KEYS, batch_size=2, **options),
    "mc.predict with a bar": lambda fn, **options: mc.predict(fn, KEYS, progress=True, **options),
    "mc.moments": lambda fn, **options: mc.moments(fn, KEYS, **options),
    "mc.until": lambda fn, **options: mc.until(
        fn, jaxdrop.key(0), tolerance=0.1, max_samples=8, batch_size=2, **options
    ),
    "mc.predict_dataset": (
        lambda fn, **options: mc.predict_dataset(
            lambda key, x: fn(key), [X], KEYS, progress=False, **options
        ).concatenate()
    ),
    "mc.fit_rate": lambda fn, **options: mc.fit_rate(
        lambda key, rate: fn(key) * rate, [0.0, 0.1], KEYS, lambda x: x.sum(), **options
    ),
}


def _evaluation(key: jax.Array) -> jax.Array:
    return EVALUATED(X, rngs=nnx.Rngs(dropout=key))


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("runner", RUNNERS)
def test_evaluation_is_an_error(runner: str) -> None:
    name = runner.split()[0].replace(".", r"\.")
    with pytest.raises(
        ValueError,
        match=(
            rf"(?s)nothing that fn returns depends on its key, so {name} would.*4\. .*allow_determ"
        ),
    ):
        RUNNERS[runner](_evaluation)


@pytest.mark.sweep(keep=2)
@pytest.mark.parametrize("runner", RUNNERS)
def test_unless_it_is_meant(runner: str) -> None:
    found = RUNNERS[runner](lambda key: X, allow_deterministic=True)
    if "predict" in runner:
        np.testing.assert_array_equal(found, np.ones((4, 4, 6)))


IGNORED = {
    "linen": lambda key: LAYER.apply({}, X, deterministic=True, rngs={"dropout": key}),
    "rate 0": lambda key: jaxdrop.dropout(key, X, 0.0),
    "another key": lambda key: jaxdrop.dropout(jaxdrop.key(1), X, 0.5),
    "several": lambda key: {"x": X, "labels": jnp.arange(4), "nothing": None},
    "drawn and not used": lambda key: (jaxdrop.dropout(key, X, 0.5), X)[1],
    "an idle state": lambda key: lax.scan(
        lambda s, k: ((s[0] + 1, k), s[0]), (0.0, key), jax.random.split(key, 3)
    )[1],
    "jitted": jax.jit(lambda key: X * 2),
}


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("fn", IGNORED.values(), ids=IGNORED)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_whatever_the_reason(fn: Callable[..., Any], batch_size: int | None) -> None:
    with pytest.raises(ValueError, match="nothing that fn returns depends on its key"):
        jax.eval_shape(lambda: mc.predict(fn, KEYS, batch_size=batch_size))


USED = {
    "one of several": lambda key: (X, jaxdrop.dropout(key, X, 0.5)),
    "by a branch": lambda key: lax.cond(jax.random.bits(key) % 2 == 0, lambda: X, lambda: 2 * X),
    "by the number of turns": lambda key: lax.fori_loop(
        0, (jax.random.bits(key) % 3).astype(jnp.int32), lambda _, x: x + 1, X
    ),
    "by a loop": lambda key: lax.scan(
        lambda x, k: (jaxdrop.dropout(k, x, 0.1), None), X, jax.random.split(key, 2)
    )[0],
    "a traced rate of 0": lambda key: jaxdrop.dropout(key, X, jnp.zeros(())),
    "by the host": lambda key: jax.pure_callback(
        lambda k: np.float32(k[1]),
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.random.key_data(key),
        vmap_method="sequential",
    ),
    "itself": lambda key: key,
    "no examples": lambda key: jaxdrop.dropout(key, X[:0], 0.5),
}


@pytest.mark.parametrize("fn", USED.values(), ids=USED)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_no_false_alarm(fn: Callable[..., Any], batch_size: int | None) -> None:
    jax.eval_shape(lambda: mc.predict(fn, KEYS, batch_size=batch_size))


@pytest.mark.parametrize("runner", [mc.predict, mc.moments])
def test_a_return_that_was_forgotten(runner: Callable[..., Any]) -> None:
    def forgetful(key: jax.Array) -> None:
        jaxdrop.dropout(key, X, 0.5)

    with pytest.raises(ValueError, match=r"mc\.\w+ calls fn\(key\), .*forgetful needs a return"):
        runner(forgetful, KEYS)


def test_a_batch_of_no_examples_is_none_in_evaluation() -> None:
    model = nnx.Sequential(nnx.Linear(6, 3, rngs=nnx.Rngs(0)), jaxdrop.nnx.Dropout(0.5))
    for shared in (False, True):
        fn = jaxdrop.nnx.stochastic(model, shared_mask=shared)
        assert fn(jaxdrop.key(0), np.ones((0, 6), np.float32)).shape == (0, 3)
    found = mc.analytic(jaxdrop.nnx.stochastic(model))(np.ones((0, 6), np.float32))
    assert found.mean.shape == found.variance.shape == (0, 3)


# -- who calls what


class _Net(nnx.Module):
    def __init__(self) -> None:
        self.layer = nnx.Linear(6, 6, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)


def _two(key: jax.Array, x: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, x, 0.5)


@pytest.mark.sweep(keep=4)
@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (_Net(), KEYS),
            TypeError,
            (
                r"mc.predict calls fn\(key\), but fn is a model, a _Net. Close over the inputs:"
                r" mc.predict"
            ),
        ),
        ((nn.Dense(3), KEYS), TypeError, r"mc.predict calls fn\(key\), but fn is a model, a Dense"),
        (
            (_two, KEYS),
            TypeError,
            r"calls fn\(key\), but fn is _two\(key.*missing a required argument: 'x'. Close over",
        ),
        ((lambda: X, KEYS), TypeError, "too many positional arguments"),
        (
            (functools.partial(_two), KEYS),
            TypeError,
            r"calls fn\(key\), but fn is a partial\(key.*missing a required argument: 'x'",
        ),
        (
            (KEYS, _two),
            TypeError,
            (
                r"fn must be a function of a key, got keys of shape.* The order .* is"
                r" mc.predict\(fn, keys\)"
            ),
        ),
        (
            (_two, jaxdrop.key(0)),
            ValueError,
            r"got a key, which is one key: pass mc.keys\(key, 100\)",
        ),
        ((_two, 100), ValueError, "keys must be a key array.*got 100"),
        ((_two, _two), ValueError, "keys must be a key array.*got .*_two"),
    ],
)
def test_messages_name_the_function(
    arguments: tuple[Any, ...], error: type[Exception], message: str, batch_size: int | None
) -> None:
    with pytest.raises(error, match=message) as caught:
        mc.predict(*arguments, batch_size=batch_size)
    assert "\n" not in str(caught.value)


class Module:
    """Of no framework."""

    def __call__(self, key: jax.Array) -> jax.Array:
        raise TypeError("its own")


@pytest.mark.parametrize("fn", [Module(), dict])
def test_errors_of_what_is_no_model_are_its_own(fn: Callable[..., Any]) -> None:
    """With a note of who calls. Some builtins do not say what they take."""
    with pytest.raises(TypeError) as caught:
        mc.predict(fn, KEYS)
    assert "fn is a model" not in str(caught.value)
    assert caught.value.__notes__[0] == "(mc.predict calls fn(key).)"


def test_each_names_itself() -> None:
    for call in (
        lambda: mc.moments(_two, KEYS),
        lambda: mc.until(_two, jaxdrop.key(0), tolerance=0.1, max_samples=200),
    ):
        with pytest.raises(TypeError, match=r"mc.(moments|until) calls fn\(key\), but fn is _two"):
            call()


def test_data_sets_call_with_the_inputs() -> None:
    with pytest.raises(
        TypeError,
        match=(
            r"mc.predict_dataset calls fn\(key, input, input\), but fn is _two.*too many.* A model"
            r" becomes such a function by jaxdrop.nnx.stochastic"
        ),
    ):
        mc.predict_dataset(_two, [(X, X)], KEYS, progress=False)
    with pytest.raises(
        TypeError, match=r"fn must be a function.*mc.predict_dataset\(fn, batches, keys\)"
    ):
        mc.predict_dataset([X], _two, KEYS, progress=False)
    with pytest.raises(
        TypeError, match=r"batch 1 of batches must be an array of numbers.*holds <U1 'a'"
    ):
        mc.predict_dataset(_two, [X, "a"], KEYS, progress=False)
    with pytest.raises(TypeError, match=r"batch 0 of batches holds keys.*the same in all samples"):
        mc.predict_dataset(_two, [(X, KEYS)], KEYS, progress=False)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_flag_is_true_or_false(runner: str) -> None:
    with pytest.raises(TypeError, match="allow_deterministic must be True or False, got 'False'"):
        RUNNERS[runner](_evaluation, allow_deterministic="False")
