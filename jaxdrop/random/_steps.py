"""The key of a training step, as a function of the step. No generator has a state that a training
loop would carry and save.

A run that is stopped and resumed draws the masks of a run that was not stopped, on the same mesh or
on another one:

    key = jaxdrop.step_key(jaxdrop.key(seed), step)

=============================  =====================================================================
where                          what to do
=============================  =====================================================================
NNX                            `model(x, rngs=nnx.Rngs(key))`, of layers that were made without
                               `rngs`
Linen                          `model.apply(params, x, rngs={"dropout": key})`
gradient accumulation          `step_key(key, step, micro_batch=i)` within the loop over
                               micro-batches
`jit`, whatever the mesh       nothing: an array is the whole array, and each device computes its
                               own part of the mask
`shard_map`, `pmap`            `spec=PartitionSpec(...)` for the layers, and the same key on all
                               devices: the masks of `jit`
masks that differ from one     `step_key(key, step, replica=i)`, such as
replica to the next            `replica=jax.lax.axis_index("data")`
remat                          nothing: the backward pass computes masks again from the same key
scan over layers               `jax.random.split(key, layers)`, and scan over the keys
=============================  =====================================================================
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxdrop import _checks
from jaxdrop.random._words import WORD

# Far from the small numbers that nnx.Rngs and Linen's make_rng fold into the same key.
_DOMAINS = {
    name: int.from_bytes(name[:4].encode(), "big") for name in ("step", "micro_batch", "replica")
}


@_checks.hinted
def step_key(
    key: jax.Array,
    step: int | jax.Array,
    *,
    micro_batch: int | jax.Array | None = None,
    replica: int | jax.Array | None = None,
) -> jax.Array:
    """`fold_in(fold_in(key, name), index)` for each of `step`, `micro_batch` and `replica` that is
    given, in this order.

    The names keep the parts apart: micro-batch 1 of a step has nothing in common with replica 1 of
    that step, nor with the step itself, nor with the keys that Flax derives from `key`. Keys that
    differ in any part coincide as often as random ones of 64 bits do.

    Micro-batches whose gradients are accumulated draw other masks than one large batch would: each
    micro-batch has a key of its own.

    Args:
      key: a single key of any kind, such as `jaxdrop.key(seed)`.
      step: the number of steps taken so far, from 0 on; may be traced, as may the others.
      micro_batch: which part of the step's batch, from 0 on.
      replica: which copy of the model, for copies that are to draw masks of their own. The masks
        then depend on the number of devices. Leave it out if arrays are merely divided among
        devices, as in data-parallel training: under `jit` each device computes its part of the
        mask, and in `shard_map` and `pmap` the functions do so if they are given `spec`.

    Returns:
      A key of the same kind.

    Raises:
      TypeError: no key, or an index that is no integer scalar.
      ValueError: no key, an array of keys, or an index outside [0, 2**32). A traced index is
        checked under `checkify` only: a negative one counts modulo 2**32.
    """
    key = _checks.check_key(key, "step_key", always=True)
    for name, index in (("step", step), ("micro_batch", micro_batch), ("replica", replica)):
        if index is not None or name == "step":
            key = jax.random.fold_in(jax.random.fold_in(key, _DOMAINS[name]), _index(name, index))
    return key


def _index(name: str, value: Any) -> jax.Array:
    """An index as the uint32 that `fold_in` takes."""
    index = _checks.check_integer_or_array(value, name, " counted from 0")
    if isinstance(index, jax.core.Tracer):
        inside = (index >= 0) & (index.astype(jnp.uint32).astype(index.dtype) == index)
        checkify.debug_check(inside, f"{name} must be in [0, 2**32), got {{value}}", value=index)
        return index.astype(jnp.uint32)
    if not 0 <= int(index) < WORD:
        raise ValueError(f"{name} must be in [0, 2**32), got {int(index)}")
    return jnp.uint32(int(index))
