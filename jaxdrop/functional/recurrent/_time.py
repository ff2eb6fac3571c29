"""Sequences: the time axis, their lengths, their order, and the states before the first and after
the last step.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdrop import _checks

Carry: TypeAlias = Any


def time_axis_of(inputs: jax.Array, time_major: bool, feature_axes: int) -> int:
    """The axis of the sequences that is time."""
    ndim = jnp.ndim(inputs)
    if ndim <= feature_axes:
        features = "features" if feature_axes == 1 else f"{feature_axes} axes of features"
        raise ValueError(
            f"inputs must have an axis of time and {features}, got shape {jnp.shape(inputs)}."
        )
    return 0 if time_major else ndim - feature_axes - 1


def spec_of_steps(
    spec: PartitionSpec | None, ndim: int, time_axis: int, feature_axes: int
) -> PartitionSpec | None:
    """The layout of one step of all sequences, from that of the sequences."""
    spec = _checks.check_spec(spec, ndim)
    if spec is None:
        return None
    entries = [*spec, *[None] * (ndim - len(spec))]
    if entries.pop(time_axis) or any(entries[len(entries) - feature_axes :]):
        raise ValueError(
            f"spec={spec} divides time or features: a step needs the one before it, and all"
            " features of it."
        )
    return PartitionSpec(*entries)


def checked_lengths(lengths: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The lengths of sequences as int32, one for each. `shape` is (time, *batch)."""
    lengths = _checks.check_array(lengths, "seq_lengths", "integers", "RNN")
    if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.shape != shape[1:]:
        raise ValueError(
            "seq_lengths must be integers, one for each of the sequences of inputs, of shape"
            f" {shape[1:]}, got {lengths.dtype}{list(lengths.shape)}."
        )
    if not isinstance(lengths, jax.core.Tracer):
        outside = [
            length for length in np.asarray(lengths).ravel().tolist() if not 0 <= length <= shape[0]
        ]
        if outside:
            raise ValueError(
                f"seq_lengths must lie in [0, {shape[0]}], the number of steps of inputs, got"
                f" {outside[0]}."
            )
    return jnp.asarray(lengths).astype(jnp.int32)


def flipped(xs: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Sequences from their last step to their first. The first axis is time; padding stays at the
    end.
    """
    if lengths is None:
        return jnp.flip(xs, 0)
    steps = jnp.arange(xs.shape[0] - 1, -1, -1, dtype=lengths.dtype)
    order = (lax.expand_dims(steps, range(1, 1 + lengths.ndim)) + lengths[None]) % xs.shape[0]
    return jnp.take_along_axis(xs, lax.expand_dims(order, range(order.ndim, xs.ndim)), axis=0)


def first_state(carry: Carry, xs: jax.Array, feature_axes: int, others: Any) -> Carry:
    """The state before the first step, with the type of the later states: a scan needs one type for
    all.

    Inside `shard_map` a later state varies over the devices over which the sequences, the keys or
    the weights vary. On a mesh with explicit axes it is divided as the sequences are.
    """
    sharding, batch = jax.typeof(xs).sharding, xs.shape[1 : xs.ndim - feature_axes]
    varying = [xs, *jax.tree.leaves(others)] if jax.sharding.get_abstract_mesh().manual_axes else []

    def typed(state: jax.Array) -> jax.Array:
        for other in varying:  # a sum with a zero of `other` varies over the devices of `other` too
            data = (
                jax.random.key_data(other)
                if jnp.issubdtype(jnp.result_type(other), jax.dtypes.prng_key)
                else other
            )
            state = state + jnp.zeros_like(data, shape=(), dtype=state.dtype)
        divided = any(jax.typeof(state).sharding.spec)
        if (
            AxisType.Explicit in sharding.mesh.axis_types
            and not divided
            and state.shape[: len(batch)] == batch
        ):
            spec = PartitionSpec(
                *sharding.spec[1 : 1 + len(batch)], *[None] * (state.ndim - len(batch))
            )
            state = jax.sharding.reshard(state, NamedSharding(sharding.mesh, spec))
        return state

    return jax.tree.map(typed, carry)


def last_state(states: Carry, first: Carry, lengths: jax.Array) -> Carry:
    """The state after the last step that counts, picked from the states after all steps."""

    def of(all_steps: jax.Array, start: jax.Array) -> jax.Array:
        if not all_steps.shape[0]:
            return start
        at = lax.expand_dims(
            jnp.maximum(lengths - 1, 0), (0, *range(1 + lengths.ndim, all_steps.ndim))
        )
        return jnp.where(
            _like(lengths > 0, start), jnp.take_along_axis(all_steps, at, axis=0)[0], start
        )

    return jax.tree.map(of, states, first)


def _like(valid: jax.Array, x: jax.Array) -> jax.Array:
    return lax.expand_dims(valid, range(valid.ndim, x.ndim))
