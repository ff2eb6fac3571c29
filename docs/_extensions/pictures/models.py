"""Layers, weights and learned rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from sklearn.datasets import load_digits

import jaxdrop

from .panels import Colors, Panel, Panels, values

LAYERS, EXAMPLES = 12, 16


def paths() -> Panels:
    """Which layers of a residual network run for which examples of a batch."""
    key, rates = jaxdrop.key(1), jaxdrop.depth_rates(0.5, LAYERS)
    ones = jnp.ones((EXAMPLES, 1))
    keys = jax.random.split(key, LAYERS)
    dropped = [jaxdrop.drop_path(*each) for each in zip(keys, [ones] * LAYERS, rates, strict=True)]
    run = [
        jaxdrop.layer_drop(key, jnp.zeros(()), rate, lambda x: x + 1)
        for key, rate in zip(keys, rates, strict=True)
    ]
    kept = jaxdrop.layer_subset(key, tuple(float(rate) for rate in rates))
    members = np.zeros(LAYERS)
    members[np.asarray(kept.indices)] = 1
    shaken = [jaxdrop.shake_drop(*each) for each in zip(keys, [ones] * LAYERS, rates, strict=True)]
    rows = np.ones((EXAMPLES, 1))
    return Panels(
        [
            Panel("drop_path: a coin for each\nexample and layer", _layers(np.hstack(dropped) > 0)),
            Panel("layer_drop: a coin\nfor each layer", _layers(rows * np.asarray(run) > 0)),
            Panel("layer_subset: always\nthe same number", _layers(rows * members > 0)),
            Panel("shake_drop: factors\nfrom -1 to 1", _factors(np.hstack(shaken))),
        ],
        representative=0,
        columns=2,
        height=2.7,
    )


def _layers(kept: np.ndarray) -> Callable[[Axes, Colors], Any]:
    def draw(ax: Axes, colors: Colors) -> None:
        examples, layers = np.indices(kept.shape)
        faces = np.where(kept, colors.kept, "none").ravel()
        ax.scatter(layers, examples, 30, faces, "s", edgecolors=colors.pale, linewidths=1)
        ax.set(xlabel="layers, by depth", ylabel="examples", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.margins(0.06)

    return draw


def _factors(array: np.ndarray) -> Callable[[Axes, Colors], Any]:
    def draw(ax: Axes, colors: Colors) -> None:
        matrix = values(
            array, "layers, by depth", "examples", cmap="PuOr", vmin=-1, vmax=1, aspect="auto"
        )
        ax.figure.colorbar(matrix(ax, colors), ax=ax, ticks=[-1, 0, 1])

    return draw


def digits() -> tuple[jax.Array, jax.Array]:
    """Images of shape (N, 64) in [0, 1], and their labels."""
    data = load_digits()
    return jnp.asarray(data.data, jnp.float32) / 16, jnp.asarray(data.target)


def templates(weights: Any) -> np.ndarray:
    """The weights of four classes as images, with a gap between them."""
    tiles = np.asarray(weights, float)[:, :4].T.reshape(2, 2, 8, 8)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    return tiles.swapaxes(1, 2).reshape(18, 18)[:-1, :-1]


def _matrix(weights: Any) -> Callable[[Axes, Colors], Any]:
    tiles = templates(weights)
    top = 0.8 * float(np.nanmax(np.abs(tiles)))
    return values(tiles, cmap="PuOr", vmin=-top, vmax=top)


def weights() -> Panels:
    """The weights of a linear classifier of digits, as an image for each class."""
    x, labels = digits()
    target = jax.nn.one_hot(labels, 10) - 0.1
    w = jnp.linalg.solve(x.T @ x + 20 * jnp.eye(64), x.T @ target)
    key, rows, rate = jaxdrop.key(0), jnp.eye(64), 0.3  # rows of the identity read the weights
    return Panels(
        [
            Panel("weights of four classes", _matrix(w)),
            Panel("drop_connect", _matrix(0.7 * jaxdrop.drop_connect(key, rows, w, rate))),
            Panel(
                "drop_connect_gaussian",
                _matrix(jaxdrop.drop_connect_gaussian(key, rows, w, rate)),
            ),
            Panel(
                "quant_noise, blocks of 8",
                _matrix(0.7 * jaxdrop.quant_noise(key, w, rate, block_size=8)),
            ),
        ],
        representative=1,
        columns=2,
    )


def _trained(loss: Callable[..., jax.Array], parameters: Any, steps: int = 600) -> Any:
    """Parameters after some steps of Adam on the digits."""
    optimizer = optax.adam(0.03)

    @jax.jit
    def run(parameters: Any) -> Any:
        def step(carry: Any, key: jax.Array) -> Any:
            parameters, state = carry
            gradient = jax.grad(loss)(parameters, key)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(parameters, updates), state), None

        keys = jax.random.split(jaxdrop.key(0), steps)
        return jax.lax.scan(step, (parameters, optimizer.init(parameters)), keys)[0][0]

    return run(parameters)


def learned() -> Panels:
    """Rates of pixels, and weights worth their variance, of a linear classifier of digits."""
    x, labels = digits()
    w = jnp.zeros((64, 10))

    def fit(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def concrete(given: Any, key: jax.Array) -> jax.Array:
        w, logit = given
        dropped = jaxdrop.concrete_dropout(key, x, logit)
        return fit(dropped @ w) + jaxdrop.concrete_kl(logit, w, lengthscale=0.1) / len(x)

    def sparse(given: Any, key: jax.Array) -> jax.Array:
        w, log_sigma2 = given
        logits = jaxdrop.sparse_variational_dense(key, x, w, log_sigma2)
        return fit(logits) + jaxdrop.sparse_kl(jaxdrop.sparse_log_alpha(w, log_sigma2)).sum() / len(
            x
        )

    _, logit = _trained(concrete, (w, jnp.full(64, -2.0)))
    w, log_sigma2 = _trained(sparse, (w + 0.01, jnp.full((64, 10), -6.0)))
    pruned = jaxdrop.sparse_variational_dense(None, jnp.eye(64), w, log_sigma2, deterministic=True)
    share, mean = float((pruned == 0).mean()), x.mean(0).reshape(8, 8)

    def rates(ax: Axes, colors: Colors) -> None:
        image = jax.nn.sigmoid(logit).reshape(8, 8)
        drawn = values(image, gray_zeros=False, cmap="viridis", vmin=0, vmax=1)(ax, colors)
        if ax.get_subplotspec():  # not alone
            ax.figure.colorbar(drawn, ax=ax, ticks=[0, 0.5, 1])

    return Panels(
        [
            Panel("mean of the images", values(mean, cmap="gray", gray_zeros=False)),
            Panel("concrete_dropout:\nrates learned for pixels", rates),
            Panel("sparse_variational_dense:\nlearned weights", _matrix(w)),
            Panel(f"the same, {100 * share:.0f} %\nof them pruned", _matrix(pruned)),
        ],
        representative=1,
        columns=2,
    )
