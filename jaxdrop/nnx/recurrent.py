"""Recurrent layers with dropout: Flax's cells and `nnx.RNN`. See `jaxdrop.functional.recurrent`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional.recurrent import Carry, Rates, check_settings
from jaxdrop.layers.recurrent import cites_rates, run_layer
from jaxdrop.nnx import _cells
from jaxdrop.nnx._base import RngSource, Stochastic

__all__ = ["RNN"]


@cites_rates
class RNN(Stochastic, nnx.RNN):
    """`flax.nnx.RNN` with dropout in its cell, and no parameters of its own. With all rates 0 it is
    `flax.nnx.RNN`.

        rnn = RNN(nnx.OptimizedLSTMCell(64, 128, rngs=rngs), input_rate=0.3, recurrent_rate=0.3,
        rngs=rngs)
        y = rnn(x, seq_lengths=lengths)

    A call draws one mask for each rate, and uses it in all time steps. Windows of truncated
    backpropagation are calls of their own, with other masks unless they get the same key. Every
    sequence of a batch has its own masks, but weights are dropped for all sequences alike. A
    forward and a backward run with the same key have different masks. In evaluation nothing is
    dropped, and zoneout takes the expected state.

    The loop over time runs a copy of the cell, and writes back only the variables that a step
    changes, such as the count of a random stream in a cell of your own. A layer whose cell has no
    such variables can therefore be a constant of any function that JAX transforms.

    Args:
      cell: an `nnx.LSTMCell`, `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, or an instance of a
        subclass; Flax's code runs. With no rates but `input_rate` and `output_rate`, any cell that
        `nnx.RNN` takes.
      input_rate: the probability of dropping a feature of the input.
      recurrent_rate: the probability of dropping a unit of the hidden state, in its products with
        the recurrent kernels (and nowhere else).
      candidate_rate: the probability of dropping a unit of the candidate, which is the vector that
        a step adds to the memory, as in `jaxdrop.recurrent_dropout`.
      output_rate: the probability of dropping a unit of the output. The next step sees the hidden
        state undropped.
      cell_zoneout: the probability that a unit of an LSTM's memory cell keeps its value in a step,
        as in `jaxdrop.zoneout`.
      hidden_zoneout: the probability that a unit of the hidden state, which is also the output,
        keeps its value in a step.
      weight_rate: the probability of dropping a weight of the recurrent kernels, with one mask for
        all sequences and steps (AWD-LSTM). Biases are not dropped.
      per_gate: if True, each gate has its own masks of the input and of the hidden state ("untied",
        as in the code of Gal & Ghahramani, and in Keras with `recurrent_dropout`). If False, all
        gates share them.
      per_step: if True, masks differ from step to step, which makes it hard for a network to
        remember. Zoneout always differs from step to step, and dropped weights never do.
      time_major, return_carry, reverse, keep_order, unroll, broadcast_rngs: as in `nnx.RNN`.
      state_axes: as in `nnx.RNN`; by default parameters are the same in all steps, and other
        variables are carried.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError: `cell` is not a recurrent cell, or a rate is not a number.
      ValueError: a rate is outside [0, 1], or drops a part that such a cell does not have; or
        `spec` divides time or features.

    References:
      Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
      networks", 2016, arXiv:1512.05287. Semeniuta, Severyn & Barth, "Recurrent dropout without
      memory loss", 2016, arXiv:1603.05118. Krueger et al., "Zoneout: regularizing RNNs by randomly
      preserving hidden activations", 2016, arXiv:1606.01305. Merity, Keskar & Socher, "Regularizing
      and optimizing LSTM language models", 2017, arXiv:1708.02182.
    """

    _has_rate = False

    def __init__(
        self,
        cell: nnx.RNNCellBase,
        *,
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
        reverse: bool = False,
        keep_order: bool = False,
        unroll: int = 1,
        state_axes: Mapping[str, Any] | None = None,
        broadcast_rngs: nnx.filterlib.Filter = None,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        spec: PartitionSpec | None = None,
    ) -> None:
        super(Stochastic, self).__init__(  # of nnx.RNN
            cell,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            # Not carried as in Flax: `jax.checkpoint` would store the parameters in each step.
            state_axes=state_axes or nnx.StateAxes({nnx.Param: None, ...: nnx.Carry}),
            broadcast_rngs=broadcast_rngs,
            rngs=False,
        )
        Stochastic.__init__(
            self,
            deterministic=deterministic,
            rng_collection=rng_collection,
            rngs=rngs,
            spec=spec,
        )
        self.input_rate = input_rate
        self.recurrent_rate = recurrent_rate
        self.candidate_rate = candidate_rate
        self.output_rate = output_rate
        self.cell_zoneout = cell_zoneout
        self.hidden_zoneout = hidden_zoneout
        self.weight_rate = weight_rate
        self.per_gate = per_gate
        self.per_step = per_step
        check_settings(
            self, "per_gate", "per_step", "time_major", "return_carry", "reverse", "keep_order"
        )
        Rates.of(self).checked(_cells.family_of(cell), per_gate)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        initial_carry: Carry | None = None,
        seq_lengths: jax.Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool | None = None,
        rngs: RngSource | None = None,
        rates: Mapping[str, masks.Rate] | None = None,
        spec: PartitionSpec | None = None,
    ) -> Any:
        """Runs the cell over sequences.

        Args:
          inputs: shape (*batch, time, features), or (time, *batch, features) if `time_major`.
          initial_carry: the state before the first step; by default that of the cell, made with the
            stream `carry` of `rngs` if there is one, else with key 0.
          seq_lengths: integers in [0, time], of shape (*batch,): later steps are padding. The
            returned state is the one before the padding, for a sequence of length 0 the initial
            one. Outputs of padding have no meaning.
          return_carry: overrides the module's, as do the next four.
          time_major: whether time is the first axis.
          reverse: whether to run from the last step to the first.
          keep_order: whether to put the outputs of a reversed run into the order of the inputs.
          deterministic: whether to drop nothing.
          rngs: a key, an `nnx.Rngs`, or a stream. A stream with the tag `carry` makes the first
            state only, as in `nnx.RNN`.
          rates: other rates for this call, by name: numbers or traced scalars.
          spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the
            whole `inputs`. Only axes of the batch may be divided.

        Returns:
          The outputs, shape (*batch, time, units), or (carry, outputs).
        """
        return run_layer(
            self,
            _cells.Call(self, deterministic, rngs, spec),
            inputs,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
            rates=rates,
        )
