"""Dropout, attention and a training step, traced for the devices of a mesh."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Traced

from benchmarks import _peers, training
from benchmarks.attention import attentions
from training import layouts, parallel, steps


def core(mesh: Mesh) -> Iterator[tuple[str, str, Traced]]:
    """One call over an array of 16384 x 4096 that is divided along both axes: a case, the way to
    drop, and its program.
    """
    divided = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    passes: tuple[tuple[str, int, Callable[[Any], Any]], ...] = (
        ("forward", 1, lambda drop: drop),
        ("forward + backward", 2, _peers.with_gradient),
    )
    for dtype, (title, arrays, build) in itertools.product((jnp.bfloat16, jnp.float32), passes):
        values = [jax.ShapeDtypeStruct((16384, 4096), dtype, sharding=divided)] * arrays
        for name, peer in _peers.peers().items():
            single = jax.eval_shape(lambda keys=peer.keys: keys(2)[1])
            key = _everywhere(single, mesh)
            case = f"{title}, {jnp.dtype(dtype).name}"
            yield case, name, jax.jit(build(peer.drop)).trace(key, *values)


def attention(mesh: Mesh) -> Iterator[tuple[str, Traced]]:
    """Forward and backward over 4096 tokens of 8 examples with 16 heads of 64 in bfloat16, divided
    by example and head.
    """
    divided = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0], None, mesh.axis_names[1]))
    arrays = [jax.ShapeDtypeStruct((8, 4096, 16, 64), jnp.bfloat16, sharding=divided)] * 4
    for name, (attend, key) in attentions().items():
        program = jax.jit(_peers.with_gradient(attend))
        yield name, program.trace(_everywhere(key, mesh), *arrays)


def training_step(shape: training.Shape, name: str, mesh: Mesh) -> Traced:
    """The training step in bfloat16 with that dropout, on the mesh of `scripts/train.py`."""
    candidate = training.candidates(shape, jnp.bfloat16)[name]
    given = jax.eval_shape(candidate.start)
    # The moments of Adam have the names of the parameters, and so their layout; the key and
    # counters have none.
    shardings = layouts.layout(given, mesh)
    tokens = jax.ShapeDtypeStruct(
        (shape.batch, shape.length + 1),
        jnp.int32,
        sharding=NamedSharding(mesh, PartitionSpec(parallel.BATCH)),
    )
    results = (*shardings[1:], layouts.replicated(mesh))
    program = jax.jit(candidate.run, out_shardings=results)
    with jax.set_mesh(mesh), linen.logical_axis_rules(layouts.RULES):
        return program.trace(*steps.with_layout(given, shardings), tokens)


def _everywhere(tree: Any, mesh: Mesh) -> Any:
    """The tree, whole on every device."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree)
