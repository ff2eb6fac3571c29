"""A transformer writes with Monte Carlo dropout: each sample of the masks is a network of its own,
and writes a text of its own, or says how probable a given text is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

import jaxdrop

if TYPE_CHECKING:
    from models.transformer import Transformer

# The logits of tokens that continue a text, `(tokens, vocabulary)`, and the cache of the longer
# text, from (cache, tokens, key).
Decode: TypeAlias = Callable[[Any, jax.Array, jax.Array | None], tuple[jax.Array, Any]]


class Written(NamedTuple):
    """A text, and how probable each of its tokens was to the network that wrote it."""

    tokens: jax.Array
    log_probs: jax.Array


class Uncertainty(NamedTuple):
    """How sure all sampled networks together are of a text."""

    tokens: jaxdrop.mc.Classification
    """Of the distributions of each token, given those before it."""
    score: jax.Array
    """The log-probability of the text under the predictive mean, in nats."""
    spread: jax.Array
    """The standard deviation of its log-probability over the networks."""
    num_samples: jax.Array
    """The number of networks."""


def decoder(model: Transformer, first: int = 0) -> tuple[Any, Decode]:
    """An empty cache for one text, and the model as a function of it. Nothing is dropped in front
    of block `first`.
    """
    model.init_cache(1)
    graph, cache, others = nnx.split(model, nnx.Cache, ...)

    def decode(cache: Any, tokens: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Any]:
        # Copies: what is given may stand outside of a transformation of JAX that this call is in.
        copies = jax.tree.map(lambda leaf: leaf, (cache, others))
        model = nnx.view(nnx.merge(graph, *copies), deterministic=key is None)
        rngs = None if key is None else nnx.Rngs(key)
        logits = model(tokens[None], rngs, first=first, decode=True)[0]
        return logits, nnx.state(model, nnx.Cache)

    return cache, decode


def write(
    decode: Decode,
    cache: Any,
    prompt: jax.Array,
    key: jax.Array,
    *,
    count: int,
    temperature: float = 1.0,
) -> Written:
    """`count` tokens that one network writes behind the prompt. One key is one network: in every
    step it draws the same masks, each token's at its place.

    What does not depend on the key is computed once for all of them under `jax.vmap`: the prompt,
    up to the first block in which anything is dropped.
    """
    masks, choices = jax.random.split(key)
    logits, cache = decode(cache, prompt, masks)

    def step(state: tuple[jax.Array, Any], key: jax.Array) -> tuple[Any, Written]:
        last, cache = state
        log_probs = jax.nn.log_softmax(last)
        token = jax.random.categorical(key, log_probs / temperature)
        logits, cache = decode(cache, token[None], masks)
        return (logits[-1], cache), Written(token, log_probs[token])

    return lax.scan(step, (logits[-1], cache), jax.random.split(choices, count))[1]


def write_many(
    decode: Decode, cache: Any, prompt: jax.Array, keys: jax.Array, **options: Any
) -> Written:
    """A text for each key of `jaxdrop.mc.keys`."""
    one = functools.partial(write, decode, cache, prompt, **options)
    return jaxdrop.mc.predict(lambda key: one(key=key), keys)


def uncertainty(
    decode: Decode,
    cache: Any,
    prompt: jax.Array,
    text: jax.Array,
    key: jax.Array,
    *,
    tolerance: float,
    max_samples: int = 256,
    batch_size: int = 16,
) -> Uncertainty:
    """How sure the sampled networks are of a text behind the prompt. There are as many of them as
    it takes to know the probabilities of its tokens within `tolerance`, a standard error.
    """
    tokens = jnp.concatenate([prompt, text])

    def logits(key: jax.Array) -> jax.Array:
        return decode(cache, tokens[:-1], key)[0][len(prompt) - 1 :]

    reached = jaxdrop.mc.until(
        logits,
        key,
        tolerance=tolerance,
        max_samples=max_samples,
        batch_size=batch_size,
        summary=lambda logits: jaxdrop.mc.classification(logits=logits),
    )
    keys = jaxdrop.mc.keys(key, int(reached.num_samples))

    def log_probs(key: jax.Array) -> jax.Array:
        each = jax.nn.log_softmax(logits(key))
        return jnp.take_along_axis(each, text[:, None], 1)[:, 0]

    scores = jaxdrop.mc.sequence_scores(jaxdrop.mc.predict(log_probs, keys))
    return Uncertainty(
        reached.summary, jaxdrop.mc.log_mean_exp(scores), scores.std(), reached.num_samples
    )
