"""Dropping inputs of a model: tokens, labels, modalities."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _variates, masks
from jaxdrop.functional import _ids
from jaxdrop.functional._kernel import kernel

Rounding = Literal["timm", "floor", "round"]
ModalityRule = Literal["independent", "one"]
Per = Literal["example", "batch"]
Arrays = TypeVar("Arrays")

# How many of n tokens stay at a rate. `floor` is given as a share to keep: 12 digits undo what 1 -
# rate did to 0.1.
_ROUNDINGS: dict[str, Callable[[int, float], int]] = {
    "timm": lambda n, rate: max(1, int(n * (1.0 - rate))),
    "floor": lambda n, rate: int(n * round(1.0 - rate, 12)),
    "round": lambda n, rate: round((1.0 - rate) * n),
}

_replace_labels = _ids.replacing("label_dropout", "null_id", "labels")


@_checks.hinted
def token_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    num_prefix_tokens: int,
    rounding: Rounding = "timm",
    ordered: bool = False,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Token (patch) dropout: of the `n` tokens of each example, `k = (1 - rate) n` stay, chosen at
    random. Nothing is scaled.

    The sequence becomes shorter, and with it all that a model does behind this point. So it stands
    behind the position embedding, and the rate sets a shape: it is a Python number, and every rate
    is a program of its own.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., tokens, features), of any dtype. Each example of the leading axes keeps tokens
        of its own.
      rate: the probability of dropping, in [0, 1): a number, not a traced value.
      num_prefix_tokens: how many tokens at the start (class, registers) are always kept, and not
        counted in `n`. It has no default, for there is no telling by the shape whether there is a
        class token.
      rounding: k, by whose rule. `'timm'`: `max(1, int(n (1 - rate)))`. `'floor'`: `int(n keep)`,
        the code of the PatchDropout paper. `'round'`: to the nearest, half to even (axlearn).
      ordered: if True, tokens stay in their order. Otherwise the prefix is followed by the others
        in random order, which is the same to attention.
      deterministic: if True, or if `rate` is the number 0, `x` itself is returned, with the indices
        of all tokens.
      spec: as in `jaxdrop.dropout`, but the axis of tokens may not be divided, neither here nor by
        an explicit mesh.

    Returns:
      The kept tokens, shape (..., num_prefix_tokens + k, features), and their indices along the
      axis of tokens, int32 of shape (..., num_prefix_tokens + k).

    Raises:
      TypeError: `rate` is traced or not a number; `key`, `deterministic` or `spec` is of a wrong
        type.
      ValueError: `rate` is outside [0, 1), no token would be left, `x` has no such axes or fewer
        tokens than the prefix, `rounding` is unknown, `key` is missing or an array of keys, or
        `spec` divides the tokens.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Liu, Matsoukas, Strand, Azizpour & Smith, "PatchDropout: economizing vision transformers using
      patch dropout", 2022, arXiv:2208.07220. Li, Fan, Hu, Feichtenhofer & He, "Scaling
      language-image pre-training via masking", 2022, arXiv:2212.00794.
    """
    known = _known(rate)
    x, prefix = (
        _checks.check_array(x, "x"),
        _checks.check_count(num_prefix_tokens, "num_prefix_tokens", least=0),
    )
    ordered = _checks.check_flag(ordered, "ordered")
    kept = prefix + _kept(x, known, prefix, rounding)
    spec = _checks.check_spec(spec, x.ndim)
    if spec is not None and len(spec) >= x.ndim - 1 and spec[x.ndim - 2]:
        raise ValueError(
            f"spec={spec} divides the tokens, axis {x.ndim - 2}, among which the kept ones are"
            " chosen. Gather them first."
        )
    if _checks.check_flag(deterministic, "deterministic") or known == 0:
        return x, jnp.asarray(np.broadcast_to(np.arange(x.shape[-2], dtype=np.int32), x.shape[:-1]))
    key = _checks.consume_key(key, "token_dropout")
    return _token_dropout(key, x, prefix=prefix, kept=kept, ordered=ordered, spec=spec)


