"""The same function here and elsewhere: its value, and its gradient for one cotangent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def require(name: str) -> Any:
    """A framework to compare with, where it is installed."""
    return pytest.importorskip(name, reason=f"{name} is installed beside the older JAX only")


def value_and_pull(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The value, and the cotangent of x for a cotangent that differs from entry to entry."""
    y, pull = jax.vjp(f, x)
    return y, pull(jnp.cos(x))[0]


def torch_value_and_pull(f: Callable[[Any], Any], x: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """The same by PyTorch."""
    wanted = require("torch").tensor(np.asarray(x), requires_grad=True)
    y = f(wanted)
    y.backward(require("torch").tensor(np.cos(np.asarray(x))))
    return y.detach().numpy(), wanted.grad.numpy()


def assert_close(ours: tuple[jax.Array, ...], theirs: tuple[np.ndarray, ...], where: Any = True) -> None:
    """Equal up to rounding in float32, where it is asked for."""
    for mine, value in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.where(where, mine, 0), np.where(where, value, 0), rtol=2e-6, atol=1e-6)
