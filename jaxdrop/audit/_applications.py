"""Where a mask meets an array."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxdrop.audit._graph import Node
from jaxdrop.audit._places import Place


@dataclasses.dataclass
class Application:
    """A mask that meets an array.

    Attributes:
      kind: `select`, `multiply` or `branch`; `draw` for bits that make no mask.
      mask: the node of the mask; with one row for each entry of the array.
      data: the array that is dropped from.
      out: the result.
      keeps: the probability that an entry is kept; None if it is not known in tracing.
      place: where.
      fill: what stands in the place of a dropped entry; None if it is not known.
    """

    kind: str
    mask: Node
    data: Node
    out: Node
    keeps: float | None
    place: Place
    fill: Any = None


def applied(name: str, out: Node, inputs: tuple[Node, ...], place: Place) -> Application | None:
    """What an operation drops, if it does."""
    ours = place.variant is not None
    if name == "select_n" and len(inputs) == 3 and inputs[0].mask is not None:
        pred = inputs[0].mask
        sides = list(inputs[1:])
        data = [each for each in sides if each.is_data and each.rand is None]
        if len(data) == 2 and place.variant in ("zoneout", "recurrent_dropout"):
            data = data[1:]
        if len(data) != 1 or not (ours or is_float(data[0])):
            return None
        side = sides.index(data[0])
        fill = sides[1 - side].const
        if fill is None and not ours:
            return None
        true = pred.true
        keeps = true if side == 1 or true is None else 1 - true
        return Application("select", inputs[0], data[0], out, keeps, place, fill)
    if name in ("mul", "div"):
        random = [each for each in inputs if each.rand is not None]
        data = [each for each in inputs if each.rand is None]
        if len(random) != 1 or data[0].size == 1 or not (data[0].is_data and is_float(data[0])):
            return None
        mask = random[0].mask
        if mask is None and not ours:
            return None
        keeps = None if mask is None else mask.true
        return Application("multiply", random[0], data[0], out, keeps, place, fill=0)
    return None


def is_float(node: Node) -> bool:
    """Whether an array holds real or complex numbers."""
    return not node.is_key and bool(
        node.dtype.kind in "fc" or node.dtype.name.startswith(("bfloat", "float"))
    )
