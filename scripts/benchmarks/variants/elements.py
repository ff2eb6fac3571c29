"""Single entries."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks.variants._contest import Contest, compare, dropped, normal

_FLOOR = -1.7580993408473766


def elements(quick: bool) -> Iterator[Table | Bar]:
    """Dropout, classic and alpha dropout."""
    x = (normal(64 if quick else 1024, 2048),)
    maps = (normal(2 if quick else 32, 28, 28, 64),)
    contests = [
        Contest("dropout", lambda key, x: jaxdrop.dropout(key, x, RATE), dropped, x),
        Contest(
            "classic_dropout",
            lambda key, x: jaxdrop.classic_dropout(key, x, RATE),
            classic_by_hand,
            x,
        ),
        Contest(
            "alpha_dropout", lambda key, x: jaxdrop.alpha_dropout(key, x, RATE), alpha_by_hand, x
        ),
        Contest(
            "feature_alpha_dropout",
            lambda key, x: jaxdrop.feature_alpha_dropout(key, x, RATE),
            feature_alpha_by_hand,
            maps,
        ),
    ]
    yield from compare("elements", contests, quick)


def classic_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """The mask alone."""
    return jnp.where(jax.random.bernoulli(key, 1 - RATE, x.shape), x, 0)


def alpha_by_hand(key: jax.Array, x: jax.Array, shape: tuple[int, ...] | None = None) -> jax.Array:
    """As in PyTorch and Keras."""
    keep = jax.random.bernoulli(key, 1 - RATE, x.shape if shape is None else shape)
    scale = ((1 - RATE) * (1 + RATE * _FLOOR**2)) ** -0.5
    return scale * jnp.where(keep, x, _FLOOR) - scale * RATE * _FLOOR


def feature_alpha_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """One coin for each channel."""
    return alpha_by_hand(key, x, (x.shape[0], 1, 1, x.shape[-1]))
