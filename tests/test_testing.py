"""`jaxdrop.testing`, on models of each framework."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxdrop.testing import check_dropout
from tests.audit.gallery import KEY, array
from tests.audit.gallery import _linen as linen
from tests.audit.gallery import _nnx as in_nnx
from tests.audit.gallery._jax import W, model

pytestmark = pytest.mark.usefixtures("relaxed")

X = array(4, 8)


def test_correct_models_pass() -> None:
    for layers in (linen.MLP(), in_nnx.MLP(rngs=nnx.Rngs(0))):
        training, evaluation = check_dropout(layers, X)
        assert [site.active for site in training.sites] == [True]
        assert [site.active for site in evaluation.sites] == [False]


def test_linen_models_may_change_variables() -> None:
    """As batch norm does in training."""

    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
            return nn.Dense(2)(nn.Dropout(0.1, deterministic=not train)(x))

    check_dropout(Normalized(), X)


def test_an_nnx_model_keeps_its_mode() -> None:
    layers = in_nnx.MLP(rngs=nnx.Rngs(0))
    layers.eval()
    check_dropout(layers, X)
    assert layers.dropout.deterministic is True


def test_equinox_models_go_through_inference_mode() -> None:
    pytest.importorskip("equinox")
    from tests.audit.gallery import _equinox

    layers = _equinox.abstract(_equinox.MLP)
    check_dropout(layers, array(8), KEY)
    with pytest.raises(AssertionError, match="JD101"):
        check_dropout(_equinox.abstract(_equinox.MLP, used=False), array(8), KEY)


def test_a_function_says_its_mode() -> None:
    def run(w: Any, key: jax.Array, x: jax.Array, training: bool) -> jax.Array:
        return model(w, key, x) if training else jnp.tanh(x)

    check_dropout(run, W, KEY, array(8, 16))
    check_dropout(lambda w, key, x, on: run(w, key, x, on), W, KEY, array(8, 16),
                  train={"on": True}, evaluate={"on": False})  # fmt: skip
    with pytest.raises(TypeError, match="give train= and evaluate="):
        check_dropout(lambda x: x, X)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (linen.MLP(frozen=True), "evaluation: JD102"),
        (linen.MLP(used=False), "training: JD103"),
        (linen.MLP(dropout_rate=0.9), "rate 0.9: is 0.1 meant"),
    ],
)
def test_wrong_models_fail(model: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_dropout(model, X)


def test_what_fails_can_be_chosen() -> None:
    keep = linen.MLP(dropout_rate=0.9)
    check_dropout(keep, X, ignore=["JD304"])
    check_dropout(keep, X, select=["JD1"])
    check_dropout(keep, X, fail_level="error")
    with pytest.raises(ValueError, match="fail_level"):
        check_dropout(keep, X, fail_level="fatal")


@pytest.mark.parametrize("step", [3, "step"])
def test_the_step_is_passed_on(step: int | str) -> None:
    def run(w: Any, key: jax.Array, x: jax.Array, step: jax.Array, training: bool) -> jax.Array:
        return model(w, key, x) if training else jnp.tanh(x)

    with pytest.raises(AssertionError, match="JD202"):
        check_dropout(run, W, KEY, array(8, 16), array(dtype=jnp.int32), step=step)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deterministic", False),
        ("inference", False),
        ("train", True),
        ("training", True),
        ("is_training", True),
        ("enable_dropout", True),
    ],
)
def test_the_argument_that_says_the_mode(name: str, value: bool) -> None:
    """Of a function, and of the call of an NNX model, whose own mode does not count then."""
    source = f"lambda w, key, x, {name}: run(w, key, x, {name} is {value})"

    def run(w: Any, key: jax.Array, x: jax.Array, training: bool) -> jax.Array:
        return model(w, key, x) if training else jnp.tanh(x)

    training, evaluation = check_dropout(eval(source, {"run": run}), W, KEY, array(8, 16))
    assert [bool(report.sites) for report in (training, evaluation)] == [True, False]


def test_an_nnx_model_whose_call_takes_the_mode() -> None:
    class Told(in_nnx.MLP):
        def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
            self.dropout.deterministic = deterministic
            return super().__call__(x)

    layers = Told(rngs=nnx.Rngs(0))
    training, evaluation = check_dropout(layers, X)
    assert [site.active for report in (training, evaluation) for site in report.sites] == [
        True,
        False,
    ]


def test_arguments_that_say_the_mode_are_all_given() -> None:
    def run(w: Any, key: jax.Array, x: jax.Array, train: bool, deterministic: bool) -> jax.Array:
        assert train is not deterministic
        return model(w, key, x) if train else jnp.tanh(x)

    check_dropout(run, W, KEY, array(8, 16))


def test_costs_fail_if_they_are_asked_for() -> None:
    def run(w: Any, key: jax.Array, x: jax.Array, training: bool) -> jax.Array:
        return model(w, key, x, 0.0) if training else jnp.tanh(x)

    arguments = W, KEY, array(8, 16)
    training, _ = check_dropout(run, *arguments, ignore=["JD103"])
    assert [str(finding)[:5] for finding in training.findings] == ["JD106"]
    with pytest.raises(AssertionError, match=r"is wrong in this model:\ntraining: JD106"):
        check_dropout(run, *arguments, ignore=["JD103"], fail_level="info")


def test_the_step_is_an_argument_of_the_call() -> None:
    """Also where the variables of a Linen model, and a key, come before it. In evaluation it is
    none.
    """

    class Stepped(nn.Module):
        keyed: bool

        @nn.compact
        def __call__(self, x: jax.Array, step: jax.Array, deterministic: bool) -> jax.Array:
            rng = None
            if self.keyed and not deterministic:
                rng = jax.random.fold_in(self.make_rng("dropout"), step)
            x = nn.Dropout(0.1, deterministic=deterministic)(nn.Dense(8)(x), rng=rng)
            return nn.Dense(2)(x)

    arguments = X, array(dtype=jnp.int32)
    check_dropout(Stepped(keyed=True), *arguments, step=1)
    check_dropout(Stepped(keyed=True), np.ones((4, 8), np.float32), 3, step=1)
    with pytest.raises(AssertionError, match="JD202"):
        check_dropout(Stepped(keyed=False), *arguments, step=1)
