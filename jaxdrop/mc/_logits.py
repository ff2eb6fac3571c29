"""Uncertainty that reads the size of the logits, which probabilities do not show."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from jaxdrop import _checks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites
from jaxdrop.mc import _inputs


@cites("liu2020energy")
@_checks.hinted
def energy(logits: _inputs.ArrayLike, *, temperature: _inputs.Number = 1.0) -> jax.Array:
    """`1/S sum_s -T log sum_c exp(logits_sc / T)`: the free energy, larger for unknown inputs.

    The softmax does not change if all logits of an input grow by the same number. The energy does,
    and known inputs tend to have the larger logits.

        mc.metrics.auroc(mc.energy(inside), mc.energy(outside))

    Args:
      logits: shape (S, ..., C), three axes at least: samples first, classes last. Those of a
        deterministic model are one sample, `logits[None]`.
      temperature: T, above 0; may be traced.

    Returns:
      Shape (...).

    Raises:
      TypeError: not floating numbers.
      ValueError: no samples, no classes, two axes, or `temperature` is not one number above 0.

    References:
      Liu, Wang, Owens & Li, "Energy-based out-of-distribution detection", NeurIPS 2020,
      arXiv:2010.03759.
    """
    given = _given("energy", logits)
    level = _checks.check_number(temperature, "temperature", above=True)
    _checks.check_one_rate(level, "energy takes one temperature", "temperature")
    return _energy(given, jnp.asarray(level, given.dtype))


@kernel("energy", checkpoint=False)
def _energy(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    return -(temperature * logsumexp(logits / temperature, axis=-1)).mean(0)


@cites("hendrycks2022scaling")
@_checks.hinted
def max_logit(logits: _inputs.ArrayLike) -> jax.Array:
    """`1/S sum_s -max_c logits_sc`, larger for unknown inputs: the energy at temperature 0.

    Args, Returns and Raises: as `energy`.

    References:
      Hendrycks, Basart, Mazeika, Zou, Kwon, Mostajabi, Steinhardt & Song, "Scaling
      out-of-distribution detection for real-world settings", ICML 2022, arXiv:1911.11132.
    """
    return _max_logit(_given("max_logit", logits))


@kernel("max_logit", checkpoint=False)
def _max_logit(logits: jax.Array) -> jax.Array:
    return -logits.max(-1).mean(0)


def _given(caller: str, logits: _inputs.ArrayLike) -> jax.Array:
    given = _inputs.samples(caller, "logits", logits, "(S, ..., C)")
    if given.ndim == 2:
        raise ValueError(
            f"logits of shape {given.shape} have two axes, of which the first one could be that of"
            f" inputs or that of samples. Pass logits[None] for {given.shape[0]} inputs of a"
            f" deterministic model, and logits[:, None] for {given.shape[0]} samples of one input."
        )
    if not given.shape[-1]:
        raise ValueError(f"{caller} takes logits of one class at least, got shape {given.shape}")
    return given
