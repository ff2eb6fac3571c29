"""Probabilities of classes: their checks, logarithms, entropies and divergences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.mc import _inputs


def checked(
    caller: str,
    logits: _inputs.ArrayLike | None,
    probs: _inputs.ArrayLike | None,
    binary: bool | None = False,
) -> tuple[jax.Array, bool]:
    """The samples of shape (S, ..., C) that were given, and whether they are logits."""
    if (logits is None) == (probs is None):
        given = "neither" if logits is None else "both"
        raise TypeError(
            f"{caller} takes either logits=... or probs=..., got {given}. Say which of the two the"
            " model returns: they are not told apart by their values."
        )
    if not (binary is None or isinstance(binary, (bool, np.bool_))):
        raise TypeError(f"binary must be True, False or None, got {binary!r}")
    if logits is not None:
        x = _inputs.samples(caller, "logits", logits, "(S, ...)" if binary else "(S, ..., C)")
        if binary:  # not the logits (0, x), whose log-softmax is NaN if x is infinite
            return -jnp.maximum(jnp.stack([x, -x], axis=-1), 0), True
        _check_classes("logits", x.shape, binary)
        return x, True
    assert probs is not None
    x = _inputs.samples(caller, "probs", probs, "(S, ...)" if binary else "(S, ..., C)")
    if binary:
        _inputs.bernoulli("probs", x)
        x = jnp.stack([1 - x, x], axis=-1)
    else:
        _check_classes("probs", x.shape, binary)
        _inputs.probabilities("probs", x)
    return x, False


def _check_classes(name: str, shape: tuple[int, ...], binary: bool | None) -> None:
    if shape[-1] < 2:
        raise ValueError(
            f"{name} of shape {shape} have {'one' if shape[-1] else 'no'} class, which is certain"
            " whatever they are. For the output of a sigmoid, pass binary=True to"
            " mc.classification; elsewhere pass both classes, logits jnp.concatenate([0 * z, z],"
            " axis=-1)."
        )
    if len(shape) == 2 and binary is None:
        raise ValueError(
            f"{name} of shape {shape} could be {shape[1]} classes of one input, or outputs of a"
            f" sigmoid for {shape[1]} inputs. Pass binary=False for the former, and binary=True for"
            " the latter."
        )


def log_probabilities(given: jax.Array, are_logits: bool) -> jax.Array:
    """The logarithms of the probabilities, -inf where a class is ruled out. Gradients are finite
    there too.
    """
    if are_logits:
        return jax.nn.log_softmax(given)
    given = _inputs.probable(given)
    possible = ~(given <= 0)
    return jnp.where(possible, jnp.log(jnp.where(possible, given, 1)), -jnp.inf)


def entropy(log_probs: jax.Array) -> jax.Array:
    """The entropy of probabilities along the last axis, in nats."""
    return -(jnp.exp(log_probs) * finite(log_probs)).sum(-1)


def divergence(log_parts: jax.Array, log_mean: jax.Array) -> jax.Array:
    """`KL(p_k || p)` for each k along the first axis of the parts, whose mean `p` is."""
    log_mean = jnp.expand_dims(finite(log_mean), 0)
    possible = log_parts > _least(log_parts) / 2
    ratio = jnp.where(possible, finite(log_parts) - log_mean, 0)
    return (jnp.exp(log_mean) * divergence_terms(ratio, possible)).sum(-1)


def divergence_terms(ratio: jax.Array, possible: jax.Array) -> jax.Array:
    """`f(r) = r exp(r) - exp(r) + 1` of `r = log(p / q)`, and 1 where p is not possible: `KL(p ||
    q) = sum q f`.

    It is 0 at 0 and positive elsewhere: no large terms cancel.
    """
    return jnp.where(possible, ratio * jnp.exp(ratio) - jnp.expm1(ratio), 1)


def finite(log_probs: jax.Array) -> jax.Array:
    """The logarithms with a finite number in place of minus infinity, where gradients are NaN."""
    return jnp.where(jnp.isneginf(log_probs), _least(log_probs), log_probs)


def with_infinities(log_probs: jax.Array) -> jax.Array:
    """The inverse of `finite`: minus infinity in place of its finite number."""
    return jnp.where(log_probs < _least(log_probs) / 2, -jnp.inf, log_probs)


def _least(like: jax.Array) -> np.ndarray:
    return np.asarray(jnp.finfo(like.dtype).min / 4, like.dtype)
