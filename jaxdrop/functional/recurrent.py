"""Dropout around a recurrent cell, whatever framework the cell is of.

A framework gives `run` a function that makes one step with its own cell, and passes on what is to be dropped inside it. This file
decides on rates, keys, time and padding. A mask is a function of (key, site, gate, step) and of the position in an array whose
first axis is not time: it depends neither on the length of the sequence nor on what is padded.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxdrop import masks
from jaxdrop.functional import _arguments
from jaxdrop.functional.elements import dropout
from jaxdrop.functional.sequences import zoneout

Carry: TypeAlias = Any
Drop: TypeAlias = Callable[[jax.Array, int], jax.Array]
Layer: TypeAlias = Callable[[jax.Array, jax.Array | None, dict[str, masks.Rate], Carry | None], tuple[Carry, jax.Array]]
"""`layer(inputs, key, rates, initial_carry) -> (carry, outputs)`: one direction of a layer of a stack."""


class Family(NamedTuple):
    """What cells have in common that compute the same function."""

    name: str
    gates: tuple[str, ...]
    """In the order of the masks' keys, named as in Flax's parameters."""
    has_cell: bool
    """Whether the state is a pair: a cell, and a hidden state."""


LSTM = Family("LSTM", ("i", "f", "g", "o"), has_cell=True)
GRU = Family("GRU", ("r", "z", "n"), has_cell=False)
SIMPLE = Family("simple", ("",), has_cell=False)


def family_of(cell: Any, kinds: Mapping[type, Family]) -> Family:
    """The family of a framework's cell."""
    for kind, family in kinds.items():
        if isinstance(cell, kind):
            return family
    names = ", ".join(kind.__name__ for kind in kinds)
    raise TypeError(f"cell must be one of {names}, got {type(cell).__name__}. Other cells run in Flax's RNN, with LockedDropout.")


class Rates(NamedTuple):
    """The rates of one layer."""

    input_rate: masks.Rate = 0.0
    recurrent_rate: masks.Rate = 0.0
    candidate_rate: masks.Rate = 0.0
    output_rate: masks.Rate = 0.0
    cell_zoneout: masks.Rate = 0.0
    hidden_zoneout: masks.Rate = 0.0
    weight_rate: masks.Rate = 0.0

    @classmethod
    def of(cls, layer: Any) -> Rates:
        """Those of a module that has them as attributes."""
        return cls(*(getattr(layer, name) for name in cls._fields))

    def replaced(self, by: Mapping[str, masks.Rate] | None) -> Rates:
        """These rates, with others in a call. A name that is none is an error."""
        unknown = sorted(set(by or ()) - set(self._fields))
        if unknown:
            raise ValueError(f"rates names {', '.join(unknown)}. There are {', '.join(self._fields)}.")
        return self._replace(**(by or {}))

    def checked(self, family: Family) -> Rates:
        """The rates as `masks.check_number` returns them, if a cell of this family has what they drop."""
        settled = Rates(*(masks.check_number(rate, name, 1) for name, rate in self._asdict().items()))
        if not (_is_zero(self.cell_zoneout) or family.has_cell):
            raise ValueError(f"cell_zoneout={self.cell_zoneout}: a {family.name} cell has one state. Pass hidden_zoneout.")
        if family is SIMPLE and not _is_zero(self.candidate_rate):
            raise ValueError(
                f"candidate_rate={self.candidate_rate}: a simple cell has no memory that a candidate is added to."
                " Pass recurrent_rate or hidden_zoneout."
            )
        return settled

    def act(self, deterministic: bool) -> bool:
        """Whether anything happens. In evaluation it is zoneout that does."""
        active = (self.cell_zoneout, self.hidden_zoneout) if _arguments.is_true(deterministic) else self
        return not all(_is_zero(rate) for rate in active)

    def first_drawn(self, *others: masks.Rate) -> masks.Rate:
        """One of these rates and of others that needs a key, or 0."""
        return next((rate for rate in (*self, *others) if not (_is_zero(rate) or masks.is_number(rate, 1))), 0.0)

    def of_layer(self, layer: int, num_layers: int) -> Rates:
        """Of one layer of a stack: only the first has an input and only the last an output that are the stack's."""
        return self._replace(
            input_rate=self.input_rate if layer == 0 else 0.0,
            output_rate=self.output_rate if layer == num_layers - 1 else 0.0,
        )


class Site(enum.IntEnum):
    """Where something is dropped. The number is folded into the key."""

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
    """What a framework does inside its cell. None: nothing."""

    input: Drop | None
    """`drop(x, gate)`, before each product of the input with a kernel."""
    recurrent: Drop | None
    """The same, before each product of the hidden state."""
    candidate: Callable[[jax.Array], jax.Array] | None
    """After the activation of the candidate."""


