"""Dropping tokens: the sequence becomes shorter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks, subsets
from jaxdrop._kernel import kernel
from jaxdrop._references import cites

TokenRule = Literal["timm", "floor", "round"]
# How many of n tokens stay at a rate. The code of `floor` takes the share to keep. 1 - 0.9 is
# 0.0999...; rounded to 12 digits it is the 0.1 that its user writes.
_ROUNDINGS: dict[str, Callable[[int, float], int]] = {
    "timm": lambda n, rate: max(1, int(n * (1.0 - rate))),
    "floor": lambda n, rate: int(n * round(1.0 - rate, 12)),
    "round": lambda n, rate: round((1.0 - rate) * n),
}


_prefix = _checks.at_least(0)


def _known_rate(rate: Any, name: str) -> float:
    way = (
        "keep the shape, and drop whole tokens from it:"
        " jaxdrop.dropout(key, x, rate, broadcast_dims=(-1,))."
    )
    return subsets.check_known_rate(rate, name, way)


@cites("liu2023patchdropout", "li2023scaling")
@_checks.hinted
@_checks.facts(rate=_known_rate, num_prefix_tokens=_prefix)
def token_dropout(
    key: jax.Array | None,
    x: jax.Array,
    rate: masks.Rate,
    *,
    num_prefix_tokens: int,
    rule: TokenRule = "timm",
    ordered: bool = False,
    deterministic: bool = False,
    spec: PartitionSpec | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Token (patch) dropout: of the `n` tokens of each example, `k = (1 - rate) n` stay, chosen at
    random. Nothing is scaled.

    The sequence becomes shorter, and the rest of the model does less work. Call it after the
    position embedding, since tokens change their places. The rate sets a shape, so it is a Python
    number, and each rate compiles a program of its own.

    Args:
      key: a single PRNG key. May be None if nothing is drawn.
      x: shape (..., tokens, features), of any dtype. Each example of the leading axes keeps tokens
        of its own.
      rate: the probability of dropping, in [0, 1): a number, not a traced value.
      num_prefix_tokens: how many tokens at the start (class, registers) are always kept, and not
        counted in `n`. It has no default, since the shape does not say whether there is a class
        token.
      rule: whose rule gives k. `'timm'`: `max(1, int(n (1 - rate)))`. `'floor'`: `int(n (1 -
        rate))`, the code of the PatchDropout paper. `'round'`: to the nearest integer, half to even
        (axlearn).
      ordered: if True, kept tokens stay in their order. Otherwise they follow the prefix in random
        order, on which attention does not depend.
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
        tokens than the prefix, `rule` is unknown, `key` is missing or an array of keys, or
        `spec` divides the tokens.
      NotImplementedError: as `jaxdrop.dropout`.

    References:
      Liu, Matsoukas, Strand, Azizpour & Smith, "PatchDropout: economizing vision transformers using
      patch dropout", 2022, arXiv:2208.07220. Li, Fan, Hu, Feichtenhofer & He, "Scaling
      language-image pre-training via masking", 2022, arXiv:2212.00794.
    """
    known = _known_rate(rate, "rate")
    x, prefix = (
        _checks.check_array(x, "x"),
        _prefix(num_prefix_tokens, "num_prefix_tokens"),
    )
    ordered = _checks.check_flag(ordered, "ordered")
    kept = prefix + _kept(x, known, prefix, rule)
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


def _kept(x: jax.Array, rate: float, prefix: int, rule: TokenRule) -> int:
    """How many of the tokens after the prefix stay."""
    _checks.check_one_of(rule, "rule", TokenRule)
    if x.ndim < 2 or prefix > x.shape[-2]:
        name = _checks.shown("x")
        raise ValueError(
            f"num_prefix_tokens={_checks.quoted(prefix)} does not fit {name} of shape"
            f" {tuple(x.shape)}, (..., tokens, features)."
        )
    others = x.shape[-2] - prefix
    kept = min(others, _ROUNDINGS[rule](others, rate))
    if prefix + kept == 0:
        raise ValueError(
            f"rule={rule!r} leaves none of {others} tokens at rate {rate:g};"
            " rule='timm' leaves one."
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
    # Tokens are ranked by their bits, those of the prefix by 0. The sort is stable: of equal bits
    # the first position wins, so the prefix comes first and in its order.
    protected = (
        lax.broadcasted_iota(jnp.uint32, (1,) * (bits.ndim - 1) + bits.shape[-1:], bits.ndim - 1)
        < prefix
    )
    rank = jnp.where(protected, np.uint32(0), bits)
    indices = jnp.argsort(rank, axis=-1)[..., :kept].astype(jnp.int32)
    if ordered:
        indices = jnp.sort(indices, axis=-1)
    # Both branches have the values of x, and XLA removes the select. Its purpose is a type: under
    # `vmap` over keys that are divided over an explicit mesh, the indices are divided over the
    # mapped axis, and so must x be.
    x = jnp.where(indices[..., :1, None] >= 0, x, lax.stop_gradient(x))
    return jnp.take_along_axis(x, indices[..., None], axis=-2, mode="promise_in_bounds"), indices
