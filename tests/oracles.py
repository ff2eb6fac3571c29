"""The same function here and elsewhere: its value, and its gradients for one cotangent."""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

WANTED = os.environ.get("JAXDROP_ORACLES") == "required"
"""Whether a framework that is absent is a failure. `.ci/run` says so on the Python on which it
installs the extra `oracles`.
"""


def require(name: str) -> Any:
    """A framework to compare with. Where it cannot be imported, the test is skipped, or fails if
    oracles are required.
    """
    found = _load(name)
    if isinstance(found, ImportError):
        message = f"{name} cannot be imported ({found}); the extra `oracles` installs it"
        if WANTED:
            pytest.fail(message)
        pytest.skip(message)
    return found


@functools.cache
def _load(name: str) -> Any:
    """The module, or why there is none. Keras without one of its parts raises an ImportError of
    its own.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        return error


def value_and_pull(f: Callable[..., jax.Array], *args: jax.Array) -> tuple[jax.Array, ...]:
    """The value, and the cotangents of the arguments for one of the value that differs from entry
    to entry.
    """
    y, pull = jax.vjp(f, *args)
    cotangent = jnp.cos(args[0])
    return y, *pull(cotangent if cotangent.shape == y.shape else jnp.resize(cotangent, y.shape))


def torch_value_and_pull(f: Callable[..., Any], *args: jax.Array) -> tuple[np.ndarray, ...]:
    """The same by PyTorch."""
    torch = require("torch")
    inputs = [torch.tensor(np.asarray(x), requires_grad=True) for x in args]
    y = f(*inputs)
    y.backward(torch.tensor(np.resize(jnp.cos(args[0]), y.shape)))
    return y.detach().numpy(), *(x.grad.numpy() for x in inputs)


def assert_close(
    ours: tuple[jax.Array, ...], theirs: tuple[np.ndarray, ...], where: Any = True
) -> None:
    """Equal up to rounding in float32, where it is asked for."""
    for mine, value in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            np.where(where, mine, 0), np.where(where, value, 0), rtol=2e-6, atol=1e-6
        )


def torchtune_scale(kind: str, period: int, value: float) -> float:
    """`get_scale` of torchtune's `modules/layer_dropout.py`, with the `step` of its first version:
    the fraction of the last layer's rate, for layer `value` of `period + 1`.
    """
    if period == 0:
        return 1.0
    return {
        "uniform": 1.0,
        "exp": math.exp(value * math.log(2) / period) - 1,
        "linear": value / period,
        "log": math.log(value + 1) / math.log(period + 1),
        "sin": math.sin(0.5 * math.pi * value / period),
        "sigmoid": 1 / (1 + math.exp(-10 * (value / period - 0.5))),
        "step": 0.0 if value < period else 1.0,
    }[kind]
