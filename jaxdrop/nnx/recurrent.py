"""Recurrent layers with dropout: Flax's cells and `nnx.RNN`. See `jaxdrop.functional.recurrent`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import GRU, LSTM, SIMPLE, Carry, Drop, Hooks, Plan, Rates
from jaxdrop.nnx._base import RngSource, Stochastic

_FAMILIES = {nnx.LSTMCell: LSTM, nnx.OptimizedLSTMCell: LSTM, nnx.GRUCell: GRU, nnx.SimpleCell: SIMPLE}


class RNN(Stochastic, nnx.RNN):
    """`flax.nnx.RNN` with dropout in its cell. With all rates 0 it is `flax.nnx.RNN`, to which it also adds no parameters.

        rnn = RNN(nnx.OptimizedLSTMCell(64, 128, rngs=rngs), input_rate=0.3, recurrent_rate=0.3, rngs=rngs)
        y = rnn(x, seq_lengths=lengths)

    Masks are drawn for each call, and hold for all its time steps: windows of truncated backpropagation have different ones,
    unless their calls get the same key. Each sequence has its own, except those of weights. Two directions that get the same
    key have different masks. In evaluation only zoneout does something.

    Args:
      cell: an `nnx.LSTMCell`, `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, whose own code runs.
      input_rate: the probability of dropping a feature of the input.
      recurrent_rate: that of dropping a unit of the hidden state, where it meets the recurrent kernels (and nowhere else).
      candidate_rate: that of dropping a unit of what is about to be added to the memory, as in `jaxdrop.recurrent_dropout`.
      output_rate: that of dropping a unit of the output, which the next step does not see.
      cell_zoneout: the probability that a unit of an LSTM's cell skips a step, as in `jaxdrop.zoneout`.
      hidden_zoneout: the same of the hidden state, which is the output.
      weight_rate: the probability of dropping a weight of the recurrent kernels, one mask for all sequences and steps (AWD-LSTM).
        Biases are not dropped.
      per_gate: whether each gate sees masks of its own of the input and of the hidden state ("untied", as in the code of Gal &
        Ghahramani and in Keras with `recurrent_dropout`), or all gates the same.
      per_step: whether masks differ from step to step, which is not good for what a network remembers. Zoneout always does, and
        weights never.
      time_major, return_carry, reverse, keep_order, unroll, state_axes, broadcast_rngs: as in `nnx.RNN`.
      deterministic, rng_collection, rngs, spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError: the cell is of another class, or a rate is no number.
      ValueError: a rate is outside [0, 1], the cell has nothing that it could drop, or `spec` divides time or features.

    References:
      Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", 2016, arXiv:1512.05287.
      Semeniuta, Severyn & Barth, "Recurrent dropout without memory loss", 2016, arXiv:1603.05118. Krueger et al., "Zoneout:
      regularizing RNNs by randomly preserving hidden activations", 2016, arXiv:1606.01305. Merity, Keskar & Socher, "Regularizing
      and optimizing LSTM language models", 2017, arXiv:1708.02182.
    """

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
        nnx.RNN.__init__(
            self,
            cell,
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
            unroll=unroll,
            state_axes=state_axes,
            broadcast_rngs=broadcast_rngs,
            rngs=False,
        )
        Stochastic.__init__(self, None, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec)
        self.input_rate = input_rate
        self.recurrent_rate = recurrent_rate
        self.candidate_rate = candidate_rate
        self.output_rate = output_rate
        self.cell_zoneout = cell_zoneout
        self.hidden_zoneout = hidden_zoneout
        self.weight_rate = weight_rate
        self.per_gate = per_gate
        self.per_step = per_step
        Rates.of(self).checked(recurrent.family_of(cell, _FAMILIES))

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
          initial_carry: the state before the first step; by default that of the cell, made with the stream `carry` of `rngs` if
            there is one, else with key 0.
          seq_lengths: integers of shape (*batch,): later steps are padding. They leave the state as it is, and what they put out
            is not to be used.
          return_carry: overrides the module's, as do the next four.
          time_major: whether time is the first axis.
          reverse: whether to run from the last step to the first.
          keep_order: whether to put the outputs of a reversed run into the order of the inputs.
          deterministic: whether to drop nothing.
          rngs: a key; or an `nnx.Rngs`; or a stream, of which one with the tag `carry` is for the carry only, as in `nnx.RNN`.
          rates: other rates for this call, by name: numbers or traced scalars.
          spec: only inside `shard_map`, `pmap` or a `vmap` with an axis name: the layout of the whole `inputs`, of which only
            the sequences may be divided.

        Returns:
          The outputs, shape (*batch, time, units), or (carry, outputs).
        """
        return_carry = _or(return_carry, self.return_carry)
        reverse = _or(reverse, self.reverse)
        family = recurrent.family_of(self.cell, _FAMILIES)
        settled = Rates.of(self).replaced(rates).checked(family)
        is_carry = isinstance(rngs, nnx.RngStream) and rngs.tag == "carry"  # Flax's Bidirectional passes one
        off, key, _, spec = self._settle(deterministic, None if is_carry else rngs, settled.first_drawn(), spec)
        carry_rngs = rngs if is_carry or (isinstance(rngs, nnx.Rngs) and "carry" in rngs) else nnx.RngStream(0, tag="carry")
        if not settled.act(off):
            return super().__call__(
                inputs,
                initial_carry=initial_carry,
                seq_lengths=seq_lengths,
                return_carry=return_carry,
                time_major=time_major,
                reverse=reverse,
                keep_order=keep_order,
                rngs=carry_rngs,
            )
        time_axis = 0 if _or(time_major, self.time_major) else inputs.ndim - 2
        if initial_carry is None:
            shape = inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :]
            initial_carry = self.cell.initialize_carry(shape, carry_rngs)
        layout = recurrent.spec_of_steps(spec, inputs.ndim, time_axis)
        plan = Plan(family, settled, recurrent.directed(key, reverse), self.per_gate, self.per_step, off, layout)
        carry, outputs = recurrent.run(
            plan,
            _step(self.cell, plan),
            initial_carry,
            inputs,
            time_axis=time_axis,
            lengths=seq_lengths,
            reverse=reverse,
            keep_order=_or(keep_order, self.keep_order),
            unroll=self.unroll,
        )
        return (carry, outputs) if return_carry else outputs


class StackedRNN(Stochastic):
    """Recurrent layers one above the other, with dropout between them and in them.

        rnn = StackedRNN(nnx.OptimizedLSTMCell, 64, 128, num_layers=2, dropout=0.3, recurrent_rate=0.3, rngs=rngs)
        y = rnn(x, seq_lengths=lengths)

    Each layer, direction and sequence has its own masks.

    Args:
      cell: makes a cell, `cell(in_features, hidden_features, rngs=rngs)`: one of the classes that `RNN` takes.
      in_features: the length of the input's last axis.
      hidden_features: the units of each layer and direction.
      num_layers: how many layers there are.
      dropout: the probability of dropping an entry of the output of a layer that is another layer's input, at each step anew: the
        argument `dropout` of PyTorch's LSTM. With one layer it is an error.
      locked: whether dropout between layers has one mask for all steps instead.
      bidirectional: whether each layer has a second cell that runs backward. Their outputs are concatenated.
      input_rate, output_rate: as in `RNN`, of the first layer's input and of the last layer's output.
      recurrent_rate, candidate_rate, cell_zoneout, hidden_zoneout, weight_rate, per_gate, per_step: as in `RNN`, of each layer.
      time_major, return_carry, unroll: as in `nnx.RNN`.
      deterministic, rng_collection: as in `jaxdrop.nnx.Dropout`.
      rngs: an `nnx.Rngs`, for the parameters and the masks.
      spec: as in `jaxdrop.nnx.Dropout`.

    Raises:
      TypeError, ValueError: as `RNN`; ValueError also if `dropout` has no two layers to act between.

    References:
      Zaremba, Sutskever & Vinyals, "Recurrent neural network regularization", 2014, arXiv:1409.2329. See also `RNN`.
    """

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
        super().__init__(None, deterministic=deterministic, rng_collection=rng_collection, rngs=rngs, spec=spec)
        recurrent.check_between(dropout, num_layers)
        self.dropout = dropout
        self.locked = locked
        self.input_rate = input_rate
        self.recurrent_rate = recurrent_rate
        self.candidate_rate = candidate_rate
        self.output_rate = output_rate
        self.cell_zoneout = cell_zoneout
        self.hidden_zoneout = hidden_zoneout
        self.weight_rate = weight_rate
        self.time_major = time_major
        self.return_carry = return_carry
        directions = 2 if bidirectional else 1
        self.layers = nnx.List()
        for layer in range(num_layers):
            width = hidden_features * directions if layer else in_features
            cells = [cell(width, hidden_features, rngs=rngs) for _ in range(directions)]
            runs = [
                RNN(cell, reverse=way > 0, per_gate=per_gate, per_step=per_step, unroll=unroll) for way, cell in enumerate(cells)
            ]
            self.layers.append(nnx.List(runs))
        Rates.of(self).checked(recurrent.family_of(self.layers[0][0].cell, _FAMILIES))

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
          seq_lengths: integers of shape (*batch,): later steps are padding.
          return_carry: overrides the module's, as do the next two.
          time_major: whether time is the first axis.
          deterministic: whether to drop nothing.
          rngs: a key, or where to take it from, as in `jaxdrop.nnx.Dropout`.
          rates: other rates for this call, by name, `dropout` among them.
          spec: as in `RNN`.

        Returns:
          The last layer's outputs, or (carry, outputs).
        """
        others = dict(rates or {})
        between = recurrent.check_between(others.pop("dropout", self.dropout), len(self.layers))
        settled = Rates.of(self).replaced(others).checked(recurrent.family_of(self.layers[0][0].cell, _FAMILIES))
        off, key, _, spec = self._settle(deterministic, rngs, settled.first_drawn(between), spec)
        time_major = _or(time_major, self.time_major)

        def direction(rnn: RNN) -> recurrent.Layer:
            return lambda inputs, key, rates, carry: rnn(
                inputs,
                initial_carry=carry,
                seq_lengths=seq_lengths,
                return_carry=True,
                time_major=time_major,
                keep_order=True,
                deterministic=off,
                rngs=key,
                rates=rates,
                spec=spec,
            )

        carry, outputs = recurrent.stack(
            [[direction(rnn) for rnn in layer] for layer in self.layers],
            key,
            settled,
            between,
            inputs,
            initial_carry=initial_carry,
            time_axis=0 if time_major else inputs.ndim - 2,
            locked=self.locked,
            deterministic=off,
            spec=spec,
        )
        return (carry, outputs) if _or(return_carry, self.return_carry) else outputs


def _or(call: bool | None, module: bool) -> bool:
    return module if call is None else call


def _layers(cell: nnx.RNNCellBase, side: str, gates: tuple[str, ...]) -> dict[str, list[int]]:
    """The cell's layers of one side, i(nput) or h(idden), and the gates that each computes."""
    if hasattr(cell, f"dense_{side}"):
        return {f"dense_{side}": list(range(len(gates)))}
    names = [f"{side}{gate}" for gate in gates]
    return {f"{name}_" if name == "if" else name: [gate] for gate, name in enumerate(names)}


def _split(weights: jax.Array, count: int) -> list[jax.Array]:
    return jnp.split(weights, count, axis=-1)


def _step(cell: nnx.RNNCellBase, plan: Plan) -> recurrent.Cell:
    """One step of the cell. It is made anew for each trace, with layers in which something is dropped in the place of its own."""
    recurrent_layers = _layers(cell, "h", plan.family.gates)
    if plan.drops_weights():
        cell = nnx.clone(cell)
        for name, gates in recurrent_layers.items():
            layer = getattr(cell, name)
            kernels = _split(layer.kernel[...], len(gates))
            dropped = [plan.weight(kernel, gate) for kernel, gate in zip(kernels, gates, strict=True)]
            layer.kernel[...] = jnp.concatenate(dropped, axis=-1)
    graph, state = nnx.split(cell)
    layers = [
        {name: _dropping(getattr(cell, name), gates, plan.per_gate) for name, gates in side.items()}
        for side in (_layers(cell, "i", plan.family.gates), recurrent_layers)
    ]

    def step(carry: Carry, x: jax.Array, hooks: Hooks) -> Carry:
        own = nnx.merge(graph, state)
        for side, drop in zip(layers, (hooks.input, hooks.recurrent), strict=True):
            if drop is not None:
                for name, layer in side.items():
                    setattr(own, name, functools.partial(layer, drop))
        if hooks.candidate is not None:
            own.activation_fn = recurrent.on_candidate(own.activation_fn, hooks.candidate)
        return own(carry, x)[0]

    return step


def _dropping(layer: nnx.Linear, gates: list[int], per_gate: bool) -> Callable[[Drop, jax.Array], jax.Array]:
    """The layer as a function of what drops from its input, and of its input. Each gate has its columns of the weights."""
    graph, state = nnx.split(layer)
    count = len(gates) if per_gate else 1
    parts = [(gates[part], jax.tree.map(lambda w, part=part: _split(w, count)[part], state)) for part in range(count)]

    def dropping(drop: Drop, x: jax.Array) -> jax.Array:
        return jnp.concatenate([nnx.merge(graph, weights)(drop(x, gate)) for gate, weights in parts], axis=-1)

    return dropping
