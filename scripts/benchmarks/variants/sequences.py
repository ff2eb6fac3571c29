"""Features over time, words, and steps of a recurrent state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

import jaxdrop
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks.variants._contest import Contest, compare, dropped, normal

_UNKNOWN, _PADDING = 1, 0


def sequences(quick: bool) -> Iterator[Table | Bar]:
    """Locked, recurrent, word and embedding dropout, zoneout."""
    batch, vocabulary = (2, 1000) if quick else (32, 30000)
    x, table = normal(batch, 128, 512), normal(vocabulary, 256)
    ids = jax.random.randint(jax.random.key(2), (batch, 128), 0, vocabulary)
    text = jax.random.randint(jax.random.key(2), (64 * batch, 1024), 0, vocabulary)
    words = functools.partial(
        jaxdrop.word_dropout, rate=RATE, replacement=_UNKNOWN, protected=(_PADDING,)
    )
    contests = [
        Contest(
            "locked_dropout",
            lambda key, x: jaxdrop.locked_dropout(key, x, RATE, time_axis=1),
            locked_by_hand,
            [x],
        ),
        Contest("recurrent_dropout, 128 steps", _cell(_recurrent), _cell(dropped), [x]),
        Contest(
            "zoneout",
            lambda key, new, old: jaxdrop.zoneout(key, new, RATE, previous=old),
            zoneout_by_hand,
            [x, 2 * x],
        ),
        Contest("word_dropout", words, words_by_hand, given=[text]),
        Contest("embedding_dropout", _embedding, embedding_by_hand, [table], given=[ids]),
    ]
    yield from compare("sequences", contests, quick)


def locked_by_hand(key: jax.Array, x: jax.Array) -> jax.Array:
    """One mask for all times."""
    return dropped(key, x, (x.shape[0], 1, x.shape[2]))


def _recurrent(key: jax.Array, x: jax.Array) -> jax.Array:
    return jaxdrop.recurrent_dropout(key, x, RATE)


def _cell(
    drop: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A memory to which each step adds what is left of an update, under a mask of its own."""

    def run(key: jax.Array, updates: jax.Array) -> jax.Array:
        def step(memory: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            time, update = now
            return 0.9 * memory + drop(jax.random.fold_in(key, time), update), None

        start, times = jnp.zeros_like(updates[:, 0]), jnp.arange(updates.shape[1])
        return jax.lax.scan(step, start, (times, updates.swapaxes(0, 1)))[0]

    return run


def zoneout_by_hand(key: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Some units stay."""
    return jnp.where(jax.random.bernoulli(key, RATE, new.shape), old, new)


def words_by_hand(key: jax.Array, ids: jax.Array) -> jax.Array:
    """As in Flax's example for SST-2, which leaves padding alone."""
    drop = jax.random.bernoulli(key, RATE, ids.shape) & (ids != _PADDING)
    return jnp.where(drop, _UNKNOWN, ids)


def _embedding(key: jax.Array, ids: jax.Array, table: jax.Array) -> jax.Array:
    return jaxdrop.embedding_dropout(key, table[ids], RATE, ids=ids)


def embedding_by_hand(key: jax.Array, ids: jax.Array, table: jax.Array) -> jax.Array:
    """AWD-LSTM's: rows of the table, and then the lookup."""
    return dropped(key, table, (table.shape[0], 1))[ids]
