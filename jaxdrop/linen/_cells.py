"""Flax's Linen cells in a loop over time, with dropout inside them. See
`jaxdrop.functional.recurrent`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import errors
from flax import linen as nn
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional import recurrent
from jaxdrop.functional.recurrent import GRU, LSTM, MGU, SIMPLE, Carry, Family, Hooks, Plan, Rates
from jaxdrop.linen._forced import is_off

FAMILIES = {
    nn.LSTMCell: LSTM,
    nn.OptimizedLSTMCell: LSTM,
    nn.GRUCell: GRU,
    nn.MGUCell: MGU,
    nn.SimpleCell: SIMPLE,
}


def family_of(cell: Any) -> Family:
    """The family of a cell."""
    return recurrent.family_of(cell, FAMILIES)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an `RNN` or `StackedRNN`, as `jaxdrop.layers.recurrent.Framework`."""

    layer: Any
    deterministic: bool | None
    rng: jax.Array | None
    spec: PartitionSpec | None
    init_key: jax.Array | None = None

    family_of = staticmethod(family_of)

    def settle(
        self, rates: Rates, *others: masks.Rate
    ) -> tuple[bool, jax.Array | None, PartitionSpec | None]:
        """Whether nothing is dropped, the key, and the layout. Parameters are made without dropout.

        A layer that has nothing to drop is Flax's, which does not know `deterministic`.
        """
        layer, rng = self.layer, self.rng
        unsaid = self.deterministic is None and layer.deterministic is None
        off = (unsaid and rates.all_zero(*others)) or is_off(layer, self.deterministic)
        off = off or layer.is_initializing()
        collection = _checks.check_text(layer.rng_collection, "rng_collection")
        if not off and not recurrent.is_zero(rates.first_drawn(*others)):
            rng = (
                layer.make_rng(collection)
                if rng is None
                else _checks.check_key(rng, type(layer).__name__, "rng")
            )
        return off, rng, layer.spec if self.spec is None else self.spec

    def first_state(self, cell: Any, inputs: jax.Array, time_axis: int) -> Carry:
        """The state before the first step, made with `init_key` or key 0."""
        key = jax.random.key(0) if self.init_key is None else self.init_key
        return cell.initialize_carry(key, inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :])

    def loop(self, plan: Plan) -> recurrent.Loop:
        """The loop of `nn.RNN`."""
        return loop(self.layer, plan)

    def variables(self, cell: Any) -> Any:
        """The arrays that the cell reads."""
        return cell.variables

    def direction(
        self, rnn: Any, inputs: jax.Array, key: jax.Array | None, time_axis: int, **call: Any
    ) -> Any:
        """The call of one layer of a stack, with this key."""
        return rnn(inputs, rng=key, **call)


def loop(rnn: nn.RNN, plan: Plan) -> recurrent.Loop:
    """The loop of `nn.RNN`. Weights are dropped once, outside of it."""

    def scan(
        body: recurrent.Body, carry: Carry, xs: Any, policy: recurrent.Policy | None
    ) -> tuple[Carry, Any]:
        def step(cell: Any, carry: Carry, x: Any) -> tuple[Carry, Any]:
            return body(functools.partial(_call, cell, plan), carry, x)

        target = step if policy is None else nn.remat(step, policy=policy, prevent_cse=False)
        target = nn.scan(
            target,
            unroll=rnn.unroll,
            variable_axes=rnn.variable_axes,
            variable_broadcast=rnn.variable_broadcast,
            variable_carry=rnn.variable_carry,
            split_rngs=rnn.split_rngs,
        )
        if plan.drops_weights():
            target = nn.map_variables(
                target, "params", trans_in_fn=functools.partial(_dropped, plan)
            )
        try:
            result: tuple[Carry, Any] = target(rnn.cell, carry, xs)
        except errors.ScopeParamShapeError as error:
            raise ValueError(
                "inputs must have the features for which the parameters of the cell were made:"
                f" {error}"
            ) from error
        return result

    return scan


def _dropped(plan: Plan, variables: Any) -> dict[str, Any]:
    """The parameters of a cell, with weights dropped."""
    params = dict(variables["params"])
    for gate, letter in enumerate(plan.family.gates):
        layer = params[f"h{letter}"]
        params[f"h{letter}"] = {**layer, "kernel": plan.weight(layer["kernel"], gate)}
    return {"params": params}


def _call(cell: Any, plan: Plan, carry: Carry, x: jax.Array, hooks: Hooks) -> tuple[Carry, Any]:
    """One step of a cell, in which something is dropped."""
    if (
        plan.per_gate
        and isinstance(cell, nn.OptimizedLSTMCell)
        and (hooks.input or hooks.recurrent)
    ):
        fields = {
            field.name: getattr(cell, field.name)
            for field in dataclasses.fields(nn.LSTMCell)
            if field.init
        }
        cell = nn.LSTMCell(**{**fields, "parent": cell.scope, "name": None})
    if hooks.candidate is not None:
        cell = cell.clone(
            parent=cell.scope,
            activation_fn=recurrent.on_candidate(cell.activation_fn, hooks.candidate),
        )
    with nn.intercept_methods(_dropping(plan.family.gates, hooks)):
        result: tuple[Carry, Any] = cell(carry, x)
    return result


def _dropping(gates: tuple[str, ...], hooks: Hooks) -> Callable[..., Any]:
    """An interceptor that drops from the inputs of a cell's dense layers, one for each gate."""
    sides = {"i": hooks.input, "h": hooks.recurrent}
    sites = {
        f"{side}{letter}": (drop, gate)
        for side, drop in sides.items()
        if drop
        for gate, letter in enumerate(gates)
    }

    def intercept(
        call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        drop, gate = sites.get(context.module.name, (None, 0))
        if drop is None or not isinstance(context.module, nn.Dense):
            return call(*args, **kwargs)
        return call(drop(args[0], gate), *args[1:], **kwargs)

    return intercept
