"""Recurrent layers one above the other. See `jaxdrop.nnx.RNN`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop._references import cites
from jaxdrop.functional.recurrent import Carry, Rates, check_between
from jaxdrop.layers.recurrent import run_stack
from jaxdrop.nnx import _cells
from jaxdrop.nnx._base import RngSource, Stochastic
from jaxdrop.nnx.recurrent import RNN

__all__ = ["StackedRNN"]


@cites(RNN, dropout="zaremba2014recurrent")
class StackedRNN(Stochastic):
    """Recurrent layers one above the other, with dropout between them and in them.

        rnn = StackedRNN(nnx.OptimizedLSTMCell, 64, 128, num_layers=2, dropout=0.3,
        recurrent_rate=0.3, rngs=rngs)
        y = rnn(x, seq_lengths=lengths)

    Each layer, direction and sequence has its own masks.

    Args:
      cell: makes a cell, `cell(in_features, hidden_features, rngs=rngs)`: one of the classes that
        `RNN` takes.
      in_features: the length of the input's last axis.
      hidden_features: the units of each layer and direction.
      num_layers: how many layers there are.
      dropout: the probability of dropping an entry between two layers, with a new mask at each
        step: the argument `dropout` of PyTorch's LSTM. With one layer it must be 0.
      locked: whether dropout between layers has one mask for all steps.
      bidirectional: whether each layer has a second cell that runs backward. The outputs of both
        are concatenated.
      input_rate, output_rate: as in `RNN`, for the input of the first layer and the output of the
        last one.
      recurrent_rate, candidate_rate, cell_zoneout, hidden_zoneout, weight_rate, per_gate, per_step:
        as in `RNN`, in each layer.
      time_major, return_carry, unroll: as in `nnx.RNN`.
      deterministic, rng_collection: as in `jaxdrop.nnx.Dropout`.
      rngs: an `nnx.Rngs`, for the parameters and the masks.
      spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `RNN`; ValueError also if `dropout` has no two layers to act
        between.

    References:
      Zaremba, Sutskever & Vinyals, "Recurrent neural network regularization", 2014,
      arXiv:1409.2329. See also `RNN`.
    """

    _has_rate = False

    def __init__(
        self,
        cell: Callable[..., nnx.RNNCellBase],
        in_features: int,
        hidden_features: int,
        *,
        num_layers: int = 1,
        dropout: float = 0.0,
        locked: bool = False,
        bidirectional: bool = False,
        input_rate: float = 0.0,
        recurrent_rate: float = 0.0,
        candidate_rate: float = 0.0,
        output_rate: float = 0.0,
        cell_zoneout: float = 0.0,
        hidden_zoneout: float = 0.0,
        weight_rate: float = 0.0,
        per_gate: bool = False,
        per_step: bool = False,
        time_major: bool = False,
        return_carry: bool = False,
        unroll: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
        spec: PartitionSpec | None = None,
    ) -> None:
        super().__init__(
            deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec
        )
        check_between(dropout, num_layers)
        _checks.check_count(in_features, "in_features", most=_checks.LONGEST)
        _checks.check_count(hidden_features, "hidden_features", most=_checks.LONGEST)
        _checks.check_callable(
            cell, "cell", "(in_features, hidden_features, rngs=rngs), such as nnx.LSTMCell"
        )
        self.dropout = dropout
        self.locked = _checks.check_flag(locked, "locked")
        self.input_rate = input_rate
        self.recurrent_rate = recurrent_rate
        self.candidate_rate = candidate_rate
        self.output_rate = output_rate
        self.cell_zoneout = cell_zoneout
        self.hidden_zoneout = hidden_zoneout
        self.weight_rate = weight_rate
        self.time_major = _checks.check_flag(time_major, "time_major")
        self.return_carry = _checks.check_flag(return_carry, "return_carry")
        directions = 2 if _checks.check_flag(bidirectional, "bidirectional") else 1
        self.layers = nnx.List()
        for layer in range(num_layers):
            width = hidden_features * directions if layer else in_features
            cells = [cell(width, hidden_features, rngs=rngs) for _ in range(directions)]
            runs = [
                RNN(cell, reverse=way > 0, per_gate=per_gate, per_step=per_step, unroll=unroll)
                for way, cell in enumerate(cells)
            ]
            self.layers.append(nnx.List(runs))
        Rates.of(self).checked(_cells.family_of(self.layers[0][0].cell), per_gate)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_carry: Sequence[Sequence[Carry]] | None = None,
        seq_lengths: jax.Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rates: Mapping[str, masks.Rate] | None = None,
        spec: PartitionSpec | None = None,
    ) -> Any:
        """Runs the layers over sequences.

        Args:
          inputs: shape (*batch, time, in_features), or (time, *batch, in_features) if `time_major`.
          initial_carry: for each layer the states of its directions, as they are returned.
          seq_lengths: as in `RNN`.
          return_carry: overrides the module's, as do the next two.
          time_major: whether time is the first axis.
          deterministic: whether to drop nothing.
          rngs: a key, or where to take it from, as in `jaxdrop.nnx.Dropout`; its stream `carry`, if
            any, makes the first states.
          rates: other rates for this call, by name, `dropout` among them.
          spec: as in `RNN`.

        Returns:
          The last layer's outputs, or (carry, outputs).
        """
        return run_stack(
            self,
            _cells.Call(self, deterministic, rngs, spec),
            inputs,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            return_carry=return_carry,
            time_major=time_major,
            rates=rates,
        )
