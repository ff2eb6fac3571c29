"""One mask under every layout: eight devices draw what one device draws, each its own part, without
talking.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxdrop
from jaxdrop import masks, random
from tests.catalogue import DROPOUT, KEY, KEYS, RATE, VARIANTS, Variant, each_variant, ramp

P = PartitionSpec
MESHES = {
    "auto": jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2),
    "explicit": jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2),
}
COLLECTIVES = re.compile("all-gather|all-reduce|all-to-all|reduce-scatter|collective")

FIRST_OF_EACH_FILE = [
    *{variant.function.__module__: variant for variant in reversed(VARIANTS)}.values()
]
"""For a property that lies in what the variants of a file share."""

each_mesh = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())


def layouts(ndim: int) -> list[PartitionSpec]:
    """Ways to divide an array of which eight devices can share the first and the last axis."""
    if ndim == 1:
        return [P("a"), P(("b", "a"))]
    between = [None] * (ndim - 2)
    return [P("a", *between, "b"), P(("a", "b")), P(None, *between, ("b", "a"))]


def place(x: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    return jax.device_put(x, NamedSharding(mesh, spec))


@each_variant
@each_mesh
def test_jit_draws_the_same_mask_under_every_layout(variant: Variant, mesh: Mesh) -> None:
    """Explicit axes leave less to the compiler: what automatic ones do for every layout, they do
    for one.
    """
    x = variant.example()
    expected = variant.call(KEY, x, RATE)
    drop = jax.jit(lambda key, x: variant.call(key, x, RATE))
    for spec in layouts(x.ndim)[:1] if mesh is MESHES["explicit"] else layouts(x.ndim):
        placed = place(x, mesh, spec)
        compiled = drop.lower(KEY, placed).compile()
        result = compiled(KEY, placed)
        np.testing.assert_array_equal(result, expected, err_msg=str(spec))
        assert not COLLECTIVES.search(compiled.as_text()), spec
        assert str(list(x.shape)).replace(" ", "") not in compiled.as_text(), (
            f"{spec}: the whole array on one device"
        )
        assert result.sharding.is_equivalent_to(placed.sharding, x.ndim), spec


@pytest.mark.sweep(keep=25)
@each_variant
def test_eager_calls_and_gradients_keep_the_layout(variant: Variant) -> None:
    """Explicit axes ask every operation for its layout, automatic ones ask the compiler."""
    f, x = variant.at(KEY), variant.example()
    expected = pull(f, x)
    meshes = MESHES if variant in FIRST_OF_EACH_FILE else ["explicit"]
    for mesh in (MESHES[name] for name in meshes):
        with jax.set_mesh(mesh):
            placed = place(x, mesh, P("a"))
            found = [*zip(pull(f, placed), expected, strict=True)]
            if variant in FIRST_OF_EACH_FILE:
                found.append((f(placed), expected[0]))
            for result, value in found:
                np.testing.assert_array_equal(result, value)
                assert result.sharding.is_equivalent_to(placed.sharding, x.ndim)


@pytest.mark.sweep(keep=25)
@each_variant
def test_vmap_over_sharded_keys_draws_the_same_masks(variant: Variant) -> None:
    keys, x = jax.random.split(KEY, 8), variant.example()
    sample = jax.jit(jax.vmap(lambda key, x: variant.call(key, x, RATE), in_axes=(0, None)))
    expected = sample(keys, x)
    for mesh in MESHES.values():
        result = sample(place(keys, mesh, P("a")), place(x, mesh, P("b")))
        np.testing.assert_array_equal(result, expected)


@each_variant
def test_shard_map_with_spec_draws_the_whole_mask(variant: Variant) -> None:
    x = variant.example()

    def local(spec: PartitionSpec) -> Callable[[jax.Array], jax.Array]:
        return jax.jit(
            jax.shard_map(
                variant.at(KEY, spec=spec), mesh=MESHES["auto"], in_specs=spec, out_specs=spec
            )
        )

    expected = pull(variant.at(KEY), x)
    first, *_, last = layouts(x.ndim)
    for result, value in zip(pull(local(first), x), expected, strict=True):
        np.testing.assert_array_equal(result, value, err_msg=str(first))
    np.testing.assert_array_equal(local(last)(x), expected[0], err_msg=str(last))


@functools.partial(jax.jit, static_argnums=0)
def pull(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The value, and the gradient of half the sum of its squares."""
    y, vjp = jax.vjp(fn, x)
    return y, vjp(y)[0]


@each_variant
def test_pmap_and_vmap_with_spec_draw_the_whole_mask(variant: Variant) -> None:
    x = variant.example()
    parts, expected = x.reshape(8, -1, *x.shape[1:]), variant.call(KEY, x, RATE)
    # `pmap` is `shard_map` of one axis.
    for mapped in (jax.pmap, jax.vmap) if variant in FIRST_OF_EACH_FILE else (jax.vmap,):
        whole = mapped(variant.at(KEY, spec=P("i")), axis_name="i")(parts)
        np.testing.assert_array_equal(np.reshape(whole, x.shape), expected, err_msg=str(mapped))


@pytest.mark.parametrize("variant", FIRST_OF_EACH_FILE, ids=lambda variant: variant.name)
def test_without_spec_every_shard_draws_the_same_mask(variant: Variant) -> None:
    ones = jnp.ones(variant.shape)
    local = jax.shard_map(variant.at(KEY), mesh=MESHES["auto"], in_specs=P("a"), out_specs=P("a"))
    shards = np.split(np.asarray(jax.jit(local)(ones)), 4)
    for shard in shards[1:]:
        np.testing.assert_array_equal(shard, shards[0])


