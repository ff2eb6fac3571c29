"""Dropout, attention and a training step, traced for the devices of a mesh."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Traced

import jaxdrop
from benchmarks import _peers, training
from benchmarks._chains import chains
from benchmarks.attention import attentions
from benchmarks.core.compilation import Model, layers_and_keys
from training import layouts, parallel, steps

_DTYPES = (jnp.bfloat16, jnp.float32)


def core(
    mesh: Mesh, shape: tuple[int, int] = (16384, 4096), dtypes: Sequence[Any] = _DTYPES
) -> Iterator[tuple[str, str, Traced]]:
    """One call over an array, of 16384 x 4096 by default, that is divided along both axes: a case,
    the way to drop, and its program.
    """
    divided = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    passes: tuple[tuple[str, int, Callable[[Any], Any]], ...] = (
        ("forward", 1, lambda drop: drop),
        ("forward + backward", 2, _peers.with_gradient),
    )
    for dtype, (title, arrays, build) in itertools.product(dtypes, passes):
        values = [jax.ShapeDtypeStruct(shape, dtype, sharding=divided)] * arrays
        for name, peer in _peers.peers().items():
            single = jax.eval_shape(lambda keys=peer.keys: keys(2)[1])
            key = _everywhere(single, mesh)
            case = f"{title}, {jnp.dtype(dtype).name}"
            yield case, name, jax.jit(build(peer.drop)).trace(key, *values)


def attention(
    mesh: Mesh, shape: tuple[int, ...] = (8, 4096, 16, 64), names: Sequence[str] | None = None
) -> Iterator[tuple[str, Traced]]:
    """Forward and backward, over 4096 tokens of 8 examples with 16 heads of 64 by default, in
    bfloat16, divided by example and head; the ways to attend of these names, or all.
    """
    divided = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0], None, mesh.axis_names[1]))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=divided)] * 4
    ways = attentions()
    for name in names or ways:
        attend, key = ways[name]
        program = jax.jit(_peers.with_gradient(attend))
        with jax.set_mesh(mesh):  # says what the blocks are for
            traced = program.trace(_everywhere(key, mesh), *arrays)
        yield name, traced


def neighbors(
    mesh: Mesh, shape: tuple[int, int] = (16384, 4096)
) -> Iterator[tuple[str, str, Traced]]:
    """Dropout with its neighbors, forward and backward, in bfloat16, divided by rows: a chain, how
    it drops, and its program.
    """
    divided = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=divided)] * 3
    key = _everywhere(jax.eval_shape(lambda: jaxdrop.key(0)), mesh)
    for name, chain in chains(shape[1]).items():
        program = jax.jit(_peers.with_gradient(chain))
        yield name, "no dropout", program.trace(None, *arrays)
        yield name, _peers.OWN_KEY, program.trace(key, *arrays)


def sites(mesh: Mesh, count: int, names: Sequence[str]) -> Iterator[tuple[str, Traced]]:
    """The gradient of so many times dense 1024, gelu and dropout in bfloat16, of 16 rows a device;
    parameters are whole on every device.
    """
    divided = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    x = jax.ShapeDtypeStruct((16 * mesh.size, 1024), jnp.bfloat16, sharding=divided)
    contestants = layers_and_keys()
    model = Model(count, None)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    for name in names:
        dropout, key = contestants[name]
        model = Model(count, dropout)

        def loss(params: Any, x: jax.Array, key: jax.Array, model: Any = model) -> jax.Array:
            half = jax.tree.map(lambda leaf: leaf.astype(x.dtype), params)
            return model.apply(half, x, rngs={"dropout": key})

        program = jax.jit(jax.grad(loss))
        yield name, program.trace(_everywhere(params, mesh), x, _everywhere(key, mesh))


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
