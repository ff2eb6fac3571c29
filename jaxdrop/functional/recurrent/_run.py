"""Dropout in and around a recurrent cell, for the cells of any framework.

A framework hands `run` a loop over time with its own cell, and calls the functions in `Hooks`
inside that cell. Rates, keys, time and padding are handled here. A mask is a function of (key,
site, gate, step), and of the position in an array without a time axis. So it depends neither on the
length of the sequence nor on the padding.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import primitives
from jax.sharding import PartitionSpec

from jaxdrop import _checks, masks
from jaxdrop.functional.elements import dropout
from jaxdrop.functional.recurrent import _time
from jaxdrop.functional.recurrent._rates import Family, Rates, is_zero
from jaxdrop.functional.sequences import zoneout

Carry: TypeAlias = Any
Drop: TypeAlias = Callable[[jax.Array, int], jax.Array]


@enum.unique
class Site(enum.IntEnum):
    """Where something is dropped. The number is folded into the key, and must not change."""

    INPUT = 0
    RECURRENT = 1
    CANDIDATE = 2
    OUTPUT = 3
    CELL = 4
    HIDDEN = 5
    WEIGHT = 6
    BACKWARD = 7
    BETWEEN = 8


class Hooks(NamedTuple):
    """The functions that a framework calls inside its cell. One that is None is not called."""

    input: Drop | None
    """`drop(x, gate)`, before each product of the input with a kernel."""
    recurrent: Drop | None
    """`drop(h, gate)`, before each product of the hidden state with a kernel."""
    candidate: Callable[[jax.Array], jax.Array] | None
    """`drop(g)`, after the activation of the candidate, which is added to the memory next."""


Cell: TypeAlias = Callable[[Carry, Any, Hooks], tuple[Carry, Any]]
"""`cell(carry, x, hooks) -> (carry, y)`: one step."""
Body: TypeAlias = Callable[[Cell, Carry, Any], tuple[Carry, Any]]
"""`body(cell, carry, x) -> (carry, y)`: one step of a cell, with dropout around the cell too."""
Policy: TypeAlias = Callable[..., bool]
Loop: TypeAlias = Callable[[Body, Carry, Any, Policy | None], tuple[Carry, Any]]
"""`loop(body, carry, xs, policy) -> (carry, ys)`: a scan with a framework's cell, under
`jax.checkpoint` if it has a policy.
"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The rates, key and options of one run of one recurrent layer."""

    family: Family
    rates: Rates
    key: jax.Array | None
    per_gate: bool
    per_step: bool
    deterministic: bool
    spec: PartitionSpec | None = None
    """The layout of one time step of all sequences, as `spec_of_steps` returns it."""

    def weight(self, kernel: jax.Array, gate: int) -> jax.Array:
        """A gate's recurrent kernel, with weights dropped."""
        return dropout(
            fold(self.key, Site.WEIGHT, gate),
            kernel,
            self.rates.weight_rate,
            deterministic=self.deterministic,
        )

    def drops_weights(self) -> bool:
        """Whether `weight` does anything."""
        return not (self.deterministic or is_zero(self.rates.weight_rate))

    def sequence(self, site: Site, xs: jax.Array, rate: masks.Rate) -> jax.Array:
        """All steps at once; the first axis is time."""
        return over_time(
            fold(self.key, site),
            xs,
            rate,
            locked=not self.per_step,
            deterministic=self.deterministic,
            spec=self.spec,
        )

    def acts_in_steps(self) -> bool:
        """Whether a step differs from the cell's own. In evaluation only zoneout does: it takes the
        expected state.
        """
        states, rates = (self.rates.cell_zoneout, self.rates.hidden_zoneout), self.rates
        inside = (
            rates.recurrent_rate,
            rates.candidate_rate,
            *([rates.input_rate] if self.per_gate else []),
        )
        off = _checks.check_flag(self.deterministic, "deterministic")
        return not all(map(is_zero, states if off else (*states, *inside)))

    def hooks(self, t: jax.Array | int) -> Hooks:
        """The hooks of the cell in step `t`."""
        input_rate = self.rates.input_rate if self.per_gate else 0.0
        candidate = self._drop(Site.CANDIDATE, self.rates.candidate_rate, t)
        return Hooks(
            self._drop(Site.INPUT, input_rate, t),
            self._drop(Site.RECURRENT, self.rates.recurrent_rate, t),
            None if candidate is None else lambda x: candidate(x, 0),
        )

    def _drop(self, site: Site, rate: masks.Rate, t: jax.Array | int) -> Drop | None:
        if self.deterministic or is_zero(rate):
            return None

        def drop(x: jax.Array, gate: int) -> jax.Array:
            key = fold(self.key, site, gate if self.per_gate else 0)
            return dropout(fold(key, t) if self.per_step else key, x, rate, spec=self.spec)

        return drop

    def zoned(self, new: Carry, old: Carry, t: jax.Array | int) -> Carry:
        """The state after zoneout."""
        if not self.family.has_cell:
            return self._zoned(Site.HIDDEN, new, old, self.rates.hidden_zoneout, t)
        return (
            self._zoned(Site.CELL, new[0], old[0], self.rates.cell_zoneout, t),
            self._zoned(Site.HIDDEN, new[1], old[1], self.rates.hidden_zoneout, t),
        )

    def _zoned(
        self, site: Site, new: jax.Array, old: jax.Array, rate: masks.Rate, t: jax.Array | int
    ) -> jax.Array:
        if is_zero(rate):
            return new
        key = fold(self.key, site, t)
        return zoneout(
            key, new, rate, previous=old, deterministic=self.deterministic, spec=self.spec
        )

    def zones(self) -> bool:
        """Whether `zoned` does anything."""
        return not (is_zero(self.rates.cell_zoneout) and is_zero(self.rates.hidden_zoneout))


