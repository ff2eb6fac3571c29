"""Recurrent layers with dropout: Flax's cells and `nn.RNN`. See `jaxdrop.functional.recurrent`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional.recurrent import Carry
from jaxdrop.layers.recurrent import cites_rates, run_layer
from jaxdrop.linen import _cells
from jaxdrop.linen._base import Hinted

__all__ = ["RNN"]


@cites_rates
class RNN(Hinted, nn.RNN):
    """`flax.linen.RNN` with dropout in its cell, and the same parameters. With all rates 0 it is
    `flax.linen.RNN`.

        rnn = RNN(nn.OptimizedLSTMCell(128), input_rate=0.3, recurrent_rate=0.3)
        y = rnn.apply(variables, x, seq_lengths=lengths, deterministic=False, rngs={"dropout": key})

    `jaxdrop.nnx.RNN` says what is dropped, and when.

    Attributes:
      cell: an `nn.LSTMCell`, `OptimizedLSTMCell`, `GRUCell`, `MGUCell` or `SimpleCell`, or an
        instance of a subclass; Flax's code runs. With `per_gate` the `OptimizedLSTMCell`, which has
        one product for all gates, runs as an `LSTMCell` with the same parameters. With no rates but
        `input_rate` and `output_rate`, any cell that `nn.RNN` takes, such as `ConvLSTMCell`.
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
        init_key = None if init_key is None else _checks.check_key(init_key, "RNN", "init_key")
        return run_layer(
            self,
            _cells.Call(self, deterministic, rng, spec, init_key),
            inputs,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
            rates=rates,
        )
