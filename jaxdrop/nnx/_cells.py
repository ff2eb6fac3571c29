"""Flax's NNX cells in a loop over time, with what is dropped inside them. See
`jaxdrop.functional.recurrent`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import GRU, LSTM, SIMPLE, Carry, Drop, Family, Hooks, Plan

_Dropping: TypeAlias = Callable[[Drop, jax.Array], jax.Array]
_Layers: TypeAlias = tuple[dict[str, _Dropping], dict[str, _Dropping]]
"""The layers of a cell that see the input, and those that see the hidden state, by name."""
_FAMILIES = {
    nnx.LSTMCell: LSTM,
    nnx.OptimizedLSTMCell: LSTM,
    nnx.GRUCell: GRU,
    nnx.SimpleCell: SIMPLE,
}


def family_of(cell: Any) -> Family:
    """The family of a cell."""
    return recurrent.family_of(cell, _FAMILIES)


def first_state(cell: Any, inputs: jax.Array, time_axis: int, rngs: Any) -> Carry:
    """The state before the first step: made with the stream `carry` of `rngs` if there is one, else
    with key 0.
    """
    if isinstance(rngs, nnx.Rngs) and "carry" in rngs:
        rngs = rngs.carry.fork()
    elif not (isinstance(rngs, nnx.RngStream) and rngs.tag == "carry"):
        rngs = nnx.RngStream(0, tag="carry")
    return cell.initialize_carry(inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :], rngs)


def loop(rnn: nnx.RNN, plan: Plan) -> recurrent.Loop:
    """The loop of `nnx.RNN`, over a copy of its cell: only the variables that a step changes are
    written back.

    Flax's loop assigns all of them anew, which JAX forbids where the layer is a constant of a
    traced function.
    """
    copy = nnx.clone(rnn.cell)
    if plan.drops_weights():
        _drop_weights(copy, plan)
    # Each gate's weights are taken outside of the loop, which would otherwise copy them in each
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
    """One step of a cell, with layers in which something is dropped in the place of its own."""
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


def _sites(cell: Any, side: str, gates: tuple[str, ...]) -> dict[str, list[int]]:
    """The cell's layers of one side, i(nput) or h(idden), and the gates that each computes."""
    if hasattr(cell, f"dense_{side}"):
        return {f"dense_{side}": list(range(len(gates)))}
    names = [f"{side}{gate}" for gate in gates]
    return {f"{name}_" if name == "if" else name: [gate] for gate, name in enumerate(names)}


def _split(weights: jax.Array, count: int) -> list[jax.Array]:
    return jnp.split(weights, count, axis=-1)


def _drop_weights(cell: Any, plan: Plan) -> None:
    for name, gates in _sites(cell, "h", plan.family.gates).items():
        layer = getattr(cell, name)
        kernels = _split(layer.kernel[...], len(gates))
        dropped = [plan.weight(kernel, gate) for kernel, gate in zip(kernels, gates, strict=True)]
        layer.kernel[...] = jnp.concatenate(dropped, axis=-1)


def _dropping_layers(cell: Any, plan: Plan) -> _Layers:
    def of(side: str) -> dict[str, _Dropping]:
        sites = _sites(cell, side, plan.family.gates)
        return {
            name: _dropping(getattr(cell, name), gates, plan.per_gate)
            for name, gates in sites.items()
        }

    return of("i"), of("h")


def _dropping(layer: nnx.Linear, gates: list[int], per_gate: bool) -> _Dropping:
    """The layer as a function of what drops from its input, and of its input. Each gate has its
    columns of the weights.
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
