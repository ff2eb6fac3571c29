"""A linear function with a transpose of the caller's, in place of the one that JAX derives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
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
    of_args: Any
    of_constants: Any
    of_result: Any = None
    args, of_args = jax.tree.flatten((constants, tangents))
    of_constants, split = jax.tree.structure(constants), len(jax.tree.leaves(constants))

    def run(*args: Any) -> list[Any]:
        nonlocal of_result
        found, of_result = jax.tree.flatten(forward(*of_args.unflatten(args)))
        return found

    jaxpr = jax.make_jaxpr(run)(*args)

    def back(*args: Any) -> list[Any]:
        given = of_constants.unflatten(args[:split]), of_result.unflatten(args[split:])
        return jax.tree.leaves(transpose(*given))

    return of_result.unflatten(_linear.bind(*args, jaxpr=jaxpr, back=back, split=split))


_linear = Primitive("linear_call")
_linear.multiple_results = True


def _run(*args: Any, jaxpr: ClosedJaxpr, **_: Any) -> list[Any]:
    return jaxpr_as_fun(jaxpr)(*args)


def _abstract(*_: Any, jaxpr: ClosedJaxpr, **__: Any) -> list[Any]:
    return list(jaxpr.out_avals)


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: ClosedJaxpr, **_: Any
) -> tuple[Any, Any]:
    moving = [at for at, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def of_moving(*some: Any) -> list[Any]:
        args = list(primals)
        for at, value in zip(moving, some, strict=True):
            args[at] = value
        return jaxpr_as_fun(jaxpr)(*args)

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
    jaxpr: ClosedJaxpr,
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

    over_all = jax.make_jaxpr(over(jaxpr_as_fun(jaxpr)))(*mapped)
    found = _linear.bind(*mapped, jaxpr=over_all, back=over(back), split=split)
    return found, [0] * len(found)


_linear.def_impl(_run)
_linear.def_abstract_eval(_abstract)
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
mlir.register_lowering(_linear, mlir.lower_fun(_run, multiple_results=True))
