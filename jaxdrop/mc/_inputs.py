"""Checks that the statistics share: dtypes and shapes always, values where they are known, which is mostly outside `jit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import masks
from jaxdrop.functional import _arguments

ArrayLike: TypeAlias = jax.Array | np.ndarray[Any, Any]
Number: TypeAlias = float | ArrayLike


def floating(caller: str, name: str, x: ArrayLike) -> jax.Array:
    """`x` as an array of real floating numbers, float32 at least; anything else is a TypeError."""
    x = _array(x, caller, f"{name} of floating numbers")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{caller} takes floating {name}, got {x.dtype}. Convert them, as in {name}.astype(jnp.float32).")
    return x.astype(masks.wide(x.dtype))


def samples(caller: str, name: str, x: ArrayLike, shape: str = "(S, ...)") -> jax.Array:
    """`x` as floating samples, one at least, along the first axis. `shape` shows which axes there must be."""
    x = floating(caller, name, x)
    if x.ndim < (2 if "C" in shape else 1) or not x.shape[0]:
        raise ValueError(f"{name} must have shape {shape} with at least one sample, got {x.shape}")
    return x


def nan_unless(condition: jax.Array, x: jax.Array) -> jax.Array:
    """`x` where the condition holds, and NaN elsewhere: what is impossible is no number, where it cannot be an error."""
    return jnp.where(condition, x, jnp.nan)


def probable(probs: jax.Array) -> jax.Array:
    """Probabilities along the last axis, NaN where they cannot be any."""
    return nan_unless(are_probabilities(probs)[..., None], probs)


def bernoulli(name: str, probs: jax.Array) -> None:
    """Checks, where they are known, that probabilities of single events lie in [0, 1]."""
    if not holds(lambda x: (x >= 0) & (x <= 1), probs):
        raise ValueError(f"{name} must lie in [0, 1], but they are {np.min(probs):g} to {np.max(probs):g}. Are they logits?")


def reals(caller: str, **arrays: Number) -> list[jax.Array]:
    """Real numbers of any dtype as arrays of one floating dtype: float64 if one of them is, else float32."""
    found = {name: _array(x, caller, f"{name} of real numbers") for name, x in arrays.items()}
    for name, x in found.items():
        if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_):
            raise TypeError(f"{caller} takes real {name}, got {x.dtype}")
    wide = any(x.dtype == jnp.float64 for x in found.values())
    return [x.astype(jnp.float64 if wide else jnp.float32) for x in found.values()]


def alike(caller: str, **arrays: Number) -> list[jax.Array]:
    """As `reals`, of one shape that has entries."""
    found = reals(caller, **arrays)
    if len({x.shape for x in found}) > 1 or not found[0].size:
        shapes = ", ".join(f"{name} of shape {x.shape}" for name, x in zip(arrays, found, strict=True))
        raise ValueError(f"{caller} takes arrays of one shape, with at least one entry, got {shapes}")
    return found


def holds(condition: Callable[[np.ndarray[Any, Any]], Any], x: Number) -> bool:
    """Whether `condition` is true of all of `x`, and true where its values are not known here.

    In NumPy, so that constants are checked inside `jit` too, and nothing is compiled for it.
    """
    if isinstance(x, jax.core.Tracer) or (isinstance(x, jax.Array) and not x.is_fully_addressable):
        return True
    with np.errstate(invalid="ignore"):
        return bool(np.all(condition(np.asarray(x))))


def positive(name: str, x: Number, *, zero: bool = False, infinity: bool = False) -> None:
    """Checks, where `x` is known, that all of it lies above 0 (or is 0) and is finite (or infinite)."""
    if not holds(lambda x: (x >= 0 if zero else x > 0) & (x <= np.inf if infinity else x < np.inf), x):
        allowed = f"{'[' if zero else '('}0, infinity{']' if infinity else ')'}"
        raise ValueError(f"{name} must lie in {allowed}, got {_range(x)}")


def fraction(name: str, x: Number) -> None:
    """Checks, where `x` is known, that all of it lies between 0 and 1, both left out."""
    if not holds(lambda x: (x > 0) & (x < 1), x):
        raise ValueError(f"{name} must lie in (0, 1), got {_range(x)}")


def are_probabilities(probs: Any) -> Any:
    """Whether the entries along the last axis, of NumPy or JAX, are not negative and sum to 1."""
    # By the least one: XLA takes `exp(x) >= 0` for true, and evaluates `all` of it while compiling.
    return (probs.min(-1) >= 0) & (abs(probs.sum(-1) - 1) <= 1e-2)


def probabilities(name: str, probs: jax.Array) -> None:
    """Checks, where they are known, that the entries along the last axis are not negative and sum to 1."""
    if not holds(are_probabilities, probs):
        raise ValueError(
            f"{name} must not be negative and must sum to 1 along the last axis, but they are {_range(probs)} and their sums"
            f" {_range(np.asarray(probs).sum(-1))}. Are they logits? Probabilities are their softmax."
        )


def _range(x: Number) -> str:
    known = np.asarray(x)
    return f"{known}" if known.ndim == 0 else f"{known.min():g} to {known.max():g}"


def integers(caller: str, labels: ArrayLike) -> jax.Array:
    """`labels` as an array of integers; anything else is a TypeError."""
    labels = _array(labels, caller, "of integer labels")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{caller} takes integer labels, and takes them first, got {labels.dtype}{list(labels.shape)}")
    return labels


def labels(caller: str, y: ArrayLike, shape: tuple[int, ...], num_classes: int) -> jax.Array:
    """Integer labels of `shape`, in [0, num_classes) where that is known."""
    y = integers(caller, y)
    if y.shape != shape:
        raise ValueError(f"{caller} takes a label for each prediction: shape {shape}, got labels of shape {y.shape}")
    if not holds(lambda y: (y >= 0) & (y < num_classes), y):
        raise ValueError(f"labels must lie in [0, {num_classes}), got {_range(y)}")
    return y.astype(jnp.int32)


def _array(x: Any, caller: str, name: str) -> jax.Array:
    return jnp.asarray(_arguments.array(x, caller, name))
