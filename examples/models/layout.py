"""Activations: how devices divide them, by the names of their axes, and which ones remat keeps.

Without `flax.linen.logical_axis_rules` names do nothing. With rules, each device keeps its part of
the batch, and parameters that are divided among devices are gathered where they are used.
"""

from __future__ import annotations

import math

import jax
from flax import linen

RESIDUAL = "batch", "residual", None
"""Between two branches. The devices that share a layer's matrices have different tokens here, so
that normalization, dropout and the residual sum, which look at one token each, are computed once,
and not by all of these devices (Korthikanti et al., "Reducing activation recomputation in large
transformer models", 2022, arXiv:2205.05198). In place of the all-reduce behind a branch there is a
reduce-scatter, and an all-gather before the next: the same bytes."""
BRANCH = "batch", "length", None
"""The input of attention or of an MLP, and its output: all tokens. For the output, that is the
layout of its gradient, with which the gradients of matrices are products of whole heads and
units; the compiler would otherwise exchange heads for tokens first."""

ATTENTION_SAVEABLE = jax.checkpoint_policies.save_only_these_names("jaxdrop.dot_product_attention")
"""For `jax.checkpoint`: of a layer, keeps its input and the results of attention."""


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """`flax.linen.with_logical_constraint`, but an axis that the devices cannot divide evenly stays
    whole: of a text of any length, or what random-LTD leaves of it.
    """
    sizes = jax.sharding.get_abstract_mesh().shape
    spec = linen.logical_to_mesh_axes(names)
    if not sizes or spec is None:
        return x

    def parts(axes: str | tuple[str, ...] | None) -> int:
        return math.prod(sizes[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))

    even = (
        name if length % parts(axes) == 0 else None
        for name, axes, length in zip(names, spec, x.shape, strict=True)
    )
    return linen.with_logical_constraint(x, tuple(even))