def _known(rate: masks.Rate) -> float:
    reason = (
        "it sets the shape of the result. Either\n1. mark it static, and change it rarely:"
        " jax.jit(f, static_argnames='rate');\n2. keep the shape, and drop whole tokens from it:"
        " jaxdrop.dropout(key, x, rate, broadcast_dims=(-1,))."
    )
    return _checks.check_known_rate(rate, "rate", reason)


def _kept(x: jax.Array, rate: float, prefix: int, rounding: Rounding) -> int:
    """How many of the tokens behind the prefix stay."""
    _checks.check_one_of(rounding, "rounding", Rounding)
    if x.ndim < 2 or prefix > x.shape[-2]:
        name = _checks.shown("x")
        raise ValueError(
            f"num_prefix_tokens={_checks.quoted(prefix)} does not fit {name} of shape"
            f" {tuple(x.shape)}, (..., tokens, features)."
        )
    if rate == 1:
        raise ValueError("rate must be below 1 in token_dropout: some token must stay.")
    others = x.shape[-2] - prefix
    kept = min(others, _ROUNDINGS[rounding](others, rate))
    if prefix + kept == 0:
        raise ValueError(
            f"rounding={rounding!r} leaves none of {others} tokens at rate {rate:g};"
            " rounding='timm' leaves one."
        )
    return kept


@kernel("token_dropout")
def _token_dropout(
    key: jax.Array,
    x: jax.Array,
    *,
    prefix: int,
    kept: int,
    ordered: bool,
    spec: PartitionSpec | None,
) -> tuple[jax.Array, jax.Array]:
    bits = masks.draw(key, x, broadcast_dims=(x.ndim - 1,), spec=spec)[..., 0]
    # Tokens are ranked by their bits. The sort is stable: the prefix comes first as it stands, and
    # ties go by position.
    protected = (
        lax.broadcasted_iota(jnp.uint32, (1,) * (bits.ndim - 1) + bits.shape[-1:], bits.ndim - 1)
        < prefix
    )
    rank = jnp.where(protected, np.uint32(0), jnp.maximum(bits, np.uint32(1)))
    indices = jnp.argsort(rank, axis=-1)[..., :kept].astype(jnp.int32)
    if ordered:
        indices = jnp.sort(indices, axis=-1)
    # Always x, and no operation to XLA. Under explicit meshes it gives x the axes that vmap over
    # divided keys gives the indices.
    x = jnp.where(indices[..., :1, None] >= 0, x, lax.stop_gradient(x))
    return jnp.take_along_axis(x, indices[..., None], axis=-2, mode="promise_in_bounds"), indices


