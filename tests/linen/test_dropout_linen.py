"""`jaxdrop.linen.Dropout` in place of `flax.linen.Dropout`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.errors import InvalidRngError

import jaxdrop
from jaxdrop.linen import Dropout
from tests.catalogue import DROPOUT, KEY, RATE

RNGS = {"dropout": jax.random.key(7)}


class Block(nn.Module):
    """Two sites of which one is called twice."""

    layer: Callable[..., nn.Module]
    rate: float = RATE

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        site = self.layer(self.rate, deterministic=not train)
        return self.layer(0.1)(nn.Dense(16)(site(site(x))), deterministic=not train)


class Model(nn.Module):
    """Blocks, of which some draw nothing in their first sites."""

    layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        for rate in (0.2, 0.0, 0.5, 1.0):
            x = x + Block(self.layer, rate)(x, train)
        return x


# -- as Flax has it


@pytest.mark.parametrize("method", ["__init__", "__call__"])
def test_signature_is_that_of_flax(method: str) -> None:
    """Flax's parameters come first, in its order and with its defaults; those of a call besides are
    keyword-only.
    """
    ours, flax = (
        inspect.signature(getattr(cls, method)).parameters for cls in (Dropout, nn.Dropout)
    )
    own = [name for name in flax if name not in ("parent", "name")]
    assert list(ours)[: len(own)] == own
    for name in flax:
        assert (ours[name].kind, ours[name].default) == (flax[name].kind, flax[name].default), name
    if method == "__call__":
        assert all(
            ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in ours.keys() - flax.keys()
        )


def test_models_draw_the_masks_of_flax() -> None:
    """Through `make_rng`: nested modules, shared modules, sites that need no key."""
    x = DROPOUT.example()
    variables = Model(Dropout).init(jax.random.key(1), x, train=False)
    flax_variables = Model(nn.Dropout).init(jax.random.key(1), x, train=False)
    assert jax.tree.structure(variables) == jax.tree.structure(flax_variables)
    for key in (*RNGS.values(), jax.random.PRNGKey(2), jaxdrop.key(3)):
        ours, flax = (
            Model(layer).apply(variables, x, rngs={"dropout": key})
            for layer in (Dropout, nn.Dropout)
        )
        np.testing.assert_allclose(ours, flax, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    "options", [{"rng_collection": "noise"}, {"broadcast_dims": (0,)}, {"name": "site"}]
)
def test_options_draw_the_masks_of_flax(options: dict[str, Any]) -> None:
    x, rngs = DROPOUT.example(), RNGS | {"noise": jax.random.key(8)}
    ours, flax = (
        layer(RATE, deterministic=False, **options).apply({}, x, rngs=rngs)
        for layer in (Dropout, nn.Dropout)
    )
    np.testing.assert_array_max_ulp(ours, flax, maxulp=1)


# -- what a call can say


@pytest.mark.parametrize("key", [KEY, jax.random.key(3), jax.random.PRNGKey(3)])
def test_a_key_can_come_with_the_call(key: jax.Array) -> None:
    x = DROPOUT.example()
    expected = jaxdrop.dropout(key, x, RATE)
    np.testing.assert_array_equal(Dropout(RATE).apply({}, x, False, key), expected)
    np.testing.assert_array_equal(
        Dropout(RATE).apply({}, x, deterministic=False, rng=key, rngs=RNGS), expected
    )


@pytest.mark.parametrize("rate", [0, 0.0, np.float32(0), jnp.float32(0), np.asarray(0)])
def test_known_rate_zero_needs_no_key(rate: Any) -> None:
    x = DROPOUT.example()
    assert Dropout(RATE, deterministic=False).apply({}, x, rate=rate) is x


def test_known_rate_one_needs_no_key() -> None:
    x = DROPOUT.example()
    np.testing.assert_array_equal(Dropout(1.0, deterministic=False).apply({}, x), jnp.zeros_like(x))


def test_traced_rate_does_not_compile_again() -> None:
    x, traces = DROPOUT.example(), []

    @jax.jit
    def step(rate: jax.Array) -> jax.Array:
        traces.append(rate)
        return Dropout(RATE, deterministic=False).apply({}, x, rng=KEY, rate=rate)

    for rate in (0.0, 0.25, 0.5, 1.0):
        np.testing.assert_array_equal(step(rate), jaxdrop.dropout(KEY, x, rate))
    assert len(traces) == 1


def test_rates_for_each_feature_come_with_the_call() -> None:
    x, rates = DROPOUT.example(), jnp.linspace(0, 1, 16)
    found = Dropout(RATE, deterministic=False).apply({}, x, rng=KEY, rate=rates)
    np.testing.assert_array_equal(found, jaxdrop.dropout(KEY, x, rates))


# -- without keys


def test_deterministic_and_init_need_no_key() -> None:
    x = DROPOUT.example()
    assert Dropout(RATE, deterministic=True).apply({}, x) is x
    assert Dropout(RATE).apply({}, x, deterministic=True) is x
    assert Dropout(RATE, deterministic=True).init(jax.random.key(1), x) == {}
    variables = Model(Dropout).init(jax.random.key(1), x, train=False)
    assert list(variables) == ["params"]


def test_a_missing_key_is_the_error_of_flax() -> None:
    with pytest.raises(InvalidRngError, match='needs PRNG for "dropout"'):
        Dropout(RATE, deterministic=False).apply({}, DROPOUT.example())


@pytest.mark.parametrize("layer", [Dropout, nn.Dropout])
def test_deterministic_is_said_once(layer: Callable[..., nn.Module]) -> None:
    """Flax's own errors."""
    x = DROPOUT.example()
    with pytest.raises(ValueError, match="deterministic"):
        layer(RATE).apply({}, x, rngs=RNGS)
    with pytest.raises(ValueError, match="deterministic"):
        layer(RATE, deterministic=True).apply({}, x, deterministic=False, rngs=RNGS)


