"""Weights of dense and recurrent layers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks.variants._contest import Contest, compare, dropped, normal


def weights(quick: bool) -> Iterator[Table | Bar]:
    """DropConnect and its moment-matched form, weight drop, quantization noise."""
    width = 128 if quick else 1024
    layer, examples = (
        [normal(256, width), normal(width, width)],
        [normal(16, width // 4), normal(width // 4, width // 4)],
    )
    cell = {
        name: {"kernel": normal(width // 2, width // 2)}
        for name in ("if", "ig", "hf", "hg", "hi", "ho")
    }
    each = functools.partial(jaxdrop.drop_connect, rate=RATE, per="example")
    contests = [
        Contest(
            "drop_connect",
            lambda key, x, w: jaxdrop.drop_connect(key, x, w, RATE),
            connect_by_hand,
            layer,
        ),
        Contest("drop_connect, each example", each, examples_by_hand, examples),
        Contest(
            "drop_connect_gaussian",
            functools.partial(jaxdrop.drop_connect_gaussian, rate=RATE),
            gaussian_by_hand,
            layer,
        ),
        Contest(
            "weight_drop",
            functools.partial(jaxdrop.weight_drop, rate=RATE, match="^h"),
            recurrent_by_hand,
            [cell],
        ),
        Contest(
            "quant_noise",
            lambda key, w: jaxdrop.quant_noise(key, w, RATE),
            blocks_by_hand,
            layer[1:],
        ),
    ]
    yield from compare("weights", contests, quick)


def connect_by_hand(key: jax.Array, x: jax.Array, w: jax.Array) -> jax.Array:
    """One mask for all examples."""
    return x @ dropped(key, w)


def examples_by_hand(key: jax.Array, x: jax.Array, w: jax.Array) -> jax.Array:
    """A mask for each example, as in the paper."""
    return jnp.einsum("bi,bio->bo", x, dropped(key, w, (x.shape[0], *w.shape)))


def gaussian_by_hand(key: jax.Array, x: jax.Array, w: jax.Array) -> jax.Array:
    """The mean and the variance of the product."""
    variance = RATE / (1 - RATE) * ((x * x) @ (w * w))
    return x @ w + jnp.sqrt(variance) * jax.random.normal(key, variance.shape)


def recurrent_by_hand(key: jax.Array, params: Any) -> Any:
    """The kernels by which a cell multiplies its state."""
    chosen = [name for name in params if name.startswith("h")]
    keys = jax.random.split(key, len(chosen))
    return params | {
        name: {"kernel": dropped(key, params[name]["kernel"])}
        for name, key in zip(chosen, keys, strict=True)
    }


def blocks_by_hand(key: jax.Array, w: jax.Array, block: int = 8) -> jax.Array:
    """A mask of blocks, repeated, as in fairseq."""
    keep = jax.random.bernoulli(key, 1 - RATE, (w.shape[0] // block, w.shape[1]))
    return jnp.where(jnp.repeat(keep, block, axis=0), w / (1 - RATE), 0)
