"""Dropping modalities: whole inputs of an example."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _variates, masks
from jaxdrop._kernel import kernel
from jaxdrop._references import cites

ModalityRule = Literal["independent", "one"]
Per = Literal["example", "batch"]
Arrays = TypeVar("Arrays")


def _probabilities(weights: Any, name: str, count: int | None = None) -> tuple[float, ...]:
    """Checks the weights of `count` modalities, or of any number."""
    what = f"{'' if count is None else f'{count} '}probabilities that sum to 1"
    if count is None:
        several = isinstance(weights, (Sequence, np.ndarray, jax.Array)) and np.ndim(weights)
        count = len(weights) if several else 1
    shares = _checks.check_numbers(weights, name, count, what)
    if not (shares.size and shares.min() >= 0 and math.isclose(shares.sum(), 1, rel_tol=1e-6)):
        raise ValueError(f"{name} must be {what}, got {_checks.quoted(weights)}")
    return tuple(shares.tolist())


_one_rate = _checks.one_rate("modality_dropout takes one rate for all examples")


@cites("neverova2016moddrop", "shi2022learning")
@_checks.hinted
@_checks.facts(draws_nothing_at=(0,), rate=_one_rate, weights=_checks.optional(_probabilities))
def modality_dropout(
    key: jax.Array | None,
    arrays: Arrays,
    rate: masks.Rate,
    *,
    rule: ModalityRule = "independent",
    weights: Sequence[float] | None = None,
    per: Per = "example",
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> Arrays:
    """Modality dropout: whole inputs (sound, image, text) of an example become 0, but never all of
    its inputs. Nothing is scaled.

    Dropped values are 0 whatever the input holds, NaN included.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      arrays: two or more, in a tuple, a dict or another pytree, of any floating or complex dtypes.
        Axis 0 of each is the batch.
      rate: the probability of dropping, in [0, 1]: a number or a traced scalar. It gets no
        gradient.
      rule: `'independent'`: each of the M modalities is dropped with probability `rate`, but if
        this would drop all of them, one stays, each with the same probability. So a modality is
        dropped with probability `rate - rate**M / M`, and at rate 1 one modality is left. `'one'`:
        with probability `rate` exactly one modality is dropped (AV-HuBERT, with rate 0.5).
      weights: for rule `'one'`: the probabilities that it is this modality, in the order of
        `jax.tree.leaves(arrays)` (a dict is sorted by its keys); equal by default. AV-HuBERT's
        `audio_dropout` is the weight of the sound.
      per: `'example'`: each example has a draw of its own. `'batch'`: all examples share one, as in
        AV-HuBERT; then the arrays need no batch axis.
      deterministic: if True, or if `rate` is the number 0, `arrays` itself is returned.
      spec: as in `jaxdrop.dropout`: how the batch axis is laid out, and perhaps others, for all
        arrays.

    Returns:
      A pytree like `arrays`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`; also if there are fewer than
        two arrays, if their batch axes differ, or if `rule`, `weights` or `per` does not fit.

    References:
      Neverova, Wolf, Taylor & Nebout, "ModDrop: adaptive multi-modal gesture recognition", 2015,
      arXiv:1501.00102. Shi, Hsu, Lakhotia & Mohamed, "Learning audio-visual speech representation
      by masked multimodal cluster prediction", 2022, arXiv:2201.02184.
    """
    _checks.check_one_of(rule, "rule", ModalityRule)
    _checks.check_one_of(per, "per", Per)
    leaves, structure = jax.tree.flatten(arrays)
    first = 1 if per == "example" else 0
    leaves = [_checks.check_inexact(leaf, "modality_dropout", "arrays") for leaf in leaves]
    if len(leaves) < 2:
        raise ValueError(
            f"arrays must be two or more, for modality_dropout never drops all, got {len(leaves)}."
        )
    if per == "example" and (
        0 in map(jnp.ndim, leaves) or len({leaf.shape[0] for leaf in leaves}) > 1
    ):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(
            f"arrays must have one batch axis, axis 0, in common, but their shapes are {shapes}."
        )
    sites = [
        _checks.check_site("modality_dropout", leaf, rate, range(first, leaf.ndim), spec, "arrays")
        for leaf in leaves
    ]
    shares = _shares(weights, rule, len(sites))
    rate, layout = sites[0].rate, sites[0].spec
    rate = _one_rate(rate, "rate")
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return arrays
    kept = _modality_dropout(
        _checks.consume_key(key, "modality_dropout"),
        masks.nan_if_impossible([site.x for site in sites], rate),
        masks.distribution(rate).threshold,
        shares=shares,
        shared=tuple(site.shared for site in sites),
        spec=layout,
    )
    return jax.tree.unflatten(structure, kept)


def _shares(
    weights: Sequence[float] | None, rule: ModalityRule, count: int
) -> tuple[float, ...] | None:
    """For rule `'one'`: for each modality, the probability that it is the dropped one."""
    if rule != "one":
        if weights is not None:
            raise ValueError(f"weights belong to rule='one', not to rule={rule!r}.")
        return None
    if weights is None:
        return (1 / count,) * count
    return _probabilities(weights, "weights", count)


@kernel("modality_dropout")
def _modality_dropout(
    key: jax.Array,
    arrays: list[jax.Array],
    threshold: jax.Array,
    *,
    shares: tuple[float, ...] | None,
    shared: tuple[tuple[int, ...], ...],
    spec: PartitionSpec | None,
) -> list[jax.Array]:
    def draw(stream: int, place: int) -> jax.Array:
        bits = masks.draw(
            jax.random.fold_in(key, stream), arrays[place], broadcast_dims=shared[place], spec=spec
        )
        return lax.squeeze(bits, shared[place])

    if shares is None:
        words = [draw(place, place) for place in range(len(arrays))]
        least = functools.reduce(jnp.minimum, words)
        keep = [masks.below(word, threshold) | (word == least) for word in words]
    else:
        all_kept, choice = masks.below(draw(0, 0), threshold), _variates.uniform(draw(1, 0))
        edges = np.cumsum((0.0, *shares[:-1], math.inf)).astype(np.float32)
        keep = [
            all_kept | (choice < low) | (choice >= high) for low, high in itertools.pairwise(edges)
        ]
    return [
        jnp.where(lax.expand_dims(kept, axes), x, jnp.zeros((), x.dtype))
        for kept, x, axes in zip(keep, arrays, shared, strict=True)
    ]
