"""Which draws a mask is made of, how often bits are drawn, and what the backward pass keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxdrop.audit._applications import Application
from jaxdrop.audit._graph import Draw, Node, moved_from, parts_of, rows_of
from jaxdrop.audit._places import Place


def other_draws(mask: Node) -> list[Draw]:
    """Several masks may stand in one array, of which a layer takes one: the draws of the others."""
    draws = (row.rand for part in parts_of(mask) for row in rows_of(part.inputs[0]))
    return [draw for draw in draws if draw is not None and draw is not mask.rand]


def times_drawn(draw: Draw, place: Place) -> int:
    """How often bits are drawn that are used at a place."""
    return draw.places[0].repeats if draw.places else place.repeats


def form(draw: Draw) -> Any:
    """What a draw and its repetition have in common."""
    return draw.generator, draw.bits.shape


def kept_bytes(draws: list[Draw], first: Application, differentiated: bool, again: set[Any]) -> int:
    """The bytes that the backward pass gets of masks."""
    kept = 0
    others = other_draws(first.mask)
    for draw in draws:
        if any(draw is other for other in others):
            continue  # counted with the array that it stands in
        given = [
            node.nbytes * (1 if node.op == "stacked" else repeats)
            for node, repeats in _made_of(draw, first.place)
            if not node.backward and any(user.backward for user in node.users)
        ]
        if draw.again or draw.in_remat or (not given and form(draw) in again):
            kept += draw.key.nbytes * first.place.runs(draw.key.deps)
        elif differentiated and not others:
            kept += max(given, default=0)
        else:
            kept += moved_from(first.mask).nbytes * first.place.repeats
    return kept


def _made_of(draw: Draw, place: Place) -> Iterable[tuple[Node, int]]:
    """The masks of a draw, used at a place, and how often each is made."""
    queue, seen = [(draw.bits, times_drawn(draw, place))], {draw.bits.number}
    for node, repeats in queue:
        for user in node.users:
            if user.number not in seen and user.rand is draw:
                seen.add(user.number)
                queue.append((user, place.repeats if user.op == "element" else repeats))
    return [(node, repeats) for node, repeats in queue if node.mask is not None]
