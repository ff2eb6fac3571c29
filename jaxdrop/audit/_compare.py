"""`compare`: runs evaluation and training, and compares their expectations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop.audit._catalog import RULES
from jaxdrop.audit._findings import Finding

# A deviation that float32 sums explain.
_ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Evaluation against training.

    Attributes:
      samples: how many keys training was run with.
      level: the probability of a false alarm over all entries.
      entries: how many numbers the functions return.
      worst: the largest deviation of a mean, in standard errors.
      allowed: the deviation above which it counts.
      scale: the factor between the mean in training and evaluation, by least squares over all
        entries.
      variance_ratio: the variance over the examples (axis 0) in evaluation, divided by that in
        training; the mean over all other axes. What BatchNorm would see, if the functions return
        its inputs. None without such an axis.
      findings: what is wrong.
    """

    samples: int
    level: float
    entries: int
    worst: float
    allowed: float
    scale: float
    variance_ratio: float | None
    findings: list[Finding]

    def __str__(self) -> str:
        ratio = (
            ""
            if self.variance_ratio is None
            else (f"; variance over examples, evaluation / training: {self.variance_ratio:.3g}")
        )
        lines = [
            f"{self.samples} keys, {self.entries} entries: the worst mean is {self.worst:.2f} "
            f"standard errors off, {self.allowed:.2f} are allowed (probability of a false alarm "
            f"{self.level:g}); training = {self.scale:.4g} x evaluation{ratio}",
            *map(str, self.findings),
        ]
        return "\n".join(lines)


def compare(
    eval_fn: Callable[..., Any],
    train_fn: Callable[..., Any],
    *args: Any,
    key: jax.Array,
    samples: int = 1000,
    tolerance: float = 0.0,
    level: float = 1e-3,
) -> Comparison:
    """Whether evaluation depends on no key, training does, and both agree in expectation.

    `E_key train_fn(key, *args) = eval_fn(key, *args)` is tested in each entry, with the mean over
    `samples` keys and its standard error. The level is divided by the number of entries.

    Dropout keeps the expectation of what it is applied to, and of linear maps of it. Behind a
    nonlinearity the expectation differs in a correct model, too: by Jensen's inequality, the mean
    of a softmax is not the softmax of the mean. So return what stands in front of the first
    nonlinearity behind dropout, or give a tolerance.

    Args:
      eval_fn: a function of (key, *args) that returns arrays.
      train_fn: the same, with dropout. Neither may change the model.
      *args: the arguments of both.
      key: a key, from which the keys of the samples are split.
      samples: how many. At least 30, so that the mean is about normal.
      tolerance: a deviation that is allowed, relative to the root mean square of the results of
        `eval_fn`, at least 0.
      level: the probability of a false alarm, in (0, .5].

    Returns:
      A comparison, whose `findings` is empty if all is well.

    Raises:
      TypeError, ValueError: an argument is impossible, or the results are of different shapes.
    """
    _checks.check_callable(eval_fn, "eval_fn", "a key and the other arguments")
    _checks.check_callable(train_fn, "train_fn", "a key and the other arguments")
    key = _checks.check_key(key, "compare", always=True)
    samples = _checks.check_count(samples, "samples", least=30)
    tolerance = float(_checks.check_number(tolerance, "tolerance"))
    level = float(_checks.check_number(level, "level", 0.5, above=True))
    first, *others = (
        _flat(jax.jit(eval_fn)(own, *args), "eval_fn") for own in jax.random.split(key, 3)
    )
    shapes = jax.eval_shape(train_fn, key, *args)
    _check_shapes(jax.eval_shape(eval_fn, key, *args), shapes)
    off, squared, batch, changed = jax.jit(_moments, static_argnums=(0,))(
        train_fn, jax.random.split(key, samples), first, args
    )
    off, squared, expected = (np.asarray(each, np.float64) for each in (off, squared, first))
    error = np.sqrt(np.maximum(squared - off**2, 0) / samples)
    entries, total = max(expected.size, 1), float(np.sum(expected**2))
    slack = (tolerance + _ROUNDING) * math.sqrt(total / entries)
    deviation = np.maximum(np.abs(off) - slack, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        worst = float(np.max(np.where(deviation > 0, deviation / error, 0), initial=0))
    allowed = -NormalDist().inv_cdf(level / 2 / entries)
    scale = float(np.sum((expected + off) * expected)) / total if total else math.nan
    ratio = _variance_ratio(shapes, first, batch)
    found = []
    if any(not np.array_equal(first, other, equal_nan=True) for other in others):
        found.append(Finding(RULES["JD401"], "eval_fn", "two of three keys give other results"))
    if not float(changed):
        found.append(Finding(RULES["JD402"], "train_fn", f"{samples} keys give one result"))
    if worst > allowed:
        evidence = (
            f"training is {scale:.4g} x evaluation; the worst mean is {worst:.1f} standard errors "
            f"off, over {samples} keys"
        )
        found.append(Finding(RULES["JD403"], "train_fn", evidence))
    return Comparison(samples, level, expected.size, worst, allowed, scale, ratio, found)


def _flat(result: Any, name: str) -> jax.Array:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(result)]
    if not leaves:
        raise TypeError(f"{name} must return arrays, not {result!r}")
    return jnp.concatenate([leaf.astype(jnp.float32).reshape(-1) for leaf in leaves])


def _check_shapes(first: Any, second: Any) -> None:
    shapes = [[leaf.shape for leaf in jax.tree.leaves(each)] for each in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"eval_fn and train_fn must return arrays of the same shapes, not {shapes[0]} and "
            f"{shapes[1]}"
        )


def _moments(fn: Any, keys: jax.Array, expected: jax.Array, args: Any) -> Any:
    """The means over keys of what training is off by, of its square, of the variance over examples,
    and of the number of entries that differ from those of the first key.
    """

    def one(total: Any, key: jax.Array) -> tuple[Any, None]:
        result = fn(key, *args)
        off = _flat(result, "train_fn") - expected
        changed = (off != first).sum().astype(jnp.float32)
        terms = (off, off * off, _variances(result), changed)
        return jax.tree.map(jnp.add, total, terms), None

    first = _flat(fn(keys[0], *args), "train_fn") - expected
    zero = jnp.float32(0)
    zeros = (jnp.zeros_like(expected), jnp.zeros_like(expected), zero, zero)
    total, _ = jax.lax.scan(one, zeros, keys)
    return jax.tree.map(lambda each: each / np.float32(len(keys)), total)


def _variances(result: Any) -> jax.Array:
    """The variance over the examples, the mean over all other axes of the first array."""
    leaf = jnp.atleast_1d(jax.tree.leaves(result)[0]).astype(jnp.float32)
    return leaf.var(axis=0).mean()


def _variance_ratio(shapes: Any, expected: jax.Array, training: Any) -> float | None:
    shape = jax.tree.leaves(shapes)[0].shape
    if len(shape) < 2 or shape[0] < 2 or not float(training):
        return None
    first = expected[: math.prod(shape)].reshape(shape)
    return float(_variances(first)) / float(training)
