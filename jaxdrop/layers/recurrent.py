"""The call of a recurrent layer, for Linen and NNX alike: which arguments count, the rates, the
first state, and the loop over time. A framework provides what `Framework` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop._references import cites
from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import (
    Carry,
    Family,
    Plan,
    Rates,
    check_between,
    check_settings,
    checked_carry,
    checked_inputs,
    flag,
    in_call,
)

__all__ = ["Framework", "cites_rates", "run_layer", "run_stack"]

cites_rates = cites(
    input_rate="gal2016theoretically",
    recurrent_rate="gal2016theoretically",
    candidate_rate="semeniuta2016recurrent",
    output_rate="gal2016theoretically",
    cell_zoneout="krueger2017zoneout",
    hidden_zoneout="krueger2017zoneout",
    weight_rate="merity2018regularizing",
)
"""Decorates a recurrent layer with the works behind its rates."""

RNN = TypeVar("RNN", contravariant=True)


class Framework(Protocol[RNN]):
    """What one call of a recurrent layer needs from Linen or from NNX."""

    def family_of(self, cell: Any) -> Family:
        """The family of a cell."""

    def settle(
        self, rates: Rates, *others: masks.Rate
    ) -> tuple[bool, jax.Array | None, PartitionSpec | None]:
        """Whether nothing is dropped, the key, and the layout of the inputs."""

    def first_state(self, cell: Any, inputs: jax.Array, time_axis: int) -> Carry:
        """The state before the first step, if the call was given none."""

    def loop(self, plan: Plan) -> recurrent.Loop:
        """The loop over time with the cell of the layer."""

    def variables(self, cell: Any) -> Any:
        """The arrays that the cell reads."""

    def direction(
        self, rnn: RNN, inputs: jax.Array, key: jax.Array | None, time_axis: int, **call: Any
    ) -> Any:
        """The call of one layer of a stack, with this key."""


def run_layer(
    layer: Any,
    framework: Framework[Any],
    inputs: Any,
    *,
    initial_carry: Carry | None,
    seq_lengths: jax.Array | None,
    return_carry: bool | None,
    time_major: bool | None,
    reverse: bool | None,
    keep_order: bool | None,
    rates: Mapping[str, masks.Rate] | None,
) -> Any:
    """The call of `RNN`: `layer` has its hyperparameters as attributes. An argument that is None
    leaves them as they are.
    """
    check_settings(layer, "per_gate", "per_step")
    return_carry = flag(return_carry, layer.return_carry, "return_carry")
    reverse = flag(reverse, layer.reverse, "reverse")
    keep_order = flag(keep_order, layer.keep_order, "keep_order")
    cell = layer.cell
    inputs = checked_inputs(inputs, cell)
    family = framework.family_of(cell)
    settled = Rates.of(layer).replaced(rates).checked(family, layer.per_gate)
    off, key, spec = framework.settle(settled)
    feature_axes = cell.num_feature_axes
    time_major = flag(time_major, layer.time_major, "time_major")
    time_axis = recurrent.time_axis_of(inputs, time_major, feature_axes)
    if initial_carry is None:
        initial_carry = framework.first_state(cell, inputs, time_axis)
    else:
        units = getattr(cell, "hidden_features", getattr(cell, "features", 0))  # NNX, or Linen
        batch = inputs.shape[:time_axis] + inputs.shape[time_axis + 1 : -feature_axes]
        initial_carry = checked_carry(initial_carry, family, (*batch, units))
    plan = Plan(
        family,
        settled,
        recurrent.directed(key, reverse),
        layer.per_gate,
        layer.per_step,
        off,
        recurrent.spec_of_steps(spec, inputs.ndim, time_axis, feature_axes),
    )
    carry, outputs = recurrent.run(
        plan,
        framework.loop(plan),
        initial_carry,
        inputs,
        time_axis=time_axis,
        feature_axes=feature_axes,
        lengths=seq_lengths,
        return_carry=return_carry,
        reverse=reverse,
        keep_order=keep_order,
        variables=framework.variables(cell),
    )
    return (carry, outputs) if return_carry else outputs


def run_stack(
    stack: Any,
    framework: Framework[Any],
    inputs: Any,
    *,
    initial_carry: Sequence[Sequence[Carry]] | None,
    seq_lengths: jax.Array | None,
    return_carry: bool | None,
    time_major: bool | None,
    rates: Mapping[str, masks.Rate] | None,
) -> Any:
    """The call of `StackedRNN`: `stack` has its hyperparameters as attributes, and in
    `stack.layers` an `RNN` for each direction of each layer.
    """
    others, layers = in_call(rates), stack.layers
    between = check_between(others.pop("dropout", stack.dropout), len(layers))
    first = layers[0][0]
    family = framework.family_of(first.cell)
    settled = Rates.of(stack).replaced(others).checked(family, first.per_gate)
    off, key, spec = framework.settle(settled, between)
    time_major = flag(time_major, stack.time_major, "time_major")
    return_carry = flag(return_carry, stack.return_carry, "return_carry")
    inputs = checked_inputs(inputs, first.cell)
    feature_axes = first.cell.num_feature_axes
    time_axis = recurrent.time_axis_of(inputs, time_major, feature_axes)

    def direction(rnn: Any) -> recurrent.Layer:
        def run(
            inputs: jax.Array,
            key: jax.Array | None,
            rates: Mapping[str, masks.Rate],
            carry: Carry | None,
        ) -> Any:
            result = framework.direction(
                rnn,
                inputs,
                key,
                time_axis,
                initial_carry=carry,
                seq_lengths=seq_lengths,
                return_carry=return_carry,
                time_major=time_major,
                keep_order=True,
                deterministic=off,
                rates=rates,
                spec=spec,
            )
            return result if return_carry else (None, result)

        return run

    carry, outputs = recurrent.stack(
        [[direction(rnn) for rnn in layer] for layer in layers],
        key,
        settled,
        between,
        inputs,
        initial_carry=initial_carry,
        time_axis=time_axis,
        feature_axes=feature_axes,
        locked=stack.locked,
        deterministic=off,
        spec=spec,
    )
    return (carry, outputs) if return_carry else outputs