# -- transformations: what is expected is what Flax's layer gives there


def scan(layer: Callable[..., nn.Module]) -> nn.Module:
    """Three blocks, one after the other."""

    class Step(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return Block(layer)(x), None

    return nn.scan(
        Step, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=3
    )()


def scanned(layer: Callable[..., nn.Module], x: jax.Array, variables: Any) -> jax.Array:
    return scan(layer).apply(variables, x, None, rngs=RNGS)[0]


def rematerialized(layer: Callable[..., nn.Module], x: jax.Array, variables: Any) -> jax.Array:
    return nn.remat(Block, static_argnums=(2,))(layer).apply(variables, x, True, rngs=RNGS)


def vmapped(layer: Callable[..., nn.Module], x: jax.Array, variables: Any) -> jax.Array:
    rows = nn.vmap(
        Block, variable_axes={"params": None}, split_rngs={"params": False, "dropout": True}
    )
    return rows(layer).apply(variables, x, rngs=RNGS)


def jitted(layer: Callable[..., nn.Module], x: jax.Array, variables: Any) -> jax.Array:
    return nn.jit(Block, static_argnums=(2,))(layer).apply(variables, x, True, rngs=RNGS)


@pytest.mark.parametrize("run", [scanned, rematerialized, vmapped, jitted])
def test_transformed_models_draw_the_masks_of_flax(run: Callable[..., jax.Array]) -> None:
    """In value and gradient."""
    x = DROPOUT.example()
    variables = (scan(Dropout).init if run is scanned else Block(Dropout).init)(
        {"params": KEY, **RNGS}, x, None
    )
    ours, flax = (
        jax.jit(jax.value_and_grad(lambda x, layer=layer: (run(layer, x, variables) ** 2).sum()))(x)
        for layer in (Dropout, nn.Dropout)
    )
    for mine, theirs in zip(ours, flax, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
