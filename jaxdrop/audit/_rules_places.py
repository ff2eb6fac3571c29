"""What a mask does at its place: shared axes, rates, what stands behind it, precision, memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxdrop.audit._applications import is_float
from jaxdrop.audit._graph import MOVES, Node, moved_from
from jaxdrop.audit._rules import Audit, Seen, rule
from jaxdrop.audit._sites import Found, is_softmax

# Variants of this library whose purpose is to share a mask, or to drop at any rate.
_ENTRIES = ("dropout", "attention_dropout", "attention dropout", "alpha dropout", "DropKey")
_UNROUNDED = 1e-4


@rule("JD301")
def shared_over_batch_or_heads(audit: Audit) -> Iterator[Seen]:
    """The mask does not vary along the first axis, or along that of attention's heads."""
    for found in audit.drawn():
        shape, shared = found.site.shape, found.site.shared_axes
        if found.site.variant not in _ENTRIES or audit.drops_weights(found):
            continue
        names = []
        if 0 in shared and len(shared) < sum(size > 1 for size in shape):
            names.append("all examples (axis 0)")
        if is_softmax(found.first.data) and len(shape) > 3 and len(shape) - 3 in shared:
            names.append(f"all heads (axis {len(shape) - 3})")
        if names:
            yield found.site.where, f"{' and '.join(names)} of {shape} have one mask"


@rule("JD302")
def shared_over_positions(audit: Audit) -> Iterator[Seen]:
    """The mask varies along the first and the last axis, and not along one between."""
    for found in audit.drawn():
        shape, shared = found.site.shape, found.site.shared_axes
        last = len(shape) - 1
        if found.site.variant == "dropout" and shared and 0 not in shared and last not in shared:
            axes = ", ".join(map(str, shared))
            yield found.site.where, f"the mask is shared along axes {axes} of {shape}"


@rule("JD304")
def high_rate(audit: Audit) -> Iterator[Seen]:
    """The rate is above .5, or above .2 where an argument is dropped."""
    for found in audit.drawn():
        rate = found.site.rate
        if not isinstance(rate, float) or found.site.variant not in (*_ENTRIES, "drop path"):
            continue
        if rate > 0.5:
            yield found.site.where, f"rate {rate:g}: is {1 - rate:g} meant?"
        elif rate > 0.2 and _is_input(found.first.data, audit):
            yield found.site.where, f"rate {rate:g} on an argument of the function"


def _is_input(node: Node, audit: Audit) -> bool:
    """Whether an array is an argument, up to moves and constants, and holds no weights."""
    while True:
        node = moved_from(node)
        if node.op == "argument":
            return not audit.program.sources[node.deps].weights
        rest = [each for each in node.inputs if each.const is None]
        if node.op not in ("add", "sub", "mul", "div", "shard") or len(rest) != 1:
            return False
        (node,) = rest


def meets_activations(found: Found) -> bool:
    """Whether the result is multiplied, as a matrix, with something that is computed too."""
    queue = [found.first.out]
    for node in queue:
        for user in node.users:
            if user.op == "dot_general" and not user.backward:
                others = [moved_from(each) for each in user.inputs if each is not node]
                if any(each.op not in ("argument", "element", "constant") for each in others):
                    return True
            elif user.op in MOVES:
                queue.append(user)
    return False


@rule("JD307")
def biased_scale(audit: Audit) -> Iterator[Seen]:
    """The product of the keep probability and a 16-bit scale is not 1."""
    for found in audit.drawn():
        keeps = found.first.keeps
        if keeps is None or not is_float(found.first.data):
            continue
        for value, dtype in _factors(found):
            if dtype.itemsize != 2:
                continue
            bias = value * keeps - 1
            if _UNROUNDED < abs(bias) < 0.02:
                yield found.site.where, f"kept values are {bias:+.2%} off in the mean ({dtype})"
                break


def _factors(found: Found) -> Iterator[tuple[float, Any]]:
    """The constants that an array is scaled by around its mask, with their dtypes."""
    first = found.first
    mask = first.mask.mask
    assert mask is not None
    if mask.scale != 1:
        yield mask.scale, first.mask.dtype
    around = [moved_from(first.data), *first.out.users]
    around += [user for node in first.out.users if node.op in MOVES for user in node.users]
    for node in around:
        if node.op in ("mul", "div"):
            numbers = [each for each in node.inputs if each.const is not None]
            if len(numbers) == 1 and numbers[0].const != 0:
                value = float(numbers[0].const)
                yield (value if node.op == "mul" else 1 / value), node.dtype


@rule("JD308")
def mask_kept(audit: Audit) -> Iterator[Seen]:
    """A mask is an operand of a loop, or of a checkpoint, of the backward pass."""
    sites = {id(draw): found for found in audit.found for draw in found.draws}
    for node, _, keeper in audit.program.walk.kept:
        found = sites.get(id(node.rand))
        if found is not None:
            yield found.site.where, f"{keeper} keeps {node.nbytes} bytes of its mask"
