"""Attention that forms the array of weights, by the formula that attention by blocks computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdrop import _numerics
from jaxdrop.functional.attention import _weights
from jaxdrop.functional.attention._block import Operands, Plan, Scores


def attend(plan: Plan, operands: Operands) -> jax.Array:
    """As `_blocked.attend`, with one block."""
    scores, first = Scores.of(plan._replace(blocks=plan.lengths), operands), jnp.int32(0)
    s, factor = scores.logits(first, first, operands.q)
    weights = _weights.softmax(s * factor)
    out = scores.values(scores.mask(first, first), weights, operands.v)
    wide = _numerics.compute_dtype(operands.v.dtype)
    return (out * operands.scale.astype(wide)).astype(operands.v.dtype)
