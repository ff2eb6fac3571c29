"""Residual branches and whole layers."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks.variants._contest import Contest, compare, dropped, normal

# Low enough for the layer to run under every key: what is compared is what the choice costs.
_SELDOM = 1e-4


def paths(quick: bool) -> Iterator[Table | Bar]:
    """Drop path, layer drop, ShakeDrop."""
    batch = 2 if quick else 64
    tokens, maps = normal(batch, 196, 192), normal(batch, 28, 28, 32)
    layer = [normal(8 * batch, 512), normal(512, 512) / 512**0.5]
    whole = functools.partial(jaxdrop.drop_path, rate=RATE, mode="batch")
    contests = [
        Contest(
            "drop_path", lambda key, x: jaxdrop.drop_path(key, x, RATE), path_by_hand, [tokens]
        ),
        Contest(
            "drop_path of maps",
            lambda key, x: jaxdrop.drop_path(key, x, RATE),
            path_by_hand,
            [maps],
        ),
        Contest("drop_path, whole batch", whole, lambda key, x: dropped(key, x, ()), [tokens]),
        Contest("layer_drop", _layer_drop, layer_by_hand, layer),
        Contest(
            "shake_drop", lambda key, x: jaxdrop.shake_drop(key, x, RATE), shake_by_hand, [maps]
        ),
    ]
    yield from compare("paths", contests, quick)


def path_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """One coin for each example."""
    return dropped(key, x, (x.shape[0],) + (1,) * (x.ndim - 1))


def _residual(x: jax.Array, w: jax.Array) -> jax.Array:
    return x + jax.nn.gelu(x @ w)


def _layer_drop(key: jax.Array, x: jax.Array, w: jax.Array) -> jax.Array:
    return jaxdrop.layer_drop(key, x, _SELDOM, lambda x: _residual(x, w))


def layer_by_hand(key: jax.Array, x: jax.Array, w: jax.Array) -> jax.Array:
    """A coin and a `cond`."""
    return jax.lax.cond(
        jax.random.bernoulli(key, 1 - _SELDOM), lambda x: _residual(x, w), lambda x: x, x
    )


def shake_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """The code for PyTorch: the coefficients are stored for the backward pass."""
    coin, forward, backward = jax.random.split(key, 3)
    gate = jax.random.bernoulli(coin, 1 - RATE).astype(x.dtype)
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    alpha = jax.random.uniform(forward, shape, minval=-1)
    beta = jax.random.uniform(backward, shape)
    return _shaken(x, gate + alpha - gate * alpha, gate + beta - gate * beta)


@jax.custom_vjp
def _shaken(x: jax.Array, forward: jax.Array, backward: jax.Array) -> jax.Array:
    return forward * x


_shaken.defvjp(
    lambda x, forward, backward: (forward * x, backward),
    lambda backward, cotangent: (
        backward * cotangent,
        jnp.zeros_like(backward),
        jnp.zeros_like(backward),
    ),
)
