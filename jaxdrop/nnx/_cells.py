"""Flax's NNX cells in a loop over time, with dropout inside them. See
`jaxdrop.functional.recurrent`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import GRU, LSTM, SIMPLE, Carry, Drop, Family, Hooks, Plan, Rates
from jaxdrop.nnx._base import RngSource

_Dropping: TypeAlias = Callable[[Drop, jax.Array], jax.Array]
_Layers: TypeAlias = tuple[dict[str, _Dropping], dict[str, _Dropping]]
"""The layers of a cell that see the input, and those that see the hidden state, by name."""


class Parts(NamedTuple):
    """Which attributes of a Flax cell are its layers. They belong to the gates of the family in
    order: one layer for each gate, or one for all, in whose output the gates lie side by side.
    """

    family: Family
    input: tuple[str, ...]
    hidden: tuple[str, ...]


PARTS = {
    nnx.LSTMCell: Parts(LSTM, ("ii", "if_", "ig", "io"), ("hi", "hf", "hg", "ho")),
    nnx.OptimizedLSTMCell: Parts(LSTM, ("dense_i",), ("dense_h",)),
    nnx.GRUCell: Parts(GRU, ("dense_i",), ("dense_h",)),
    nnx.SimpleCell: Parts(SIMPLE, ("dense_i",), ("dense_h",)),
}
_FAMILIES = {kind: parts.family for kind, parts in PARTS.items()}


def family_of(cell: Any) -> Family:
    """The family of a cell."""
    return recurrent.family_of(cell, _FAMILIES)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an `RNN` or `StackedRNN`, as `jaxdrop.layers.recurrent.Framework`."""

    layer: Any
    deterministic: bool | None
    rngs: RngSource | None
    spec: PartitionSpec | None

    family_of = staticmethod(family_of)
    variables = staticmethod(nnx.state)

    @property
    def _carries(self) -> bool:
        """Whether `rngs` is for first states only, as the stream that Flax's Bidirectional
        passes.
        """
        return isinstance(self.rngs, nnx.RngStream) and self.rngs.tag == "carry"

    def settle(
        self, rates: Rates, *others: masks.Rate
    ) -> tuple[bool, jax.Array | None, PartitionSpec | None]:
        """Whether nothing is dropped, the key, and the layout of the inputs.

        A layer that has nothing to drop is Flax's, which does not know `deterministic`.
        """
        off = self.deterministic
        if off is None and self.layer.deterministic is None and rates.all_zero(*others):
            off = True
        rngs = None if self._carries else self.rngs
        off, key, _, spec = self.layer._settle(off, rngs, rates.first_drawn(*others), self.spec)
        return off, key, spec

    def first_state(self, cell: Any, inputs: jax.Array, time_axis: int) -> Carry:
        """The state before the first step: made with the stream `carry` of `rngs` if there is one,
        else with key 0.
        """
        rngs: Any = self.rngs
        if isinstance(rngs, nnx.Rngs) and "carry" in rngs:
            rngs = rngs.carry.fork()
        elif not self._carries:
            rngs = nnx.RngStream(0, tag="carry")
        return cell.initialize_carry(inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :], rngs)

    def loop(self, plan: Plan) -> recurrent.Loop:
        """The loop of `nnx.RNN`."""
        return loop(self.layer, plan)

    def direction(
        self, rnn: Any, inputs: jax.Array, key: jax.Array | None, time_axis: int, **call: Any
    ) -> Any:
        """The call of one layer of a stack, with this key."""
        if call["initial_carry"] is None:
            call["initial_carry"] = self.first_state(rnn.cell, inputs, time_axis)
        return rnn(inputs, rngs=key, **call)


