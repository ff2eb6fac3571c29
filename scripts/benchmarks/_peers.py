"""Dropout as the libraries have it, behind one signature."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import jaxdrop

RATE = 0.1

MULTIPLY = "multiply"
FLAX = "flax.linen"
FLAX_SWAPPED = "flax.linen, jaxdrop.key"
SAME_KEY = "jaxdrop, threefry"
OWN_KEY = "jaxdrop, jaxdrop.key"


class Peer(NamedTuple):
    """A way to drop: `drop(key, x)`, and `keys(n)` for n sites."""

    drop: Callable[[jax.Array, jax.Array], jax.Array]
    keys: Callable[[int], jax.Array]


@functools.cache
def find(module: str) -> Any | None:
    """A library, or None if it is not installed or does not work with this JAX. Keras runs on JAX
    unless the environment chooses otherwise, and is then left out.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        library = importlib.import_module(module)
    except (ImportError, AttributeError):
        return None
    on_jax = module != "keras" or library.backend.backend() == "jax"
    return library if on_jax else None


def tensor(x: jax.Array) -> Any:
    """A JAX array as a PyTorch tensor of its own, of the same dtype."""
    torch = importlib.import_module("torch")
    return torch.from_numpy(np.array(x, np.float32)).to(getattr(torch, x.dtype.name))


def missing() -> list[str]:
    """The peers that cannot take part."""
    return [name for name in ("equinox", "haiku", "keras", "torch") if find(name) is None]


def peers() -> dict[str, Peer]:
    """The plain multiplication, which is the limit, and every dropout for JAX that is installed."""
    layer = linen.Dropout(RATE, deterministic=False)
    found = {
        # A factor of its own for each site, so that no two are merged into one.
        MULTIPLY: Peer(lambda key, x: x * key.astype(x.dtype), lambda n: jnp.linspace(1.0, 1.1, n)),
        FLAX: Peer(lambda key, x: layer.apply({}, x, rng=key), _threefry),
        FLAX_SWAPPED: Peer(lambda key, x: layer.apply({}, x, rng=key), _own),
        "flax.nnx": Peer(lambda key, x: nnx.Dropout(RATE)(x, rngs=key), _threefry),
    }
    if equinox := find("equinox"):
        found["equinox"] = Peer(lambda key, x: equinox.nn.Dropout(RATE)(x, key=key), _threefry)
    if haiku := find("haiku"):
        found["haiku"] = Peer(lambda key, x: haiku.dropout(key, RATE, x), _threefry)
    found[SAME_KEY] = Peer(lambda key, x: jaxdrop.dropout(key, x, RATE), _threefry)
    found[OWN_KEY] = Peer(lambda key, x: jaxdrop.dropout(key, x, RATE), _own)
    return found


def with_gradient(drop: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    """Forward and backward in one program: `(key, *arrays, cotangent)` -> `drop(key, *arrays)` and
    its gradient by each array.

    The backward pass waits for the forward one, as it does in a model. The cotangent must be
    another array than those: with the same one, the two passes are the same computation.
    """

    def both(key: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        *primals, cotangent = arrays
        y, pull = jax.vjp(functools.partial(drop, key), *primals)
        y, cotangent = jax.lax.optimization_barrier((y, cotangent))
        return y, *pull(cotangent)

    return both


def _threefry(num: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), num)


def _own(num: int) -> jax.Array:
    return jax.random.split(jaxdrop.key(0), num)
