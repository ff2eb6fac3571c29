"""Recurrent layers one above the other. See `jaxdrop.linen.RNN`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop._references import cites
from jaxdrop.functional.recurrent import Carry, check_between, check_settings
from jaxdrop.layers.recurrent import run_stack
from jaxdrop.linen import _cells
from jaxdrop.linen._base import Hinted
from jaxdrop.linen.recurrent import RNN

__all__ = ["StackedRNN"]


@cites(RNN, dropout="zaremba2014recurrent")
class StackedRNN(Hinted):
    """Recurrent layers one above the other, with dropout between them and in them.

        rnn = StackedRNN(nn.OptimizedLSTMCell, 128, num_layers=2, dropout=0.3, recurrent_rate=0.3)
        y = rnn.apply(variables, x, seq_lengths=lengths, deterministic=False, rngs={"dropout": key})

    `jaxdrop.nnx.StackedRNN` says what is dropped, and when.

    Attributes:
      cell: makes a cell, `cell(features)`: one of the classes that `RNN` takes.
      features: the units of each layer and direction.
      num_layers, dropout, locked, bidirectional, input_rate, recurrent_rate, candidate_rate,
        output_rate, cell_zoneout, hidden_zoneout, weight_rate, per_gate, per_step, time_major,
        return_carry, unroll: as in `jaxdrop.nnx.StackedRNN`.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.RNN`.

    Raises:
      TypeError, ValueError: as `jaxdrop.nnx.StackedRNN`.
    """

    cell: Callable[..., nn.RNNCellBase]
    features: int
    num_layers: int = 1
    dropout: float = 0.0
    locked: bool = False
    bidirectional: bool = False
    input_rate: float = 0.0
    recurrent_rate: float = 0.0
    candidate_rate: float = 0.0
    output_rate: float = 0.0
    cell_zoneout: float = 0.0
    hidden_zoneout: float = 0.0
    weight_rate: float = 0.0
    per_gate: bool = False
    per_step: bool = False
    time_major: bool = False
    return_carry: bool = False
    unroll: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    spec: PartitionSpec | None = None

    def setup(self) -> None:
        """Makes the layers."""
        check_between(self.dropout, self.num_layers)
        _checks.check_count(self.features, "features", most=_checks.LONGEST)
        check_settings(self, "bidirectional", "locked", "per_gate", "per_step")
        ways = (False, True) if self.bidirectional else (False,)
        self.layers = [
            [self._direction(reverse) for reverse in ways] for _ in range(self.num_layers)
        ]

    def _direction(self, reverse: bool) -> RNN:
        return RNN(
            self.cell(self.features, parent=None),
            reverse=reverse,
            per_gate=self.per_gate,
            per_step=self.per_step,
            unroll=self.unroll,
        )

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_carry: Sequence[Sequence[Carry]] | None = None,
        seq_lengths: jax.Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
        rates: Mapping[str, masks.Rate] | None = None,
        spec: PartitionSpec | None = None,
    ) -> Any:
        """Runs the layers over sequences. Args and Returns: as `jaxdrop.nnx.StackedRNN`; `rng` is a
        key.
        """
        return run_stack(
            self,
            _cells.Call(self, deterministic, rng, spec),
            inputs,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            return_carry=return_carry,
            time_major=time_major,
            rates=rates,
        )
