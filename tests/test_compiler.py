"""What steers the compiler changes no value, and is in the program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop import _compiler
from jaxdrop._kernel import kernel

LARGEST = np.finfo(np.float32).max
EDGES = np.array([0, -1.5, LARGEST, -LARGEST, np.inf, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize("finite", [False, True])
def test_a_rounding_barrier_keeps_values_and_derivatives(finite: bool) -> None:
    """Also of complex numbers; infinities too, if they may be there."""
    x = EDGES[np.isfinite(EDGES)] if finite else EDGES
    for each in (x, x + 1j * x[::-1] if finite else (x[:4] + 1j * x[3::-1]).astype(np.complex64)):
        each = each.astype(np.complex64 if np.iscomplexobj(each) else np.float32)
        np.testing.assert_array_equal(_compiler.rounding_barrier(each, finite), each)
        tangent = np.arange(each.size).astype(each.dtype)
        value, moved = jax.jvp(lambda x: _compiler.rounding_barrier(x, finite), (each,), (tangent,))
        np.testing.assert_array_equal(value, each)
        np.testing.assert_array_equal(moved, tangent)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_what_is_known_to_be_finite_takes_a_minimum_alone(dtype: Any) -> None:
    x = jax.ShapeDtypeStruct((3,), dtype)

    def program(finite: bool) -> str:
        def moved(x: jax.Array) -> Any:
            return jax.jvp(lambda x: _compiler.rounding_barrier(x, finite), (x,), (x,))

        return str(jax.make_jaxpr(moved)(x))

    assert "min" in program(True)
    assert "select_n" not in program(True)
    assert "select_n" in program(False)
    assert str(jax.make_jaxpr(_compiler.rounding_barrier)(x)).count("select_n") > 0


def test_a_materialized_mask_is_the_mask() -> None:
    mask = np.array([True, False, True])
    found = _compiler.materialize(mask)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)
    assert " sqrt " in str(jax.make_jaxpr(_compiler.materialize)(mask))


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"checkpoint": False}], ids=str)
def test_a_kernel(options: dict[str, bool]) -> None:
    """One traced program for each value of a static argument, that bears its name, and in which
    nothing but the arguments is stored for the backward pass.
    """
    traced = []

    @kernel("cubed", **options)
    def cubed(x: jax.Array, *, times: int) -> jax.Array:
        """The docstring."""
        traced.append(times)
        return (x * x) * x * jnp.float32(times)

    x = np.arange(4).astype(np.float32)
    for times in (2, 2, 3):
        np.testing.assert_array_equal(cubed(x, times=times), times * x**3)
    assert traced == [2, 3]
    assert cubed.__doc__ == "The docstring."
    assert "jaxdrop.cubed" in jax.jit(lambda x: cubed(x, times=2)).lower(x).as_text(debug_info=True)
    pull = jax.eval_shape(lambda x: jax.vjp(lambda x: cubed(x, times=2), x)[1], x)
    sizes = [leaf.size for leaf in jax.tree.leaves(pull) if leaf.size > 1]
    assert (len(sizes) == 1) == options.get("checkpoint", True)
    program = str(jax.make_jaxpr(lambda x: cubed(x, times=2))(x))
    assert ("prevent_cse=False" in program) == options.get("checkpoint", True)
