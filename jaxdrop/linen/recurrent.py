"""Recurrent layers with dropout: Flax's cells and `nn.RNN`. See `jaxdrop.functional.recurrent`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import GRU, LSTM, SIMPLE, Carry, Hooks, Plan, Rates

_FAMILIES = {nn.LSTMCell: LSTM, nn.OptimizedLSTMCell: LSTM, nn.GRUCell: GRU, nn.SimpleCell: SIMPLE}


class RNN(nn.RNN):
    """`flax.linen.RNN` with dropout in its cell, and the same parameters. With all rates 0 it is `flax.linen.RNN`.

        rnn = RNN(nn.OptimizedLSTMCell(128), input_rate=0.3, recurrent_rate=0.3)
        y = rnn.apply(variables, x, seq_lengths=lengths, deterministic=False, rngs={"dropout": key})

    What is dropped, and when, is said at `jaxdrop.nnx.RNN`.

    Attributes:
      cell: an `nn.LSTMCell`, `OptimizedLSTMCell`, `GRUCell` or `SimpleCell`, whose own code runs. With `per_gate` the
        `OptimizedLSTMCell`, which has one product for all gates, runs as an `LSTMCell` with the same parameters.
      time_major, return_carry, reverse, keep_order, unroll, variable_axes, variable_broadcast, variable_carry, split_rngs: as in
        `nn.RNN`; the last four count only where nothing is dropped.
      input_rate, recurrent_rate, candidate_rate, output_rate, cell_zoneout, hidden_zoneout, weight_rate, per_gate, per_step: as
        in `jaxdrop.nnx.RNN`.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

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
        """Runs the cell over sequences. Args and Returns: as `jaxdrop.nnx.RNN`; `rng` is a key, `init_key` as in `nn.RNN`."""
        return_carry = _or(return_carry, self.return_carry)
        reverse = _or(reverse, self.reverse)
        family = recurrent.family_of(self.cell, _FAMILIES)
        settled = Rates.of(self).replaced(rates).checked(family)
        off = nn.merge_param("deterministic", self.deterministic, deterministic)
        if self.is_initializing() or not settled.act(off):
            return super().__call__(
                inputs,
                initial_carry=initial_carry,
                init_key=init_key,
                seq_lengths=seq_lengths,
                return_carry=return_carry,
                time_major=time_major,
                reverse=reverse,
                keep_order=keep_order,
            )
        if rng is None:
            rng = _key(self, settled.first_drawn(), off)
        time_axis = 0 if _or(time_major, self.time_major) else inputs.ndim - 2
        if initial_carry is None:
            shape = inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :]
            initial_carry = self.cell.initialize_carry(jax.random.key(0) if init_key is None else init_key, shape)
        layout = recurrent.spec_of_steps(self.spec if spec is None else spec, inputs.ndim, time_axis)
        plan = Plan(family, settled, recurrent.directed(rng, reverse), self.per_gate, self.per_step, off, layout)
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


class StackedRNN(nn.Module):
    """Recurrent layers one above the other, with dropout between them and in them.

        rnn = StackedRNN(nn.OptimizedLSTMCell, 128, num_layers=2, dropout=0.3, recurrent_rate=0.3)
        y = rnn.apply(variables, x, seq_lengths=lengths, deterministic=False, rngs={"dropout": key})

    What is dropped, and when, is said at `jaxdrop.nnx.StackedRNN`.

    Attributes:
      cell: makes a cell, `cell(features)`: one of the classes that `RNN` takes.
      features: the units of each layer and direction.
      num_layers, dropout, locked, bidirectional, input_rate, recurrent_rate, candidate_rate, output_rate, cell_zoneout,
        hidden_zoneout, weight_rate, per_gate, per_step, time_major, return_carry, unroll: as in `jaxdrop.nnx.StackedRNN`.
      deterministic, rng_collection, spec: as in `jaxdrop.linen.Dropout`.

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
        recurrent.check_between(self.dropout, self.num_layers)
        ways = (False, True) if self.bidirectional else (False,)
        self.layers = [[self._direction(reverse) for reverse in ways] for _ in range(self.num_layers)]

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
        """Runs the layers over sequences. Args and Returns: as `jaxdrop.nnx.StackedRNN`; `rng` is a key."""
        others, spec = dict(rates or {}), self.spec if spec is None else spec
        between = recurrent.check_between(others.pop("dropout", self.dropout), self.num_layers)
        settled = Rates.of(self).replaced(others).checked(recurrent.family_of(self.layers[0][0].cell, _FAMILIES))
        off = nn.merge_param("deterministic", self.deterministic, deterministic)
        if rng is None and not self.is_initializing():
            rng = _key(self, settled.first_drawn(between), off)
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
                rng=key,
                rates=rates,
                spec=spec,
            )

        carry, outputs = recurrent.stack(
            [[direction(rnn) for rnn in layer] for layer in self.layers],
            rng,
            settled,
            between,
            inputs,
            initial_carry=initial_carry,
            time_axis=0 if time_major else inputs.ndim - 2,
            locked=self.locked,
            deterministic=off or self.is_initializing(),
            spec=spec,
        )
        return (carry, outputs) if _or(return_carry, self.return_carry) else outputs


def _key(layer: Any, drawn: masks.Rate, deterministic: bool) -> jax.Array | None:
    """A key from the layer's collection, if one of its rates needs it."""
    return None if deterministic or masks.is_number(drawn, 0) else layer.make_rng(layer.rng_collection)


def _or(call: bool | None, module: bool) -> bool:
    return module if call is None else call


def _step(cell: nn.RNNCellBase, plan: Plan) -> recurrent.Cell:
    """One step of the cell, as a pure function: of a copy that is bound to nothing, and this call's parameters."""
    variables = dict(cell.variables)
    if plan.drops_weights():
        params = dict(variables["params"])
        for gate, letter in enumerate(plan.family.gates):
            layer = params[f"h{letter}"]
            params[f"h{letter}"] = {**layer, "kernel": plan.weight(layer["kernel"], gate)}
        variables["params"] = params
    free = cell.clone()
    if plan.per_gate and isinstance(free, nn.OptimizedLSTMCell):
        fields = {field.name: getattr(free, field.name) for field in dataclasses.fields(nn.LSTMCell) if field.init}
        free = nn.LSTMCell(**fields)

    def step(carry: Carry, x: jax.Array, hooks: Hooks) -> Carry:
        own = free
        if hooks.candidate is not None:
            own = free.clone(activation_fn=recurrent.on_candidate(free.activation_fn, hooks.candidate))
        with nn.intercept_methods(_dropping(plan.family.gates, hooks)):
            return own.apply(variables, carry, x)[0]

    return step


def _dropping(gates: tuple[str, ...], hooks: Hooks) -> Callable[..., Any]:
    """Drops from the inputs of a cell's layers, of which each belongs to one gate."""
    sides = {"i": hooks.input, "h": hooks.recurrent}
    sites = {f"{side}{letter}": (drop, gate) for side, drop in sides.items() if drop for gate, letter in enumerate(gates)}

    def intercept(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any) -> Any:
        drop, gate = sites.get(context.module.name, (None, 0))
        if drop is None or not isinstance(context.module, nn.Dense):
            return call(*args, **kwargs)
        return call(drop(args[0], gate), *args[1:], **kwargs)

    return intercept
