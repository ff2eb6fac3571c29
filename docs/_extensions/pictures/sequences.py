"""Words, states over time and attention under dropout."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

import jaxdrop

from .images import flower
from .panels import Colors, Panel, Panels, photograph, values

sys.path.append(str(Path(__file__).parents[3] / "examples"))
from _co2 import MONTHLY_MEANS

PATCH = 8
TEXT = "the cat saw the dog and the dog saw the cat on the mat by the door of the house"
WORDS = TEXT.split()


def patches(x: jax.Array) -> jax.Array:
    """Pixels to patches, `(1, rows, columns, PATCH, PATCH, 3)`."""
    side = 64 // PATCH
    return x.reshape(1, side, PATCH, side, PATCH, 3).swapaxes(2, 3)


def tokens() -> Panels:
    x, key = flower(), jaxdrop.key(3)
    sequence = patches(x).reshape(1, -1, PATCH * PATCH * 3)
    kept, places = jaxdrop.token_dropout(key, sequence, 0.5, num_prefix_tokens=0)
    picture = patches_back(jaxdrop.reinsert_tokens(jnp.zeros_like(sequence), kept, places))
    vocabulary = sorted(set(WORDS))
    ids = jnp.asarray([vocabulary.index(word) for word in WORDS])
    replaced = jaxdrop.word_dropout(jaxdrop.key(0), ids, 0.3, replacement=len(vocabulary))
    ones = jnp.ones((len(WORDS), 1))
    by_type = jaxdrop.embedding_dropout(jaxdrop.key(4), ones, 0.3, ids=ids)[:, 0]
    three = (jnp.ones((8, 1)),) * 3
    inputs = jaxdrop.modality_dropout(jaxdrop.key(1), three, 0.4)
    return Panels(
        [
            Panel("token_dropout:\nhalf of the patches", photograph(picture)),
            Panel("word_dropout:\neach word by itself", _text(replaced == ids, "[unk]")),
            Panel("embedding_dropout: a word\nis 0 wherever it stands", _text(by_type > 0, "0")),
            Panel(
                "modality_dropout:\nnever all inputs",
                _modalities(np.hstack([np.asarray(each) for each in inputs])),
            ),
        ],
        representative=0,
        columns=2,
    )


def patches_back(x: jax.Array) -> jax.Array:
    side = 64 // PATCH
    return x.reshape(1, side, side, PATCH, PATCH, 3).swapaxes(2, 3).reshape(64, 64, 3)


def _text(kept: Any, other: str) -> Callable[[Axes, Colors], Any]:
    def draw(ax: Axes, colors: Colors) -> None:
        ax.set(xlim=(0, 4), ylim=(-4.6, 0.6))
        for at, word in enumerate(WORDS):
            row, column = divmod(at, 4)
            text, color = (word, colors.ink) if kept[at] else (other, colors.changed)
            ax.text(column + 0.5, -row, text, color=color, ha="center", va="center")
        ax.set_axis_off()

    return draw


def _modalities(kept: np.ndarray) -> Callable[[Axes, Colors], Any]:
    def draw(ax: Axes, colors: Colors) -> None:
        for row, name in enumerate(("sound", "image", "text")):
            for example in range(len(kept)):
                color = colors.kept if kept[example, row] else "none"
                ax.add_patch(_square(example, row, color, colors.pale))
            ax.text(-0.4, row + 0.45, name, ha="right", va="center")
        ax.set(xlim=(-2.6, len(kept)), ylim=(3.1, -0.1), xlabel="examples", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)

    return draw


def _square(x: float, y: float, face: str, edge: str) -> Any:
    return Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, facecolor=face, edgecolor=edge)


def recurrent() -> Panels:
    """The states of a recurrent network with random weights that reads the CO2 in the air."""
    series = np.asarray(MONTHLY_MEANS, np.float32)
    series = (series - series.mean(1, keepdims=True))[-4:].ravel() / 3
    units, key = 14, jaxdrop.key(2)
    draws = np.random.default_rng(1).normal(size=(units, units + 2)).astype(np.float32)
    inward, inner, bias = jnp.asarray(draws[:, 0]), jnp.asarray(draws[:, 2:]), draws[:, 1]

    def run(change: Callable[..., jax.Array]) -> jax.Array:
        state, states = jnp.zeros(units), []
        for step, value in enumerate(series):
            new = jnp.tanh(0.9 * inward * value + 0.28 * inner @ state + 0.5 * bias)
            state = change(jax.random.fold_in(key, step), new, state)
            states.append(state)
        return jnp.stack(states)

    states = run(lambda key, new, state: new)
    held = run(lambda key, new, state: jaxdrop.zoneout(key, new, 0.5, previous=state))
    updated = run(
        lambda _, new, state: 0.3 * state + 0.7 * jaxdrop.recurrent_dropout(key, new, 0.3)
    )
    drawn: dict[str, Any] = {"cmap": "PuOr", "vmin": -1, "vmax": 1, "aspect": "auto"}

    def over_time(array: jax.Array, **options: Any) -> Callable[[Axes, Colors], Any]:
        return values(np.asarray(array).T, "time (months)", "units", **drawn, **options)

    def line(ax: Axes, colors: Colors) -> None:
        ax.plot(series * 3, color=colors.kept)
        ax.set(xlabel="time (months)", ylabel="ppm", xticks=[], xlim=(-0.5, len(series) - 0.5))
        ax.spines[["top", "right"]].set_visible(False)

    dropped = 0.7 * jaxdrop.dropout(key, states, 0.3)
    locked = 0.7 * jaxdrop.locked_dropout(key, states, 0.3, time_axis=0)
    return Panels(
        [
            Panel("the input: CO2 in the air,\nwithout the year's mean", line),
            Panel("states, none dropped", over_time(states)),
            Panel("dropout: another mask\nin each step", over_time(dropped)),
            Panel("locked_dropout: one mask\nfor all steps", over_time(locked)),
            Panel("zoneout: units skip steps\n(rate 0.5)", over_time(held, gray_zeros=False)),
            Panel("recurrent_dropout:\nunits without updates", over_time(updated)),
        ],
        representative=3,
        columns=2,
        height=1.9,
    )


def attention() -> Panels:
    """Attention among the patches of a photograph, by their colors."""
    colors = patches(flower()).mean((3, 4)).reshape(-1, 3)[16:48]
    colors = (colors - colors.mean(0)) / colors.std(0)
    length, key, rate = len(colors), jaxdrop.key(3), 0.3
    logits = 0.5 * colors @ colors.T
    weights = jax.nn.softmax(logits)
    one = jnp.asarray(colors)[None, :, None]  # batch, length, heads, depth
    identity = jnp.eye(length)[None, :, None]
    causal = jaxdrop.dot_product_attention(
        key, one, one, identity, rate, is_causal=True, scale=0.5
    )[0, :, 0]
    by_head = jax.nn.softmax(colors.T[:, :, None] * colors.T[:, None] * 3)
    by_head = jnp.concatenate([by_head, weights[None]])
    heads = jaxdrop.drop_head(jaxdrop.key(1), by_head.swapaxes(0, 1)[None], 0.5)[0].swapaxes(0, 1)
    tiles = np.pad(np.asarray(heads), ((0, 0), (1, 1), (1, 1)))
    tiles = (
        tiles.reshape(2, 2, length + 2, length + 2).swapaxes(1, 2).reshape((2 * length + 4,) * 2)
    )

    def matrix(array: Any, largest: float = 1) -> Callable[[Axes, Colors], Any]:
        top = largest * float(np.quantile(weights, 0.99))
        return values(array, "keys", "queries", cmap="YlGnBu", vmin=0, vmax=top)

    shared = jax.nn.softmax(jaxdrop.drop_key(key, logits, rate, broadcast_dims=(0,)))
    return Panels(
        [
            Panel("weights of attention", matrix(weights)),
            Panel(
                "attention_dropout:\nrows sum to 1 on average",
                matrix((1 - rate) * jaxdrop.attention_dropout(key, weights, rate)),
            ),
            Panel(
                "dot_product_attention,\ncausal, no array of this size", matrix((1 - rate) * causal)
            ),
            Panel(
                "drop_key: rows sum to 1",
                matrix(jax.nn.softmax(jaxdrop.drop_key(key, logits, rate))),
            ),
            Panel("drop_key, the same\nkeys for all queries", matrix(shared)),
            Panel("drop_head:\ntwo of four heads left", matrix(tiles)),
        ],
        representative=1,
    )
