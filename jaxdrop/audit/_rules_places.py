"""What a mask does at its place: shared axes, rates, what stands behind it, precision, memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jaxdrop.audit._applications import is_float
from jaxdrop.audit._graph import MOVES, Node, descendants, moved_from
from jaxdrop.audit._rules import Audit, Seen, rule
from jaxdrop.audit._sites import Found, depends_on, is_softmax

_MATRIX = ("dot_general", "conv_general_dilated")
# Variants of this library whose purpose is to share a mask, or to drop at any rate.
_ENTRIES = ("dropout", "attention_dropout", "attention dropout", "alpha dropout", "DropKey")
_PATHS = ("drop_path", "drop path", "shake_drop", "layer_drop", "layer drop")
_UNROUNDED = 1e-4


@rule("JD301")
def shared_over_batch_or_heads(audit: Audit) -> Iterator[Seen]:
    """The mask does not vary along the first axis, or along that of attention's heads."""
    for found in audit.drawn():
        shape, shared = found.site.shape, found.site.shared_axes
        if found.site.variant not in _ENTRIES or _is_weight(found, audit):
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


@rule("JD303")
def before_batch_norm(audit: Audit) -> Iterator[Seen]:
    """What is dropped reaches a product with an inverse deviation of channels. A residual branch
    that is dropped as a whole may reach it by the residual stream: so the paper of stochastic depth
    has it, and there is no other place for it.
    """
    norms = {node.number for node in audit.program.walk.graph.nodes if _is_batch_norm(node)}
    if not norms:
        return
    for found in audit.drawn():
        if _is_weight(found, audit):
            continue
        is_path = found.site.variant in _PATHS
        behind = _of_the_branch(found, audit) if is_path else descendants(found.first.out)
        if any(node.number in norms for node in behind):
            rate = found.site.rate
            ratio = (
                f"the variance in evaluation is {1 - rate:.3g} of that in training for inputs of "
                "mean 0, and nearer to 1 for others"
                if isinstance(rate, float)
                else "the ratio of the variances depends on the rate"
            )
            yield found.site.where, f"BatchNorm stands behind it: {ratio}"


def _of_the_branch(found: Found, audit: Audit) -> Iterator[Node]:
    """The values behind a site up to its sum with a residual stream."""
    out = found.first.out

    def ends(node: Node) -> bool:
        added = [each for each in _summands(node, audit) if each is not out]
        return not all(depends_on(each, out) for each in added)

    yield from descendants(out, ends=ends)


def _is_batch_norm(node: Node) -> bool:
    """Whether a value is a product with the inverse deviation of channels, which is the same for
    all examples, as that of LayerNorm is not.
    """
    if node.op not in ("mul", "div"):
        return False
    factors = node.inputs[1:] if node.op == "div" else node.inputs
    roots = map(_of_channels, factors)
    return any(root is not None and 1 < root.size < node.size for root in roots)


def _of_channels(node: Node) -> Node | None:
    """The inverse deviation that a value is, up to moves and a learned scale, if its entries are
    those of channels.
    """
    axis: int | None = 0  # along which the examples lie; None where all have the same value
    while True:
        if node.op in ("rsqrt", "sqrt"):
            return None if axis is not None and _is_long(node, axis) else node
        if node.op in ("mul", "add"):
            # The product of the inverse deviation and the learned scale.
            roots = [each for each in node.inputs if moved_from(each).op in ("rsqrt", "sqrt")]
            if not roots:
                return None
            inner = roots[0]
        elif node.op in MOVES:
            inner = node.inputs[0]
        else:
            return None
        if axis is not None:
            axis = _before(node, inner, axis) if _is_long(node, axis) else None
        node = inner


def _is_long(node: Node, axis: int) -> bool:
    return axis < len(node.shape) and node.shape[axis] > 1


def _before(node: Node, inner: Node, axis: int) -> int | None:
    """The axis of an operand that becomes this axis of the result; None if none does."""
    if node.op == "broadcast_in_dim":
        axes = node.params["broadcast_dimensions"]
        return axes.index(axis) if axis in axes else None
    if node.op == "transpose":
        return int(node.params["permutation"][axis])
    if node.op in ("reshape", "squeeze", "expand_dims"):
        # The axes in front of it hold as many entries before and after.
        front = math.prod(node.shape[:axis])
        found = [at for at in range(len(inner.shape)) if math.prod(inner.shape[:at]) == front]
        return max(found, default=None)
    return axis


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


def _is_weight(found: Found, audit: Audit) -> bool:
    """Whether what is dropped are weights."""
    deps = found.first.data.deps
    sources = [source for bit, source in audit.program.sources.items() if deps & bit]
    return bool(sources) and all(source.weights for source in sources)


@rule("JD305")
def behind_the_last_layer(audit: Audit) -> Iterator[Seen]:
    """What is dropped comes from a linear map, and reaches neither weights nor a sum."""
    for found in audit.drawn():
        if _is_linear(found.first.data) and not found.is_attention and not _goes_on(found, audit):
            yield (
                found.site.where,
                "the output of a linear map is dropped, and meets no weights again",
            )


def _is_linear(node: Node) -> bool:
    """Whether an array is the result of a linear map, up to a bias."""
    while True:
        node = moved_from(node)
        if node.op in _MATRIX:
            return True
        if node.op not in ("add", "mul", "div"):
            return False
        parts = [moved_from(each) for each in node.inputs if each.const is None]
        large = [each for each in parts if each.size == node.size]
        if len(large) != 1:
            return False
        (node,) = large


def _goes_on(found: Found, audit: Audit) -> bool:
    """Whether other layers, or a residual stream, take what is dropped."""
    own = {found.first.out.number}
    for node in descendants(found.first.out):
        own.add(node.number)
        if node.op in _MATRIX or node.op in ("cond", "carry", "final", "while"):
            return True
        if any(each.number not in own for each in _summands(node, audit)):
            return True
    return False


def _summands(node: Node, audit: Audit) -> list[Node]:
    """The arrays that a value of their size is the sum of, without what is known and weights."""
    if node.op != "add":
        return []
    full = [each for each in node.inputs if each.size == node.size and not each.known]
    return [each for each in full if not _only_weights(each, audit)]


def _only_weights(node: Node, audit: Audit) -> bool:
    return all(source.weights for bit, source in audit.program.sources.items() if node.deps & bit)


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


@rule("JD306")
def on_the_residual_stream(audit: Audit) -> Iterator[Seen]:
    """What is dropped is the sum of an array and of something computed from it."""
    for found in audit.drawn():
        node = _unscaled(found.first.data)
        if node.op != "add":
            continue
        parts = [moved_from(each) for each in node.inputs]
        if any(each.known or each.size < node.size or _only_weights(each, audit) for each in parts):
            continue
        first, second = parts
        if depends_on(second, first) or depends_on(first, second):
            yield found.site.where, "what is dropped is the sum of an array and a function of it"


def _unscaled(node: Node) -> Node:
    """The value that an array is, up to moves and constant factors."""
    while True:
        node = moved_from(node)
        rest = [each for each in node.inputs if each.const is None]
        if node.op not in ("mul", "div") or len(rest) != 1:
            return node
        (node,) = rest


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
