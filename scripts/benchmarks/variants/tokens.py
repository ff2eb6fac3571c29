"""Inputs of a model: tokens, labels, modalities."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks.variants._contest import Contest, compare, normal


def tokens(quick: bool) -> Iterator[Table | Bar]:
    """Token, label and modality dropout."""
    batch = 2 if quick else 64
    image, modalities = normal(batch, 197, 192), (normal(batch, 128, 128), normal(batch, 32, 512))
    labels = jax.random.randint(jax.random.key(2), (batch * 16384,), 0, 1000)
    contests = [
        Contest(
            "token_dropout", functools.partial(_kept_tokens, ordered=False), tokens_by_hand, [image]
        ),
        Contest(
            "token_dropout, ordered",
            functools.partial(_kept_tokens, ordered=True),
            ordered_by_hand,
            [image],
        ),
        Contest(
            "label_dropout",
            lambda key, y: jaxdrop.label_dropout(key, y, RATE, null_id=1000),
            labels_by_hand,
            given=[labels],
        ),
        Contest("modality_dropout", _modalities, modalities_by_hand, [modalities]),
    ]
    yield from compare("tokens", contests, quick)


def _kept_tokens(key: jax.Array, x: jax.Array, *, ordered: bool) -> jax.Array:
    return jaxdrop.token_dropout(key, x, 0.5, num_prefix_tokens=1, ordered=ordered)[0]


def tokens_by_hand(key: jax.Array, x: jax.Array, ordered: bool = False) -> jax.Array:
    """timm's: an argsort of noise."""
    prefix, x = x[:, :1], x[:, 1:]
    kept = jnp.argsort(jax.random.uniform(key, x.shape[:2]), axis=-1)[:, : x.shape[1] // 2]
    if ordered:
        kept = jnp.sort(kept, axis=-1)
    return jnp.concatenate([prefix, jnp.take_along_axis(x, kept[..., None], axis=1)], axis=1)


def ordered_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """The tokens in their order."""
    return tokens_by_hand(key, x, ordered=True)


def labels_by_hand(key: jax.Array, labels: jax.Array) -> jax.Array:
    """DiT's."""
    return jnp.where(jax.random.uniform(key, labels.shape) < RATE, 1000, labels)


def _modalities(key: jax.Array, arrays: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    return jaxdrop.modality_dropout(key, arrays, RATE, rule="one")


def modalities_by_hand(
    key: jax.Array, arrays: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """AV-HuBERT's rule for each example: sometimes one of two is dropped."""
    first, second = jax.random.split(key)
    batch = (arrays[0].shape[0], 1, 1)
    drop, which = jax.random.bernoulli(first, RATE, batch), jax.random.bernoulli(second, 0.5, batch)
    return jnp.where(drop & which, 0, arrays[0]), jnp.where(drop & ~which, 0, arrays[1])
