"""Losses that need two or more masks."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks.variants._contest import Contest, compare, dropped, normal

_SAMPLES = 8


def losses(quick: bool) -> Iterator[Table | Bar]:
    """R-Drop, multi-sample dropout."""
    batch, classes = (32, 100) if quick else (512, 1000)
    logits, features, head = (
        normal(batch, classes),
        normal(batch, 512),
        normal(512, classes) / 512**0.5,
    )
    labels = jax.random.randint(jax.random.key(2), (batch,), 0, classes)
    contests = [
        Contest(
            "r_drop", _r_drop, r_drop_by_hand, [logits, logits + normal(1, classes)], given=[labels]
        ),
        Contest(
            "multi_sample_dropout", _samples, samples_by_hand, [features, head], given=[labels]
        ),
    ]
    yield from compare("losses", contests, quick)


def _r_drop(key: jax.Array, labels: jax.Array, one: jax.Array, two: jax.Array) -> jax.Array:
    return jaxdrop.r_drop(one, two, labels, alpha=5.0).mean()


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]


def r_drop_by_hand(key: jax.Array, labels: jax.Array, one: jax.Array, two: jax.Array) -> jax.Array:
    """The paper's code."""
    p, q = jax.nn.log_softmax(one), jax.nn.log_softmax(two)
    divergence = (jnp.exp(p) * (p - q)).sum(-1) + (jnp.exp(q) * (q - p)).sum(-1)
    return (_cross_entropy(one, labels) + _cross_entropy(two, labels) + 2.5 * divergence).mean()


def _samples(key: jax.Array, labels: jax.Array, x: jax.Array, head: jax.Array) -> jax.Array:
    keys = jax.random.split(key, _SAMPLES)
    return jaxdrop.multi_sample_dropout(
        keys, x, RATE, lambda x: _cross_entropy(x @ head, labels).mean()
    )


def samples_by_hand(key: jax.Array, labels: jax.Array, x: jax.Array, head: jax.Array) -> jax.Array:
    """A loop over the samples."""
    keys = jax.random.split(key, _SAMPLES)
    return jnp.stack([_cross_entropy(dropped(key, x) @ head, labels).mean() for key in keys]).mean()
