"""Smaller networks, which compute what a network with dropped units computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, subsets
from jaxdrop._leaf_names import leaf_name

T = TypeVar("T")

# Behind a name in `axes`: this array reads the units.
_READS = "*"


@_checks.hinted
def subnetwork(
    params: T, axes: Any, factors: Mapping[str, Any], *, sizes: Mapping[str, int] | None = None
) -> T:
    """The smaller network that is left when units of a network are dropped for a whole batch.

    If all examples share one mask over the units of a layer, `(factor * h) @ w` is
    `h[kept] @ (factor[kept] * w[kept])`: a product that is shorter by what is dropped. Between two
    layers that keep a share q, q**2 of the work is left. The results are those of the masked pass,
    up to rounding.

        axes = {"w1": P(None, "a"), "b1": P("a"), "w2": P("a*", "b"), "b2": P("b"),
                "w3": P("b*", None)}

        def sample(key):
            first, second = jax.random.split(key)
            ones = jnp.ones(1024)
            factors = {"a": jaxdrop.dropout(first, ones, 0.5),
                       "b": jaxdrop.dropout(second, ones, 0.5)}
            small = mc.subnetwork(params, axes, factors, sizes={"a": 608, "b": 608})
            return mlp(small, x)

        logits = mc.predict(sample, mc.keys(key, 100), batch_size=1)

    It is fastest with `batch_size=1`: the samples run one behind the other, because a CPU takes
    units for one sample at a time faster than for several.

    What many samples share need not be computed for each: put the first hidden layer itself, an
    array of shape (batch, 1024), into `params` in place of the weights before it, with the axes
    `P(None, "a")`. For networks that draw nothing any more, and can be exported, see
    `docs/subnetworks.md`.

    Args:
      params: a pytree of arrays: parameters, a state of NNX, or variables of Linen. A module with
        smaller widths takes the result. An NNX module may be given as a whole if its layers take
        their widths from their arrays, as `nnx.Linear` does, but `nnx.MultiHeadAttention` does not.
      axes: which axes of which array belong to which units: a pytree of `PartitionSpec`s under the
        paths of the arrays, nested like `params`, or flat under paths like `"dense/kernel"`. An
        entry is None, or a name of units, or that name with a star, as in `P("a*", "b")`: the array
        reads the units `a`, and its entries are multiplied by their factors. Arrays that `axes`
        leaves out stay whole.
      factors: for each name of units, an array of shape (units,): the factor by which each unit is
        multiplied, 0 if it is dropped. `jaxdrop.dropout(key, jnp.ones(n), rate)` is one; so is a
        boolean mask, such as a row of `mc.masksembles`. Or a `jaxdrop.subsets.Subset` of exactly k
        of n units (or of blocks of them), with the factor n / k: it needs no size, and takes least
        time.
      sizes: for each name, how many units the small network has, at least as many as are kept.
        Needed where `factors` are traced, as under `jit` and in `mc.predict`, since it sets shapes.
        A network that keeps fewer is filled up with dropped units, which count 0. For
        masks of exactly k units, k. For Bernoulli masks, a quantile: among S samples of n units
        that are kept with probability q, more than
        `scipy.stats.binom.isf(1e-6 / S, n, q)` are kept once in a million runs.

    Returns:
      A pytree like `params`, with shorter axes. Where more units are kept than `sizes` says, and
      the factors are traced, the arrays that read them are NaN (and `checkify` reports it).

    Raises:
      TypeError: `axes` holds something else than `PartitionSpec`s of names, or a factor is no array
        of numbers.
      ValueError: a path of `axes` is none of `params`, a name has no factors, axes do not have the
        length of the factors, nothing reads the units, or a size is missing, too small, or larger
        than the number of units.
    """
    sites = _sites(axes)
    units = _units(factors, sizes, sites)
    paths, leaves, structure = _flattened(params)
    _check_paths(sites, paths)
    small = [
        _cut(path, leaf, sites[path], units) if path in sites else leaf
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, small)


class _Units(NamedTuple):
    """The units of a layer: which are kept, and their factors."""

    kept: subsets.Subset
    factors: jax.Array | float
    multiple: bool
    """Whether an axis may have several entries for each unit: blocks of them."""

    def belongs(self, length: int) -> bool:
        """Whether an axis of this length holds what belongs to the units."""
        units = self.kept.ranks.size
        return length % units == 0 if self.multiple else length == units


class _Axis(NamedTuple):
    """What belongs to units along one axis of an array."""

    number: int
    units: str
    reads: bool


def _sites(axes: Any) -> dict[str, list[_Axis]]:
    """For the path of each array, the axes that belong to units."""
    found = {}
    for path, spec in _leaves(axes, lambda leaf: leaf is None or isinstance(leaf, PartitionSpec)):
        if not isinstance(spec, PartitionSpec):
            raise TypeError(
                "axes must hold a jax.sharding.PartitionSpec for each array, such as"
                f' P(None, "a"), got {_checks.quoted(spec)} at {path!r}. Leave out an array that'
                " stays whole."
            )
        entries = [(number, name) for number, name in enumerate(spec) if name is not None]
        if wrong := [name for _, name in entries if not isinstance(name, str)]:
            raise TypeError(
                f"axes holds {spec} at {path!r}: the units of an axis have one name, a str, got"
                f" {_checks.quoted(wrong[0])}"
            )
        found[path] = [
            _Axis(number, name.removesuffix(_READS), name.endswith(_READS))
            for number, name in entries
        ]
    return found


def _units(factors: Any, sizes: Any, sites: Mapping[str, list[_Axis]]) -> dict[str, _Units]:
    """The kept units by their names."""
    for name, value in (("factors", factors), ("sizes", {} if sizes is None else sizes)):
        if not isinstance(value, Mapping):
            raise TypeError(
                f"{name} must be a dictionary by names of units, got {_checks.quoted(value)}"
            )
    used = {axis.units for site in sites.values() for axis in site}
    read = {axis.units for site in sites.values() for axis in site if axis.reads}
    for what, names in (("factors", factors), ("sizes", sizes or {})):
        if unknown := [name for name in names if name not in used]:
            raise ValueError(f"{what} has {unknown[0]!r}, but axes names {_listed(used)}")
    for name in sorted(used):
        if name not in factors:
            raise ValueError(f"axes names the units {name!r}, but factors has {_listed(factors)}")
        if name not in read:
            raise ValueError(
                f"no array reads the units {name!r}, so that their factors would have no effect."
                f" Put a star behind the name where an array multiplies them: P({name + _READS!r},"
                " None) for the kernel of the next dense layer."
            )
    return {name: _kept(name, value, (sizes or {}).get(name)) for name, value in factors.items()}


def _kept(name: str, factors: Any, size: Any) -> _Units:
    what = f"factors[{name!r}]"
    if isinstance(factors, subsets.Subset):
        if size is not None:
            raise ValueError(f"sizes has {name!r}, but {what} is a Subset, which has its own size")
        return _Units(factors, factors.scale, multiple=True)
    given = _checks.check_array(factors, what)
    if given.ndim != 1 or not given.shape[0]:
        raise ValueError(
            f"{what} must have shape (units,), one factor for each unit, got {tuple(given.shape)}"
        )
    if not (given.dtype == bool or jnp.issubdtype(given.dtype, jnp.inexact)):
        raise TypeError(
            f"{what} must be a boolean mask or floating factors, got {_checks.quoted(factors)}"
        )
    count = given.shape[0]
    number = None if isinstance(given, jax.core.Tracer) else int(np.count_nonzero(given))
    if size is None and number is None:
        raise ValueError(
            f"{what} is traced, and sizes does not say how many units the small network has at"
            f" most: sizes={{{name!r}: ...}}"
        )
    most = _checks.check_count(
        max(number or 0, 1) if size is None else size, f"sizes[{name!r}]", most=count
    )
    if number is not None and number > most:
        raise ValueError(
            f"sizes[{name!r}] must be at least the number of units that are kept, {number}, got"
            f" {most}"
        )
    array = jnp.asarray(given)
    keep = array.astype(bool)
    # The kept ones, and behind them dropped ones, whose factor is 0, up to `most`.
    kept = subsets.smallest((~keep).astype(jnp.uint32)[None], most)
    values = kept.gather(array.astype(jnp.float32 if array.dtype == bool else array.dtype))
    if number is None:
        found = keep.sum()
        fits = found <= most
        checkify.debug_check(fits, f"sizes[{name!r}]={most}, but {{kept}} are kept", kept=found)
        values = jnp.where(fits, values, jnp.full((), np.nan, values.dtype))
    return _Units(kept, values, multiple=False)


def _cut(path: str, array: Any, site: list[_Axis], units: Mapping[str, _Units]) -> jax.Array:
    """The part of an array that belongs to kept units, times their factors where it reads them."""
    whole = jnp.asarray(_checks.check_array(array, f"params at {path!r}"))
    dtype = whole.dtype
    for axis in site:
        own = units[axis.units]
        if axis.number >= whole.ndim or not own.belongs(whole.shape[axis.number]):
            raise ValueError(
                f"axes says that axis {axis.number} of the array at {path!r} are the"
                f" {own.kept.ranks.size} units {axis.units!r}, but the array has shape"
                f" {tuple(jnp.shape(array))}"
            )
    small = subsets.gather_axes({axis.number: units[axis.units].kept for axis in site}, whole)
    for axis in site:
        if axis.reads:
            if not jnp.issubdtype(dtype, jnp.inexact):
                raise TypeError(
                    f"the array at {path!r} is multiplied by factors, and must be of a floating"
                    f" dtype, got {dtype}"
                )
            kind = _numerics.compute_dtype(dtype)
            factors = jnp.asarray(units[axis.units].factors).astype(kind)
            shape = [-1 if number == axis.number else 1 for number in range(small.ndim)]
            small = small.astype(kind) * (factors.reshape(shape) if factors.ndim else factors)
    return small.astype(dtype)


def _check_paths(sites: Mapping[str, Any], paths: list[str]) -> None:
    if missing := [path for path in sites if path not in paths]:
        raise ValueError(
            f"axes names an array at {missing[0]!r}, but params has {_listed(dict.fromkeys(paths))}"
        )


def _flattened(tree: Any) -> tuple[list[str], list[Any], Any]:
    """The paths of the leaves, the leaves, and the structure."""
    paths, leaves = zip(*_leaves(tree), strict=True) if jax.tree.leaves(tree) else ((), ())
    return [*paths], [*leaves], jax.tree.structure(tree)


def _leaves(tree: Any, is_leaf: Any = None) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0]:
        yield leaf_name(path), leaf


def _listed(names: Any) -> str:
    """Some names in one line."""
    shown = [repr(name) for name in sorted(names)]
    return (
        ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") or "none"
    )
