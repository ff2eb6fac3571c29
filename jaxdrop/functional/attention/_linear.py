"""A linear function with a transpose of the caller's, in place of the one that JAX derives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Linear = Callable[[Any, Any], Any]


def linear_call(forward: Linear, transpose: Linear, constants: Any, tangents: Any) -> Any:
    """`forward(constants, tangents)`, whose transpose in its second argument JAX takes from
    `transpose(constants, cotangents)`. Where the call is the tangent of a `custom_jvp`, reverse
    mode runs the transpose.

    `jax.custom_derivatives.linear_call` does the same, but cannot be batched (JAX 0.12).
    Derivatives of the call itself are those of `forward`.

    Args:
      forward: linear in its second argument.
      transpose: linear in its second argument, which has the structure of the result of `forward`;
        its result has the structure of `tangents`.
      constants: a tree of arrays.
      tangents: a tree of arrays.
    """
    of_constants: Any
    of_tangents: Any
    flat_constants, of_constants = jax.tree.flatten(constants)
    flat_tangents, of_tangents = jax.tree.flatten(tangents)
    of_result: Any = jax.tree.structure(jax.eval_shape(forward, constants, tangents))
    split = len(flat_constants)

    def run(*args: Any) -> list[Any]:
        given = of_constants.unflatten(args[:split]), of_tangents.unflatten(args[split:])
        return jax.tree.leaves(forward(*given))

    def back(*args: Any) -> list[Any]:
        given = of_constants.unflatten(args[:split]), of_result.unflatten(args[split:])
        return jax.tree.leaves(transpose(*given))

    found = _linear.bind(*flat_constants, *flat_tangents, run=run, back=back, split=split)
    return of_result.unflatten(found)


def linear_cond(here: jax.Array, forward: Linear, constants: Any, tangents: Any) -> Any:
    """`forward(constants, tangents)`, a tree of arrays, where `here` is true, and else zeros.

    As with `jax.lax.cond`, only one of them is computed. The transpose of a `cond` is two: one
    returns all that `forward` computes of the constants, as large zeros where `here` is false, and
    the other one takes it. Here the transpose is one `cond`, which computes it from the constants.
    """
    of_tangents = jax.eval_shape(lambda: tangents)
    of_result = jax.eval_shape(forward, constants, tangents)

    def run(given: Any, tangents: Any) -> Any:
        here, constants = given
        return _or_zeros(here, lambda: forward(constants, tangents), of_result)

    def back(given: Any, cotangents: Any) -> Any:
        here, constants = given

        def transpose() -> Any:  # also traces `forward`, which computes what depends on `constants`
            transposed = jax.linear_transpose(functools.partial(forward, constants), of_tangents)
            return transposed(cotangents)[0]

        return _or_zeros(here, transpose, of_tangents)

    return linear_call(run, back, (here, constants), tangents)


def _or_zeros(here: jax.Array, compute: Callable[[], Any], like: Any) -> Any:
    return jax.lax.cond(here, compute, lambda: jax.tree.map(jnp.zeros_like, like))


_linear = Primitive("linear_call")
_linear.multiple_results = True


def _run(*args: Any, run: Callable[..., list[Any]], **_: Any) -> list[Any]:
    return run(*args)


def _abstract(*args: Any, run: Callable[..., list[Any]], **_: Any) -> list[Any]:
    return list(jax.make_jaxpr(run)(*args).out_avals)


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, run: Callable[..., list[Any]], **_: Any
) -> tuple[Any, Any]:
    moving = [at for at, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def of_moving(*some: Any) -> list[Any]:
        args = list(primals)
        for at, value in zip(moving, some, strict=True):
            args[at] = value
        return run(*args)

    return jax.jvp(
        of_moving, tuple(primals[at] for at in moving), tuple(tangents[at] for at in moving)
    )


def _transpose(
    cotangents: Sequence[Any], *args: Any, back: Callable[..., list[Any]], split: int, **_: Any
) -> list[Any]:
    given = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    return [None] * split + list(back(*args[:split], *given))


def _batch(
    args: Sequence[Any],
    dims: Sequence[int | None],
    *,
    run: Callable[..., list[Any]],
    back: Callable[..., list[Any]],
    split: int,
) -> tuple[list[Any], list[int]]:
    size = next(np.shape(arg)[dim] for arg, dim in zip(args, dims, strict=True) if dim is not None)
    mapped = list(args[:split])
    for arg, dim in zip(args[split:], dims[split:], strict=True):
        # Every tangent gets the batch axis, so that a cotangent never has to be summed over the
        # batch.
        mapped.append(
            jnp.broadcast_to(arg, (size, *jnp.shape(arg)))
            if dim is None
            else jnp.moveaxis(arg, dim, 0)
        )
    axes = list(dims[:split])

    def over(fn: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        return lambda *given: jax.vmap(
            fn, in_axes=tuple(axes + [0] * (len(given) - split)), axis_size=size
        )(*given)

    found = _linear.bind(*mapped, run=over(run), back=over(back), split=split)
    return found, [0] * len(found)


_linear.def_impl(_run)
_linear.def_abstract_eval(_abstract)
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
mlir.register_lowering(_linear, mlir.lower_fun(_run, multiple_results=True))