Cell: TypeAlias = Callable[[Carry, jax.Array, Hooks], Carry]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one run of one layer drops."""

    family: Family
    rates: Rates
    key: jax.Array | None
    per_gate: bool
    per_step: bool
    deterministic: bool
    spec: PartitionSpec | None = None
    """The layout of what a step has of all sequences, as `spec_of_steps` returns it."""

    def weight(self, kernel: jax.Array, gate: int) -> jax.Array:
        """A gate's recurrent kernel, with weights dropped."""
        return dropout(fold(self.key, Site.WEIGHT, gate), kernel, self.rates.weight_rate, deterministic=self.deterministic)

    def drops_weights(self) -> bool:
        """Whether `weight` does anything."""
        return not (self.deterministic or _is_zero(self.rates.weight_rate))

    def sequence(self, site: Site, xs: jax.Array, rate: masks.Rate) -> jax.Array:
        """All steps at once; the first axis is time."""
        return over_time(
            fold(self.key, site), xs, rate, locked=not self.per_step, deterministic=self.deterministic, spec=self.spec
        )

    def hooks(self, t: jax.Array) -> Hooks:
        """What the cell drops inside itself in step `t`."""
        input_rate = self.rates.input_rate if self.per_gate else 0.0
        candidate = self._drop(Site.CANDIDATE, self.rates.candidate_rate, t)
        return Hooks(
            self._drop(Site.INPUT, input_rate, t),
            self._drop(Site.RECURRENT, self.rates.recurrent_rate, t),
            None if candidate is None else lambda x: candidate(x, 0),
        )

    def _drop(self, site: Site, rate: masks.Rate, t: jax.Array) -> Drop | None:
        if self.deterministic or _is_zero(rate):
            return None

        def drop(x: jax.Array, gate: int) -> jax.Array:
            key = fold(self.key, site, gate if self.per_gate else 0)
            return dropout(fold(key, t) if self.per_step else key, x, rate, spec=self.spec)

        return drop

    def zoned(self, new: Carry, old: Carry, t: jax.Array) -> Carry:
        """The state after zoneout."""
        if not self.family.has_cell:
            return self._zoned(Site.HIDDEN, new, old, self.rates.hidden_zoneout, t)
        return (
            self._zoned(Site.CELL, new[0], old[0], self.rates.cell_zoneout, t),
            self._zoned(Site.HIDDEN, new[1], old[1], self.rates.hidden_zoneout, t),
        )

    def _zoned(self, site: Site, new: jax.Array, old: jax.Array, rate: masks.Rate, t: jax.Array) -> jax.Array:
        if _is_zero(rate):
            return new
        key = fold(self.key, site, t)
        return zoneout(key, new, rate, previous=old, deterministic=self.deterministic, spec=self.spec)


@jax.named_scope("jaxdrop.RNN")
def run(
    plan: Plan,
    cell: Cell,
    carry: Carry,
    inputs: jax.Array,
    *,
    time_axis: int,
    lengths: jax.Array | None = None,
    reverse: bool = False,
    keep_order: bool = False,
    unroll: int = 1,
) -> tuple[Carry, jax.Array]:
    """Runs a cell over a sequence.

    Args:
      plan: what to drop.
      cell: makes one step, `cell(carry, x, hooks) -> carry`.
      carry: the state before the first step.
      inputs: the sequences.
      time_axis: the axis of `inputs` that is time.
      lengths: how many steps of each sequence count. Later ones leave its state, which is its output there, as it is.
      reverse: whether to begin with the last step that counts.
      keep_order: whether outputs of a reversed run are put into the order of the inputs.
      unroll: steps in one iteration of the loop.

    Returns:
      The state after the last step that counts, and all outputs.
    """
    xs = jnp.moveaxis(inputs, time_axis, 0)
    lengths = None if lengths is None else _lengths(lengths, xs)
    xs = flipped(xs, lengths) if reverse else xs
    if not plan.per_gate:
        xs = plan.sequence(Site.INPUT, xs, plan.rates.input_rate)

    def step(carry: Carry, at: tuple[jax.Array, jax.Array]) -> tuple[Carry, jax.Array]:
        x, t = at
        seen, hooks = carry, plan.hooks(t)
        if hooks.recurrent is not None and plan.family.has_cell and not plan.per_gate:
            # The products are all that an LSTM needs its hidden state for.
            seen, hooks = (carry[0], hooks.recurrent(carry[1], 0)), hooks._replace(recurrent=None)
        new = plan.zoned(cell(seen, x, hooks), carry, t)
        if lengths is not None:
            new = jax.tree.map(lambda after, before: jnp.where(_like(t < lengths, after), after, before), new, carry)
        return new, new[1] if plan.family.has_cell else new

    # Inside `shard_map` the loop asks for a state that varies over devices as the inputs do; zeros like the inputs do that.
    carry = jax.tree.map(lambda state: state + jnp.zeros_like(xs, shape=(), dtype=state.dtype), carry)
    step = jax.checkpoint(step, policy=_costly, prevent_cse=False)
    carry, ys = lax.scan(step, carry, (xs, jnp.arange(xs.shape[0], dtype=jnp.int32)), unroll=unroll)
    ys = plan.sequence(Site.OUTPUT, ys, plan.rates.output_rate)
    ys = flipped(ys, lengths) if reverse and keep_order else ys
    return carry, jnp.moveaxis(ys, 0, time_axis)


