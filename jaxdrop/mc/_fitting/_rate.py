"""The dropout rate with the least held-out loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _checks
from jaxdrop._mc_dropout.dependence import dependence
from jaxdrop.mc import _calls, _execution, _inputs


class FittedRate(NamedTuple):
    """The rate with the least held-out loss, and the losses of all rates."""

    rate: jax.Array
    """The best rate, a scalar."""
    loss: jax.Array
    """Its loss, a scalar."""
    rates: jax.Array
    """All rates, shape (R,)."""
    losses: jax.Array
    """Their losses, shape (R,)."""


@_checks.hinted
def fit_rate(
    fn: Callable[[jax.Array, jax.Array], Any],
    rates: _inputs.ArrayLike,
    keys: jax.Array,
    loss: Callable[[Any], jax.Array],
    *,
    batch_size: int | None = None,
    allow_deterministic: bool = False,
) -> FittedRate:
    """The one of several rates at which the samples of `fn(key, rate)` have the least held-out
    loss, in one compilation.

    All rates have the same keys, so that their losses differ by the rate more than by chance.

        def fn(key, rate):
            return jaxdrop.nnx.stochastic(model, rate=rate)(key, x_held_out)  # logits

        def loss(logits):
            return mc.metrics.nll(labels, log_probs=mc.classification(logits=logits).log_mean)

        fitted = mc.fit_rate(fn, np.linspace(0, 0.5, 11), mc.keys(key, 50), loss)

    `fn` gets the rate as a traced number, which every function and module of this library takes,
    and which `stochastic` gives to the layers of any model (with `rates={"encoder/*": rate}` to
    some of them). As above, the model is trained at one rate and evaluated at others. To train it
    at each rate, train it in `fn`.

    Args:
      fn: a function of a key and a rate; returns an array or a pytree of arrays.
      rates: probabilities of dropping, shape (R,).
      keys: the keys of S samples, from `mc.keys`.
      loss: a function from the result of `mc.predict` for one rate, samples first, to a number.
      batch_size: how many rates to run at once; all by default. Memory grows with it.
      allow_deterministic: whether `fn` may ignore its key, as in `mc.predict`.

    Returns:
      A `FittedRate`.

    Raises:
      TypeError: `batch_size` is not an integer.
      ValueError: no rates, one outside [0, 1], a loss that is not a number or does not depend on
        the rate, or as `mc.predict`.
    """
    _calls.check_function("mc.fit_rate", fn, "fn, rates, keys, loss")
    _calls.check_keys(keys)
    _checks.check_callable(loss, "loss", "what mc.predict returns")
    with _checks.renamed(rate="rates"):
        rates = jnp.asarray(
            _checks.check_rate(_checks.check_array(rates, "rates", caller="mc.fit_rate")),
            jnp.float32,
        )
    if rates.ndim != 1 or not rates.size:
        raise ValueError(f"rates must have shape (R,) with at least one rate, got {rates.shape}")
    at_once = rates.size if batch_size is None else _checks.check_count(batch_size, "batch_size")

    def one(rate: jax.Array) -> jax.Array:
        sample = lambda key: fn(key, rate)  # noqa: E731
        function = _execution.Function.of("mc.fit_rate", sample, keys, allow_deterministic)
        function.check()
        return loss(jax.vmap(function.fn)(keys))

    losses = jax.jit(lambda rates: lax.map(one, rates, batch_size=at_once))(rates)
    if losses.shape != rates.shape:
        raise ValueError(f"loss must return a number, got shape {losses.shape[1:]}")
    if not _inputs.holds(lambda losses: ~np.isnan(losses), losses):
        raise ValueError(f"the loss is NaN at the rates {np.asarray(rates)[np.isnan(losses)]}")
    if (
        _inputs.holds(lambda losses: losses == losses[0], losses)
        and not dependence(one, rates[0]).outputs
    ):
        raise ValueError(
            "the loss does not depend on the rate: fn(key, rate) has to pass the rate on, as in"
            " lambda key, rate: jaxdrop.nnx.stochastic(model, rate=rate)(key, x)."
        )
    best = losses.argmin()
    return FittedRate(rates[best], losses[best], rates, losses)
