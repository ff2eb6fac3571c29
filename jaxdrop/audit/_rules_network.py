"""Where in a network a mask stands: in front of BatchNorm, behind the last layer, on the stream."""

from __future__ import annotations

import math
from collections.abc import Iterator

from jaxdrop.audit._graph import MOVES, Node, descendants, moved_from
from jaxdrop.audit._rules import Audit, Seen, rule
from jaxdrop.audit._sites import Found, depends_on, logits_of

_MATRIX = ("dot_general", "conv_general_dilated")
_PATHS = ("drop_path", "drop path", "shake_drop", "layer_drop", "layer drop")


@rule("JD303")
def before_batch_norm(audit: Audit) -> Iterator[Seen]:
    """A BatchNorm, seen as a product with the inverse deviation of each channel, is computed from
    what is dropped. A residual branch that is dropped as a whole is followed only up to its sum
    with the stream: the next block may begin with a BatchNorm, as in the paper of stochastic depth.
    """
    norms = {node.number for node in audit.program.walk.graph.nodes if _is_batch_norm(node)}
    if not norms:
        return
    for found in audit.drawn():
        if audit.drops_weights(found):
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


@rule("JD305")
def behind_the_last_layer(audit: Audit) -> Iterator[Seen]:
    """The output of a linear map, or its softmax, is dropped, and no layer and no residual stream
    takes it.
    """
    for found in audit.drawn():
        data = found.first.data
        logits = logits_of(data) or _logits_of_log_softmax(data)
        if logits is None:
            what, product = "output", None if found.is_attention else _linear(data)
        else:
            what, product = "softmax of the output", _linear(_unshifted(logits))
            if product is not None and not any(map(audit.only_weights, product.inputs)):
                continue  # the weights of attention
        if product is not None and not _goes_on(found, audit):
            says = f"the {what} of a linear map is dropped, and meets no weights again"
            yield found.site.where, says


def _logits_of_log_softmax(node: Node) -> Node | None:
    node = _unscaled(node)
    if node.op != "sub":
        return None
    shifted, less = map(moved_from, node.inputs)
    is_log = less.op == "log" and moved_from(less.inputs[0]).op == "reduce_sum"
    return shifted if is_log else None


def _unshifted(logits: Node) -> Node:
    """The logits from which their maximum was subtracted."""
    logits = moved_from(logits)
    return logits.inputs[0] if logits.op == "sub" else logits


def _linear(node: Node) -> Node | None:
    """The product of matrices, or the convolution, that an array is up to a bias."""
    while True:
        node = moved_from(node)
        if node.op in _MATRIX:
            return node
        if node.op not in ("add", "mul", "div"):
            return None
        parts = [moved_from(each) for each in node.inputs if each.const is None]
        large = [each for each in parts if each.size == node.size]
        if len(large) != 1:
            return None
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
    return [each for each in full if not audit.only_weights(each)]


@rule("JD306")
def on_the_residual_stream(audit: Audit) -> Iterator[Seen]:
    """What is dropped is the sum of an array and of something computed from it."""
    for found in audit.drawn():
        node = _unscaled(found.first.data)
        if node.op != "add":
            continue
        parts = [moved_from(each) for each in node.inputs]
        if any(each.known or each.size < node.size or audit.only_weights(each) for each in parts):
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