def check_between(rate: masks.Rate, num_layers: int) -> masks.Rate:
    """The rate between the layers of a stack as `masks.check_number` returns it, if there are two of them."""
    num_layers = _arguments.count("num_layers", num_layers)
    rate = masks.check_number(rate, "dropout", 1)
    if num_layers == 1 and not _is_zero(rate):
        raise ValueError(
            f"dropout={rate} acts between layers, and there is one layer. Pass output_rate={rate} for its output,"
            " input_rate for its input, or num_layers=2."
        )
    return rate


@jax.named_scope("jaxdrop.StackedRNN")
def stack(
    layers: Sequence[Sequence[Layer]],
    key: jax.Array | None,
    rates: Rates,
    between: masks.Rate,
    inputs: jax.Array,
    *,
    initial_carry: Sequence[Sequence[Carry]] | None,
    time_axis: int,
    locked: bool,
    deterministic: bool,
    spec: PartitionSpec | None = None,
) -> tuple[tuple[tuple[Carry, ...], ...], jax.Array]:
    """Runs layers, of one or two directions each, one after the other.

    Returns:
      The states of the directions of the layers, and the outputs of the last layer.
    """
    carries = []
    for number, directions in enumerate(layers):
        own, key_here = rates.of_layer(number, len(layers)), fold(key, number)
        if number > 0:
            inputs = over_time(
                fold(key_here, Site.BETWEEN),
                inputs,
                between,
                locked=locked,
                deterministic=deterministic,
                time_axis=time_axis,
                spec=spec_of_steps(spec, inputs.ndim, time_axis),
            )
        starts = [None] * len(directions) if initial_carry is None else initial_carry[number]
        runs = [layer(inputs, key_here, own._asdict(), start) for layer, start in zip(directions, starts, strict=True)]
        carries.append(tuple(carry for carry, _ in runs))
        inputs = jnp.concatenate([outputs for _, outputs in runs], axis=-1) if len(runs) > 1 else runs[0][1]
    return tuple(carries), inputs


def directed(key: jax.Array | None, reverse: bool) -> jax.Array | None:
    """The key of one direction."""
    return fold(key, Site.BACKWARD) if reverse else key


def _costly(operation: Any, *_: Any, **__: Any) -> bool:
    """What is stored of a step: products and activations. The rest, and what is dropped, is formed again in the backward pass."""
    return operation.name in ("dot_general", "logistic", "tanh")


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
    """Dropout of sequences, with one mask for all steps or one for each, which do not depend on how many steps there are."""
    if _arguments.is_true(deterministic) or _is_zero(rate):
        return xs
    xs = jnp.moveaxis(xs, time_axis, 0)
    dims, whole = (0,) if locked else (), None if spec is None else PartitionSpec(None, *spec)
    return jnp.moveaxis(dropout(key, xs, rate, broadcast_dims=dims, spec=whole), 0, time_axis)


def spec_of_steps(spec: PartitionSpec | None, ndim: int, time_axis: int) -> PartitionSpec | None:
    """The layout of one step of all sequences, from that of the sequences."""
    spec = masks.check_spec(spec, ndim)
    if spec is None:
        return None
    entries = [*spec, *[None] * (ndim - len(spec))]
    if entries.pop(time_axis) or entries[-1]:
        raise ValueError(f"spec={spec} divides time or features: a step needs the one before it, and all features of it.")
    return PartitionSpec(*entries)


def on_candidate(
    activation: Callable[[jax.Array], jax.Array], drop: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """An activation for one step of a cell. The first call is the candidate's: the state that another is of depends on it."""
    pending = [drop]

    def dropped(x: jax.Array) -> jax.Array:
        y = activation(x)
        return pending.pop()(y) if pending else y

    return dropped


def flipped(xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Sequences from their last step to their first. The first axis is time; padding stays behind."""
    if lengths is None:
        return jnp.flip(xs, 0)
    steps = jnp.arange(xs.shape[0] - 1, -1, -1, dtype=lengths.dtype)
    order = (lax.expand_dims(steps, range(1, 1 + lengths.ndim)) + lengths[None]) % xs.shape[0]
    return jnp.take_along_axis(xs, lax.expand_dims(order, range(order.ndim, xs.ndim)), axis=0)


def fold(key: jax.Array | None, *data: int | jax.Array) -> jax.Array | None:
    """`jax.random.fold_in` one after the other; of no key, no key."""
    for number in data:
        key = None if key is None else jax.random.fold_in(key, number)
    return key


def _lengths(lengths: jax.Array, xs: jax.Array) -> jax.Array:
    lengths = _arguments.array(lengths, "recurrent.run", "seq_lengths")
    if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.shape != xs.shape[1:-1]:
        raise ValueError(
            f"seq_lengths must be integers, one for each of the sequences, of shape {xs.shape[1:-1]}, got"
            f" {lengths.dtype}{list(lengths.shape)}."
        )
    return jnp.asarray(lengths).astype(jnp.int32)


def _like(valid: jax.Array, x: jax.Array) -> jax.Array:
    return lax.expand_dims(valid, range(valid.ndim, x.ndim))


def _is_zero(rate: masks.Rate) -> bool:
    return masks.is_number(rate, 0)
