"""Residual branches that are computed for some of the examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _compiler, _lengths, masks, subsets
from jaxdrop._in_full import in_full
from jaxdrop._references import cites
from jaxdrop.functional.paths._layer_drop import like

T = TypeVar("T")


def _threshold(value: Any, name: str) -> float:
    return _checks.check_known_rate(value, name, "it decides which program is compiled.")


@cites("oquab2024dinov2", "huang2016deep")
@_checks.hinted
@_checks.facts(
    rate=subsets.check_known_rate,
    groups=_checks.at_least(1),
    masked_below=_threshold,
)
def drop_path_add(
    key: jax.Array | None,
    x: T,
    rate: float,
    branch: Callable[..., T],
    *,
    args: Sequence[Any] = (),
    batch_axis: int = 0,
    groups: int = 1,
    masked_below: float = 0.1,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> T:
    """Stochastic depth that computes a residual branch only for the examples that keep it: `y = x +
    m branch(x)`.

    `m` is n / k for k of the n examples of the batch, and 0 for the others; all sets of k examples
    are equally likely, so that `E[y] = x + branch(x)`, `Var[m] = n / k - 1`, and the correlation of
    two examples is `-1 / (n - 1)`. The branch gets the kept examples as a batch of k, forward and
    backward. `jaxdrop.drop_path` computes it for all examples, and throws coins that are
    independent.

    A branch that normalizes over the batch sees k examples. Layer scale belongs into the branch:
    `lambda x: gamma * f(x)`.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: an array, or a pytree of arrays with one batch axis, of any floating or complex dtypes.
      rate: the probability of dropping, in [0, 1): a number, not a traced value, since it sets
        shapes; `k = round((1 - rate) n)`. `jaxdrop.depth_rates` makes one for each layer.
      branch: `branch(x, *args)` returns what is like its first argument. It may be a module of
        Flax.
      args: further arguments of `branch`: arrays, or pytrees of arrays, with the batch axis of
        `x`, such as attention masks. Their examples are taken along with those of `x`.
      batch_axis: where the examples are.
      groups: how many groups of consecutive examples keep k / groups each. Where the batch is
        divided over devices, a multiple of their number: then nothing is communicated.
      masked_below: below this rate the branch is computed for all examples, and dropped by
        `jaxdrop.drop_path` with the same key: to gather and put back a few examples less takes
        longer than they do. 0.1 is DINOv2's. At 0, examples are always taken.
      deterministic: if True, or if `rate` is the number 0, this is `x + branch(x)`.
      spec: inside `shard_map` and `pmap`, the layout of `x`: the examples that the whole batch
        keeps are the same on every mesh. Only its entry for `batch_axis` counts.

    Returns:
      What is like `x`.

    Raises:
      TypeError: the result of `branch` has not the structure, shapes and dtypes of its argument;
        `rate` is traced; otherwise as `jaxdrop.dropout`.
      ValueError: arrays differ in their number of examples; `groups` do not divide it; `rate` is 1,
        or drops less than one example of a group; otherwise as `jaxdrop.dropout`.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Oquab et al., "DINOv2: learning robust visual features without supervision", 2023,
      arXiv:2304.07193, of Huang, Sun, Liu, Sedra & Weinberger, "Deep networks with stochastic
      depth", 2016, arXiv:1603.09382.
    """
    _checks.check_callable(branch, "branch", "x")
    rate = subsets.check_known_rate(rate, "rate")
    leaves, structure = jax.tree.flatten(x)
    leaves = [_checks.check_inexact(leaf, "drop_path_add") for leaf in leaves]
    if not leaves:
        raise ValueError(f"{_checks.shown('x')} has no array")
    axis, *_ = (_checks.check_axis(batch_axis, "batch_axis", leaf.ndim) for leaf in leaves)
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"args must be a tuple of arguments of branch, got {_checks.quoted(args)}")
    examples = _number_of_examples([*leaves, *jax.tree.leaves(args)], batch_axis)
    groups = _checks.check_count(groups, "groups")
    threshold = _threshold(masked_below, "masked_below")
    spec = _checks.check_spec(spec, max(leaf.ndim for leaf in leaves))
    x = jax.tree.unflatten(structure, leaves)
    if _checks.check_flag(deterministic, "deterministic") or rate == 0:
        return jax.tree.map(jnp.add, x, like(branch(x, *args), x, rate))
    key = _checks.check_key(key, "drop_path_add")
    if not _lengths.is_known(examples):
        raise TypeError(
            f"drop_path_add needs to know the number of examples, which sets shapes, got {examples}"
        )
    layout = None if spec is None else PartitionSpec(*spec[axis : axis + 1])
    with jax.named_scope("jaxdrop.drop_path_add"):
        if rate < threshold:
            update = like(branch(x, *args), x, rate)
            return _masked(key, x, rate, update, batch_axis, examples, layout)
        kept = subsets.draw(key, examples, rate, groups=groups, spec=layout)
        if in_full.value:
            update = like(branch(x, *args), x, rate)
            add = functools.partial(subsets.dropped, kept, axis=batch_axis)
            return jax.tree.map(lambda leaf, new: leaf + add(new), x, update)
        part, *parts = jax.tree.map(lambda leaf: kept.gather(leaf, batch_axis), (x, *args))
        update = like(branch(part, *parts), part, rate)

        def added(leaf: jax.Array, new: jax.Array) -> jax.Array:
            scaled = _compiler.rounding_barrier(kept.scaled(new))
            return leaf + kept.scatter(scaled, batch_axis)

        return jax.tree.map(added, x, update)


def _number_of_examples(arrays: Sequence[Any], batch_axis: int) -> int:
    """The length of the batch axis, which all arrays have in common."""
    shapes = [jnp.shape(array) for array in arrays]
    if any(not -len(shape) <= batch_axis < len(shape) for shape in shapes):
        raise ValueError(f"batch_axis={batch_axis} is no axis of an array of args: {shapes}")
    lengths = [shape[batch_axis] for shape in shapes]
    if len({*lengths}) != 1:
        raise ValueError(
            f"{_checks.shown('x')} and args must have one number of examples, along"
            f" batch_axis={batch_axis}, but their shapes are {shapes}."
        )
    if lengths[0] == 0:
        raise ValueError(f"{_checks.shown('x')} has no examples along batch_axis={batch_axis}")
    return lengths[0]


def _masked(
    key: jax.Array,
    x: T,
    rate: float,
    update: T,
    batch_axis: int,
    examples: int,
    spec: PartitionSpec | None,
) -> T:
    """`drop_path` of the update, with one mask for all arrays."""
    key = _checks.consume_key(key, "drop_path_add")
    batch = jax.ShapeDtypeStruct((examples,), jnp.float32)
    threshold = jnp.asarray(masks.distribution(rate).threshold)
    # All entries of an example share its coin.
    keep = _compiler.materialize(masks.keep_mask(key, batch, threshold, spec=spec))

    def added(leaf: jax.Array, new: jax.Array) -> jax.Array:
        others = set(range(leaf.ndim)) - {batch_axis % leaf.ndim}
        scale = jnp.asarray(masks.distribution(rate, new.dtype).scale)
        return leaf + masks.scaled(lax.expand_dims(keep, sorted(others)), new, scale)

    return jax.tree.map(added, x, update)
