"""Kinds of operations, by name: where a version of JAX renames one, its rule is lost, and what it
does is linearized.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

# One entry of the result is a function of one entry of each operand.
ELEMENTWISE = frozenset(
    [
        "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
        "bitcast_convert_type", "cbrt", "ceil", "clamp", "convert_element_type", "cos", "cosh",
        "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge",
        "gt", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "log2", "logistic", "lt",
        "max", "min", "mul", "ne",
        "neg", "nextafter", "not", "or", "pow", "reduce_precision", "rem", "round", "rsqrt",
        "select_n", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "sub", "tan",
        "tanh", "xor",
    ]
)  # fmt: skip
COMPARISONS = frozenset(["eq", "ge", "gt", "le", "lt", "ne"])

# A program that runs on the operands.
CALLS = frozenset(
    [
        "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
        "custom_vjp_call_jaxpr", "custom_vmap_call", "jit", "pjit", "remat", "remat2",
    ]
)  # fmt: skip

# The value itself.
SAME = frozenset(
    [
        "checkpoint_name", "copy", "copy_p", "name", "optimization_barrier", "pcast", "pvary",
        "reduce_precision", "reshard", "sharding_constraint",
    ]
)  # fmt: skip
# Each entry of the result is an entry of an operand, or a constant.
MOVES = frozenset(
    [
        "broadcast_in_dim", "concatenate", "dynamic_slice", "dynamic_update_slice", "expand_dims",
        "gather", "pad", "reshape", "rev", "slice", "split", "squeeze", "stack", "tile",
        "transpose", "unstack",
    ]
)  # fmt: skip
# Sums of entries of an operand.
SUMS = frozenset(
    ["cumsum", "psum", "reduce_sum", "reduce_window_sum", "scatter", "scatter-add", "scatter_add"]
)

# Operations on random words whose result is as random as the words.
WORDS = MOVES | SAME | frozenset(
    [
        "add", "and", "bitcast_convert_type", "convert_element_type", "mul", "mul_hi", "not", "or",
        "rem", "select_n", "shift_left", "shift_right_logical", "stop_gradient", "sub",
        "threefry2x32", "xor",
    ]
)  # fmt: skip


# All operands hold entries of the result.
JOINS = ("concatenate", "stack")
# Which operands hold entries of the result; of other operations only the first one does.
_ENTRIES = {
    "dynamic_update_slice": (0, 1),
    "pad": (0, 1),
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add"), (0, 2)),
}


def holds_entries(name: str, place: int) -> bool:
    """Whether entries of the result are entries of the operand at this place. Others are indices,
    or choose.
    """
    if name == "select_n":
        return place > 0
    return name in JOINS or place in _ENTRIES.get(name, (0,))


def bind(eqn: Any, values: Sequence[Any], **params: Any) -> list[Any]:
    """The results of one equation for other operands, whose dtypes may differ, and parameters."""
    if eqn.primitive.name == "shift_right_logical" and is_number(jnp.result_type(values[0])):
        return [values[0] * 0.5 ** values[1]]  # of a count, which its moments make a number
    found = eqn.primitive.bind(*values, **{**eqn.params, **params})
    return list(found) if eqn.primitive.multiple_results else [found]


def is_key(dtype: Any) -> bool:
    """Whether values of a dtype are keys."""
    return bool(jnp.issubdtype(dtype, jax.dtypes.extended))


def is_number(dtype: Any) -> bool:
    """Whether values of a dtype are real numbers that are not whole."""
    return bool(jnp.issubdtype(dtype, jnp.inexact))
