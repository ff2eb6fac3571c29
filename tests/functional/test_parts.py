"""A part of a longer array gets its part of the whole array's mask, in every function that takes
`part`.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdrop
from jaxdrop import Part
from tests.catalogue import KEY, KEYS, RATE, VARIANTS

TAKING = [row for row in VARIANTS if "part" in inspect.signature(row.function).parameters]
X = np.linspace(1, 2, 4 * 8 * 3, dtype=np.float32).reshape(4, 8, 3)
STRATIFIED = jaxdrop.mc.keys(jaxdrop.key(1), 4)[2]


def test_every_function_draws_the_part() -> None:
    """At a traced offset; one at which the part is not inside the whole gives no numbers."""
    assert {row.name for row in TAKING} >= {
        *("dropout", "classic_dropout", "alpha_dropout", "gaussian_dropout", "gaussian_noise"),
        *("uniform_dropout", "concrete_dropout", "variational_dropout", "word_dropout"),
        *("bias_dropout_add", "dropout_add_layer_norm", "attention_dropout", "drop_key"),
    }

    @jax.jit
    def draw(offset: Any) -> Any:
        found = {}
        for row in TAKING:
            x = row.example()
            part = Part(offset, x.shape[0], axis=0)
            found[row.name] = [row.call(KEY, x, RATE), row.call(KEY, x[2:5], RATE, part=part)]
        return found

    for name, (whole, part) in draw(2).items():
        # A sum over features may be rounded otherwise.
        rounding = 1e-6 if name.startswith("dropout_add") else 0
        np.testing.assert_allclose(part, whole[2:5], rtol=rounding, atol=0, err_msg=name)
    for offset in (-1, 6):
        for name, (_, part) in draw(offset).items():
            if name == "word_dropout":
                assert not part.any()
            else:
                assert np.isnan(part).any(), name


@pytest.mark.parametrize("key", [*KEYS.values(), STRATIFIED], ids=[*KEYS, "stratified"])
def test_places_of_examples(key: jax.Array) -> None:
    """One offset for each example, and axes that share their mask, along which there are no
    parts.
    """
    offsets = np.array([3, 0, 6, 1])
    rows = offsets[:, None] + np.arange(2)
    some = np.take_along_axis(X, rows[..., None], 1)

    @jax.jit
    def both(offsets: jax.Array) -> Any:
        part = Part(offsets, 8, axis=-2)
        return [
            (
                jaxdrop.dropout(key, X, RATE, broadcast_dims=dims),
                jaxdrop.dropout(key, some, RATE, broadcast_dims=dims, part=part),
            )
            for dims in ((), (2,), (1, 2))
        ]

    for whole, part in both(offsets):
        np.testing.assert_array_equal(part, np.take_along_axis(whole, rows[..., None], 1))


def test_devices_that_divide_a_part() -> None:
    """`spec` says which part of the part a device has. On a mesh with explicit axes, no layout has
    to be given.
    """
    part = X[:, 2:6]
    expected = np.asarray(jaxdrop.dropout(KEY, X, RATE))[:, 2:6]
    place, offsets = Part(jnp.int32(2), 8, axis=1), Part(jnp.full(4, 2), 8, axis=1)
    names = {"axis_types": (AxisType.Auto,) * 2}
    mesh = jax.make_mesh((2, 4), ("a", "b"), **names)
    for spec in (P("a", "b"), P(None, ("b",)), P("b", "a")):
        local = jax.shard_map(
            lambda x, spec=spec: jaxdrop.dropout(KEY, x, RATE, spec=spec, part=place),
            mesh=mesh,
            in_specs=spec,
            out_specs=spec,
        )
        np.testing.assert_array_equal(jax.jit(local)(part), expected)
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(part, NamedSharding(mesh, P("b", "a")))
        drop = jax.jit(lambda x, part: jaxdrop.dropout(KEY, x, RATE, part=part))
        for where in (place, offsets):
            found = drop(placed, where)
            assert found.sharding.spec == P("b", "a", None)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("part", "kind", "words"),
    [
        (3, TypeError, ["part", "jaxdrop.Part(offset, length, axis)", "3"]),
        (Part(0, 8, axis=3), ValueError, ["axis of part", "3"]),
        (Part(0, 8.0, axis=1), TypeError, ["length of part", "8.0"]),  # type: ignore[arg-type]
        (Part(0.5, 8, axis=1), TypeError, ["offset of part", "0.5"]),  # type: ignore[arg-type]
        (Part(6, 8, axis=1), ValueError, ["offset of part", "at most 5", "got 6"]),
        (Part(-1, 8, axis=1), ValueError, ["offset of part", "at least 0", "got -1"]),
        (Part(0, 2, axis=1), ValueError, ["x has 3 entries along axis 1", "length=2"]),
        (Part(np.zeros(3, int), 8, axis=1), ValueError, ["offset of part", "(4,)", "(3,)"]),
        (Part(np.zeros((4, 3), int), 8, axis=1), ValueError, ["offset of part", "(4, 3)"]),
    ],
)
def test_bad_parts(part: Any, kind: type[Exception], words: list[str]) -> None:
    """Also where nothing is drawn."""
    for options in ({}, {"deterministic": True}):
        with pytest.raises(kind) as error:
            jaxdrop.dropout(KEY, X[:, :3], RATE, part=part, **options)
        assert all(word in str(error.value) for word in words), error.value


def test_traced_places_are_checked_under_checkify() -> None:
    @jax.jit
    def draw(offset: jax.Array) -> Any:
        checked = checkify.checkify(
            lambda offset: jaxdrop.dropout(KEY, X[:, :3], RATE, part=Part(offset, 8, axis=1))
        )
        return checked(offset)

    draw(5)[0].throw()
    with pytest.raises(checkify.JaxRuntimeError, match="at most 5, got 6"):
        draw(6)[0].throw()


def test_generators_of_whole_arrays_have_no_parts() -> None:
    with pytest.raises(NotImplementedError, match="rbg"):
        jaxdrop.dropout(jax.random.key(0, impl="rbg"), X, RATE, part=Part(0, 8))
    with pytest.raises(ValueError, match="one must stay"):
        jaxdrop.drop_key(KEY, X, RATE, part=Part(0, 8, axis=-1))


def test_the_axis_of_a_part_is_that_before_the_features() -> None:
    """If nothing is said. A part may be the whole."""
    whole = jaxdrop.dropout(KEY, X, RATE)
    found = jaxdrop.dropout(KEY, X[:, 2:5], RATE, part=Part(2, 8))
    np.testing.assert_array_equal(found, whole[:, 2:5])
    for part in (Part(0, 8), Part(0, 4, axis=0), Part(np.zeros((4, 8), int), 3, axis=2)):
        np.testing.assert_array_equal(jaxdrop.dropout(KEY, X, RATE, part=part), whole)
    one = jaxdrop.dropout(KEY, X[:1, :1, :1], RATE, part=Part(0, 1, axis=0))
    assert one.shape == (1, 1, 1)


def test_a_part_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Part(0, 8).offset = 1  # type: ignore[misc]
