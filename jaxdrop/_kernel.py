"""The transformations around the arithmetic of every variant."""

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

    - `jit`: an eager call is one dispatch, and a model with many sites traces each shape once.
    - `jax.named_scope`: profiles and jaxprs show the variant's name.
    - `jax.checkpoint`: the residuals of the backward pass are the arguments, such as the key and
      the rate, and the backward pass draws the mask again. `prevent_cse=False` puts in no barrier:
      inside one program XLA may share the mask or draw it twice. `checkpoint=False` is for
      arithmetic that chooses its own residuals, or has no backward pass.
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
