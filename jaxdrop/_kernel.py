"""How every variant is compiled."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

Kernel = Callable[..., Any]


def kernel(name: str, *, checkpoint: bool = True) -> Callable[[Kernel], Kernel]:
    """Turns the arithmetic of a variant into one compiled operation, whose keyword-only arguments
    are static.

    Under `jit`, so that an eager call is one dispatch and a model with many sites traces each shape
    once; under `jax.named_scope`, so that profiles and jaxprs show the variant's name; under
    `jax.checkpoint`, so that the backward pass gets the arguments, of which it needs the key and a
    few numbers, and draws the mask again. No barrier is put in (`prevent_cse`): whether the mask is
    shared or drawn twice inside one program is for XLA to choose. Without `checkpoint`, for
    arithmetic that itself says what its backward pass gets.
    """

    def decorate(fn: Kernel) -> Kernel:
        parameters = inspect.signature(fn).parameters.values()
        static = [
            parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
        ]

        @functools.partial(jax.jit, static_argnames=static)
        @jax.named_scope(f"jaxdrop.{name}")
        @functools.wraps(fn)
        def compiled(*args: Any, **kwargs: Any) -> Any:
            settled = functools.partial(fn, **kwargs)
            return (
                jax.checkpoint(settled, prevent_cse=False)(*args) if checkpoint else settled(*args)
            )

        return compiled

    return decorate
