"""Programs of attention and of its kernels, as they are made for a device that need not be here."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

import jaxdrop


def attention(
    platform: str, custom_call: str, key: Any, rate: float, depth: int, **options: Any
) -> str:
    """The text of a program that attends, forward and backward, by three kernels with their names,
    each a `custom_call`. Queries and keys differ in number, and two heads share the keys.
    """

    def run(q: jax.Array, k: jax.Array, arrays: dict[str, jax.Array]) -> Any:
        y, pull = jax.vjp(
            lambda *operands: jaxdrop.dot_product_attention(
                key, *operands, rate, implementation="pallas", **given, **arrays
            ),
            q,
            k,
            k,
        )
        return y, *pull(y)

    arrays = {name: x for name, x in options.items() if isinstance(x, jax.ShapeDtypeStruct)}
    given = {name: x for name, x in options.items() if name not in arrays}
    q, k = (
        jax.ShapeDtypeStruct((1, length, heads, depth), jnp.bfloat16)
        for length, heads in ((600, 2), (200, 1))
    )
    program = jax.jit(run).trace(q, k, arrays).lower(lowering_platforms=(platform,)).as_text()
    assert program.count(f"custom_call @{custom_call}") == 3
    for name in ("forward", "of_queries", "of_keys"):
        assert f"attention_{name}" in program
    return program


def check_products(key: Any, implementation: Any) -> None:
    """The products of attention and of its gradients have the precision that is given, and those of
    16-bit operands are summed in float32.
    """
    q = jax.ShapeDtypeStruct((1, 20, 2, 8), jnp.bfloat16)

    def loss(*operands: jax.Array, precision: Any) -> jax.Array:
        y = jaxdrop.dot_product_attention(
            key, *operands, 0.5, precision=precision, implementation=implementation
        )
        return y.astype(jnp.float32).sum()

    for precision in (None, "highest"):
        gradients = jax.grad(functools.partial(loss, precision=precision), (0, 1, 2))
        program = str(jax.make_jaxpr(gradients)(q, q, q))
        products = program.count(" = dot_general[")
        assert products >= 7
        assert program.count("preferred_element_type=float32") == products
        given = program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)")
        assert given == (products if precision else 0)
