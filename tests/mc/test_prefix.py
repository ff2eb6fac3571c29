"""What does not depend on the key is computed once, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdrop
from jaxdrop import mc
from jaxdrop.mc import _prefix

KEYS = mc.keys(jaxdrop.key(0), 6)
X = jax.random.normal(jax.random.key(1), (4, 6))
W = jax.random.normal(jax.random.key(2), (6, 6))


def _body(key: jax.Array, x: jax.Array) -> jax.Array:
    return jaxdrop.dropout(key, jnp.sin(x @ W), 0.5) @ W


WRAPPERS = {
    "plain": lambda fn: fn,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "nested": lambda fn: jax.jit(jax.checkpoint(jax.jit(fn))),
}
each = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
Wrapper = Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]


def _everywhere(jaxpr: object) -> list[str]:
    """The names of all operations, those in inner functions too."""
    names = []
    for equation in jaxpr.eqns:
        names.append(equation.primitive.name)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    names += _everywhere(getattr(inner, "jaxpr", inner))
    return names


def _parts(
    fn: Callable[[jax.Array], object],
) -> tuple[list[str], list[str], list[jax.ShapeDtypeStruct]]:
    """The operations before the key and after it, and what passes between them."""
    parts = _prefix.split(_prefix.trace(fn, KEYS))
    known = jax.eval_shape(parts.prefix, parts.constants)
    before, after = (
        jax.make_jaxpr(parts.prefix)(parts.constants),
        jax.make_jaxpr(parts.rest)(known, KEYS[0]),
    )
    return _everywhere(before.jaxpr), _everywhere(after.jaxpr), known


@each
def test_one_product_comes_before_the_key_and_one_after(wrap: Wrapper) -> None:
    before, after, known = _parts(lambda key: wrap(_body)(key, X))
    assert before.count("dot_general") == after.count("dot_general") == 1
    assert "sin" in before
    assert "sin" not in after
    assert sorted(x.shape for x in known) == [(4, 6), (6, 6)]


@pytest.mark.parametrize("wrap", [WRAPPERS["plain"], WRAPPERS["nested"]])
def test_values_and_gradients(wrap: Wrapper) -> None:
    """To what the function closes over, through both parts, in both modes."""

    def loss(x: jax.Array, batch_size: int | None) -> jax.Array:
        return (mc.predict(lambda key: wrap(_body)(key, x), KEYS, batch_size=batch_size) ** 2).sum()

    expected, gradient = jax.jit(jax.value_and_grad(lambda x: loss(x, None)))(X)
    chunked, drawn = jax.jit(jax.value_and_grad(lambda x: loss(x, 4)))(X)
    np.testing.assert_allclose(chunked, expected, rtol=1e-5)
    np.testing.assert_allclose(drawn, gradient, rtol=1e-4, atol=1e-4)


def test_forward_mode() -> None:
    def outputs(x: jax.Array, batch_size: int | None) -> jax.Array:
        return mc.predict(lambda key: _body(key, x), KEYS, batch_size=batch_size)

    tangents = [
        jax.jit(lambda x, size=size: jax.jvp(lambda x: outputs(x, size), (x,), (X,))[1])(X)
        for size in (None, 4)
    ]
    np.testing.assert_allclose(*tangents, rtol=1e-4, atol=1e-5)


def test_the_rest_of_a_checkpoint_saves_no_mask() -> None:
    parts = _prefix.split(_prefix.trace(lambda key: jax.checkpoint(_body)(key, X), KEYS))
    known = jax.eval_shape(parts.prefix, parts.constants)
    _, pull = jax.eval_shape(
        lambda known: jax.vjp(lambda known: parts.rest(known, KEYS[0]), known), known
    )
    assert all(x.dtype != jnp.bool_ for x in jax.tree.leaves(pull))


def test_cheap_values_that_grow_are_formed_again() -> None:
    """Positions, constants and broadcast biases are not stored; a product with a number is."""
    bias = jnp.arange(6.0)

    def fn(key: jax.Array) -> jax.Array:
        dropped = jaxdrop.dropout(key, 2 * jnp.sin(X), 0.5)
        return dropped * jnp.ones((4, 6)) + jnp.broadcast_to(bias, (4, 6))

    _, after, known = _parts(fn)
    assert sorted(x.shape for x in known) == [(4, 6), (6,)]
    assert {"iota", "broadcast_in_dim"} <= set(after)


def test_loops_and_functions_with_their_own_derivative_stay_whole() -> None:
    def fn(key: jax.Array) -> tuple[jax.Array, ...]:
        known = jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x), jax.nn.relu(X))
        drawn = jaxdrop.dropout(key, known, 0.5)
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.cos(x), jax.nn.relu(drawn)), jax.nn.gelu(
            known
        )

    before, after, _ = _parts(fn)
    assert {"sin", "tanh", "custom_jvp_call"} <= set(before)
    assert {"cos", "custom_jvp_call"} <= set(after)
    assert not {"sin", "tanh"} & set(after)
    drawn = jax.jit(lambda keys: mc.predict(fn, keys, batch_size=4))(KEYS)
    chex.assert_trees_all_close(drawn, jax.jit(jax.vmap(fn))(KEYS), rtol=1e-6)


def test_results_that_do_not_depend_on_the_key() -> None:
    def fn(key: jax.Array) -> dict[str, object]:
        return {
            "known": jnp.sin(X),
            "constant": 2.0,
            "given": X,
            "nothing": None,
            "key": key,
            "again": jnp.ones((3, 3)),
        }

    drawn = mc.predict(fn, KEYS, batch_size=4)
    expected = jax.vmap(fn)(KEYS)
    assert (jax.random.key_data(drawn.pop("key")) == jax.random.key_data(expected.pop("key"))).all()
    chex.assert_trees_all_equal(drawn, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(drawn, expected)


def test_side_effects_are_left_where_they_are() -> None:
    seen = []

    def fn(key: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: seen.append(None))
        return jaxdrop.dropout(key, X, 0.5)

    drawn = jax.block_until_ready(mc.predict(fn, KEYS, batch_size=2))
    jax.effects_barrier()
    assert seen
    np.testing.assert_array_equal(drawn, jax.vmap(lambda key: jaxdrop.dropout(key, X, 0.5))(KEYS))


def test_what_is_not_split_keeps_the_batch_size(caplog: pytest.LogCaptureFixture) -> None:
    """A line in the debug log says so, and nothing else."""
    sizes: list[int] = []

    def on_host(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return x

    def fn(key: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: None)
        x = jaxdrop.dropout(key, X, 0.5)
        return jax.pure_callback(
            on_host, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
        )

    with caplog.at_level("DEBUG", logger="jaxdrop"):
        jax.block_until_ready(mc.predict(fn, KEYS, batch_size=4))
    assert sorted(sizes) == [2, 4]
    assert [
        (record.levelname, "side effects" in record.getMessage()) for record in caplog.records
    ] == [("DEBUG", True)]


def test_a_fault_of_the_split_is_no_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the split does not understand runs whole."""

    def fails(*arguments: object) -> None:
        raise IndexError

    expected = mc.predict(lambda key: _body(key, X), KEYS, batch_size=4)
    for name in ("split", "_function", "trace"):
        with monkeypatch.context() as patch:
            patch.setattr(_prefix, name, fails)
            found = mc.predict(lambda key: _body(key, X), KEYS, batch_size=4)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_stated_layouts_are_kept() -> None:
    """What a `jax.jit` inside says of layouts is said again."""
    mesh = jax.make_mesh(
        (2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
    stated = jax.jit(lambda key, x: jaxdrop.dropout(key, x, 0.5), out_shardings=layout)
    _, after, _ = _parts(lambda key: stated(key, X))
    assert "jit" in after
    parts = _prefix.split(_prefix.trace(lambda key: stated(key, X), KEYS))
    rest = jax.make_jaxpr(lambda known: parts.rest(known, KEYS[0]))(parts.prefix(parts.constants))
    assert layout in [x for each in rest.jaxpr.eqns for x in each.params.get("out_shardings", ())]


@pytest.mark.usefixtures("relaxed")
def test_a_flax_model() -> None:
    model = nnx.Sequential(
        nnx.Linear(6, 8, rngs=nnx.Rngs(0)),
        nnx.relu,
        nnx.Dropout(0.5),
        nnx.remat(nnx.Linear(8, 3, rngs=nnx.Rngs(1))),
    )

    def fn(key: jax.Array) -> jax.Array:
        return model(X, rngs=nnx.Rngs(dropout=key))

    before, after, _ = _parts(fn)
    assert before.count("dot_general") == after.count("dot_general") == 1
    drawn = jax.jit(lambda keys: mc.predict(fn, keys, batch_size=4))(KEYS)
    np.testing.assert_allclose(drawn, jax.jit(jax.vmap(fn))(KEYS), rtol=1e-5, atol=1e-6)
