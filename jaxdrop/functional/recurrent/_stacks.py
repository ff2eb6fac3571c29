"""A stack of recurrent layers of any framework, with dropout between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional.recurrent._arguments import checked_carries
from jaxdrop.functional.recurrent._rates import Rates
from jaxdrop.functional.recurrent._run import Carry, Site, fold, over_time
from jaxdrop.functional.recurrent._time import spec_of_steps

Layer: TypeAlias = Callable[
    [jax.Array, jax.Array | None, dict[str, masks.Rate], Carry | None], tuple[Carry, jax.Array]
]
"""`layer(inputs, key, rates, initial_carry) -> (carry, outputs)`: one direction of a layer of a
stack.
"""


@jax.named_scope("jaxdrop.StackedRNN")
def stack(
    layers: Sequence[Sequence[Layer]],
    key: jax.Array | None,
    rates: Rates,
    between: masks.Rate,
    inputs: jax.Array,
    *,
    initial_carry: Sequence[Sequence[Carry]] | None,
    time_axis: int,
    feature_axes: int,
    locked: bool,
    deterministic: bool,
    spec: PartitionSpec | None,
) -> tuple[tuple[tuple[Carry, ...], ...], jax.Array]:
    """Runs layers, of one or two directions each, one after the other.

    Returns:
      The states of the directions of the layers, and the outputs of the last layer.
    """
    carry_of = checked_carries(initial_carry, layers)
    carries = []
    for number, directions in enumerate(layers):
        own, key_here = rates.of_layer(number, len(layers)), fold(key, number)
        if number > 0:
            inputs = over_time(
                fold(key_here, Site.BETWEEN),
                inputs,
                between,
                locked=locked,
                deterministic=deterministic,
                time_axis=time_axis,
                spec=spec_of_steps(spec, inputs.ndim, time_axis, feature_axes),
            )
        starts = carry_of[number]
        runs = [
            layer(inputs, key_here, own._asdict(), start)
            for layer, start in zip(directions, starts, strict=True)
        ]
        carries.append(tuple(carry for carry, _ in runs))
        inputs = (
            jnp.concatenate([outputs for _, outputs in runs], axis=-1)
            if len(runs) > 1
            else runs[0][1]
        )
    return tuple(carries), inputs
