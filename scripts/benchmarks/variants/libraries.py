"""The variants that Keras (on JAX) and PyTorch have: forward and backward, with what each library's
users call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

import jaxdrop
from benchmarks import _peers
from benchmarks._figures import Bar, Table
from benchmarks._peers import RATE
from benchmarks._timing import interleaved
from benchmarks.variants._contest import (
    BOTH,
    BY_HAND,
    OURS,
    OWN_KEY,
    QUANTILE,
    SAME_KEY,
    Contest,
    normal,
    program,
)
from benchmarks.variants.elements import alpha_by_hand
from benchmarks.variants.noise import gaussian_by_hand
from benchmarks.variants.paths import path_by_hand
from benchmarks.variants.regions import spatial_by_hand, torchvision_by_hand
from benchmarks.variants.weights import connect_by_hand


def libraries(quick: bool) -> Iterator[Table | Bar]:
    """Alpha, Gaussian and spatial dropout, drop path, DropBlock, DropConnect; the time of
    jaxdrop.key is the limit.
    """
    figures: dict[str, Any] = {}
    keras, torch = _keras(), _torch()
    for contest in _contests(quick):
        calls: dict[str, Callable[[], Any]] = {
            name: program(contest, name, BOTH) for name in (BY_HAND, SAME_KEY, OWN_KEY)
        }
        if contest.name in keras:
            calls["keras"] = program(contest._replace(by_hand=keras[contest.name]), BY_HAND, BOTH)
        if contest.name in torch:
            calls["torch"] = _torch_both(torch[contest.name], *map(_peers.tensor, contest.arrays))
        figures[contest.name] = interleaved(calls, seconds=0 if quick else 4, quantile=QUANTILE)
    yield Table(f"other libraries, {BOTH}", "s", figures, limit=OWN_KEY, ours=OURS)


def _contests(quick: bool) -> list[Contest]:
    batch, width = (2, 128) if quick else (16, 1024)
    x, maps, layer = (
        [normal(width, 2 * width)],
        [normal(batch, 28, 28, 128)],
        [normal(256, width), normal(width, width)],
    )
    return [
        Contest(
            "alpha_dropout", lambda key, x: jaxdrop.alpha_dropout(key, x, RATE), alpha_by_hand, x
        ),
        Contest(
            "gaussian_dropout",
            lambda key, x: jaxdrop.gaussian_dropout(key, x, RATE),
            gaussian_by_hand,
            x,
        ),
        Contest(
            "spatial_dropout",
            lambda key, x: jaxdrop.spatial_dropout(key, x, RATE),
            spatial_by_hand,
            maps,
        ),
        Contest("drop_path", lambda key, x: jaxdrop.drop_path(key, x, RATE), path_by_hand, maps),
        Contest(
            "drop_block",
            functools.partial(jaxdrop.drop_block, rate=RATE),
            torchvision_by_hand,
            maps,
        ),
        Contest(
            "drop_connect",
            lambda key, x, w: jaxdrop.drop_connect(key, x, w, RATE),
            connect_by_hand,
            layer,
        ),
    ]


def _keras() -> dict[str, Callable[[jax.Array, jax.Array], jax.Array]]:
    """Layers as functions of a key, which takes the place of what their seed generator holds."""
    keras = _peers.find("keras")
    if keras is None:
        return {}
    layers = {
        "alpha_dropout": keras.layers.AlphaDropout(RATE, seed=0),
        "gaussian_dropout": keras.layers.GaussianDropout(RATE, seed=0),
        "spatial_dropout": keras.layers.SpatialDropout2D(RATE, seed=0),
    }

    def call(layer: Any, key: jax.Array, x: jax.Array) -> jax.Array:
        return layer.stateless_call([], [jax.random.key_data(key)], x, training=True)[0]

    return {name: functools.partial(call, layer) for name, layer in layers.items()}


def _torch() -> dict[str, Callable[..., Any]]:
    """What PyTorch has, and where it has nothing, the code of torchvision. Images have their
    channels first.
    """
    torch = _peers.find("torch")
    if torch is None:
        return {}
    functional = torch.nn.functional

    def path(x: Any) -> Any:
        return x * torch.empty([x.shape[0], 1, 1, 1]).bernoulli_(1 - RATE).div_(1 - RATE)

    def block(x: Any, size: int = 7) -> Any:
        count, channels, height, width = x.shape
        inside = height - size + 1, width - size + 1
        gamma = RATE * height * width / (size**2 * inside[0] * inside[1])
        seeds = torch.empty([count, channels, *inside]).bernoulli_(gamma)
        seeds = functional.pad(seeds, [size // 2] * 4)
        mask = 1 - functional.max_pool2d(
            seeds, stride=(1, 1), kernel_size=(size, size), padding=size // 2
        )
        return x * mask * (mask.numel() / (1e-6 + mask.sum()))

    def images(drop: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: drop(x.reshape(x.shape[0], x.shape[-1], *x.shape[1:-1]))

    return {
        "alpha_dropout": functools.partial(functional.alpha_dropout, p=RATE, training=True),
        "spatial_dropout": images(functools.partial(functional.dropout2d, p=RATE)),
        "drop_path": images(path),
        "drop_block": images(block),
        "drop_connect": lambda x, w: functional.linear(x, functional.dropout(w, RATE)),
    }


def _torch_both(function: Callable[..., Any], *arrays: Any) -> Callable[[], Any]:
    torch = _peers.find("torch")
    assert torch is not None
    arrays = tuple(array.requires_grad_() for array in arrays)
    cotangent = torch.ones_like(function(*arrays))

    def both() -> Any:
        y = function(*arrays)
        return y, torch.autograd.grad(y, arrays, cotangent)

    return both