@_checks.hinted
def label_dropout(
    key: jax.Array | None,
    labels: jax.Array,
    rate: masks.Rate,
    *,
    null_id: int,
    force_drop: jax.Array | None = None,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Label dropout for classifier-free guidance: `y = null_id` with probability `rate`, else the
    label. Nothing is scaled.

    The embedding table needs a row for the null label: with `null_id=num_classes`, one more than
    there are classes, also at rate 0 if guidance is to be used. The result is integer: no gradient
    passes through it.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      labels: any shape, any integer dtype.
      rate: the probability of dropping, in [0, 1]: a number, a traced scalar, or an array that
        broadcasts to the shape of `labels`. Usual are 0.1 to 0.2.
      null_id: the label that stands for none.
      force_drop: booleans that broadcast to the shape of `labels`. If given they decide alone, also
        if `deterministic` is True: guided sampling asks for labels and null labels by it.
      deterministic: if True, or if `rate` is the number 0, `labels` itself is returned.
      spec: as in `jaxdrop.dropout`.

    Returns:
      An array like `labels`, of its shape and dtype.

    Raises:
      TypeError: `labels` does not hold integers, or `force_drop` not booleans; an argument is of a
        wrong type.
      ValueError, NotImplementedError: as `jaxdrop.dropout`; also if the dtype of `labels` cannot
        hold `null_id`, or if `force_drop` does not fit `labels`.

    References:
      Ho & Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598.
    """
    if force_drop is None:
        return _replace_labels(
            key,
            labels,
            rate,
            replacement=null_id,
            protected=(),
            deterministic=deterministic,
            spec=spec,
        )
    labels = _checks.check_ids(labels, "label_dropout", "labels")
    _checks.check_rate_shape(_checks.check_rate(rate), labels.shape, ())
    _checks.check_flag(deterministic, "deterministic")
    _checks.check_spec(spec, labels.ndim, "labels")
    force_drop = _checks.check_array(force_drop, "force_drop", "booleans")
    if force_drop.dtype != bool:
        raise TypeError(
            f"force_drop must hold booleans, got {force_drop.dtype}. Compare first, as in"
            " force_drop == 1."
        )
    _checks.check_rate_shape(force_drop, labels.shape, (), "force_drop")
    return jnp.where(
        force_drop,
        jnp.asarray(_ids.fitting("null_id", null_id, labels.dtype), labels.dtype),
        labels,
    )


@_checks.hinted
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
    """Modality dropout: whole inputs (sound, image, text) of an example become 0, never all of
    them. Nothing is scaled.

    Dropped values are 0 whatever they were, NaN included.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      arrays: two or more, in a tuple, a dict or another pytree, of any floating or complex dtypes.
        Axis 0 of each is the batch.
      rate: the probability of dropping, in [0, 1]: a number or a traced scalar. It gets no
        gradient.
      rule: `'independent'`: each modality is dropped with probability `rate` by itself; where that
        would drop all M, one of them, with equal chances, stays. So one modality is dropped with
        probability `rate - rate**M / M`, and at rate 1 one is left. `'one'`: with probability
        `rate` exactly one modality is dropped (AV-HuBERT, with rate 0.5).
      weights: of rule `'one'`: which modality it is, as probabilities in the order of
        `jax.tree.leaves(arrays)` (a dict is sorted by its keys); equal ones by default. AV-HuBERT's
        `audio_dropout` is the weight of the sound.
      per: `'example'`: each example is decided on by itself. `'batch'`: all together, as in
        AV-HuBERT; then the arrays need no batch axis.
      deterministic: if True, or if `rate` is the number 0, `arrays` itself is returned.
      spec: as in `jaxdrop.dropout`: how the batch axis is laid out, and perhaps others, for all
        arrays.

    Returns:
      What is like `arrays`.

    Raises:
      TypeError, ValueError, NotImplementedError: as `jaxdrop.dropout`; also if there are fewer than
        two arrays, if their batch axes differ, or if `rule`, `weights` or `per` does not fit.

    References:
      Neverova, Wolf, Taylor & Nebout, "ModDrop: adaptive multi-modal gesture recognition", 2014,
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
        _checks.check_site(
            "modality_dropout", leaf, rate, range(min(first, leaf.ndim), leaf.ndim), spec, "arrays"
        )
        for leaf in leaves
    ]
    shares = _shares(weights, rule, len(sites))
    rate, layout = sites[0].rate, sites[0].spec
    _checks.check_one_rate(rate, "modality_dropout takes one rate for all examples")
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
    """Of rule `'one'`: how likely it is that a modality is the one."""
    if rule != "one":
        if weights is not None:
            raise ValueError(f"weights belong to rule='one', not to rule={rule!r}.")
        return None
    if weights is None:
        return (1 / count,) * count
    what = f"{count} probabilities that sum to 1"
    shares = _checks.check_numbers(weights, "weights", count, what)
    if not (shares.min() >= 0 and math.isclose(shares.sum(), 1, rel_tol=1e-6)):
        raise ValueError(f"weights must be {what}, got {_checks.quoted(weights)}")
    return tuple(shares.tolist())


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
        none, choice = masks.below(draw(0, 0), threshold), _variates.uniform(draw(1, 0))
        edges = np.cumsum((0.0, *shares[:-1], 2.0)).astype(np.float32)
        keep = [none | (choice < low) | (choice >= high) for low, high in itertools.pairwise(edges)]
    return [
        jnp.where(lax.expand_dims(kept, axes), x, jnp.zeros((), x.dtype))
        for kept, x, axes in zip(keep, arrays, shared, strict=True)
    ]
