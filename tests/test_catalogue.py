"""Properties of every variant."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax
from jax.sharding import PartitionSpec

import jaxdrop
from jaxdrop._references import references_of
from tests import statistics
from tests.catalogue import (
    AMOUNTS,
    KEY,
    KEYS,
    RATE,
    VARIANTS,
    Variant,
    each_variant,
    groups_of_variants,
    named,
)
from tests.compilation import quick

SAMPLES = 2
DTYPES = ["float32", "bfloat16", "float16", "complex64", "float8_e4m3fn", "float8_e5m2"]

each_key = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())


def batch_of_keys(key: jax.Array, samples: int = SAMPLES) -> jax.Array:
    return jax.random.split(key, samples)


# -- transformations


@each_variant
def test_jit_equals_eager(variant: Variant) -> None:
    x = variant.example()
    jitted = jax.jit(lambda x: [variant.call(key, x, RATE) for key in KEYS.values()])(x)
    for key, y in zip(KEYS.values(), jitted, strict=True):
        np.testing.assert_array_equal(y, variant.call(key, x, RATE))


@each_variant
def test_vmap_over_keys_equals_a_loop(variant: Variant) -> None:
    x = variant.example()
    # So many that one coin falls on both sides.
    batches = [batch_of_keys(key, 24) for key in KEYS.values()]
    mapped = jax.jit(jax.vmap(lambda *keys: [variant.call(key, x, RATE) for key in keys]))
    for keys, together in zip(batches, mapped(*batches), strict=True):
        loop = np.stack([variant.call(key, x, RATE) for key in keys])
        np.testing.assert_array_equal(together, loop)
        assert np.any(np.diff(together, axis=0))


@each_variant
def test_scan_and_remat_equal_a_loop(variant: Variant) -> None:
    """In value and gradient, to rounding: XLA may round one site's product and the next one's sum
    together. The scan computes its steps again, as the gradient needs them.
    """
    keys, x = batch_of_keys(KEY), variant.example()

    def loop(x: jax.Array) -> jax.Array:
        for index in range(SAMPLES):
            x = variant.call(keys[index], x, RATE)
        return x

    def scan(x: jax.Array) -> jax.Array:
        step = jax.checkpoint(lambda carry, key: (variant.call(key, carry, RATE), None))
        return lax.scan(step, x, keys)[0]

    def value_and_gradient(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> Any:
        y, vjp = jax.vjp(f, x)
        return y, vjp(x)[0]

    @jax.jit
    def all_of_them(x: jax.Array) -> Any:
        return [value_and_gradient(f, x) for f in (loop, scan)]

    expected, found = all_of_them(x)
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("frozen_heap")
@each_variant
def test_no_tracer_leaks(variant: Variant) -> None:
    def loss(rate: jax.Array, key: jax.Array, x: jax.Array) -> jax.Array:
        return variant.call(key, x, rate).sum()

    keys, x = batch_of_keys(KEY), variant.example()
    with jax.checking_leaks():
        jax.eval_shape(jax.vmap(jax.grad(loss, argnums=2), in_axes=(None, 0, None)), RATE, keys, x)


@each_variant
def test_profiles_show_its_name(variant: Variant) -> None:
    lowered = jax.jit(variant.at(KEY)).lower(variant.example())
    assert f"jaxdrop.{variant.function.__name__}" in lowered.as_text(debug_info=True)


@groups_of_variants
def test_export_with_a_symbolic_batch(variants: list[Variant]) -> None:
    """The values of the known batch. An even length: a block of quant_noise is two rows."""
    scope = export.SymbolicScope()
    batches = [export.symbolic_shape(f"2*b{at}", scope=scope) for at in range(len(variants))]

    def call(seed: jax.Array, xs: list[jax.Array]) -> list[jax.Array]:
        return [
            named(variant, variant.call, jaxdrop.key(seed), x, RATE)
            for variant, x in zip(variants, xs, strict=True)
        ]

    xs = [variant.example() for variant in variants]
    symbolic = [
        jax.ShapeDtypeStruct((*batch, *x.shape[1:]), x.dtype)
        for batch, x in zip(batches, xs, strict=True)
    ]
    exported = export.export(jax.jit(call))(jax.ShapeDtypeStruct((), jnp.uint32), symbolic)
    for variant, found, expected in zip(
        variants, quick(exported.call)(jnp.uint32(7), xs), quick(call)(7, xs), strict=True
    ):
        np.testing.assert_array_equal(found == 0, expected == 0, err_msg=variant.name)
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=variant.name)


# -- derivatives


@each_variant
def test_derivatives_of_a_linear_map(variant: Variant) -> None:
    """With the key given, y = J x: all derivatives follow from J, and J from differences."""
    f = variant.at(KEY)
    x = variant.example()
    u, v = np.sin(x), np.cos(np.float32(3) * x)

    def energy(x: jax.Array) -> jax.Array:
        return (f(x) ** 2).sum() / 2

    @jax.jit
    def derivatives(x: jax.Array) -> dict[str, jax.Array]:
        jvp, jvp_of_jvp = jax.jvp(lambda x: jax.jvp(f, (x,), (v,))[1], (x,), (u,))
        gradient, hessian_vector = jax.jvp(jax.grad(energy), (x,), (v,))
        return {
            "value": f(x),
            "forward": jax.jacfwd(f)(x).reshape(x.size, x.size),
            "reverse": jax.jacrev(f)(x).reshape(x.size, x.size),
            "difference": f(x + v) - f(x),
            "jvp": jvp,
            "jvp of jvp": jvp_of_jvp,
            "gradient": gradient,
            "hessian-vector": hessian_vector,
        }

    found = {name: np.asarray(value, np.float64) for name, value in derivatives(x).items()}
    jacobian, right = found["forward"], np.asarray(v, np.float64).ravel()
    expected = {
        "reverse": jacobian,
        "difference": jacobian @ right,
        "jvp": jacobian @ right,
        "gradient": found["value"].ravel() @ jacobian,
        "jvp of jvp": np.zeros_like(right),
        "hessian-vector": jacobian.T @ jacobian @ right,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name].reshape(value.shape), value, rtol=2e-6, atol=1e-6, err_msg=name
        )


@each_variant
def test_rate_gets_no_gradient(variant: Variant) -> None:
    value, gradient = jax.jit(
        jax.value_and_grad(lambda rate: variant.call(KEY, variant.example(), rate).sum())
    )(RATE)
    assert value != 0
    assert gradient == 0


@each_variant
def test_dropped_values_do_not_leak(variant: Variant) -> None:
    """NaN and infinities at dropped positions give 0: values, tangents and cotangents."""
    f, x = variant.at(KEY), variant.example()
    dropped = np.asarray(f(x)) == 0
    for bad in (np.nan, np.inf, -np.inf):
        poison = np.where(dropped, np.float32(bad), x)
        for result in value_tangent_cotangent(f, poison):
            np.testing.assert_array_equal(np.asarray(result) == 0, dropped, err_msg=str(bad))
            assert np.all(np.isfinite(result)), bad


@functools.partial(jax.jit, static_argnums=0)
def value_tangent_cotangent(f: Callable[[jax.Array], jax.Array], x: Any) -> tuple[jax.Array, ...]:
    """With x itself as tangent and as cotangent."""
    value, tangent = jax.jvp(f, (x,), (x,))
    return value, tangent, jax.vjp(f, x)[1](x)[0]


# -- what it costs


@each_variant
@pytest.mark.parametrize("scanned", [False, True], ids=["plain", "scan"])
def test_nothing_of_the_size_of_x_is_stored(variant: Variant, scanned: bool) -> None:
    """What the backward pass gets, keys and rates at most, is the same for a batch of twice the
    size.
    """

    def through(x: jax.Array) -> jax.Array:
        if not scanned:
            return variant.call(KEY, x, RATE)
        return lax.scan(
            lambda carry, key: (variant.call(key, carry, RATE), None), x, batch_of_keys(KEY)
        )[0]

    def stored(*lead: int) -> list[tuple[tuple[int, ...], Any]]:
        x = jnp.ones((*lead, *variant.shape[1:]), jnp.float32)
        return [
            (leaf.shape, leaf.dtype)
            for leaf in jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(through, x)[1], x))
        ]

    length = variant.shape[0]
    assert stored(2 * length) == stored(length)


@each_variant
def test_a_mask_chooses_from_the_narrow_cotangent(variant: Variant) -> None:
    """Not from a cotangent that is widened before: what XLA for GPUs makes of that, `masks.scaled`
    tells.
    """
    x = jnp.ones(variant.shape, jnp.bfloat16)

    def call(x: jax.Array) -> jax.Array:
        return variant.call(KEY, x, RATE)

    def wide_choices(fn: Callable[..., Any]) -> int:
        shape = ",".join(map(str, x.shape))
        return len(re.findall(rf"f32\[{shape}\] = select_n", str(jax.make_jaxpr(fn)(x))))

    assert wide_choices(lambda x: jax.vjp(call, x)[1](x)) <= wide_choices(call)


@each_variant
def test_forward_pass_needs_no_memory(variant: Variant) -> None:
    """But for a mask of which an entry serves eight or more of x: it may be formed once, in 4 bytes
    an entry.
    """
    x = jax.ShapeDtypeStruct(variant.large, jnp.float32)
    coins = np.unique(variant.law.units(variant.large)).size
    mask = 4 * coins if 8 * coins <= x.size else 0
    for name, key in KEYS.items():
        compiled = jax.jit(lambda key, x: variant.call(key, x, RATE)).lower(key, x).compile()
        assert compiled.memory_analysis().temp_size_in_bytes <= 2**16 + mask, name


# -- rates


@each_variant
@pytest.mark.parametrize("rate", [0, 0.0, np.float32(0)])
def test_rate_zero_is_no_operation(variant: Variant, rate: float) -> None:
    assert_no_operation(variant, lambda x: variant.call(None, x, rate))


@each_variant
@pytest.mark.parametrize("deterministic", [True, np.True_])
def test_deterministic_is_no_operation(variant: Variant, deterministic: bool) -> None:
    assert_no_operation(variant, lambda x: variant.call(None, x, RATE, deterministic=deterministic))


def assert_no_operation(variant: Variant, f: Callable[[jax.Array], jax.Array]) -> None:
    x = variant.example()
    assert f(x) is x
    for wrap in (lambda f: f, lambda f: jax.grad(lambda x: (f(x) ** 2).sum())):
        assert str(jax.make_jaxpr(wrap(f))(x)) == str(jax.make_jaxpr(wrap(lambda x: x))(x))


@each_variant
def test_rate_one_gives_zeros(variant: Variant) -> None:
    """And zero gradients, whatever x holds, of a known rate and of a traced one."""
    x = np.array(variant.example())
    x[0], x[1] = np.inf, np.nan

    @jax.jit
    def both(rate: jax.Array, x: jax.Array) -> list[jax.Array]:
        return [
            result
            for one in (1.0, rate)
            for result in value_tangent_cotangent(variant.at(KEY, one), x)
        ]

    for result in [variant.call(KEY, x, 1.0), *both(1.0, x)]:
        np.testing.assert_array_equal(result, np.zeros_like(x))


@groups_of_variants
def test_traced_rate_traces_once_and_draws_the_same_mask(variants: list[Variant]) -> None:
    xs = [variant.example() for variant in variants]
    chex.clear_trace_counter()

    @quick
    @chex.assert_max_traces(n=1)
    def traced(rate: jax.Array) -> list[jax.Array]:
        return [
            named(variant, variant.call, KEY, x, rate)
            for variant, x in zip(variants, xs, strict=True)
        ]

    for rate in (0.0, 0.1, 0.25, RATE, 0.7, 0.95, 1.0):
        with jax.debug_nans(True):
            for variant, x, value in zip(variants, xs, traced(jnp.float32(rate)), strict=True):
                known = named(variant, variant.call, KEY, x, rate)
                np.testing.assert_array_equal(value == 0, known == 0, err_msg=variant.name)
                np.testing.assert_allclose(value, known, rtol=2e-6, err_msg=variant.name)


@groups_of_variants
def test_an_impossible_rate_is_not_taken_for_another(variants: list[Variant]) -> None:
    """A traced one, which cannot raise: all is NaN, derivatives too. What cannot be NaN is
    dropped.
    """

    @quick
    def all_of_them(rate: jax.Array, xs: list[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
        def both(variant: Variant, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y, vjp = jax.vjp(variant.at(KEY, rate), x)
            return y, vjp(jnp.ones_like(y))[0]

        return [named(variant, both, variant, x) for variant, x in zip(variants, xs, strict=True)]

    xs = [variant.example() for variant in variants]
    for rate in (-0.5, np.nan, 1.5):
        for variant, (value, cotangent) in zip(
            variants, all_of_them(jnp.float32(rate), xs), strict=True
        ):
            if rate == 1.5 and variant.function in AMOUNTS:
                continue
            if variant.name in ("drop_edge", "drop_node", "word_dropout", "label_dropout"):
                assert not np.any(value), variant.name
            else:
                assert np.all(np.isnan(value)), variant.name
                assert np.all(np.isnan(cotangent)) or variant.function in AMOUNTS, variant.name


@each_variant
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_kept(variant: Variant, dtype: str) -> None:
    x = jax.ShapeDtypeStruct(variant.shape, dtype)
    for rate in (RATE, np.float64(RATE), jnp.float32(RATE)):
        y = jax.eval_shape(variant.at(KEY, rate), x)
        assert y.dtype == x.dtype
        assert y.shape == x.shape


@each_variant
def test_mask_does_not_depend_on_the_dtype(variant: Variant) -> None:
    @jax.jit
    def dropped(xs: list[jax.Array]) -> list[jax.Array]:
        return [variant.call(KEY, x, RATE) == 0 for x in xs]

    expected = np.asarray(variant.call(KEY, variant.example(), RATE)) == 0
    for dtype, found in zip(DTYPES, dropped([variant.example(d) for d in DTYPES]), strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=dtype)


@each_variant
def test_x64_draws_the_same_mask(variant: Variant) -> None:
    x = variant.example()
    known = variant.call(KEY, x, RATE)
    with jax.enable_x64(True):
        wide = variant.call(KEY, jnp.asarray(x, jnp.float64), RATE)
        assert wide.dtype == jnp.float64
    np.testing.assert_array_equal(np.asarray(wide) == 0, known == 0)
    np.testing.assert_allclose(wide, known, rtol=2e-6, atol=1e-6)


# -- the law of the mask


@pytest.mark.sweep
@each_variant
@each_key
def test_law(variant: Variant, key: jax.Array) -> None:
    """Entries of a unit fall together; units fall as often as they should, and no two of them
    together more than others do.

    Ideal masks fail with a probability of 2e-6 (both counts are large enough to be normal).
    """
    samples = 2**13
    ones = jnp.ones(variant.shape)
    dropped = np.asarray(
        jax.vmap(lambda key: variant.call(key, ones, RATE) == 0)(batch_of_keys(key, samples))
    )
    dropped = dropped.reshape(samples, -1)
    _, first, unit = np.unique(
        variant.law.units(variant.shape), return_index=True, return_inverse=True
    )
    np.testing.assert_array_equal(dropped, dropped[:, first][:, unit.ravel()])

    rates = variant.law.rates(RATE, variant.shape).ravel()[first]
    z = (dropped[:, first] - rates) / np.sqrt(rates * (1 - rates))
    assert statistics.normal(z.sum(0) / np.sqrt(samples)) > 1e-6
    pairs = (z.T @ z)[np.triu_indices(first.size, 1)] / np.sqrt(samples)
    assert statistics.normal(pairs) > 1e-6


# -- the modules


@each_variant
def test_nnx_module_makes_the_same_call(variant: Variant) -> None:
    x = variant.example()
    module = variant.nnx(RATE, rngs=nnx.Rngs(dropout=KEY))
    stream = nnx.Rngs(dropout=KEY).dropout.fork()
    for _ in range(2):
        np.testing.assert_array_equal(module(x), variant.call(stream(), x, RATE))


@each_variant
def test_linen_module_makes_the_same_call(variant: Variant) -> None:
    x = variant.example()
    module = variant.linen(RATE, deterministic=False)
    variables = module.init(KEY, x, rng=KEY)  # learned rates start at the one that is given
    np.testing.assert_array_equal(module.apply(variables, x, rng=KEY), variant.call(KEY, x, RATE))
    assert module.apply(variables, x, rngs={"dropout": KEY}).shape == x.shape


@pytest.mark.sweep(keep=25)
@each_variant
@pytest.mark.parametrize("framework", ["nnx", "linen"])
def test_a_layer_takes_a_known_array_for_a_number(variant: Variant, framework: str) -> None:
    """A schedule's value, say, from the constructor or in the call: in a loop, and computed again,
    the program of the number.
    """
    if f"test_{framework}_module_makes_the_same_call" in variant.exempt:
        pytest.skip("its layer takes more than x")
    x, known = variant.example(), jnp.float32(0.25)

    def layer(rate: Any) -> tuple[Any, Callable[..., jax.Array]]:
        if framework == "nnx":
            made = variant.nnx(rate, rngs=nnx.Rngs(dropout=KEY))
            return made, lambda x, **call: nnx.merge(*nnx.split(made))(x, rngs=KEY, **call)
        made = variant.linen(rate, deterministic=False)
        variables = jax.eval_shape(lambda: made.init(KEY, x, rng=KEY))
        return made, functools.partial(
            made.apply, jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), variables), rng=KEY
        )

    def program(call: Callable[..., jax.Array], rate: Any = None) -> str:
        step = jax.checkpoint(lambda x: call(x) if rate is None else call(x, rate=rate))
        return str(
            jax.make_jaxpr(lambda x: lax.scan(lambda carry, _: (carry, step(x)), 0, length=2)[1])(x)
        )

    assert program(layer(known)[1]) == program(layer(0.25)[1])
    made, call = layer(0.5)
    if "rate" in inspect.signature(getattr(made, "layer", made).__call__).parameters:
        assert program(call, known) == program(call, 0.25)


@pytest.mark.sweep
def test_names_are_unique() -> None:
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)


@pytest.mark.sweep
@each_variant
def test_there_is_a_work_to_cite(variant: Variant) -> None:
    assert references_of(variant.function).is_any


# -- messages

IDS = np.zeros(3, np.int32)
GRAPHS: dict[Callable[..., Any], tuple[Any, ...]] = {
    jaxdrop.drop_edge: (IDS, IDS),
    jaxdrop.drop_node: (IDS, IDS, 3),
}
LAID_OUT = {
    jaxdrop.drop_connect: "the mask",
    jaxdrop.drop_edge: "the list of edges",
    jaxdrop.drop_node: "the list of nodes",
    jaxdrop.weight_drop: "x",  # a leaf of the parameters is that of `dropout`
}


@pytest.mark.sweep
@each_variant
def test_a_message_names_what_an_option_does_not_fit(variant: Variant) -> None:
    """What is dropped from: the second argument, where nothing else is meant."""
    function = variant.function
    if isinstance(function, type):  # whose functions are not public
        return
    names = [*inspect.signature(function).parameters]
    what = LAID_OUT.get(function, names[1])

    def refused(says: str, **options: Any) -> None:
        graph = GRAPHS.get(function)
        call, given = (variant.call, (variant.example(),)) if graph is None else (function, graph)
        with pytest.raises(ValueError, match=says):
            call(KEY, *given, RATE, **options)

    if "spec" in names:
        refused(f" lays out 8 axes, but {what} has [1-5]", spec=PartitionSpec(*"abcdefgh"))
    if "part" in names:
        part = functools.partial(jaxdrop.Part, 0, 3)
        refused(f"{what} has 8 entries along axis 0, more than", part=part(axis=0))
        # The devices that `spec` names hold a part together.
        one = variant.example()
        whole = jaxdrop.Part(0, 15, axis=0)
        with pytest.raises(ValueError, match=f"{what} has 16 entries along axis 0, more than"):
            jax.eval_shape(
                jax.vmap(variant.at(KEY, spec=PartitionSpec("i"), part=whole), axis_name="i"),
                jnp.stack([one, one]),
            )
        refused("axis of part=5 is out of range: with [1-5] axes", part=part(axis=5))
    if "broadcast_dims" in names and variant.call is function:
        refused(f"names axis 9, but {what} has [1-5] axes", broadcast_dims=(9,))