def loop(rnn: nnx.RNN, plan: Plan) -> recurrent.Loop:
    """The loop of `nnx.RNN`, over a copy of its cell: only the variables that a step changes are
    written back.

    Flax's loop assigns all of them anew, which JAX forbids where the layer is a constant of a
    traced function.
    """
    copy = nnx.clone(rnn.cell)
    if plan.drops_weights():
        _drop_weights(copy, plan)
    # Each gate's weights are sliced before the loop. Sliced in it, they would be copied in every
    # step.
    layers = _dropping_layers(copy, plan) if plan.acts_in_steps() else ({}, {})
    axes = nnx.StateAxes({nnx.All(nnx.RngState, rnn.broadcast_rngs): None, **rnn.state_axes})

    def scan(
        body: recurrent.Body, carry: Carry, xs: Any, policy: recurrent.Policy | None
    ) -> tuple[Carry, Any]:
        changed = {path for path, _ in _values(copy, nnx.All(nnx.RngState, rnn.broadcast_rngs))}

        def step(cell: Any, carry: Carry, x: Any) -> tuple[Carry, Any]:
            before = dict(_values(cell))
            result = body(functools.partial(_call, cell, layers), carry, x)
            changed.update(path for path, value in _values(cell) if before.get(path) is not value)
            return result

        if policy is not None:
            step = nnx.remat(step, policy=policy, prevent_cse=False)
        step = nnx.compat.scan(
            step, in_axes=(axes, nnx.Carry, 0), out_axes=(nnx.Carry, 0), unroll=rnn.unroll
        )
        step = nnx.split_rngs(splits=1, only=rnn.broadcast_rngs, squeeze=True)(step)
        result: tuple[Carry, Any] = step(copy, carry, xs)
        new = [
            (path, variable)
            for path, variable in nnx.to_flat_state(nnx.state(copy))
            if path in changed
        ]
        if new:
            nnx.update(rnn.cell, nnx.from_flat_state(new))
        return result

    return scan


def _values(cell: Any, *filters: Any) -> Iterator[tuple[Any, Any]]:
    for path, variable in nnx.to_flat_state(nnx.state(cell, *filters)):
        yield path, variable.get_raw_value()


def _call(
    cell: Any, layers: _Layers, carry: Carry, x: jax.Array, hooks: Hooks
) -> tuple[Carry, Any]:
    """One step of a cell by its own code, which meets layers that drop in place of its own."""
    parts: dict[str, Any] = {}
    for side, drop in zip(layers, (hooks.input, hooks.recurrent), strict=True):
        if drop is not None:
            parts |= {name: functools.partial(layer, drop) for name, layer in side.items()}
    if hooks.candidate is not None:
        parts["activation_fn"] = recurrent.on_candidate(cell.activation_fn, hooks.candidate)
    own = {name: getattr(cell, name) for name in parts}
    try:
        for name, part in parts.items():
            setattr(cell, name, part)
        result: tuple[Carry, Any] = cell(carry, x)
    finally:
        for name, part in own.items():
            setattr(cell, name, part)
    return result


def _parts_of(cell: Any) -> Parts:
    return next(parts for kind, parts in PARTS.items() if isinstance(cell, kind))


def _by_gate(names: tuple[str, ...], plan: Plan) -> Iterator[tuple[str, range]]:
    """The layers of one side, and the gates that each computes."""
    count = len(plan.family.gates) // len(names)
    for number, name in enumerate(names):
        yield name, range(number * count, (number + 1) * count)


def _split(weights: jax.Array, count: int) -> list[jax.Array]:
    return jnp.split(weights, count, axis=-1)


def _drop_weights(cell: Any, plan: Plan) -> None:
    for name, gates in _by_gate(_parts_of(cell).hidden, plan):
        kernel = getattr(cell, name).kernel
        parts = zip(_split(kernel[...], len(gates)), gates, strict=True)
        kernel[...] = jnp.concatenate([plan.weight(part, gate) for part, gate in parts], axis=-1)


def _dropping_layers(cell: Any, plan: Plan) -> _Layers:
    def of(names: tuple[str, ...]) -> dict[str, _Dropping]:
        return {
            name: _dropping(getattr(cell, name), gates, plan.per_gate)
            for name, gates in _by_gate(names, plan)
        }

    parts = _parts_of(cell)
    return of(parts.input), of(parts.hidden)


def _dropping(layer: nnx.Linear, gates: range, per_gate: bool) -> _Dropping:
    """The layer as a function `(drop, x)` that drops from its input `x` first. With masks by gate,
    the columns of its weights make one layer for each gate.
    """
    graph, state = nnx.split(layer)
    count = len(gates) if per_gate else 1
    parts = [
        (gates[part], jax.tree.map(lambda w, part=part: _split(w, count)[part], state))
        for part in range(count)
    ]

    def dropping(drop: Drop, x: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [nnx.merge(graph, weights)(drop(x, gate)) for gate, weights in parts], axis=-1
        )

    return dropping