@jax.named_scope("jaxdrop.RNN")
def run(
    plan: Plan,
    loop: Loop,
    carry: Carry,
    inputs: jax.Array,
    *,
    time_axis: int,
    feature_axes: int = 1,
    lengths: jax.Array | None = None,
    return_carry: bool = True,
    reverse: bool = False,
    keep_order: bool = False,
    variables: Any = None,
) -> tuple[Carry, Any]:
    """Runs a cell over a sequence.

    Args:
      plan: what to drop.
      loop: a framework's loop over time, with its cell.
      carry: the state before the first step.
      inputs: the sequences.
      time_axis: the axis of `inputs` that is time.
      feature_axes: how many of its last axes are features.
      lengths: how many steps of each sequence count. Outputs of later steps have no meaning.
      return_carry: whether the state is used.
      reverse: whether to begin with the last step that counts.
      keep_order: whether outputs of a reversed run are put into the order of the inputs.
      variables: a pytree of the arrays that the cell reads, its parameters for instance. They show
        along which mesh axes the state varies.

    Returns:
      The state after the last step that counts, which is the first state for a sequence of length
      0; and all outputs.
    """
    xs = jnp.moveaxis(inputs, time_axis, 0)
    lengths = (
        None
        if lengths is None
        else _time.checked_lengths(lengths, xs.shape[: xs.ndim - feature_axes])
    )
    xs = _time.flipped(xs, lengths) if reverse else xs
    if not plan.per_gate:
        xs = plan.sequence(Site.INPUT, xs, plan.rates.input_rate)
    counts, selects = plan.acts_in_steps(), return_carry and lengths is not None

    def body(cell: Cell, carry: Carry, at: Any) -> tuple[Carry, Any]:
        x, t = at if counts else (at, 0)
        seen, hooks = carry, plan.hooks(t)
        if hooks.recurrent is not None and plan.family.has_cell and not plan.per_gate:
            # An LSTM reads its hidden state in these products only, and all gates share the mask:
            # dropped once here, in place of before each product.
            seen, hooks = (carry[0], hooks.recurrent(carry[1], 0)), hooks._replace(recurrent=None)
        new, y = cell(seen, x, hooks)
        if plan.zones():
            new = plan.zoned(new, carry, t)
            y = new[1] if plan.family.has_cell else new
        return new, (y, new) if selects else y

    first = _time.first_state(carry, xs, feature_axes, (plan.key, plan.rates, variables))
    at = (xs, jnp.arange(xs.shape[0])) if counts else xs
    last, ys = loop(body, first, at, _is_stored if counts else None)
    if selects and lengths is not None:
        ys, states = ys
        last = _time.last_state(states, first, lengths)
    if not (is_zero(plan.rates.output_rate) or hasattr(ys, "dtype")):
        raise TypeError(
            f"output_rate drops from one array, and the cell puts out a {type(ys).__name__}: pass"
            " output_rate=0."
        )
    ys = plan.sequence(Site.OUTPUT, ys, plan.rates.output_rate)
    ys = jax.tree.map(lambda y: _time.flipped(y, lengths), ys) if reverse and keep_order else ys
    return last, jax.tree.map(lambda y: jnp.moveaxis(y, 0, time_axis), ys)


def directed(key: jax.Array | None, reverse: bool) -> jax.Array | None:
    """The key of one direction."""
    return fold(key, Site.BACKWARD) if reverse else key


STORED = (primitives.dot_general_p, primitives.logistic_p, primitives.tanh_p)


def _is_stored(operation: Any, *_: Any, **__: Any) -> bool:
    """A policy for `jax.checkpoint` of one step: matrix products and activations are stored for
    the backward pass. Masks and cheap arithmetic are computed again.
    """
    return operation in STORED


def over_time(
    key: jax.Array | None,
    xs: jax.Array,
    rate: masks.Rate,
    *,
    locked: bool,
    deterministic: bool,
    time_axis: int = 0,
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Dropout of sequences, with one mask for all steps if `locked`, or else one for each step. The
    masks do not depend on the number of steps.
    """
    if _checks.check_flag(deterministic, "deterministic") or is_zero(rate):
        return xs
    xs = jnp.moveaxis(xs, time_axis, 0)
    dims, whole = (0,) if locked else (), None if spec is None else PartitionSpec(None, *spec)
    return jnp.moveaxis(dropout(key, xs, rate, broadcast_dims=dims, spec=whole), 0, time_axis)


def on_candidate(
    activation: Callable[[jax.Array], jax.Array], drop: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """The activation function of a cell for one step, which drops from the candidate.

    A cell applies it to the candidate first. An LSTM applies it again, to the new memory, which is
    computed from the candidate and can only come later. So the first call drops, and no other does.
    """
    pending = [drop]

    def dropped(x: jax.Array) -> jax.Array:
        y = activation(x)
        return pending.pop()(y) if pending else y

    return dropped


def fold(key: jax.Array | None, *data: int | jax.Array) -> jax.Array | None:
    """The key, with these numbers folded in one after the other; None if there is no key."""
    for number in data:
        key = None if key is None else jax.random.fold_in(key, number)
    return key
