"""Statistics of more samples than fit into memory: each chunk of samples is summarized, and the
summaries are merged.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdrop import _checks
from jaxdrop._references import cites
from jaxdrop.mc import _calls, _chunks, _execution, _groups, _moments, _sampling
from jaxdrop.mc._moments import Moments

# With fewer chunks, their spread says too little of the error of their mean.
_LEAST_CHUNKS = 4

Summary = Callable[[Any], Any]


@cites("gal2016dropout")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reached:
    """The result of `until`."""

    summary: Any
    """The summary of all samples: `Moments`, or the result of the caller's `summary`."""
    num_samples: jax.Array
    """The number of samples, an integer scalar."""
    standard_error: jax.Array
    """The estimated standard error of `summary.mean`, reduced to a scalar."""
    converged: jax.Array
    """Whether the standard error is within the tolerance. If not, `max_samples` have been drawn."""


@cites("gal2016dropout")
@_checks.hinted
def moments(
    fn: Callable[[jax.Array], Any],
    keys: jax.Array,
    *,
    summary: Summary | None = None,
    batch_size: int = 32,
    groups: int | None = None,
    allow_deterministic: bool = False,
) -> Any:
    """Statistics of `fn(key)` over all keys, in memory that does not grow with their number.

    The samples are computed in chunks and not kept. Means and variances are merged (Chan, Golub &
    LeVeque, 1983) and never computed as a difference of large sums, so that the chunk size changes
    them by rounding only. The part of `fn` that does not depend on its key is computed once. On a
    mesh, layouts and batch size are as in `predict`.

        moments = mc.moments(lambda key: fn(key, x), keys)
        summary = mc.moments(lambda key: fn(key, x), keys, summary=lambda logits:
        mc.classification(logits=logits))

    Args:
      fn: a function of one key that returns a real array or a pytree of them.
      keys: a key array of shape (S,).
      summary: a function of the samples of a chunk, arrays of shape (batch_size, ...), that returns
        a pytree with a method `merge`, as `mc.classification` and `mc.regression` do; `Moments` by
        default.
      batch_size: how many samples to run at once.
      groups: how many groups of samples, equal in size and one after the other, are independent of
        each other: that of `mc.keys(key, num_samples, groups=groups)`. The standard error is then
        estimated from their means.
      allow_deterministic: as in `predict`.

    Returns:
      The summary of all samples. Wrap the call in `jax.jit` to run it more than once.

    Raises:
      TypeError: `fn` does not take one key, `batch_size` is not an integer, `summary` returns
        something without `merge`, or outputs are complex.
      ValueError: `keys` is not one axis of keys, `batch_size` is below 1, `groups` does not divide
        the samples, or nothing that `fn` returns depends on the key.

    References:
      Gal & Ghahramani, 2016, arXiv:1506.02142.
    """
    _calls.check_function("mc.moments", fn, "fn, keys")
    num = _calls.check_keys(keys)
    _check_summary(summary)
    num_groups = _groups.check_optional(groups, num)
    size = min(_checks.check_count(batch_size, "batch_size"), num // (num_groups or 1))

    def program(sample: _execution.Sample, keys: jax.Array) -> Any:
        chunk = _summarized(sample, summary)

        def group(keys: jax.Array) -> Any:
            left, whole = _chunks.divide(keys, size)
            first, others = (left, whole) if left.size else (whole[0], whole[1:])
            return _merged(chunk, first, others)

        if num_groups is None:
            return group(keys)
        sets = _groups.sets(keys, num_groups)
        return _merged(lambda keys: group(keys).as_one_group(), sets[0], sets[1:])

    function = _execution.Function.of("mc.moments", fn, keys, allow_deterministic)
    return function.run(program, keys)


@cites("gal2016dropout")
@_checks.hinted
def until(
    fn: Callable[[jax.Array], Any],
    key: jax.Array,
    *,
    tolerance: float | jax.Array,
    max_samples: int,
    batch_size: int = 32,
    strategy: _sampling.Strategy = "stratified",
    summary: Summary | None = None,
    reduce: Callable[[jax.Array], jax.Array] = jnp.max,
    allow_deterministic: bool = False,
) -> Reached:
    """Samples `fn(key)` in chunks until the standard error of the predictive mean is within a
    tolerance.

    The error is that of `summary.mean`, by default the largest over its entries. With independent
    keys it is estimated from all samples. Otherwise the samples of a chunk depend on each other,
    but the chunks do not, since each has strata of its own: the means `m_c` of C chunks give the
    error `sqrt(sum_c (m_c - mean)^2 / (C (C - 1)))`. Large strata lower the error more, so let the
    chunks be as large as memory allows. At least four chunks are drawn. The error is an estimate,
    and stopping as soon as it is small enough favors estimates that are too small: that of a single
    output is too small by a few percent after many chunks, and by more after four. The largest of
    many is not too small.

    Under `jit` this is one loop on the device, through which derivatives pass in forward mode only.

    Args:
      fn: as in `moments`.
      key: a single key.
      tolerance: at least 0; may be traced.
      max_samples: the largest number of samples, at least four times `batch_size`.
      batch_size: the samples of a chunk.
      strategy: of `mc.keys`. Chunk c has the keys `mc.keys(jax.random.fold_in(key, c), batch_size,
        strategy)`; independent keys are `mc.keys(key, n, "independent")`, whatever the batch size.
      summary: as in `moments`; its result has `mean`, and `standard_error` if keys are independent.
      reduce: a function from the standard errors of all entries, one vector, to a number, such as
        `jnp.mean`.
      allow_deterministic: as in `predict`.

    Returns:
      A `Reached`.

    Raises:
      TypeError: as `moments`, or `tolerance` or `max_samples` is no number.
      ValueError: as `mc.keys`, `tolerance` is negative, `max_samples` is too small, or nothing that
        `fn` returns depends on the key.

    References:
      Gal & Ghahramani, 2016, arXiv:1506.02142.
    """
    _calls.check_function("mc.until", fn, "fn, key")
    key = _checks.check_key(key, "mc.until", always=True, call="mc.until(fn, key)")
    size, most = (
        _checks.check_count(batch_size, "batch_size"),
        _checks.check_count(max_samples, "max_samples"),
    )
    tolerance = _checks.check_number(tolerance, "tolerance")
    _checks.check_one_rate(tolerance, "mc.until takes one tolerance", "tolerance")
    _check_summary(summary)
    _checks.check_callable(reduce, "reduce", "a vector")
    _checks.check_one_of(strategy, "strategy", _sampling.Strategy)
    if most < _LEAST_CHUNKS * size:
        raise ValueError(
            f"max_samples={most} leaves fewer than {_LEAST_CHUNKS} chunks of batch_size={size}, too"
            f" few to tell the mean's error: allow {_LEAST_CHUNKS * size} samples, or pass a"
            " smaller batch_size"
        )
    independent = strategy == "independent"

    def keys_of(key: jax.Array, index: jax.Array | int, num: int) -> jax.Array:
        if independent:
            return jax.vmap(functools.partial(jax.random.fold_in, key))(
                index * size + jnp.arange(num, dtype=jnp.int32)
            )
        return _sampling.keys(jax.random.fold_in(key, index), num, strategy)

    def program(sample: _execution.Sample, key: jax.Array, tolerance: jax.Array) -> Reached:
        samples = _summarized(sample, summary)

        def chunk(keys: jax.Array) -> Any:
            found = samples(keys)
            return (
                found.as_one_group()
                if isinstance(found, _groups.Grouped) and not independent
                else found
            )

        def error(total: Any, means: Moments) -> jax.Array:
            if independent:
                return reduce(ravel_pytree(total.standard_error)[0])
            errors = ravel_pytree(means.standard_error)[0]
            share = (means.num_samples * size) / total.num_samples
            return reduce(errors * jnp.sqrt(share).astype(errors.dtype))

        def reached(state: tuple[Any, Moments]) -> jax.Array:
            found = error(*state)
            enough = state[1].num_samples >= _LEAST_CHUNKS
            return enough & (found <= tolerance.astype(found.dtype))

        def go_on(state: tuple[Any, Moments]) -> jax.Array:
            return (state[1].num_samples < most // size) & ~reached(state)

        def step(state: tuple[Any, Moments]) -> tuple[Any, Moments]:
            found = chunk(keys_of(key, state[1].num_samples, size))
            return state[0].merge(found), state[1].merge(_one_mean(found))

        first = chunk(keys_of(key, 0, size))
        total, means = lax.while_loop(go_on, step, (first, _one_mean(first)))
        if left := most % size:

            def last(total: Any) -> Any:
                return total.merge(chunk(keys_of(key, most // size, left)))

            total = lax.cond(reached((total, means)), lambda total: total, last, total)
        return Reached(total, total.num_samples, error(total, means), reached((total, means)))

    example = _sampling.keys(key, 1, strategy)
    function = _execution.Function.of("mc.until", fn, example, allow_deterministic)
    return function.run(program, key, jnp.asarray(tolerance))


def _check_summary(summary: Any) -> None:
    if summary is not None:
        _checks.check_callable(summary, "summary", "samples")


def _summarized(sample: _execution.Sample, summary: Summary | None) -> Summary:
    """A function from the keys of a chunk to the summary of their samples."""

    def chunk(keys: jax.Array) -> Any:
        found = (summary or _moments.of)(sample(keys))
        if not hasattr(found, "merge"):
            raise TypeError(
                "summary must return something with a method merge(other), as mc.classification"
                f" and mc.regression do, got {type(found).__name__}"
            )
        return found

    return chunk


def _merged(summarize: Summary, first: jax.Array, others: jax.Array) -> Any:
    """The summary of the keys `first`, and of each row of `others`, together."""
    total = summarize(first)
    return (
        lax.scan(lambda total, keys: (total.merge(summarize(keys)), None), total, others)[0]
        if others.size
        else total
    )


def _one_mean(summary: Any) -> Moments:
    return _moments.of(jax.tree.map(lambda mean: mean[None], summary.mean))
