"""What the kernels for GPUs compute for each score, in as few instructions as the hardware needs.

The compiler of the kernels may not join a product and a sum, guards `exp2` of small numbers by four
more instructions, and rounds a weight before it drops it. On the 32 scores that a thread has of a
block, these are a third of all instructions, so they are written as the hardware's own. Pallas'
interpreter has no assembly and computes them by JAX.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton


def exp2_of_sum(x: jax.Array, factor: float, shift: jax.Array, *, interpret: bool) -> jax.Array:
    """`exp2(factor x + shift)`; 0 where that would be subnormal."""
    if interpret:
        return jnp.exp2(x * jnp.float32(factor) + shift)
    return _assembly(
        "{ .reg .f32 t; fma.rn.f32 t, $1, $2, $3; ex2.approx.ftz.f32 $0, t; }",
        "=f,f,f,f",
        x,
        jnp.float32(factor),
        shift,
    )


def multiply_add(a: jax.Array, b: jax.Array, c: jax.Array, *, interpret: bool) -> jax.Array:
    """`a b + c`, rounded once."""
    if interpret:
        return a * b + c
    return _assembly("fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", a, b, c)


def drop(
    bits: jax.Array | None, last: jax.Array | None, x: jax.Array, *, interpret: bool
) -> jax.Array:
    """`x` where `bits <= last`, and 0 elsewhere; `x` itself without bits."""
    if bits is None or last is None:
        return x
    if interpret:
        return jnp.where(bits <= last, x, 0.0)
    return _assembly(
        "{ .reg .pred p; setp.ls.u32 p, $1, $2; selp.f32 $0, $3, 0f00000000, p; }",
        "=f,r,r,f",
        bits,
        last,
        x,
    )


def _assembly(code: str, constraints: str, *args: jax.Array) -> jax.Array:
    """`code` for each entry of the arguments, which broadcast; the result is float32."""
    shape = jnp.broadcast_shapes(*(jnp.shape(x) for x in args))
    (found,) = triton.elementwise_inline_asm(
        code,
        args=[jnp.broadcast_to(x, shape) for x in args],
        constraints=constraints,
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(shape, jnp.float32)],
    )
    return found
