"""What operations make of constants, random bits and masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdrop.audit._graph import MOVES, Draw, Graph, Mask, Node, scalar

# Elementwise operations, and those that move entries: the result is as random as the operands.
RANDOM = MOVES | frozenset(
    [
        "abs", "add", "and", "bitcast_convert_type", "cbrt", "ceil", "clamp", "concatenate", "cos",
        "div", "dynamic_slice", "erf_inv", "exp", "floor", "integer_pow", "log", "log1p", "max",
        "min", "mul", "neg", "not", "or", "pow", "rem", "rev", "round", "shift_left",
        "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "slice", "sqrt", "square",
        "stack", "sub", "threefry2x32", "xor",
    ]
)  # fmt: skip
WORDS = RANDOM | frozenset(["gather", "select_n", "threefry2x32.1", "mul_hi", "mulhi"])
# Operations that use random words as they are: to choose some of many, or in a kernel, where a
# key's words are all that is seen of what it draws.
_CHOICES = frozenset(["argmax", "argmin", "pallas_call", "sort", "top_k"])
# What leaves a uniform number uniform, up to the ends of its interval.
_KEEP_RANGE = frozenset(
    ["clamp", "concatenate", "dynamic_slice", "max", "min", "rev", "slice", "stack"]
)
COMPARISONS = frozenset(["eq", "ge", "gt", "le", "lt", "ne"])

_FOLDED: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "add": np.add,
    "and": np.bitwise_and,
    "ceil": np.ceil,
    "div": np.true_divide,
    "eq": np.equal,
    "exp": np.exp,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.invert,
    "or": np.bitwise_or,
    "pow": np.power,
    "sqrt": np.sqrt,
    "sub": np.subtract,
}


def settle(graph: Graph, node: Node, generator_of: Callable[[Node], Draw]) -> None:
    """Fills in the fields of a new node that depend on the operation.

    Args:
      graph: the graph of the node.
      node: the node.
      generator_of: the draw of an array that is made of a key's raw words.
    """
    _fold(node)
    inputs = node.inputs
    if not any(each.rand is not None or each.words is not None for each in inputs):
        return
    words = {each.words.number: each.words for each in inputs if each.words is not None}
    if words and node.op in WORDS and len(words) == 1:
        (node.words,) = words.values()
        node.range = _range(node, 2.0**32)
    if node.words is not None and np.issubdtype(node.dtype, np.floating):
        node.rand = node.drawn = generator_of(inputs[0])
        node.words = None
    if node.op in _CHOICES and len(words) == 1:
        node.drawn = generator_of(next(each for each in inputs if each.words is not None))
    random = [each for each in inputs if each.rand is not None or each.words is not None]
    if node.op in COMPARISONS and len(random) == 1:
        _compare(node, random[0], generator_of)
        return
    draws = {id(each.rand): each.rand for each in inputs if each.rand is not None}
    others = [each for each in inputs if each.rand is None]
    if len(draws) != 1 or node.op not in RANDOM | {"select_n"}:
        return
    if node.is_key:
        return
    boolean = np.dtype(node.dtype) == np.bool_
    if not boolean and not all(is_uniform(each) for each in others):
        return
    (node.rand,) = draws.values()
    node.range = _range(node, max(each.range for each in random))
    node.mask = _masked(node)


def is_uniform(node: Node) -> bool:
    """Whether a value is one number in all entries."""
    return (
        node.const is not None
        or node.size == 1
        or (node.op in MOVES and is_uniform(node.inputs[0]))
    )


def _fold(node: Node) -> None:
    inputs = node.inputs
    if any(each.const is None for each in inputs):
        if node.op == "mul" and node.dtype.kind in "iu" and any(each.const == 0 for each in inputs):
            node.const, node.deps = scalar(0, node.dtype), 0
        return
    if node.op in MOVES or node.op == "reduce_and":
        node.const = scalar(inputs[0].const, node.dtype)
    elif node.op == "integer_pow":
        node.const = scalar(np.power(inputs[0].const, node.params["y"]), node.dtype)
    elif node.op == "select_n" and len(inputs) == 3:
        node.const = scalar(inputs[2 if inputs[0].const else 1].const, node.dtype)
    elif node.op in _FOLDED:
        with np.errstate(all="ignore"):
            node.const = scalar(
                _FOLDED[node.op](*(np.asarray(each.const) for each in inputs)), node.dtype
            )


def _range(node: Node, before: float) -> float:
    """The range of what an operation makes of bits or floats with the range `before`."""
    whole = np.issubdtype(node.dtype, np.integer)
    full = 2.0 ** (8 * node.dtype.itemsize)
    if node.op in MOVES or node.op in _KEEP_RANGE:
        return min(before, full) if whole else before
    one, other = (each.const for each in node.inputs) if len(node.inputs) == 2 else (None, None)
    if whole:
        if other is not None and node.op == "shift_right_logical":
            return before / 2.0 ** float(other)
        if other is not None and node.op == "rem":
            return float(other)
        # What takes all values does so behind a sum or a product with others.
        return before if before >= full else 0.0
    if node.op == "sub" and one is not None:  # as `1 - u`
        return before if one == before else 0.0
    number = other if one is None else one
    if number is None:
        return 0.0
    if node.op == "mul":
        return before * max(float(number), 0.0)
    if node.op == "div" and one is None and number > 0:
        return before / float(number)
    if node.op == "sub" and number == 1 and node.inputs[0].op == "bitcast_convert_type":
        return 1.0  # of random mantissas: numbers in [1, 2)
    return before if node.op in ("add", "sub") and number == 0 else 0.0


def _compare(node: Node, bits: Node, generator_of: Callable[[Node], Draw]) -> None:
    first = node.inputs[0] is bits
    limit = node.inputs[1 if first else 0]
    before = bits.mask
    if before is not None:
        # A mask stored as a number, which is 0 or its scale.
        kept = None
        if limit.const is not None:
            on, off = map(bool, _values(node, before, limit.const))
            kept = before.true if on and not off else _complement(before) if off > on else None
        node.rand, node.mask = bits.rand, Mask(before.draw, kept, traced=before.traced)
        return
    draw = bits.rand
    if draw is None:
        draw = node.drawn = generator_of(bits)
    true, traced = None, False
    if limit.const is not None:
        true = _probability(node.op, first, float(limit.const), bits)
    else:
        traced = not limit.known
    node.rand, node.mask = draw, Mask(draw, true, traced=traced)


def _probability(op: str, first: bool, limit: float, bits: Node) -> float | None:
    """How often a comparison of uniform bits is true."""
    if op in ("eq", "ne"):
        return None
    if not bits.range:  # as of a normal variable
        return None
    below = (op in ("lt", "le")) == first
    # The words below the limit: with the limit itself in `<=`, and in the complement of `>`.
    if np.issubdtype(bits.dtype, np.integer) and below != (op in ("lt", "gt")):
        limit += 1
    fraction = min(max(limit / bits.range, 0.0), 1.0)
    return fraction if below else 1.0 - fraction


def _values(node: Node, mask: Mask, number: Any) -> list[Any]:
    """What an operation makes of a mask's two values, the scale and 0, and of a number."""
    first = node.inputs[0].mask is mask
    with np.errstate(all="ignore"):
        return [
            _FOLDED[node.op](*((value, number) if first else (number, value)))
            for value in (mask.scale, 0.0)
        ]


