"""One pass over a traced function, and what follows the covariance between its values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.mc._analytic import _operations
from jaxdrop.mc._analytic._context import Context
from jaxdrop.mc._analytic._interpreter import Interpreter
from jaxdrop.mc._analytic._values import Coin, Hidden, Moments, is_random

# Rows of a derivative that are computed at once.
_ROWS = 64


@dataclasses.dataclass(frozen=True)
class Found:
    """Moments of the results of a program, in their order.

    Attributes:
      means, variances: arrays.
      linearized: the operations that were linearized.
      random: whether any result depends on the key.
    """

    means: list[Any]
    variances: list[Any]
    linearized: tuple[str, ...]
    random: bool


def diagonal(program: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> Found:
    """One pass."""
    context = Context()
    return _found(context, _run(context, program, constants, inputs))


def linearized(program: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> Found:
    """One pass forward, in which each mask and each nonlinear function is a source of variance, and
    one backward for each entry of the results: what is linear in the sources has all covariances.
    """
    plain: list[Found] = []
    zeros = _sources(program, constants, inputs, plain)
    if not any(_operations.is_number(x.dtype) for x in plain[-1].means):
        return diagonal(program, constants, inputs)

    def rows_of(shifts: Sequence[Any]) -> tuple[Any, Any]:
        means, (variances, sources) = _shifted(program, constants, inputs, shifts)
        floats = [x for x in means if _operations.is_number(x.dtype)]
        rows = jnp.concatenate([x.ravel().astype(jnp.float32) for x in floats])
        return rows, (means, variances, sources)

    rows, pull, (means, variances, sources) = jax.vjp(rows_of, zeros, has_aux=True)

    def total(row: Any) -> Any:
        (slopes,) = pull(row)
        by_shape: dict[Any, Any] = {}  # fewer and longer loops
        for slope, source in zip(slopes, sources, strict=True):
            by_shape[slope.shape] = by_shape.get(slope.shape, 0.0) + slope * slope * source
        # As a product with ones, which XLA for CPU computes four times as fast as a sum.
        return sum(x @ jnp.ones_like(x) for x in map(jnp.ravel, by_shape.values()))

    units = jnp.eye(len(rows), dtype=rows.dtype)
    own = lax.map(total, units, batch_size=_ROWS)
    found, start = [], 0
    for mean, variance in zip(means, variances, strict=True):
        if _operations.is_number(mean.dtype):
            entries = own[start : start + mean.size]
            found.append(entries.reshape(mean.shape).astype(mean.dtype))
            start += mean.size
        else:
            found.append(variance)
    return Found(means, found, plain[-1].linearized, plain[-1].random)


def _sources(program: Any, constants: Any, inputs: Any, found: list[Found]) -> list[Any]:
    """A zero for each source of variance; the moments without covariance join `found`."""
    shapes: list[Any] = []

    def collect(mean: Any, variance: Any) -> Any:
        shapes.append(jax.ShapeDtypeStruct(variance.shape, variance.dtype))
        return mean

    def dry() -> Any:
        context = Context(collect)
        found.append(_found(context, _run(context, program, constants, inputs)))
        return found[-1].means

    jax.eval_shape(dry)
    return [jnp.zeros(like.shape, like.dtype) for like in shapes]


def _shifted(program: Any, constants: Any, inputs: Any, shifts: Sequence[Any]) -> tuple[Any, Any]:
    """The means, with something added to each source of variance; and, beside them, the variances
    of the results and of the sources.
    """
    left, sources = iter(shifts), []

    def shift(mean: Any, variance: Any) -> Any:
        sources.append(lax.stop_gradient(variance))
        return mean + next(left)

    context = Context(shift)
    found = _found(context, _run(context, program, constants, inputs))
    return found.means, (found.variances, sources)


def linear_part(program: Any, constants: Sequence[Any], inputs: Sequence[Any], key: Any) -> Found:
    """What the masks of `key` change in the means, as far as it is linear in the masks."""
    plain: list[Found] = []
    zeros = _sources(program, constants, inputs, plain)
    changes: list[Any] = []

    def draw(mean: Any, variance: Any, value: Any = None) -> Any:
        change = jnp.zeros_like(mean) if value is None else value.astype(mean.dtype) - mean
        changes.append(change)
        return mean

    context = Context(draw, draws=True)
    _found(context, _run(context, program, constants, inputs, key))  # the last sources, too
    floats = [i for i, x in enumerate(plain[-1].means) if _operations.is_number(x.dtype)]

    def means(shifts: Sequence[Any]) -> list[Any]:
        found, _ = _shifted(program, constants, inputs, shifts)
        return [found[i] for i in floats]

    _, tangents = jax.jvp(means, (zeros,), (changes,))
    found = [jnp.zeros(x.shape, x.dtype) for x in plain[-1].means]
    for i, tangent in zip(floats, tangents, strict=True):
        found[i] = tangent
    return Found(found, [], plain[-1].linearized, plain[-1].random)


def enumerated(
    program: Any, constants: Sequence[Any], inputs: Sequence[Any], pairs: int = 0
) -> Found:
    """One pass with the first mask as it is most likely, and one for each of its entries with that
    entry at its other value. Over the entries of the mask the function is taken to be a sum; of the
    `pairs` entries with the largest steps each two are changed together too, and what they do
    beyond the sum of both is a term of its own.
    """
    seen: list[Any] = []

    def dry() -> Any:
        context = Context()
        found = _found(context, _run(context, program, constants, inputs))
        seen[:] = [found, next((coin for coin in context.coins if coin.used), None)]
        return found.means

    jax.eval_shape(dry)
    plain, first = seen
    if first is None:
        if not plain.random:
            return diagonal(program, constants, inputs)
        raise ValueError(
            'precision="enumerated" takes the entries of the first mask in turn, but fn draws no'
            ' mask, only numbers such as Gaussian noise: pass precision="linearized"'
        )

    def given(mask: Any) -> tuple[Any, Any, Any]:
        true: list[Any] = []

        def put(coin: Coin) -> Any:
            if coin.number != first.number:
                return None
            true.append(coin.true)
            likely = (coin.true >= 0.5).astype(coin.true.dtype)
            return likely + (1 - 2 * likely) * mask.reshape(likely.shape)

        context = Context(given=put)
        found = _found(context, _run(context, program, constants, inputs))
        return found.means, found.variances, true[0]

    size = first.true.size
    if pairs and first.fixed is not None:
        raise ValueError(
            f"pairs={pairs} needs a first mask whose entries are independent, but this one keeps an"
            " exact number of them. Leave pairs out."
        )
    masks = jnp.eye(size + 1, size, -1, dtype=first.true.dtype)
    means, variances, true = jax.vmap(given, out_axes=(0, 0, None))(masks)
    rare = jnp.minimum(true, 1 - true).ravel()
    if pairs > 1:
        return _with_pairs(plain, given, (means, variances), rare, min(pairs, size))
    found_means, found_variances = [], []
    for mean, variance in zip(means, variances, strict=True):
        if not _operations.is_number(mean.dtype):
            found_means.append(mean[0])
            found_variances.append(variance[0])
            continue
        step = mean[1:] - mean[0]
        within = variance[0] + jnp.tensordot(rare, variance[1:] - variance[0], 1)
        found_means.append(mean[0] + jnp.tensordot(rare, step, 1))
        parts = step.reshape(size, -1).T.reshape(-1, *first.true.shape)
        between = (first.apart(parts) ** 2).reshape(-1, size) @ (rare * (1 - rare))
        between = between.reshape(step.shape[1:])
        found_variances.append(between + jnp.maximum(within, 0))
    return Found(found_means, found_variances, plain.linearized, plain.random)


def _with_pairs(plain: Found, given: Any, singles: Any, rare: Any, pairs: int) -> Found:
    """The function as a sum over entries and over pairs of entries."""
    size = rare.size
    floats = [i for i, x in enumerate(singles[0]) if _operations.is_number(x.dtype)]
    steps = [(singles[0][i][1:] - singles[0][i][0]).reshape(size, -1) for i in floats]
    _, largest = lax.top_k(sum((step**2).sum(1) for step in steps), pairs)
    one, other = (
        jax.nn.one_hot(largest[places], size, dtype=rare.dtype)
        for places in np.triu_indices(pairs, 1)
    )
    doubles = jax.vmap(given)(one + other)
    rates = (one @ rare) * (other @ rare)
    means, variances = ([x[0] for x in parts] for parts in singles)
    for i in floats:
        parts = []
        for each, both in ((singles[0][i], doubles[0][i]), (singles[1][i], doubles[1][i])):
            flat, pair = each.reshape(size + 1, -1), both.reshape(len(one), -1)
            step = flat[1:] - flat[0]
            parts.append((flat[0], step, pair - flat[0] - (one + other) @ step))
        (start, step, more), (least, wider, widest) = parts
        whole = step + one.T @ ((other @ rare)[:, None] * more)
        whole += other.T @ ((one @ rare)[:, None] * more)
        between = (rare * (1 - rare)) @ whole**2
        between += ((one @ (rare * (1 - rare))) * (other @ (rare * (1 - rare)))) @ more**2
        within = least + rare @ wider + rates @ widest
        mean = start + rare @ step + rates @ more
        means[i] = mean.reshape(means[i].shape)
        variances[i] = (between + jnp.maximum(within, 0)).reshape(means[i].shape)
    return Found(means, variances, plain.linearized, plain.random)


WAYS = {"diagonal": diagonal, "linearized": linearized, "enumerated": enumerated}


def _run(context: Context, program: Any, constants: Any, inputs: Any, key: Any = None) -> list[Any]:
    """The results of a program whose first argument is a key."""
    aval = program.jaxpr.invars[0].aval
    hidden = Hidden(tuple(aval.shape), aval.dtype, context.fresh(), value=key)
    return Interpreter(context).run(program.replace(consts=list(constants)), [hidden, *inputs])


def _found(context: Context, results: Sequence[Any]) -> Found:
    moments = []
    for result in results:
        if is_random(result):
            moments.append(context.moments(result))
        else:
            array = jnp.asarray(result)
            variance = jnp.zeros_like(array) if _operations.is_number(array.dtype) else array * 0
            moments.append(Moments(array, variance))
    return Found(
        [x.mean for x in moments],
        [x.variance for x in moments],
        tuple(context.linearized),
        any(map(is_random, results)),
    )
