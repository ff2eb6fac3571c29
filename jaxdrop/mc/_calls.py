"""Checks of the arguments of the runners: a function of a key, and the keys of the samples."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdrop import _checks


def check_function(caller: str, fn: Any, form: str) -> None:
    """Checks that `fn` can be called at all. `form` is the caller's arguments, for the message."""
    if not callable(fn):
        raise TypeError(
            f"fn must be a function of a key, got {_checks.quoted(fn)}. The order of the arguments"
            f" is {caller}({form})."
        )


def check_call(caller: str, call: str, fn: Callable[..., Any], count: int, advice: str = "") -> str:
    """Checks that `fn` takes `count` arguments, and returns its name. `call` and `advice` are for
    the message.
    """
    name = getattr(fn, "__qualname__", None) or f"a {type(fn).__name__}"
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # not all builtins have one
        signature = None
    try:
        if signature is not None:
            signature.bind(*[None] * count)
    except TypeError as error:
        raise TypeError(
            f"{caller} calls {call}, but fn is {name}{signature}: {error}.{advice}"
        ) from None
    return name


def of_key(caller: str, fn: Callable[..., Any], num_inputs: int = 0) -> Callable[..., Any]:
    """`fn`, if it takes a key and this number of inputs. The TypeError of a call that does not fit
    names the caller.
    """
    call = f"fn({', '.join(['key'] + ['input'] * num_inputs)})"
    advice = (
        " A model becomes such a function by jaxdrop.nnx.stochastic(model), or by"
        " jaxdrop.linen.stochastic(model, variables)."
        if num_inputs
        else f" Close over the inputs: {caller}(lambda key: model(x, rngs=key), ...)."
    )
    name = check_call(caller, call, fn, num_inputs + 1, advice)

    @functools.wraps(fn)
    def called(*args: Any) -> Any:
        try:
            found = fn(*args)
        except Exception as error:
            if _is_model(fn):
                raise TypeError(
                    f"{caller} calls {call}, but fn is a model, {name}.{advice}"
                ) from error
            if isinstance(error, TypeError):
                error.add_note(f"({caller} calls {call}.)")
            raise
        if found is None:
            raise ValueError(
                f"{caller} calls {call}, and fn must return an array or a pytree of arrays, got"
                f" None: {name} needs a return."
            )
        return found

    return called


def _is_model(fn: Any) -> bool:
    """Whether it is a module of Flax."""
    return any(
        base.__name__ == "Module" and base.__module__.partition(".")[0] == "flax"
        for base in type(fn).__mro__
    )


def check_keys(keys: Any) -> int:
    """The number of keys, if `keys` is a typed key array with one axis."""
    is_key = _checks.is_key(keys)
    if not is_key or keys.ndim != 1:
        hint = ""
        if is_key and not keys.ndim:
            hint = ", which is one key: pass mc.keys(key, 100)"
        elif getattr(keys, "dtype", None) == np.uint32 and keys.ndim == 2:
            hint = ", which may be raw keys: pass jax.random.wrap_key_data(keys)"
        elif isinstance(keys, (list, tuple)) and keys and all(map(_checks.is_key, keys)):
            hint = f", {len(keys)} keys: pass jnp.stack(keys)"
        raise ValueError(
            "keys must be a key array of shape (S,), as jaxdrop.mc.keys(key, S) returns, got"
            f" {_checks.quoted(keys)}{hint}"
        )
    if not keys.shape[0]:
        raise ValueError("keys is empty: there must be at least one sample")
    return keys.shape[0]
