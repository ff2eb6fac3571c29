"""Recurrent layers with dropout: Flax's cells and `nn.RNN`. See `jaxdrop.functional.recurrent`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import (
    Carry,
    Plan,
    Rates,
    check_settings,
    checked_carry,
    checked_inputs,
    flag,
    given_or,
)
from jaxdrop.linen import _cells
from jaxdrop.linen._base import Hinted


class RNN(Hinted, nn.RNN):
    """`flax.linen.RNN` with dropout in its cell, and the same parameters. With all rates 0 it is
    `flax.linen.RNN`.

        rnn = RNN(nn.OptimizedLSTMCell(128), input_rate=0.3, recurrent_rate=0.3)
        y = rnn.apply(variables, x, seq_lengths=lengths, deterministic=False, rngs={"dropout": key})

    What is dropped, and when, is said at `jaxdrop.nnx.RNN`.

    Attributes:
      cell: an `nn.LSTMCell`, `OptimizedLSTMCell`, `GRUCell`, `MGUCell` or `SimpleCell`, whose own
        code runs. With `per_gate` the `OptimizedLSTMCell`, which has one product for all gates,
        runs as an `LSTMCell` with the same parameters. Any other cell that `nn.RNN` takes, such as
        `ConvLSTMCell`, if only `input_rate` and `output_rate` are given.
      time_major, return_carry, reverse, keep_order, unroll, variable_axes, variable_broadcast,
        variable_carry, split_rngs: as in `nn.RNN`.
      input_rate, recurrent_rate, candidate_rate, output_rate, cell_zoneout, hidden_zoneout,
        weight_rate, per_gate, per_step: as in `jaxdrop.nnx.RNN`.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`; `deterministic` is needed
        only if a rate is not 0.

    Raises:
      TypeError, ValueError: as `jaxdrop.nnx.RNN`.
    """

    input_rate: float = 0.0
    recurrent_rate: float = 0.0
    candidate_rate: float = 0.0
    output_rate: float = 0.0
    cell_zoneout: float = 0.0
    hidden_zoneout: float = 0.0
    weight_rate: float = 0.0
    per_gate: bool = False
    per_step: bool = False
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_carry: Carry | None = None,
        init_key: jax.Array | None = None,
        seq_lengths: jax.Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        rates: Mapping[str, masks.Rate] | None = None,
        spec: PartitionSpec | None = None,
    ) -> Any:
        """Runs the cell over sequences. Args and Returns: as `jaxdrop.nnx.RNN`; `rng` is a key,
        `init_key` as in `nn.RNN`.
        """
        check_settings(self, "per_gate", "per_step")
        return_carry = flag(return_carry, self.return_carry, "return_carry")
        reverse = flag(reverse, self.reverse, "reverse")
        keep_order = flag(keep_order, self.keep_order, "keep_order")
        inputs = checked_inputs(inputs, self.cell)
        init_key = None if init_key is None else _checks.check_key(init_key, "RNN", "init_key")
        family = _cells.family_of(self.cell)
        settled = Rates.of(self).replaced(rates).checked(family, self.per_gate)
        off, rng = _cells.settle(self, deterministic, rng, settled)
        feature_axes = self.cell.num_feature_axes
        time_axis = recurrent.time_axis_of(
            inputs, flag(time_major, self.time_major, "time_major"), feature_axes
        )
        if initial_carry is None:
            shape = inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :]
            initial_carry = self.cell.initialize_carry(
                jax.random.key(0) if init_key is None else init_key, shape
            )
        else:
            batch = inputs.shape[:time_axis] + inputs.shape[time_axis + 1 : -feature_axes]
            initial_carry = checked_carry(
                initial_carry, family, (*batch, getattr(self.cell, "features", 0))
            )
        layout = recurrent.spec_of_steps(
            given_or(spec, self.spec), inputs.ndim, time_axis, feature_axes
        )
        plan = Plan(
            family,
            settled,
            recurrent.directed(rng, reverse),
            self.per_gate,
            self.per_step,
            off,
            layout,
        )
        carry, outputs = recurrent.run(
            plan,
            _cells.loop(self, plan),
            initial_carry,
            inputs,
            time_axis=time_axis,
            feature_axes=feature_axes,
            lengths=seq_lengths,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            variables=self.cell.variables,
        )
        return (carry, outputs) if return_carry else outputs
