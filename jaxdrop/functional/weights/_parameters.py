"""Dropping weights in a tree of parameters."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import jax
from jax.sharding import PartitionSpec
from jax.tree_util import tree_flatten_with_path, tree_unflatten

from jaxdrop import _checks, masks
from jaxdrop._leaf_names import leaf_name
from jaxdrop._references import cites
from jaxdrop.functional.elements import dropout

KeyPath: TypeAlias = tuple[Any, ...]
Match: TypeAlias = str | Callable[[KeyPath], bool]


def _leaf_function(drop: Any, name: str) -> Callable[..., jax.Array]:
    _checks.check_callable(drop, name, "(key, w, rate)")
    return cast(Callable[..., jax.Array], drop)


def _pattern(match: Any, name: str) -> Match:
    if isinstance(match, str):
        try:
            re.compile(match)
        except re.error as error:
            raise ValueError(f"{name}={match!r} is no regular expression: {error}") from None
    elif not callable(match):
        raise TypeError(
            f"{name} must be a regular expression or a function of a leaf's path, got"
            f" {_checks.quoted(match)}"
        )
    return cast(Match, match)


@cites("merity2018regularizing")
@_checks.hinted
@_checks.facts(match=_pattern, drop=_leaf_function)
def weight_drop(
    key: jax.Array | None,
    params: Any,
    rate: masks.Rate,
    *,
    match: Match,
    drop: Callable[..., jax.Array] = dropout,
    deterministic: bool = False,
    spec: Any = None,
) -> Any:
    """Drops weights of the chosen leaves of a parameter tree: `w <- m * w / (1 - rate)`. The other
    leaves stay as they are.

    Called once before a recurrent network runs, this is AWD-LSTM's weight drop, with one mask for
    all time steps and examples:

        # The recurrent weights of Flax's LSTM cells.
        params = weight_drop(key, params, 0.5, match=r"/(h[ifgo]|dense_h)/kernel$")

    Each leaf has a mask of its own, from `fold_in(key, crc32(name))`, which does not depend on the
    other leaves. Nothing is dropped in evaluation (in AWD-LSTM's own code the `variational` branch
    drops there too).

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      params: a pytree: Linen's dict of parameters, an `nnx.State`, or any other.
      rate: the probability of dropping, in [0, 1]: a number or a traced scalar.
      match: which leaves: a regular expression that is searched for in the leaf's name, such as
        `encoder/0/kernel`, or a function of its path of `jax.tree_util` keys.
      drop: the function that drops from a leaf, `drop(key, w, rate, spec=...)`: `dropout`;
        `functools.partial(dropout, broadcast_dims=(0,))` for one mask along the inputs of a kernel
        (AWD-LSTM's `variational`); `functools.partial(quant_noise, block_size=8)`.
      deterministic: if True, or if `rate` is the number 0, `params` itself is returned.
      spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole
        leaves, a tree of PartitionSpecs like `params`, or one for all that are chosen.

    Returns:
      A tree like `params`.

    Raises:
      ValueError: no leaf matches; otherwise as `drop`.
      TypeError: `match` is neither text nor a function; otherwise as `drop`.

    References:
      Merity, Keskar & Socher, "Regularizing and optimizing LSTM language models", 2017,
      arXiv:1708.02182.
    """
    rate = _checks.check_rate(rate)
    drop, match = _leaf_function(drop, "drop"), _pattern(match, "match")
    flat, tree = tree_flatten_with_path(params)
    chosen = [_matches(match, path) for path, _ in flat]
    if not any(chosen):
        names = ", ".join(leaf_name(path) for path, _ in flat) or "none at all"
        raise ValueError(
            f"match={_checks.quoted(match)} chooses no leaf of params. The leaves are: {names}."
        )
    if _checks.check_flag(deterministic, "deterministic") or masks.is_number(rate, 0):
        return params
    key = None if masks.is_number(rate, 1) else _checks.check_key(key, "weight_drop")
    leaves = []
    with jax.named_scope("jaxdrop.weight_drop"):
        for (path, leaf), is_chosen, layout in zip(
            flat, chosen, _layouts(spec, len(flat)), strict=True
        ):
            if is_chosen:
                own = (
                    None
                    if key is None
                    else jax.random.fold_in(key, zlib.crc32(leaf_name(path).encode()))
                )
                leaf = drop(own, leaf, rate, spec=layout)
            leaves.append(leaf)
    return tree_unflatten(tree, leaves)


def _matches(match: Match, path: KeyPath) -> bool:
    if isinstance(match, str):
        return re.search(match, leaf_name(path)) is not None
    return bool(match(path))


def _layouts(spec: Any, count: int) -> list[PartitionSpec | None]:
    """One layout for each leaf."""
    if spec is None or isinstance(spec, PartitionSpec):
        return [spec] * count
    layouts = jax.tree.leaves(
        spec, is_leaf=lambda node: node is None or isinstance(node, PartitionSpec)
    )
    if len(layouts) != count or not all(
        layout is None or isinstance(layout, PartitionSpec) for layout in layouts
    ):
        raise TypeError(
            "spec must be a jax.sharding.PartitionSpec, or a tree of them like params, got"
            f" {_checks.quoted(spec)}"
        )
    return layouts