def _complement(mask: Mask) -> float | None:
    """The probability that a mask is 0."""
    return None if mask.true is None else 1 - mask.true


def _masked(node: Node) -> Mask | None:
    """The mask that an operation makes of masks and numbers."""
    masks = [each for each in node.inputs if each.mask is not None]
    if not masks:
        return None
    operand = masks[0]
    mask = operand.mask
    assert mask is not None
    if len(masks) > 1:  # such as the conjunction of a mask and itself, moved by an entry
        same = node.op in ("concatenate", "stack")
        return mask if same else dataclasses.replace(mask, true=None)
    others = [each for each in node.inputs if each is not operand]
    if node.op == "not":
        return dataclasses.replace(mask, true=_complement(mask))
    if node.op in ("add", "sub"):  # as `1 - mask`, or the signs `2 * mask - 1`, which drop nothing
        number = others[0].const
        if number is None:
            return None
        on, off = _values(node, mask, number)
        if off == 0:
            return mask
        return dataclasses.replace(mask, true=_complement(mask), scale=off) if on == 0 else None
    if node.op in ("mul", "div"):
        factor = others[0].const
        if factor is None:
            return mask
        value = float(factor)
        scale = mask.scale * value if node.op == "mul" else mask.scale / (value or np.nan)
        return dataclasses.replace(mask, scale=scale)
    if node.op == "select_n" and len(node.inputs) == 3 and operand is node.inputs[0]:
        off, on = (None if each.const is None else float(each.const) for each in node.inputs[1:])
        # A value of the program is no constant factor.
        if off == 0:
            return dataclasses.replace(mask, scale=1.0 if on is None else on)
        if on == 0:
            scale = 1.0 if off is None else off
            return dataclasses.replace(mask, true=_complement(mask), scale=scale)
        return None
    return mask
