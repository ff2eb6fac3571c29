"""Dropout whose rate is learned; the rate gets its gradient too."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks.variants._contest import Contest, compare, normal


def learned(quick: bool) -> Iterator[Table | Bar]:
    """Concrete dropout, Gaussian variational dropout A and B, sparse variational dropout."""
    rows = 64 if quick else 1024
    x, maps, logit = normal(rows, 2048), normal(rows // 32, 28, 28, 64), jnp.asarray(-2.0)
    inputs, w = normal(256, rows), normal(rows, rows) / rows**0.5
    spatial = functools.partial(jaxdrop.concrete_dropout, temperature=2 / 3, broadcast_dims=(1, 2))
    contests = [
        Contest("concrete_dropout", jaxdrop.concrete_dropout, concrete_by_hand, [x, logit]),
        Contest("concrete_dropout, spatial", spatial, spatial_by_hand, [maps, logit]),
        Contest(
            "variational_dropout", jaxdrop.variational_dropout, variational_by_hand, [x, logit]
        ),
        Contest("variational_dense", jaxdrop.variational_dense, local_by_hand, [inputs, w, logit]),
        Contest(
            "sparse_variational_dense",
            jaxdrop.sparse_variational_dense,
            sparse_by_hand,
            [inputs, w, 0 * w - 10],
        ),
    ]
    yield from compare("learned", contests, quick)


def concrete_by_hand(
    key: jax.Array,
    x: jax.Array,
    logit: jax.Array,
    shape: tuple[int, ...] | None = None,
    temperature: float = 0.1,
) -> jax.Array:
    """Gal's code."""
    eps, p = 1e-7, jax.nn.sigmoid(logit)
    u = jax.random.uniform(key, x.shape if shape is None else shape)
    noise = jnp.log(p + eps) - jnp.log(1 - p + eps) + jnp.log(u + eps) - jnp.log(1 - u + eps)
    return x * (1 - jax.nn.sigmoid(noise / temperature)) / (1 - p)


def spatial_by_hand(key: jax.Array, x: jax.Array, logit: jax.Array) -> jax.Array:
    """One value for each channel."""
    return concrete_by_hand(key, x, logit, (x.shape[0], 1, 1, x.shape[-1]), 2 / 3)


def variational_by_hand(key: jax.Array, x: jax.Array, log_alpha: jax.Array) -> jax.Array:
    """Type A."""
    return x * (1 + jnp.exp(log_alpha / 2) * jax.random.normal(key, x.shape))


def local_by_hand(key: jax.Array, x: jax.Array, w: jax.Array, log_alpha: jax.Array) -> jax.Array:
    """Type B: local reparameterization."""
    variance = (x * x) @ (jnp.exp(log_alpha) * w * w)
    return x @ w + jnp.sqrt(variance + 1e-8) * jax.random.normal(key, variance.shape)


def sparse_by_hand(key: jax.Array, x: jax.Array, w: jax.Array, log_sigma2: jax.Array) -> jax.Array:
    """The authors' code."""
    return local_by_hand(key, x, w, jnp.clip(log_sigma2 - jnp.log(w * w + 1e-8), -8, 8))
