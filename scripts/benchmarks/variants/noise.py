"""Noise in place of a mask."""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks.variants._contest import Contest, compare, normal


def noise(quick: bool) -> Iterator[Table | Bar]:
    """Gaussian dropout and noise, uniform dropout, NEFTune."""
    x = (normal(64 if quick else 1024, 2048),)
    words = (normal(2 if quick else 32, 128, 512),)
    contests = [
        Contest(
            "gaussian_dropout",
            lambda key, x: jaxdrop.gaussian_dropout(key, x, RATE),
            gaussian_by_hand,
            x,
        ),
        Contest(
            "gaussian_noise", lambda key, x: jaxdrop.gaussian_noise(key, x, RATE), added_by_hand, x
        ),
        Contest(
            "uniform_dropout",
            lambda key, x: jaxdrop.uniform_dropout(key, x, RATE),
            uniform_by_hand,
            x,
        ),
        Contest("neftune", lambda key, x: jaxdrop.neftune(key, x, 5.0), neftune_by_hand, words),
    ]
    yield from compare("noise", contests, quick)


def gaussian_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """Srivastava's section 10."""
    return x * (1 + math.sqrt(RATE / (1 - RATE)) * jax.random.normal(key, x.shape))


def added_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """Noise of a standard deviation."""
    return x + RATE * jax.random.normal(key, x.shape)


def uniform_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """Uout."""
    return x * (1 + jax.random.uniform(key, x.shape, minval=-RATE, maxval=RATE))


def neftune_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """The published code."""
    width = 5.0 / math.sqrt(x.shape[-2] * x.shape[-1])
    return x + jax.random.uniform(key, x.shape, minval=-width, maxval=width)
