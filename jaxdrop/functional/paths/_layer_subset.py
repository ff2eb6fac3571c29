"""Which layers run, if their number is fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop import _checks, masks, subsets
from jaxdrop._kernel import kernel
from jaxdrop._references import cites

# Probabilities are multiples of its inverse, so that their sums are exact in 32 bits.
_BITS = 20
_MOST_LAYERS = 2**12 - 1


@cites("fan2020reducing", "elhoushi2024layerskip", "madow1949theory")
@_checks.hinted
def layer_subset(
    key: jax.Array | None, rates: Sequence[float], *, deterministic: bool = False
) -> subsets.Subset:
    """Layer dropout that skips exactly `d = round(sum(rates))` of n layers: which layers run.

    Layer i is skipped with probability `c rates[i]`, where `c = d / sum(rates)` makes the sum of
    the probabilities a whole number. `layer_drop` throws a coin for each layer, of which the work
    depends: a `lax.cond`, which `vmap` turns into a `select` that computes both branches. Here the
    number of layers is part of the program. Take the parameters of those that run, and loop over
    them; the work is that of `n - d` layers, under `vmap` too:

        kept = jaxdrop.layer_subset(key, jaxdrop.depth_rates(0.5, 12, "exp"))
        params = jax.tree.map(kept.gather, stacked)  # 9 of 12 layers, in their order
        x, _ = jax.lax.scan(lambda x, layer: (block(layer, x), None), x, params)

    As with `layer_drop`, nothing is rescaled and evaluation runs every layer, so that layers should
    be residual blocks. Layers of equal rates fall together as members of a simple random subset do:
    two that are skipped with probability r have a covariance of `-r (1 - r) / (n - 1)`.

    The layers are put in a random order, and their probabilities on a line, one behind the other; a
    grid with distance 1 and a uniform offset meets those that run (systematic sampling).

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      rates: for each layer the probability of skipping it, a number in [0, 1]: those of
        `jaxdrop.depth_rates`, or `[0.3] * n`. They set a shape, and are not traced. A schedule
        changes them in steps, and each number of layers that run compiles a program.
      deterministic: if True, or if `d` is 0, all layers run.

    Returns:
      A `jaxdrop.subsets.Subset` of the layers: `kept.indices[0]` are the numbers of those that run,
      int32 of shape (n - d,), and `kept.gather(x)` takes their entries from an array of shape
      (n, ...), such as the stacked parameters.

    Raises:
      TypeError: a rate is traced or no number; `key` or `deterministic` is of a wrong type.
      ValueError: a rate is outside [0, 1], or above 1 when multiplied by c; no layer would run;
        there are none, or more than 4095; `key` is missing or an array of keys.

    References:
      Fan, Grave & Joulin, "Reducing transformer depth on demand with structured dropout", 2019,
      arXiv:1909.11556, and Elhoushi et al., "LayerSkip", 2024, arXiv:2404.16710, for layer dropout.
      Madow, "On the theory of systematic sampling, II", Ann. Math. Stat. 20, 1949, for the
      probabilities.
    """
    known, skipped = check_rates(rates, "rates")
    count = len(known)
    if _checks.check_flag(deterministic, "deterministic") or not skipped:
        every = jnp.arange(count, dtype=jnp.int32)[None]
        return subsets.Subset(every, every)
    shares = _shares(known, count - skipped)
    return _layer_subset(_checks.consume_key(key, "layer_subset"), shares=shares)


def check_rates(rates: Any, name: str) -> tuple[tuple[float, ...], int]:
    """The rates as numbers, and how many layers are skipped."""
    name = _checks.shown(name)
    is_array = isinstance(rates, (np.ndarray, jax.Array)) and rates.ndim == 1
    if not (is_array or (isinstance(rates, Sequence) and not isinstance(rates, (str, bytes)))):
        raise TypeError(
            f"{name} must be a sequence of numbers, a rate for each layer, got"
            f" {_checks.quoted(rates)}. jaxdrop.depth_rates(rate, num_layers) makes one."
        )
    reason = "it sets a shape. A schedule's value is known outside of jit: float(schedule(step))."
    _checks.check_not_traced(rates, name)
    known = tuple(
        _checks.check_known_rate(rate, f"{name}[{i}]", reason) for i, rate in enumerate(rates)
    )
    count = _checks.check_count(len(known), f"len({name})", most=_MOST_LAYERS)
    total = math.fsum(known)
    skipped = round(total)
    if skipped == count:
        raise ValueError(f"{name} add up to {total:g}: none of {count} layers would run.")
    if skipped and max(known) * skipped / total > 1:
        raise ValueError(
            f"{name} add up to {total:g}, so {skipped} layers are skipped, and the rate"
            f" {max(known):g} becomes {max(known) * skipped / total:g}. Lower it, so that it is at"
            " most 1, or let the rates add up to a whole number."
        )
    return known, skipped


def _shares(rates: tuple[float, ...], run: int) -> tuple[int, ...]:
    """The probability that each layer runs, as multiples of `2**-_BITS` that add up to `run`."""
    scale = (len(rates) - run) / math.fsum(rates)
    ends = np.cumsum([1 - scale * rate for rate in rates]) * 2**_BITS
    ends[-1] = run << _BITS
    return tuple(int(share) for share in np.diff(np.rint(ends), prepend=0))


@kernel("layer_subset", checkpoint=False)
def _layer_subset(key: jax.Array, *, shares: tuple[int, ...]) -> subsets.Subset:
    count, run = len(shares), sum(shares) >> _BITS
    words = masks.draw(key, jax.ShapeDtypeStruct((count + 1,), jnp.uint32))
    numbers = lax.broadcasted_iota(jnp.int32, (count,), 0)
    _, lengths, order = lax.sort(
        (words[:count], jnp.asarray(shares, jnp.uint32), numbers), num_keys=1
    )
    offset = words[count] & jnp.uint32(2**_BITS - 1)
    ends = offset + jnp.cumsum(lengths, dtype=jnp.uint32)
    met = (ends >> _BITS) != ((ends - lengths) >> _BITS)
    # In the order of the layers again.
    _, skipped = lax.sort((order, (~met).astype(jnp.uint32)), num_keys=1)
    return subsets.smallest(skipped[None], run)
