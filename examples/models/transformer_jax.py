"""A decoder-only transformer in plain JAX, whose training may leave out work that is dropped.

Its layers are a loop in Python, so that XLA's count of floating operations sees each of them: it
counts the body of a `lax.scan` once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import jaxdrop

Params: TypeAlias = dict[str, Any]


class Dropped(NamedTuple):
    """What one training step leaves out. Rates that set shapes are Python numbers: each of their
    values compiles a program.
    """

    hidden: str = "whole"
    """Of the hidden units of the MLPs, at `hidden_rate`: `'masked'`, or a pattern of
    `jaxdrop.dropout_mlp`; `'whole'` drops none.
    """
    hidden_rate: float = 0.0
    path_rates: tuple[float, ...] = ()
    """Of `jaxdrop.drop_path_add`, for each layer."""
    token_rate: float = 0.0
    """Of `jaxdrop.random_ltd`, in all layers but the first and the last."""
    subset_rates: tuple[float, ...] = ()
    """Of `jaxdrop.layer_subset`, for each layer."""
    by_coin: bool = False
    """Whether `jaxdrop.layer_drop` throws a coin for each layer, at the rates of the call."""


def init(
    key: jax.Array, *, vocabulary: int, length: int, width: int, heads: int, layers: int
) -> Params:
    """Parameters; those of the layers are stacked."""
    keys = iter(jax.random.split(key, 8))

    def normal(*shape: int, scale: float) -> jax.Array:
        return scale * jax.random.normal(next(keys), shape)

    depth = width**-0.5 / (2 * layers) ** 0.5
    blocks = {
        "qkv": normal(layers, width, 3, heads, width // heads, scale=width**-0.5),
        "out": normal(layers, heads, width // heads, width, scale=depth),
        "w_in": normal(layers, width, 4 * width, scale=width**-0.5),
        "b_in": jnp.zeros((layers, 4 * width)),
        "w_out": normal(layers, 4 * width, width, scale=depth / 2),
        "b_out": jnp.zeros((layers, width)),
        "norms": jnp.ones((layers, 2, width)),
    }
    return {
        "tokens": normal(vocabulary, width, scale=0.1),
        "places": normal(length, width, scale=0.1),
        "blocks": blocks,
        "norm": jnp.ones(width),
        "head": normal(width, vocabulary, scale=width**-0.5),
    }


def apply(
    params: Params,
    tokens: jax.Array,
    key: jax.Array | None = None,
    dropped: Dropped | None = None,
    rates: jax.Array | None = None,
) -> tuple[list[jax.Array], jax.Array]:
    """The logits behind each layer that has its turn, first to last, of shape `(batch, length,
    vocabulary)`, and the number of layers that have run.

    Args:
      params: of `init`.
      tokens: integers, `(batch, length)`.
      key: for what is dropped. Without one, nothing is.
      dropped: what is dropped, and where.
      rates: for each layer, that of a coin; a traced value, as of a schedule, does not recompile.
    """
    dropped = Dropped() if key is None or dropped is None else dropped
    blocks, total = params["blocks"], len(params["blocks"]["norms"])
    keys = [None] * (total + 1) if key is None else [*jax.random.split(key, total + 1)]
    if dropped.subset_rates:
        kept = jaxdrop.layer_subset(keys[total], dropped.subset_rates)
        blocks = jax.tree.map(kept.gather, blocks)
    count = len(blocks["norms"])
    x = params["tokens"][tokens] + params["places"][: tokens.shape[1]]
    ran, exits = jnp.float32(0), []
    for number in range(count):
        own, part = jax.tree.map(lambda leaf, number=number: leaf[number], blocks), keys[number]
        run = functools.partial(_block, own, part, dropped, number)
        if dropped.by_coin and rates is not None:

            def counted(
                state: tuple[jax.Array, jax.Array], run: Callable[..., jax.Array] = run
            ) -> tuple[jax.Array, jax.Array]:
                return run(state[0]), state[1] + 1

            x, ran = jaxdrop.layer_drop(part, (x, ran), rates[number], counted)
        elif dropped.token_rate and 0 < number < count - 1:
            x, ran = jaxdrop.random_ltd(part, x, dropped.token_rate, run), ran + 1
        else:
            x, ran = run(x), ran + 1
        exits.append(_normalized(x, params["norm"]) @ params["head"])
    return exits, ran


def _block(
    params: Params, key: jax.Array | None, dropped: Dropped, number: int, x: jax.Array
) -> jax.Array:
    """Attention and an MLP, each with a residual sum."""
    first, second, third = [None] * 3 if key is None else jax.random.split(key, 3)
    attention = functools.partial(_attention, params)
    mlp = functools.partial(_mlp, params, third, dropped)
    if not dropped.path_rates:
        x = x + attention(x)
        return x + mlp(x)
    rate = dropped.path_rates[number]
    x = jaxdrop.drop_path_add(first, x, rate, attention)
    return jaxdrop.drop_path_add(second, x, rate, mlp)


def _attention(params: Params, x: jax.Array) -> jax.Array:
    x = _normalized(x, params["norms"][0])
    query, key, value = jnp.moveaxis(jnp.einsum("blw,wchd->blchd", x, params["qkv"]), 2, 0)
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    return jnp.einsum("blhd,hdw->blw", mixed, params["out"])


def _mlp(params: Params, key: jax.Array | None, dropped: Dropped, x: jax.Array) -> jax.Array:
    x = _normalized(x, params["norms"][1])
    if dropped.hidden in ("unit", "block", "slice"):
        weights = {name: params[name] for name in ("w_in", "w_out", "b_in", "b_out")}
        return jaxdrop.dropout_mlp(
            key,
            x,
            rate=dropped.hidden_rate,
            activation=jax.nn.gelu,
            pattern=dropped.hidden,  # type: ignore[arg-type]
            block_size=32,
            **weights,
        )
    h = jax.nn.gelu(x @ params["w_in"] + params["b_in"])
    if dropped.hidden == "masked":
        h = jaxdrop.dropout(key, h, dropped.hidden_rate)
    return h @ params["w_out"] + params["b_out"]


def _normalized(x: jax.Array, gain: jax.Array) -> jax.Array:
    return gain * x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-6))


def exit_weights(layers: int, scale: float) -> list[float]:
    """How much the loss behind each layer counts, first to last: LayerSkip's `e(l)`, which grows
    with the square of the depth and adds up to 1. At scale 0 only the last one counts.
    """
    sums = [scale * layer * (layer + 1) / 2 for layer in range(layers - 1)]
    last = layers - 1 + scale * (layers - 2) * (layers - 1) / 2
    total = sum(sums) + last
    return [weight / total for weight in (*sums, last)]
