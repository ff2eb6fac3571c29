"""Layers that see a random part of the tokens, which then return to their places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdrop import _checks, _numerics, subsets
from jaxdrop._references import cites
from jaxdrop.functional.paths import like

_prefix = _checks.at_least(0)


@cites("yao2022random")
@_checks.hinted
@_checks.facts(
    rate=subsets.check_known_rate,
    num_prefix_tokens=_prefix,
    groups=_checks.at_least(1),
)
def random_ltd(
    key: jax.Array | None,
    x: jax.Array,
    rate: float,
    layer: Callable[..., jax.Array],
    *,
    positions: jax.Array | None = None,
    mask: jax.Array | None = None,
    num_prefix_tokens: int = 0,
    groups: int = 1,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Random layerwise token dropping (random-LTD): `layer` sees k of the n tokens of each example,
    which then return to their places; the others pass it by unchanged. Nothing is scaled.

    All sets of k tokens are equally likely, and each example and each layer draws its own. Kept
    tokens stay in their order, so a causal layer stays causal: `is_causal=True` hides from a kept
    token the kept ones behind it. Where a layer needs the places of its tokens (rotary embeddings,
    relative biases, windows), or masks them, hand `positions` and `mask` on. The first and the last
    layer of a model should see all tokens, and so does evaluation.

    `layer` may be several layers that see the same tokens. It should be a residual block, or
    blocks: `lambda x: x + f(x)`. Layers under `lax.scan` may each have a key.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., tokens, features), of any floating or complex dtype.
      rate: the probability of dropping, in [0, 1): a number, not a traced value, since it sets
        shapes; `k = round((1 - rate) n)`. The paper lets k grow to n over about three quarters of
        the training, in steps: `jaxdrop.schedules.in_stages`.
      layer: `layer(x, positions=positions, mask=mask)` returns what is like `x`. It gets the
        keywords that are given here, and no others. It may be a module of Flax.
      positions: shape (tokens,) or (..., tokens), of any dtype: `jnp.arange(tokens)`, say.
      mask: of attention, whose last axes are queries and keys, each of length `tokens` or 1: shape
        (queries, keys), or the axes of examples of `x` (or 1), any others, such as heads, and
        (queries, keys).
      num_prefix_tokens: how many tokens at the start (class, registers) are always kept, and not
        counted in n.
      groups: how many groups of consecutive tokens keep k / groups each. Where the tokens are
        divided over devices, a multiple of their number: then nothing is communicated but what
        `layer` communicates. It needs `num_prefix_tokens=0`.
      deterministic: if True, or if `rate` is the number 0, this is `layer(x)`.
      spec: inside `shard_map` and `pmap`, the layout of `x`.

    Returns:
      An array like `x`.

    Raises:
      TypeError: `rate` is traced or not a number; the result of `layer` has not the shape and dtype
        of its argument; otherwise as `jaxdrop.dropout`.
      ValueError: `rate` is 1, or drops less than one token; `positions`, `mask`,
        `num_prefix_tokens` or `groups` do not fit `x`; otherwise as `jaxdrop.dropout`.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Yao et al., "Random-LTD: random and layerwise token dropping brings efficient training for
      large-scale transformers", 2022, arXiv:2211.11586.
    """
    _checks.check_callable(layer, "layer", "x")
    rate = subsets.check_known_rate(rate, "rate")
    x = _checks.check_inexact(x, "random_ltd")
    prefix = _prefix(num_prefix_tokens, "num_prefix_tokens")
    groups = _checks.check_count(groups, "groups")
    spec = _checks.check_spec(spec, x.ndim)
    if x.ndim < 2 or prefix > x.shape[-2]:
        raise ValueError(
            f"random_ltd takes {_checks.shown('x')} of shape (..., tokens, features), at least"
            f" num_prefix_tokens={prefix} tokens, got shape {tuple(x.shape)}."
        )
    if prefix and groups > 1:
        raise ValueError(
            f"num_prefix_tokens={prefix} belong to the first of groups={groups}, which would be"
            " longer than the others. Take the prefix off, or let there be one group."
        )
    batch, tokens = x.shape[:-2], x.shape[-2]
    given = {"positions": positions, "mask": mask}
    follow = {
        name: _checked(value, name, batch, tokens)
        for name, value in given.items()
        if value is not None
    }
    if _checks.check_flag(deterministic, "deterministic") or rate == 0:
        return like(layer(x, **follow), x, rate)
    key = _checks.check_key(key, "random_ltd")
    layout = None if spec is None else PartitionSpec(*[*spec, None, None][: x.ndim - 1])
    with jax.named_scope("jaxdrop.random_ltd"):
        shape = (*batch, tokens - prefix)
        kept = _behind(prefix, subsets.draw(key, shape, rate, groups=groups, spec=layout))
        follow = {name: _gathered(kept, value, name, batch) for name, value in follow.items()}
        part = kept.gather(x, -2)
        return kept.replace(x, like(layer(part, **follow), part, rate), -2)


def _checked(value: Any, name: str, batch: tuple[int, ...], tokens: int) -> jax.Array:
    """The argument `name`, positions or a mask, if it is one of the tokens."""
    array = _checks.check_array(value, name)
    axes, shape = (1 if name == "positions" else 2), jnp.shape(array)
    rows = shape[: min(len(batch), max(len(shape) - axes, 0))]
    fits = (
        len(shape) in (axes, len(batch) + axes)
        if name == "positions"
        else len(shape) == axes or len(shape) >= len(batch) + axes
    )
    if not (
        fits
        and all(length in (1, tokens) for length in shape[-axes:])
        and all(length in (1, examples) for length, examples in zip(rows, batch, strict=False))
    ):
        tail = "tokens" if axes == 1 else "..., tokens, tokens"
        raise ValueError(
            f"{name} must have the shape {(tokens,) * axes}, or (batch..., {tail}) with {tokens}"
            f" tokens and the batch {batch} (or 1), got {tuple(shape)}"
        )
    return array


def _gathered(
    kept: subsets.Subset, value: jax.Array, name: str, batch: tuple[int, ...]
) -> jax.Array:
    """What belongs to the kept tokens of each example. Axes of length 1 stay."""
    axes = 1 if name == "positions" else 2
    rows = value.shape[len(batch) : value.ndim - axes] if value.ndim > axes else ()
    value = jnp.broadcast_to(
        _numerics.expand(value, len(batch) + len(rows) + axes),
        (*batch, *rows, *value.shape[value.ndim - axes :]),
    )
    for axis in range(-axes, 0):
        value = value if value.shape[axis] == 1 else kept.gather(value, axis)
    return value


def _behind(prefix: int, kept: subsets.Subset) -> subsets.Subset:
    """The subset, with `prefix` more members in front of it, all of which are kept."""
    if not prefix:
        return kept

    def with_prefix(places: jax.Array) -> jax.Array:
        first = jnp.broadcast_to(np.arange(prefix, dtype=np.int32), (*places.shape[:-1], prefix))
        return jnp.concatenate([first, places + prefix], -1)

    return subsets.Subset(with_prefix(kept.indices), with_prefix(kept.ranks))
