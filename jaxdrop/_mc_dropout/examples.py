"""One mask for the whole batch: the model on one example at a time, all with the same key."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import _checks
from jaxdrop._mc_dropout.dependence import is_array

InAxes: TypeAlias = int | Sequence[int | None] | None


def check_axes(shared_mask: bool, in_axes: InAxes, out_axes: int) -> None:
    """Checks the arguments of `stochastic` that say where the axis of examples is."""
    if not isinstance(shared_mask, (bool, np.bool_)):
        raise TypeError(f"shared_mask must be True or False, got {shared_mask!r}")
    _checks.check_integer(out_axes, "out_axes", "the number of an axis")
    for axis in in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,):
        if axis is not None:
            _checks.check_integer(
                axis,
                "in_axes",
                "the number of an axis, None, or a sequence with one for each input",
            )


def over_examples(
    run: Callable[..., Any], in_axes: InAxes, out_axes: int, caller: str = "shared_mask=True"
) -> Callable[..., Any]:
    """`run` on one example at a time, by `jax.vmap`, each with the same key. So all examples get
    the same mask, whatever the layers drop. `caller` is named in messages.
    """

    def shared(key: jax.Array | None = None, /, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, kwargs))
        axes = leaf_axes(in_axes, args, kwargs)
        mapped = {place: axis for place, axis in enumerate(axes) if axis is not None}
        if not mapped:
            raise ValueError(
                f"{caller} needs an input with a batch axis, but none of the inputs has one"
            )

        def example(own: dict[int, jax.Array]) -> Any:
            batches = {place: jnp.expand_dims(leaf, mapped[place]) for place, leaf in own.items()}
            args, kwargs = jax.tree.unflatten(
                structure, [batches.get(place, leaf) for place, leaf in enumerate(leaves)]
            )
            only = functools.partial(_only, axis=out_axes, caller=caller)
            return jax.tree.map(only, run(key, *args, **kwargs))

        return jax.vmap(example, in_axes=(mapped,), out_axes=out_axes)(
            {place: leaves[place] for place in mapped}
        )

    return shared


def leaf_axes(in_axes: InAxes, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[int | None]:
    """The batch axis of each leaf of (args, kwargs), None where it has none."""
    axes = list(in_axes) if isinstance(in_axes, Sequence) else [in_axes] * len(args)
    if len(axes) != len(args):
        raise ValueError(
            f"in_axes={in_axes!r} names {len(axes)} inputs, but the call has {len(args)} behind"
            " the key"
        )
    return [
        axis if is_array(leaf) and np.ndim(leaf) else None
        for inputs, axis in zip((*args, kwargs), (*axes, 0), strict=True)
        for leaf in jax.tree.leaves(inputs)
    ]


def _only(output: jax.Array, axis: int, caller: str) -> jax.Array:
    """The output for the only example of a batch, without the batch axis. `caller` is named in the
    error for an output without one.
    """
    shape = np.shape(output)
    if not -len(shape) <= axis < len(shape) or shape[axis] != 1:
        raise ValueError(
            f"{caller} runs the model on one example at a time, and its output of shape"
            f" {shape} has no batch axis of length 1 at out_axes={axis}. Inputs without a batch"
            " axis are named in in_axes, as in in_axes=(0, None)."
        )
    return jnp.squeeze(output, axis)