# -- of dropout alone: how layouts are given


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@each_mesh
def test_partly_manual_meshes(mesh: Mesh, key: jax.Array) -> None:
    """One axis is mapped by hand, the other is left to the compiler."""
    x = DROPOUT.example()
    local = jax.shard_map(
        lambda key, x: jaxdrop.dropout(key, x, RATE, spec=P("a")),
        mesh=mesh,
        in_specs=(P(), P("a")),
        out_specs=P("a"),
        axis_names={"a"},
    )
    np.testing.assert_array_equal(
        jax.jit(local)(key, place(x, mesh, P("a", "b"))), jaxdrop.dropout(key, x, RATE)
    )


@pytest.mark.parametrize(
    "spec", [P("b", "a", None), P(None, ("b", "a")), ("a", None), P(None, None, ("a", "b"))]
)
def test_shard_map_of_three_axes_with_shared_ones(spec: PartitionSpec) -> None:
    """Of a plain tuple too. Shared axes have one mask value, also where they are divided."""
    x = jnp.ones((4, 8, 16))
    for dims in ((), (0,), (1, 2), (0, 1, 2)):
        local = jax.shard_map(
            lambda x, dims=dims: jaxdrop.dropout(KEY, x, RATE, broadcast_dims=dims, spec=spec),
            mesh=MESHES["auto"],
            in_specs=P(*spec),
            out_specs=P(*spec),
        )
        np.testing.assert_array_equal(
            jax.jit(local)(x), jaxdrop.dropout(KEY, x, RATE, broadcast_dims=dims)
        )


def test_shard_map_divides_rates_with_x() -> None:
    x, rates = DROPOUT.example(), jnp.asarray(ramp(16))
    spec = P("a", "b")
    local = jax.shard_map(
        lambda x, rates: jaxdrop.dropout(KEY, x, rates, spec=spec),
        mesh=MESHES["auto"],
        in_specs=(spec, P("b")),
        out_specs=spec,
    )
    np.testing.assert_array_equal(jax.jit(local)(x, rates), jaxdrop.dropout(KEY, x, rates))


def test_fold_in_axes_gives_each_device_a_mask_of_its_own() -> None:
    def local(x: jax.Array) -> jax.Array:
        return jaxdrop.dropout(random.fold_in_axes(KEY, ("a", "b")), x, RATE)

    drop = jax.shard_map(
        local, mesh=MESHES["auto"], in_specs=P(("a", "b")), out_specs=P(("a", "b"))
    )
    masks = np.asarray(jax.jit(drop)(jnp.ones((8, 64))) > 0)
    assert len(np.unique(masks, axis=0)) == 8


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1)])
@each_mesh
def test_broadcast_dims_over_a_sharded_axis(mesh: Mesh, dims: tuple[int, ...]) -> None:
    x = place(DROPOUT.example(), mesh, P("a", "b"))
    expected = jaxdrop.dropout(KEY, DROPOUT.example(), RATE, broadcast_dims=dims)
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(jaxdrop.dropout(KEY, x, RATE, broadcast_dims=dims), expected)
        np.testing.assert_array_equal(
            jaxdrop.nnx.Dropout(RATE, broadcast_dims=dims)(x, rngs=KEY), expected
        )


@pytest.mark.usefixtures("relaxed")
def test_flax_cannot_do_that() -> None:
    """If this fails, Flax has learned it: change the docs."""
    mesh = MESHES["explicit"]
    x = place(DROPOUT.example(), mesh, P("a", "b"))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="sharding"):
        nnx.Dropout(RATE, broadcast_dims=(0,))(x, rngs=KEY)
    with jax.set_mesh(mesh), pytest.raises(Exception, match="sharding"):
        nn.Dropout(RATE, deterministic=False).apply({}, x, rng=KEY)


def test_masks_have_the_layout_of_their_array() -> None:
    mesh = MESHES["explicit"]
    x, threshold = place(DROPOUT.example(), mesh, P("a", "b")), masks.distribution(RATE).threshold
    with jax.set_mesh(mesh):
        assert jax.typeof(masks.keep_mask(KEY, x, threshold)).sharding.spec == P("a", "b")
        assert jax.typeof(
            masks.keep_mask(KEY, x, threshold, broadcast_dims=(0,))
        ).sharding.spec == P(None, "b")


@each_mesh
def test_modules_under_a_mesh(mesh: Mesh) -> None:
    x = DROPOUT.example()
    expected = jaxdrop.dropout(KEY, x, RATE)
    placed, spec = place(x, mesh, P("a", "b")), P("a", "b")
    layer = jaxdrop.nnx.Dropout(RATE)
    linen = jaxdrop.linen.Dropout(RATE, deterministic=False)
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(layer(placed, rngs=KEY), expected)
        np.testing.assert_array_equal(linen.apply({}, placed, rng=KEY), expected)
        local = jax.shard_map(
            lambda x: layer(x, rngs=KEY, spec=spec), in_specs=spec, out_specs=spec
        )
        np.testing.assert_array_equal(jax.jit(local)(placed), expected)
        local = jax.shard_map(
            lambda x: linen.apply({}, x, rng=KEY, spec=spec), in_specs=spec, out_specs=spec
        )
        np.testing.assert_array_equal(jax.jit(local)(placed), expected)


def test_generators_without_random_access_draw_whole_arrays() -> None:
    """Under jit they work sharded too; what they cannot do is a part alone (see test_bad_input)."""
    key = jax.random.key(7, impl="rbg")
    for mesh in MESHES.values():
        x = DROPOUT.example()
        np.testing.assert_array_equal(
            jaxdrop.dropout(key, place(x, mesh, P("a")), RATE), jaxdrop.dropout(key, x, RATE)
        )
