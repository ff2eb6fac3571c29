"""Masks that are drawn before the loop, or the program of several devices, that applies them: one
site, the rate, the bits that are drawn once, and no false finding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdrop
from jaxdrop import audit
from tests.audit.gallery import KEY, array
from tests.audit.gallery._jax import ALL, ROWS, X, sharded

pytestmark = pytest.mark.usefixtures("relaxed")

LAYERS = 3
W = array(LAYERS, 16, 16)
SHAPE = (8, 16)
Masks = Callable[[jax.Array], jax.Array]


def one(key: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, 0.75, SHAPE)


def keys_of(key: jax.Array) -> jax.Array:
    return jax.random.split(key, LAYERS)


def scaled(key: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, 0.75, (LAYERS, *SHAPE)).astype(np.float32) / 0.75


def layers(masks: Masks) -> Callable[..., jax.Array]:
    """Layers, each with one of the masks."""

    def layer(x: jax.Array, given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        w, mask = given
        y = jnp.tanh(x @ w)
        return y * mask if mask.dtype == y.dtype else jnp.where(mask, y / 0.75, 0), None

    def run(w: jax.Array, key: jax.Array, x: jax.Array) -> jax.Array:
        return lax.scan(layer, x, (w, masks(key)))[0]

    return run


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize(
    "masks",
    [
        lambda key: jax.random.bernoulli(key, 0.75, (LAYERS, *SHAPE)),
        scaled,
        lambda key: jax.vmap(one)(keys_of(key)),
        lambda key: lax.map(one, keys_of(key)),
        lambda key: jnp.stack([one(k) for k in keys_of(key)]),
        lambda key: jnp.concatenate([one(k)[None] for k in keys_of(key)]),
    ],
    ids=["one draw", "floats", "vmap", "map", "stack", "concatenate"],
)
def test_layers_get_a_mask_each(masks: Masks, differentiated: bool) -> None:
    run = layers(masks)
    if differentiated:
        run = jax.grad(lambda *args, run=run: jnp.square(run(*args)).sum())
    report = audit.check(run, W, KEY, X)
    (site,) = report.sites
    assert {each.id for each in report.findings} <= {"JD308"}  # the gradient keeps a mask
    entries = LAYERS * np.prod(SHAPE)
    assert (site.rate, site.shape, site.repeats) == (0.25, SHAPE, LAYERS)
    assert site.random_bits == 32 * entries
    assert site.kept_bytes == entries * (4 if masks is scaled else 1)


@pytest.mark.parametrize(
    "masks",
    [
        lambda key: jnp.stack([one(key)] * LAYERS),
        lambda key: jnp.broadcast_to(one(key), (LAYERS, *SHAPE)),
        lambda key: lax.map(lambda _: one(key), jnp.arange(LAYERS)),
    ],
    ids=["stack", "broadcast", "map"],
)
def test_layers_get_one_mask(masks: Masks) -> None:
    assert [each.id for each in audit.check(layers(masks), W, KEY, X).findings] == ["JD203"]


def test_rates_of_layers_do_not_make_bits_differ() -> None:
    def run(w: jax.Array, key: jax.Array, x: jax.Array, rates: jax.Array) -> jax.Array:
        def layer(x: jax.Array, given: Any) -> tuple[jax.Array, None]:
            w, rate = given
            return jaxdrop.dropout(key, jnp.tanh(x @ w), rate), None

        return lax.scan(layer, x, (w, rates))[0]

    ids = [each.id for each in audit.check(run, W, KEY, X, array(LAYERS)).findings]
    assert ids == ["JD203"]


def test_masks_of_several_rates_in_one_array() -> None:
    rates = 0.9, 0.8, 0.7

    def masks(key: jax.Array) -> jax.Array:
        keys = keys_of(key)
        return jnp.stack([jax.random.bernoulli(keys[i], p, SHAPE) for i, p in enumerate(rates)])

    (site,) = audit.check(layers(masks), W, KEY, X).sites
    assert (site.rate, site.random_bits) == (None, 32 * LAYERS * np.prod(SHAPE))


@pytest.mark.parametrize("drawn", ["before", "inside"])
def test_masks_go_into_devices_and_come_out(drawn: str) -> None:
    def run(key: jax.Array, x: jax.Array) -> jax.Array:
        def drop(mask: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.where(mask, jnp.tanh(x) / 0.75, 0)

        if drawn == "before":
            return sharded(drop, 2, "data", (ROWS, ROWS), ROWS)(one(key), x)
        return drop(sharded(lambda key: one(key), 2, "data", (ALL,), ALL)(key), x)

    report = audit.check(run, KEY, X)
    assert [site.rate for site in report.sites] == [0.25]
    assert not report.findings
